"""Shamir's sharing: any t shares give the secret, the fast arithmetic is the plain one, and fewer say nothing."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.secure_sum import shamir
from protocol.secure_sum.errors import ShareError
from protocol.secure_sum.shamir import (
    LIMBS,
    MAX_POINT,
    PRIME,
    SHARE_BYTES,
    combine,
    combine_many,
    split,
    split_many,
)

pytestmark = pytest.mark.edge


def seeded_bytes(seed: int) -> Callable[[int], bytes]:
    return np.random.default_rng(seed).bytes


def naive_combine(points: list[int], shares: list[bytes]) -> bytes:
    """Lagrange interpolation at 0 in Python integers, limb by limb."""
    number = 0
    for limb in range(LIMBS):
        total = 0
        for i, share in enumerate(shares):
            term = int.from_bytes(share[2 * limb : 2 * limb + 2], "little")
            for j, other in enumerate(points):
                if j != i:
                    term = term * other * pow(other - points[i], -1, PRIME) % PRIME
            total += term
        number |= (total % PRIME) << (15 * limb)
    return number.to_bytes(32, "little")


def naive_split(
    secret: bytes, threshold: int, points: list[int], random_bytes: Callable[[int], bytes]
) -> list[bytes]:
    """Horner's rule in Python integers over coefficients drawn one after the other by rejection."""
    count = (threshold - 1) * LIMBS
    drawn = np.frombuffer(random_bytes(2 * (count + count // 1024 + 8)), "<u2")
    others = [int(value) for value in drawn if value < PRIME][:count]
    number = int.from_bytes(secret, "little")
    shares = []
    for x in points:
        values = []
        for limb in range(LIMBS):
            value = 0
            for degree in range(threshold - 2, -1, -1):
                value = (value + others[degree * LIMBS + limb]) * x % PRIME
            values.append((value + ((number >> (15 * limb)) & 0x7FFF)) % PRIME)
        shares.append(b"".join(value.to_bytes(2, "little") for value in values))
    return shares


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_threshold_of_shares_gives_the_secret_and_equals_the_naive_twin(data: st.DataObject) -> None:
    holders = data.draw(st.integers(1, 12))
    threshold = data.draw(st.integers(1, holders))
    points = data.draw(st.lists(st.integers(1, MAX_POINT), min_size=holders, max_size=holders, unique=True))
    secret = data.draw(st.binary(min_size=32, max_size=32))
    seed = data.draw(st.integers(0, 2**32))
    shares = split(secret, threshold=threshold, points=points, random_bytes=seeded_bytes(seed))
    assert shares == naive_split(secret, threshold, points, seeded_bytes(seed))
    chosen = data.draw(st.permutations(range(holders)))[:threshold]
    held = [shares[i] for i in chosen]
    at = [points[i] for i in chosen]
    assert combine(at, held) == secret == naive_combine(at, held)


def test_the_largest_threshold_in_use_is_exact_in_float64() -> None:
    """t = 1000 with the largest points: the worst case of the matrix product."""
    points = list(range(MAX_POINT - 1099, MAX_POINT + 1))
    secret = b"\xff" * 32
    shares = split(secret, threshold=1000, points=points, random_bytes=lambda n: b"\xf0\xff" * (n // 2))
    assert combine(points[:1000], shares[:1000]) == secret
    assert combine(points[100:], shares[100:]) == secret


def test_many_secrets_with_many_survivor_sets_come_back_together() -> None:
    secrets = [os.urandom(32) for _ in range(40)]
    points = list(range(1, 31))
    shares = split_many(secrets, threshold=20, points=points, random_bytes=os.urandom)
    rng = np.random.default_rng(5)
    chosen = [sorted(rng.choice(30, 20, replace=False).tolist()) for _ in secrets]
    at = [[points[i] for i in own] for own in chosen]
    assert combine_many(at, [[shares[s][i] for i in own] for s, own in enumerate(chosen)]) == secrets
    same = [points[5:25]] * 40
    assert combine_many(same, [own[5:25] for own in shares]) == secrets
    assert combine_many([], []) == []


def test_a_share_is_36_bytes() -> None:
    shares = split(os.urandom(32), threshold=2, points=[1, 2, 3], random_bytes=os.urandom)
    assert [len(share) for share in shares] == [SHARE_BYTES] * 3
    assert SHARE_BYTES == 36


def test_one_share_fewer_than_the_threshold_is_uniform_whatever_the_secret() -> None:
    """χ² of one limb of t - 1 = 1 share over 20 000 splittings, for two extreme secrets: 64 equal bins."""
    for secret in (bytes(32), b"\xff" * 32):
        shares = split_many([secret] * 20_000, threshold=2, points=[9, 10], random_bytes=seeded_bytes(1))
        values = np.frombuffer(b"".join(own[0] for own in shares), "<u2").reshape(-1, LIMBS)[:, 3]
        counts, _ = np.histogram(values, bins=64, range=(0, PRIME))
        expected = len(values) / 64
        # 63 degrees of freedom: the 99.99 % quantile is 112.
        assert float(((counts - expected) ** 2 / expected).sum()) < 112


def test_coefficients_are_rejected_not_reduced() -> None:
    """A generator that says 65535 first and then 7s: 65535 mod p = 14 must not appear as a coefficient."""
    calls = []

    def stubborn(count: int) -> bytes:
        calls.append(count)
        return (b"\xff\xff" if len(calls) == 1 else b"\x07\x00") * (count // 2)

    (share,) = split(bytes(32), threshold=2, points=[1, 2], random_bytes=stubborn)[:1]
    assert np.frombuffer(share, "<u2").tolist() == [7] * LIMBS
    assert len(calls) == 2


def test_different_secrets_never_share_a_polynomial() -> None:
    first, second = split_many([bytes(32)] * 2, threshold=2, points=[1, 2], random_bytes=os.urandom)
    assert first != second


def test_foreign_misplaced_or_too_few_shares_are_noticed() -> None:
    shares = split(os.urandom(32), threshold=3, points=[1, 2, 3, 4], random_bytes=os.urandom)
    other = split(os.urandom(32), threshold=3, points=[1, 2, 3, 4], random_bytes=os.urandom)
    with pytest.raises(ShareError, match="do not belong together"):
        combine([1, 2, 3], [other[0], shares[1], shares[2]])
    with pytest.raises(ShareError, match="do not belong together"):
        combine([1, 2], shares[:2])
    with pytest.raises(ShareError, match="do not belong together"):
        combine([2, 1, 3], shares[:3])


@pytest.mark.parametrize(
    ("points", "threshold", "said"),
    [
        ([1, 1, 2], 2, "two holders have the same point"),
        ([0, 1, 2], 2, "points are 1 to 65520"),
        ([1, 2, 65521], 2, "points are 1 to 65520"),
        ([], 1, "points are 1 to 65520"),
        ([1, 2, 3], 4, "a threshold of 4 is not possible with 3 holders"),
        ([1, 2, 3], 0, "a threshold of 0 is not possible with 3 holders"),
    ],
)
def test_impossible_sharings_are_refused(points: list[int], threshold: int, said: str) -> None:
    with pytest.raises(ShareError, match=said):
        split(bytes(32), threshold=threshold, points=points, random_bytes=os.urandom)


def test_a_last_limb_beyond_256_bits_is_noticed() -> None:
    """17 limbs of 15 bits hold 255 bits: the last one may hold a single bit more."""
    share = bytes(2 * (LIMBS - 1)) + b"\x01\x00"
    assert combine([1], [share]) == bytes(31) + b"\x80"
    with pytest.raises(ShareError, match="do not belong together"):
        combine([1], [bytes(2 * (LIMBS - 1)) + b"\x02\x00"])


def test_a_secret_or_share_of_another_shape_is_refused() -> None:
    with pytest.raises(ShareError, match="a secret to be shared is 32 bytes, got 31"):
        split(bytes(31), threshold=1, points=[1], random_bytes=os.urandom)
    with pytest.raises(ShareError, match="a share is 36 bytes, got 35"):
        combine([1], [bytes(35)])
    with pytest.raises(
        ShareError, match="holds 65535, which is no element of the field: the largest is 65520"
    ):
        combine([1], [b"\xff" * 36])
    with pytest.raises(ShareError, match="one point for each of its 2 shares"):
        combine_many([[1, 2], [1]], [[bytes(36)] * 2, [bytes(36)]])
    with pytest.raises(ShareError, match="one point for each of its 2 shares"):
        combine([1, 2], [bytes(36)])
    with pytest.raises(ShareError, match="one point for each of its 1 shares"):
        combine_many([[1], [1, 2]], [[bytes(36)], [bytes(36), bytes(36)]])
    with pytest.raises(ShareError, match="one point for each"):
        combine_many([[1]], [])
    with pytest.raises(ShareError, match="same point"):
        combine([3, 3], [bytes(36)] * 2)
    with pytest.raises(ShareError, match="same point"):
        combine_many([[3, 4], [5, 5]], [[bytes(36)] * 2] * 2)
    with pytest.raises(ShareError, match="points are 1"):
        combine([], [])
    with pytest.raises(ShareError, match="no secret"):
        split_many([], threshold=1, points=[1], random_bytes=os.urandom)


def test_points_that_are_none_are_named_but_no_more_than_five_of_them() -> None:
    with pytest.raises(ShareError, match=r"points are 1 to \d+, got \[0, 1, 2, 3, 4\]$"):
        combine([0, 1, 2, 3, 4], [bytes(36)] * 5)
    with pytest.raises(ShareError, match=r"got \[0, 1, 2, 3, 4\]…$"):
        combine([0, 1, 2, 3, 4, 5], [bytes(36)] * 6)


def test_a_surplus_of_one_in_1024_is_drawn_so_that_a_rejected_value_costs_no_second_call() -> None:
    asked: list[int] = []

    def zeros(count: int) -> bytes:
        asked.append(count)
        return bytes(count)

    split(bytes(32), threshold=129, points=range(1, 130), random_bytes=zeros)
    # 128 coefficients of 18 limbs, two bytes each, with the surplus of 2 and 8 values.
    assert asked == [2 * (128 * 18 + 2 + 8)]


def test_weights_that_are_remembered_cannot_be_written() -> None:
    assert not shamir._weights_of((1, 2, 3)).flags.writeable
