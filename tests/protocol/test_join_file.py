"""A join file says all that a device must know, is read strictly, and with a passphrase shows its claim to nobody."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import JoinFileError
from protocol.join_file import MOST_BYTES, JoinFile, is_sealed, open_join_file, write_join_file
from protocol.manifest import FeatureSpec

PASSPHRASE = "correct horse"
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
JOIN = JoinFile(
    tenant="acme",
    device="valve-1",
    family="valve",
    labels={"line": "3"},
    fleet_url="https://plant.example:8443",
    broker_url="mqtts://plant.example:8883",
    flower_host="plant.example",
    ca=PEM,
    root='{"signed": {}}\n',
    claim="fc_abcdefgh",
    claim_ends_s=1.8e9,
    features=FeatureSpec(kind="passthrough", names=("Pressure", "Flow"), channels=2),
    answers={"decimal": ","},
    row_every_s=1.0,
)


def seeded(count: int) -> bytes:
    return bytes(range(count))


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_what_was_written_is_read(passphrase: str | None) -> None:
    content = write_join_file(JOIN, passphrase, seeded)
    assert is_sealed(content) == (passphrase is not None)
    assert open_join_file(content, passphrase) == JOIN


def test_a_sealed_file_shows_neither_claim_nor_device() -> None:
    content = write_join_file(JOIN, PASSPHRASE, seeded)
    assert b"fc_" not in content
    assert b"valve" not in content


@pytest.mark.parametrize(
    ("given", "told"), [(None, "give the passphrase"), ("another one", "does not open it")]
)
def test_a_sealed_file_opens_to_its_passphrase_alone(given: str | None, told: str) -> None:
    with pytest.raises(JoinFileError, match=told):
        open_join_file(write_join_file(JOIN, PASSPHRASE, seeded), given)


def test_a_passphrase_that_a_week_of_guessing_finds_is_refused() -> None:
    with pytest.raises(JoinFileError, match="at least 8"):
        write_join_file(JOIN, "1234567", seeded)


def test_a_sealed_file_that_was_changed_is_refused() -> None:
    sealed = json.loads(write_join_file(JOIN, PASSPHRASE, seeded))
    text = sealed["sealed"]["text"]
    sealed["sealed"]["text"] = ("A" if text[0] != "A" else "B") + text[1:]
    with pytest.raises(JoinFileError, match="was changed"):
        open_join_file(json.dumps(sealed).encode(), PASSPHRASE)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"fedge_join": 2}, "version 2"),
        ({"fedge_join": None}, "no join file"),
        ({"surplus": 1}, "surplus"),
        ({"device": "../x"}, "device"),
        ({"fleet_url": "http://plain"}, "fleet_url"),
        ({"broker_url": "mqtts://a\nb"}, "broker_url"),
        ({"claim": "two words"}, "claim"),
        ({"ca": "none"}, "ca"),
        ({"row_every_s": 0}, "row_every_s"),
        ({"answers": {"a": 1}}, "answers"),
    ],
)
def test_what_is_not_valid_is_named(change: dict[str, object], told: str) -> None:
    document = msgspec.to_builtins(JOIN) | change
    with pytest.raises(JoinFileError, match=told):
        open_join_file(json.dumps(document).encode(), None)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b"{}", b" " * (MOST_BYTES + 1)]
)
def test_what_is_no_join_file_is_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(JoinFileError) as refused:
        open_join_file(content, None)
    assert "\n" not in str(refused.value)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_damage_gets_through_as_anything_but_a_refusal(data: st.DataObject) -> None:
    content = bytearray(write_join_file(JOIN, None, seeded))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = open_join_file(bytes(content), None)
    except JoinFileError:
        return
    assert isinstance(found, JoinFile)
