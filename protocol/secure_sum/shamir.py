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

__all__ = ["MAX_POINT", "PRIME", "SECRET_BYTES", "SHARE_BYTES", "combine", "combine_many", "split", "split_many"]

PRIME: Final = 65521
"""The largest prime below 2^16."""

MAX_POINT: Final = PRIME - 1
"""Points are 1 to 65520; 0 is where the secret lies."""

SECRET_BYTES: Final = 32
LIMB_BITS: Final = 15
LIMBS: Final = 18
"""18 · 15 = 270 bits hold 256; the 14 bits left over are zero, which a wrong share would break."""

SHARE_BYTES: Final = 2 * LIMBS
"""18 little-endian 16-bit values."""


def split(
    secret: bytes, *, threshold: int, points: Sequence[int], random_bytes: RandomBytes
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
    raise NotImplementedError


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
    raise NotImplementedError
