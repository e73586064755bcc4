"""Shamir's secret sharing over a small prime field, many secrets at a time.

A 32-byte secret is cut into 18 limbs of 15 bits. Each limb is the constant term of its own random polynomial of degree
t - 1 over F_65521; a share is the 18 values at one point, 36 bytes. Any t shares give the secret, t - 1 say nothing.
The field is the largest prime below 2^16: the products of a Vandermonde matrix stay below 2^32 and sums of up to 2^21 of
them are exact in float64, so that splitting is one matrix product at the speed of BLAS.

Not verifiable sharing: a wrong share is noticed (a combined limb is out of range but once in 2^32), not attributed.
The holder's point is no secret and not part of the share; both sides know it from the neighbour graph.

Source: Shamir, "How to Share a Secret", Communications of the ACM 22(11), 1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from protocol.secure_sum.errors import ShareError
from protocol.secure_sum.keys import RandomBytes

__all__ = [
    "MAX_POINT",
    "PRIME",
    "SECRET_BYTES",
    "SHARE_BYTES",
    "combine",
    "combine_many",
    "split",
    "split_many",
]

PRIME: Final = 65521
"""The largest prime below 2^16."""

MAX_POINT: Final = PRIME - 1
"""Points are 1 to 65520; 0 is where the secret lies."""

SECRET_BYTES: Final = 32
LIMB_BITS: Final = 15
LIMB_MASK: Final = (1 << LIMB_BITS) - 1
LIMBS: Final = 18
"""18 · 15 = 270 bits hold 256; the 14 bits left over are zero, which a wrong share would break."""

_LAST_LIMB_MAX: Final = 1
"""17 limbs hold 255 bits, so the last one holds a single bit."""

SHARE_BYTES: Final = 2 * LIMBS
"""18 little-endian 16-bit values."""


_WEIGHTS_AT_ONCE: Final = 1 << 20
"""Matrix entries (secrets · t²) worked on at a time while finding Lagrange weights: 8 MiB."""


def split(
    secret: bytes | bytearray, *, threshold: int, points: Sequence[int], random_bytes: RandomBytes
) -> list[bytes]:
    """Split one 32-byte secret: the share at points[i] is result[i], `SHARE_BYTES` long. See `split_many`."""
    return split_many([secret], threshold=threshold, points=points, random_bytes=random_bytes)[0]


def split_many(
    secrets: Sequence[bytes | bytearray], *, threshold: int, points: Sequence[int], random_bytes: RandomBytes
) -> list[list[bytes]]:
    """Split several 32-byte secrets at the same points, with independent polynomials.

    Args:
        secrets: at least one, 32 bytes each.
        threshold: how many shares give the secret back, 1 ≤ threshold ≤ len(points).
        points: distinct, 1 to `MAX_POINT`; one per holder.
        random_bytes: the operating system's generator outside of tests.

    Returns:
        result[s][i] is the share of secret s at points[i], `SHARE_BYTES` long.

    Raises:
        ShareError: a secret of another length, points that are not distinct or out of range, an impossible threshold.
    """
    if not secrets:
        raise ShareError("there is no secret to split")
    _check_points(points)
    if not 1 <= threshold <= len(points):
        raise ShareError(f"a threshold of {threshold} is not possible with {len(points)} holders")
    constants = np.concatenate([_limbs(secret) for secret in secrets])
    others = _field_elements((threshold - 1) * constants.size, random_bytes).reshape(
        threshold - 1, constants.size
    )
    coefficients = np.vstack([constants, others])
    # Exact: each of the t ≤ 65520 terms is below 2^32, so every partial sum is a whole number below 2^53.
    values = _vandermonde(tuple(points), threshold) @ coefficients.astype(np.float64)
    shares = (values.astype(np.int64) % PRIME).astype("<u2").reshape(len(points), len(secrets), LIMBS)
    return [[shares[i, s].tobytes() for i in range(len(points))] for s in range(len(secrets))]


def combine(points: Sequence[int], shares: Sequence[bytes]) -> bytes:
    """The secret of which `shares[i]` is the share at `points[i]`. See `combine_many`."""
    return combine_many([points], [shares])[0]


def combine_many(points: Sequence[Sequence[int]], shares: Sequence[Sequence[bytes]]) -> list[bytes]:
    """Give several secrets back, each from exactly its threshold of shares.

    Args:
        points: points[s] are the points of the shares of secret s; as many for every secret.
        shares: shares[s][i] is the share of secret s at points[s][i].

    Raises:
        ShareError: shares of another length or number, repeated points, or shares that do not belong together
            (fewer than the threshold, of different secrets, or altered).
    """
    if not points and not shares:
        return []
    threshold = len(points[0])
    if len(points) != len(shares) or any(
        len(own_points) != threshold or len(own_shares) != threshold
        for own_points, own_shares in zip(points, shares, strict=False)
    ):
        raise ShareError(
            f"every secret needs one point for each of its {threshold} shares, no more and no fewer"
        )
    values = _share_values(shares)
    if all(own == points[0] for own in points):
        # The common case of a complete graph: one set of survivors holds the shares of everybody.
        weights = _weights_of(tuple(points[0]))[None]
    else:
        for own_points in points:
            _check_points(own_points)
        weights = _lagrange_weights_at_zero(np.array(points, np.int64))
    # Exact in float64 for the same reason as splitting.
    limbs = (weights[:, None, :].astype(np.float64) @ values)[:, 0, :].astype(np.int64) % PRIME
    return _secrets(limbs)


def _limbs(secret: bytes | bytearray) -> NDArray[np.int64]:
    """A secret's 18 limbs, least significant first, int64 (18,)."""
    if len(secret) != SECRET_BYTES:
        raise ShareError(f"a secret to be shared is {SECRET_BYTES} bytes, got {len(secret)}")
    number = int.from_bytes(secret, "little")
    return np.array([(number >> (LIMB_BITS * i)) & LIMB_MASK for i in range(LIMBS)], np.int64)


