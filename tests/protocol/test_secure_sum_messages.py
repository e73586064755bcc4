"""Messages of the secure sum: golden bytes hold the format fast; whatever is too large, misshapen or of another kind is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from secure_sum_rehearsal import announcement, device_ids, roster_of

from protocol.secure_sum.advertisements import advertisement_digest, check_advertisement
from protocol.secure_sum.errors import SumMessageError
from protocol.secure_sum.masks import MaskGenerator
from protocol.secure_sum.messages import (
    MAX_BYTES,
    Advertisement,
    Announcement,
    CohortBook,
    MaskedInput,
    RevealedShares,
    SealedShare,
    SealedShares,
    ShareDelivery,
    Shares,
    SurvivorConfirmation,
    SurvivorList,
    UnmaskRequest,
    announcement_hash,
    decode,
    encode,
    pack_positions,
    unpack_positions,
)

pytestmark = pytest.mark.edge
GOLDEN = Path(__file__).parent / "golden" / "secure_sum"

ROUND: dict[str, Any] = {"session": "session-0001", "round_number": 7}
ADVERTISED = Advertisement(
    **ROUND,
    device="d00001",
    announcement_hash=bytes(range(32)),
    sharing_key=b"\x01" * 32,
    masking_key=b"\x02" * 32,
    seed_commitment=b"\x03" * 32,
    generators=(MaskGenerator.AES_128_CTR, MaskGenerator.CHACHA20),
    signature=b"\x04" * 70,
)
CONFIRMED = SurvivorConfirmation(**ROUND, device="d00001", signature=b"\x05" * 70)
EXAMPLES: dict[str, msgspec.Struct] = {
    "announcement": announcement(1000, word_bits=20, requires_confirmation=True),
    "advertisement": ADVERTISED,
    "cohort": CohortBook(
        **ROUND,
        degree=2,
        threshold=2,
        generator=MaskGenerator.CHACHA20,
        cohort=("d00000", "d00001", "d00002"),
        digests=bytes(96),
        neighbours=(ADVERTISED,),
    ),
    "sealed": SealedShares(**ROUND, seals=(SealedShare("d00002", b"\x06" * 100),)),
    "delivery": ShareDelivery(**ROUND, sharers=b"\x07", seals=(SealedShare("d00000", b"\x08" * 100),)),
    "masked": MaskedInput(**ROUND, words=b"\x09" * 20),
    "survivors": SurvivorList(**ROUND, survivors=b"\x03"),
    "confirmation": CONFIRMED,
    "unmask": UnmaskRequest(**ROUND, survivors=b"\x03", dropped=b"\x04", confirmations=(CONFIRMED,)),
    "revealed": RevealedShares(
        **ROUND, seeds=(Shares("d00000", b"\x0a" * 36),), mask_keys=(Shares("d00002", b"\x0b" * 36),)
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_wire_format_is_the_golden_one(name: str) -> None:
    golden = bytes.fromhex((GOLDEN / f"{name}.v1.hex").read_text())
    assert encode(EXAMPLES[name]) == golden  # type: ignore[arg-type] # all of them are messages
    assert decode(golden, type(EXAMPLES[name])) == EXAMPLES[name]


def test_every_message_has_a_golden_vector_and_a_limit() -> None:
    assert {type(message) for message in EXAMPLES.values()} == set(MAX_BYTES)


def test_the_hashes_that_bind_a_round_are_the_golden_ones() -> None:
    hashes = announcement_hash(announcement(1000)).hex(), advertisement_digest(ADVERTISED).hex()
    assert hashes == (
        "6a25a313a2e61a9f43fe832b05d0e06b31f9eaf3bb8a569a327ae9783a44cf01",
        "8ddbc8423f3438833654c1f4ffc3ba0d193f30cf39053a59326128272a22c77b",
    )


def test_a_recorded_advertisement_still_verifies() -> None:
    recorded = decode(bytes.fromhex((GOLDEN / "signed-advertisement.v1.hex").read_text()), Advertisement)
    check_advertisement(recorded, announcement(5), roster_of(device_ids(2))[device_ids(2)[1]])


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_message_of_another_kind_truncated_or_longer_is_refused(name: str) -> None:
    message = EXAMPLES[name]
    content = encode(message)  # type: ignore[arg-type] # all of them are messages
    other = SurvivorList if not isinstance(message, SurvivorList) else MaskedInput
    with pytest.raises(SumMessageError, match=f"no {other.__name__}"):
        decode(content, other)
    for spoilt in (content[:-1], content + b"\x00", b"", b"\xc1", b"\x93" * 100):
        with pytest.raises(SumMessageError):
            decode(spoilt, type(message))


@pytest.mark.parametrize(
    "change",
    [
        {"session": "short"},
        {"session": "x" * 65},
        {"round_number": -1},
        {"round_number": 2**32},
        {"model_hash": bytes(31)},
        {"config_hash": bytes(33)},
        {"word_bits": 1},
        {"word_bits": 33},
        {"word_count": 0},
        {"word_count": 2**27},
    ],
)
def test_an_announcement_out_of_range_is_refused(change: dict[str, Any]) -> None:
    spoilt = msgspec.structs.replace(announcement(5), **change)
    with pytest.raises(SumMessageError, match="no Announcement of a secure sum"):
        decode(encode(spoilt), Announcement)


def test_size_is_checked_before_anything_is_parsed() -> None:
    with pytest.raises(SumMessageError, match="of 5000 bytes is too large; at most 1024"):
        decode(b"\x80" * 5000, Announcement)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_by_name_or_read(content: bytes) -> None:
    for kind in MAX_BYTES:
        try:
            decode(content, kind)
        except SumMessageError:
            continue


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_a_set_of_positions_comes_back(drawn: tuple[int, set[int]]) -> None:
    size, positions = drawn
    content = pack_positions(positions, size)
    assert len(content) == -(-size // 8)
    assert unpack_positions(content, size) == positions


@pytest.mark.parametrize(
    ("content", "size", "message"),
    [
        (b"\0", 9, "takes 2 bytes, got 1"),
        (b"\0\0", 8, "takes 1 bytes, got 2"),
        (b"\0\x04", 10, "position 10 is beyond a cohort of 10"),
    ],
)
def test_a_list_that_is_none_of_this_cohort_is_refused(content: bytes, size: int, message: str) -> None:
    with pytest.raises(SumMessageError, match=message):
        unpack_positions(content, size)
