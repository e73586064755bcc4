"""Which words a hollow device obeys, and what it answers; without a fleet."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from protocol.messages.commands import Command, Commands
from protocol.messages.envelope import Event, decode, encode
from protocol.messages.kinds import CommandStatus, Kind
from protocol.messages.payloads import Ack, BootAck, DesiredState, InstallReport, Payload
from protocol.sealed_events import check_seal, seal
from simulations.hollow.device import Crowdwide, Device, Memory, Said
from simulations.hollow.ledger import Ledger
from simulations.hollow.members import Member

FLEET, STRANGER, OWN = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))


@pytest.fixture
def device() -> Device:
    everyone = Crowdwide(
        tenant="t",
        family="motor",
        hardware="x86",
        fleet_keys=(FLEET.public_key(),),
        boot_number=1,
        health_s=30.0,
        window_values=4,
        failure_share=1.0,
        now=lambda: 1000.0,
        random=random.Random(1),
        ledger=Ledger(),
    )
    return Device(
        Member(name="d-1", identity=OWN, file=Path()), everyone, Memory(release="motor/1", counter=4)
    )


def word(
    data: Payload, key: ec.EllipticCurvePrivateKey = FLEET, device: str = "d-1", not_after: int = 2000
) -> bytes:
    event = Event(source="fleet", boot_id="f", sequence=1, time=1.0, data=data)
    return encode(seal(event, key, tenant="t", device=device, nonce="0" * 32, not_after=not_after))


def test_of_acknowledgements_as_many_seals_are_checked_as_is_said_and_of_what_is_to_be_run_every_one(
    device: Device,
) -> None:
    device._all.checked_acks = 0.0
    said = device.health(1.0)
    device.hear(Kind.DESIRED, word(desired(5), STRANGER))
    assert (device.installing, device.ledger.forged) == (0, 1)
    ack = Ack(boots=(BootAck(boot_id=device.boot, ranges=((1, said.sequence),)),))
    device.hear(Kind.ACK, word(ack, STRANGER))
    assert (device.waiting, device.ledger.forged) == ({}, 1)


def desired(counter: int, release: str = "motor/2") -> DesiredState:
    return DesiredState(
        execution="e",
        release=release,
        counter=counter,
        bundle_path="/v1/b",
        bundle_sha256="0" * 64,
        bundle_bytes=1,
    )


def report(said: Said) -> InstallReport:
    event = decode(said.payload, Kind.REPORT)
    check_seal(event, [OWN.public_key()], tenant="t", device="d-1", now_s=1000.0)
    assert isinstance(event.data, InstallReport)
    return event.data


@pytest.mark.parametrize(
    "payload",
    [
        word(desired(5), STRANGER),
        word(desired(5), device="d-2"),
        word(desired(5), not_after=999),
        encode(Event(source="fleet", boot_id="f", sequence=1, time=1.0, data=desired(5))),
        b"nonsense",
    ],
)
def test_a_word_that_is_not_the_fleets_or_not_for_it_or_over_is_counted_and_not_obeyed(
    device: Device, payload: bytes
) -> None:
    assert device.hear(Kind.DESIRED, payload) == []
    assert (device.installing, device.ledger.forged, device.ledger.notices) == (0, 1, [])


def test_a_desired_state_is_obeyed_once_and_an_older_one_is_answered_with_the_counter_that_is_known(
    device: Device,
) -> None:
    (begun,) = device.hear(Kind.DESIRED, word(desired(5)))
    assert report(begun).status == "IN_PROGRESS"
    assert device.hear(Kind.DESIRED, word(desired(5))) == []
    (late,) = device.hear(Kind.DESIRED, word(desired(3)))
    result = decode(late.payload, Kind.RESULT).data
    assert (result.code, result.number) == ("outdated", 5)  # type: ignore[union-attr]
    (ended,) = device.installed(5)
    assert (report(ended).status, report(ended).active_release) == ("FAILED", "motor/1")
    device.hear(Kind.DESIRED, word(desired(6, "motor/1")))  # what it ran before never fails
    (back,) = device.installed(6)
    assert report(back).status == "SUCCEEDED"


def test_a_command_is_answered_once_by_a_refusal_and_a_sham_is_done(device: Device) -> None:
    def commands(counter: int, *asked: tuple[int, str]) -> bytes:
        outstanding = tuple(
            Command(number=number, action=action, expires_at=2000.0) for number, action in asked
        )
        return word(Commands(counter=counter, outstanding=outstanding))

    said = device.hear(Kind.COMMANDS, commands(2, (1, "diagnose"), (2, "reactivate")))
    results = [decode(one.payload, Kind.RESULT).data for one in said]
    assert [one.status for one in results] == [CommandStatus.REFUSED, CommandStatus.DONE]  # type: ignore[union-attr]
    assert device.hear(Kind.COMMANDS, commands(3, (2, "reactivate"))) == []


def test_only_an_acknowledgement_of_this_start_and_of_what_was_said_makes_it_forget(device: Device) -> None:
    first, _second = device.anomaly(1.0), device.anomaly(2.0)
    other = Ack(boots=(BootAck(boot_id="another", ranges=((1, 2),)),))
    device.hear(Kind.ACK, word(other))
    device.hear(Kind.ACK, word(Ack(boots=(BootAck(boot_id=device.boot, ranges=((1, 2),)),)), STRANGER))
    assert sorted(device.waiting) == [1, 2]
    device.hear(Kind.ACK, word(Ack(boots=(BootAck(boot_id=device.boot, ranges=((2, 9),)),))))
    assert sorted(device.waiting) == [1]
    assert (device.ledger.acked, device.ledger.unknown_acks) == (1, 1)
    assert device.again(1) == first
    assert device.again(2) is None
