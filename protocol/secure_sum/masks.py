"""Masks: pseudo-random vectors that hide a device's words and cancel in the sum.

A vector is an array of uint32 words, and everything here is arithmetic modulo 2^32. A round that sends words of b < 32 bits
(20 under distributed privacy) masks them modulo 2^32 all the same and drops the upper bits when it packs them: the lower
b bits of a sum depend on nothing but the lower b bits of its terms, and the lower b bits of a uniform word are uniform.

    words ── add_masks ──► masked words ── pack_words ──► b·d/8 bytes ── unpack_words ──► Σ, add_masks (inverse) ──► sum

Not here: where seeds come from (`keys`) and who adds or subtracts (`device_role`, `server_role`).

Source: NIST SP 800-38A (CTR), RFC 8439 (ChaCha20).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from protocol.secure_sum.errors import MaskError

__all__ = [
    "MAX_WORD_BITS",
    "MIN_WORD_BITS",
    "SEED_BYTES",
    "MaskGenerator",
    "add_masks",
    "agree_on_generator",
    "expand_mask",
    "pack_words",
    "packed_bytes",
    "unpack_words",
]

SEED_BYTES: Final = 32
MIN_WORD_BITS: Final = 2
MAX_WORD_BITS: Final = 32


class MaskGenerator(StrEnum):
    """The pseudo-random generator of a session; every device of the session uses the same."""

    AES_128_CTR = "aes-128-ctr"
    CHACHA20 = "chacha20"


def agree_on_generator(offers: Iterable[Iterable[MaskGenerator]]) -> MaskGenerator:
    """AES-128-CTR if every device offers it, else ChaCha20 (faster where a processor lacks AES instructions).

    Raises:
        MaskError: no generator is offered by all, or nobody offers anything.
    """
    raise NotImplementedError


def expand_mask(seed: bytes, count: int, *, generator: MaskGenerator) -> NDArray[np.uint32]:
    """The mask of a 32-byte seed, uint32 (count,); raises MaskError for a seed of another length."""
    raise NotImplementedError


def add_masks(
    words: NDArray[np.uint32],
    *,
    added: Sequence[bytes] = (),
    subtracted: Sequence[bytes] = (),
    generator: MaskGenerator,
) -> None:
    """Add and subtract the masks of many 32-byte seeds to `words` (d,), in place, modulo 2^32.

    Memory beyond `words` is bounded, whatever the number of seeds. Undo it by swapping `added` and `subtracted`.

    Raises:
        MaskError: `words` is not a contiguous writable uint32 vector, or a seed is not 32 bytes.
    """
    raise NotImplementedError


def packed_bytes(count: int, word_bits: int) -> int:
    """How many bytes `count` words of `word_bits` bits take when packed."""
    return (count * word_bits + 7) // 8


def pack_words(words: NDArray[np.uint32], word_bits: int) -> bytes:
    """The lower `word_bits` bits of each word, little-endian bit order, without gaps.

    Raises:
        MaskError: `word_bits` is not in 2..32.
    """
    raise NotImplementedError


def unpack_words(content: bytes, count: int, word_bits: int) -> NDArray[np.uint32]:
    """Read `count` packed words back, a new uint32 array (count,) with values below 2^word_bits.

    Raises:
        MaskError: `content` is not exactly `packed_bytes(count, word_bits)` long, or its padding bits are not zero.
    """
    raise NotImplementedError
