"""A sealed message holds whoever carries it, and nothing else does."""

from __future__ import annotations

import json

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import replace

from protocol.errors import SealError
from protocol.messages.envelope import Event, decode, encode
from protocol.messages.kinds import Kind
from protocol.messages.payloads import Ack, BootAck, DesiredState
from protocol.sealed_events import SEALED_BY_DEVICES, SEALED_BY_THE_FLEET, check_seal, seal
from protocol.topics import DOWNLINK_KINDS, UPLINK_KINDS

pytestmark = pytest.mark.edge

KEY, OTHER_KEY = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
NOT_AFTER = 2_000_000_000
DESIRED = DesiredState(
    execution="e1",
    release="pump/2",
    counter=7,
    bundle_path="/v1/releases/pump/2/bundle",
    bundle_sha256="a" * 64,
    bundle_bytes=100,
)


def sealed(data: DesiredState | Ack = DESIRED, **changes: object) -> bytes:
    event = Event(source="fleet", boot_id="b1", sequence=3, time=1.7e9, data=data)
    words: dict = {
        "tenant": "acme",
        "device": "press-1",
        "nonce": "0" * 32,
        "not_after": NOT_AFTER,
    } | changes
    return encode(seal(event, KEY, **words))


def check(payload: bytes, **changes: object) -> None:
    words: dict = {"tenant": "acme", "device": "press-1", "now_s": NOT_AFTER - 1.0} | changes
    check_seal(decode(payload), [OTHER_KEY.public_key(), KEY.public_key()], **words)


def test_a_sealed_message_holds_for_its_device_until_it_ends() -> None:
    check(sealed())
    check(sealed(not_after=0), now_s=1e12)
    assert decode(sealed()).data == DESIRED


def test_a_message_of_a_later_version_with_more_in_it_holds_as_it_came() -> None:
    event = Event(source="fleet", boot_id="b1", sequence=3, time=1.7e9, data=DESIRED)

    class Later(DesiredState, frozen=True, kw_only=True):  # what a later build would send
        urgency: int = 3

    later = Later(**msgspec.structs.asdict(DESIRED), urgency=4)
    unsealed = replace(event, data=later)
    from protocol.messages import envelope

    envelope._KIND_OF[Later] = Kind.DESIRED
    try:
        payload = encode(
            seal(unsealed, KEY, tenant="acme", device="press-1", nonce="1" * 32, not_after=NOT_AFTER)
        )
    finally:
        del envelope._KIND_OF[Later]
    assert b"urgency" in payload
    check(payload)


@pytest.mark.parametrize(
    "change",
    [
        {"device": "press-2"},
        {"tenant": "other"},
        {"now_s": float(NOT_AFTER)},
    ],
)
def test_it_is_refused_by_another_device_in_another_tenant_and_once_it_has_ended(change: dict) -> None:
    with pytest.raises(SealError):
        check(sealed(), **change)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sequence", 4),
        ("bootid", "b2"),
        ("bootnumber", 1),
        ("source", "aggregator"),
        ("notafter", NOT_AFTER + 1),
        ("nonce", "2" * 32),
        ("signature", ""),
        ("signature", "AAAA"),
        ("signature", "not base64 at all"),
    ],
)
def test_nothing_of_it_can_be_changed_on_the_way(name: str, value: object) -> None:
    wire = json.loads(sealed())
    wire[name] = value
    wire["id"] = f"{wire['source']}/{wire['bootid']}/{wire['sequence']}"
    with pytest.raises(SealError):
        check(json.dumps(wire).encode())


def test_its_data_cannot_be_changed_on_the_way() -> None:
    payload = sealed()
    assert payload.count(b'"counter":7') == 1
    with pytest.raises(SealError, match="not signed by whom"):
        check(payload.replace(b'"counter":7', b'"counter":8'))


def test_a_seal_cannot_be_carried_to_a_message_of_another_kind() -> None:
    ack = Ack(boots=(BootAck(boot_id="b", ranges=((1, 2),)),))
    ours, theirs = json.loads(sealed()), json.loads(sealed(ack))
    theirs |= {name: ours[name] for name in ("signature", "nonce", "notafter")}
    with pytest.raises(SealError):
        check(json.dumps(theirs).encode())


@pytest.mark.parametrize("name", ["notafter", "nonce", "signature"])
def test_a_message_without_a_whole_seal_is_told_to_be_unsigned(name: str) -> None:
    wire = json.loads(sealed())
    del wire[name]
    with pytest.raises(SealError, match="not signed; its sender is older"):
        check(json.dumps(wire).encode())


def test_every_kind_that_is_sealed_travels_on_a_topic_of_its_direction() -> None:
    assert SEALED_BY_THE_FLEET == DOWNLINK_KINDS
    assert SEALED_BY_DEVICES <= UPLINK_KINDS
