"""Sealed shares open for one recipient in one round, and for nobody else."""

from __future__ import annotations

import os

import pytest

from protocol.secure_sum.errors import SealedShareError
from protocol.secure_sum.sealed_shares import SEALED_BYTES, SharePair, open_shares, seal_shares
from protocol.secure_sum.shamir import SHARE_BYTES

pytestmark = pytest.mark.edge
KEY = bytes(range(16))
SHARES = SharePair(mask_key=b"k" * SHARE_BYTES, self_mask=b"b" * SHARE_BYTES)
PLACE = {"session": "run-1/try-1", "round_number": 4, "sender": "pump-1", "recipient": "pump-2"}


def sealed() -> bytes:
    return seal_shares(KEY, SHARES, **PLACE, random_bytes=os.urandom)


def test_what_was_sealed_opens_where_it_was_meant() -> None:
    assert open_shares(KEY, sealed(), **PLACE) == SHARES


def test_a_seal_is_100_bytes_and_never_the_same_twice() -> None:
    assert len(sealed()) == SEALED_BYTES == 100
    assert sealed() != sealed()


@pytest.mark.parametrize(
    "changed",
    [
        {"session": "run-1/try-2"},
        {"round_number": 5},
        {"sender": "pump-3"},
        {"recipient": "pump-3"},
        {"sender": "pump-2", "recipient": "pump-1"},
    ],
)
def test_a_seal_carried_elsewhere_does_not_open(changed: dict[str, object]) -> None:
    with pytest.raises(SealedShareError, match=r"do not open: they were not sealed for"):
        open_shares(KEY, sealed(), **(PLACE | changed))


def test_a_seal_with_one_bit_flipped_anywhere_does_not_open() -> None:
    original = sealed()
    for bit in range(8 * len(original)):
        flipped = bytearray(original)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealedShareError):
            open_shares(KEY, bytes(flipped), **PLACE)


def test_another_key_does_not_open_it() -> None:
    with pytest.raises(SealedShareError):
        open_shares(bytes(16), sealed(), **PLACE)


@pytest.mark.parametrize("length", [0, 12, 99, 101])
def test_seals_of_another_length_are_refused(length: int) -> None:
    with pytest.raises(SealedShareError, match=f"are {length} bytes; they must be 100"):
        open_shares(KEY, bytes(length), **PLACE)


def test_shares_and_keys_of_another_length_are_refused() -> None:
    short = SharePair(mask_key=b"k" * 35, self_mask=b"b" * 36)
    with pytest.raises(SealedShareError, match="a share is 36 bytes, got 35"):
        seal_shares(KEY, short, **PLACE, random_bytes=os.urandom)
    # 24 and 32 bytes would be fine AES keys, but not the ones the protocol derives.
    with pytest.raises(SealedShareError, match="a key of 16 bytes, got 32"):
        seal_shares(bytes(32), SHARES, **PLACE, random_bytes=os.urandom)


def test_shares_do_not_show_in_a_representation() -> None:
    assert "kkk" not in repr(SHARES)
    assert "bbb" not in repr(SHARES)