def _secrets(limbs: NDArray[np.int64]) -> list[bytes]:
    """Secrets from their limbs (secrets, 18); raises ShareError where they are no limbs of 32 bytes."""
    wrong = np.flatnonzero((limbs > LIMB_MASK).any(axis=1) | (limbs[:, -1] > _LAST_LIMB_MAX))
    if wrong.size:
        raise ShareError(
            f"the shares of secret {wrong[0]} do not belong together: they are fewer than its threshold, "
            "of different secrets, or altered"
        )
    numbers = (sum(limb << (LIMB_BITS * i) for i, limb in enumerate(row)) for row in limbs.tolist())
    return [number.to_bytes(SECRET_BYTES, "little") for number in numbers]


def _share_values(shares: Sequence[Sequence[bytes]]) -> NDArray[np.float64]:
    """Shares as field elements, float64 (secrets, holders, 18)."""
    for share in (share for own in shares for share in own):
        if len(share) != SHARE_BYTES:
            raise ShareError(f"a share is {SHARE_BYTES} bytes, got {len(share)}")
    content = b"".join(share for own in shares for share in own)
    values = np.frombuffer(content, "<u2").reshape(len(shares), -1, LIMBS)
    if (values >= PRIME).any():
        raise ShareError(
            f"a share holds {values.max()}, which is no element of the field: the largest is {PRIME - 1}"
        )
    return values.astype(np.float64)


def _field_elements(count: int, random_bytes: RandomBytes) -> NDArray[np.int64]:
    """Uniform elements of the field, int64 (count,), by rejection: a remainder would favour small ones."""
    kept = np.empty(0, np.int64)
    while kept.size < count:
        # One in 4369 draws is rejected; the surplus makes a second call rare.
        wanted = count - kept.size
        drawn = np.frombuffer(random_bytes(2 * (wanted + wanted // 1024 + 8)), "<u2")
        kept = np.concatenate([kept, drawn[drawn < PRIME].astype(np.int64)])
    return kept[:count]


@lru_cache(maxsize=8)
def _vandermonde(points: tuple[int, ...], threshold: int) -> NDArray[np.float64]:
    """Powers 0 to threshold - 1 of each point in the field, float64 (points, threshold), read-only."""
    x = np.array(points, np.int64)
    powers = np.ones((len(points), threshold), np.int64)
    for exponent in range(1, threshold):
        powers[:, exponent] = powers[:, exponent - 1] * x % PRIME
    matrix = powers.astype(np.float64)
    matrix.flags.writeable = False
    return matrix


@lru_cache(maxsize=8)
def _weights_of(points: tuple[int, ...]) -> NDArray[np.int64]:
    """Lagrange weights at 0 of one set of points, remembered: every secret of a complete graph has the same."""
    _check_points(points)
    weights: NDArray[np.int64] = _lagrange_weights_at_zero(np.array([points], np.int64))[0]
    weights.flags.writeable = False
    return weights


def _lagrange_weights_at_zero(points: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each row of distinct points (secrets, t) the weights w with f(0) = Σ w_i·f(x_i) for degree below t.

    w_i = Π_{j≠i} x_j / (x_j - x_i) in the field; int64 (secrets, t).
    """
    secrets, threshold = points.shape
    weights = np.empty_like(points)
    step = max(1, _WEIGHTS_AT_ONCE // (threshold * threshold))
    for first in range(0, secrets, step):
        x = points[first : first + step]
        differences = (x[:, None, :] - x[:, :, None]) % PRIME
        own = np.arange(threshold)
        differences[:, own, own] = 1
        # Π_j x_j over x_i·Π_{j≠i}(x_j - x_i): one inverse per weight, and the own point divided out in it.
        denominators = _product(differences) * x % PRIME
        weights[first : first + step] = _product(x)[:, None] * _inverse(denominators) % PRIME
    return weights


def _product(factors: NDArray[np.int64]) -> NDArray[np.int64]:
    """Product in the field along the last axis, by halves: log2(t) array operations instead of t."""
    while (count := factors.shape[-1]) > 1:
        half = count // 2
        paired = factors[..., :half] * factors[..., half : 2 * half] % PRIME
        factors = np.concatenate([paired, factors[..., 2 * half :]], axis=-1)
    product: NDArray[np.int64] = factors[..., 0]
    return product


def _inverse(elements: NDArray[np.int64]) -> NDArray[np.int64]:
    """x^(p-2), the inverse of nonzero x by Fermat's little theorem, for whole arrays."""
    result = np.ones_like(elements)
    power, exponent = elements, PRIME - 2
    while exponent:
        if exponent & 1:
            result = result * power % PRIME
        power = power * power % PRIME
        exponent >>= 1
    return result


def _check_points(points: Sequence[int]) -> None:
    if len(set(points)) != len(points):
        raise ShareError("two holders have the same point: each share needs its own")
    if not points or min(points) < 1 or max(points) > MAX_POINT:
        raise ShareError(
            f"points are 1 to {MAX_POINT}, got {list(points)[:5]}{'…' if len(points) > 5 else ''}"
        )
