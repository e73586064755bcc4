"""Masks: pseudo-random vectors that hide a device's words and cancel in the sum.

A vector is an array of uint32 words, and everything here is arithmetic modulo 2^32. A round that sends words of b < 32 bits
(20 under distributed privacy) masks them modulo 2^32 all the same and drops the upper bits when it packs them: the lower
b bits of a sum depend on nothing but the lower b bits of its terms, and the lower b bits of a uniform word are uniform.

    words ── add_masks ──► masked words ── pack_words ──► b·d/8 bytes ── unpack_words ──► Σ, add_masks (inverse) ──► sum

Not here: where seeds come from (`keys`) and who adds or subtracts (`device_role`, `server_role`).

Source: NIST SP 800-38A (CTR), RFC 8439 (ChaCha20).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import islice
from math import gcd
from typing import Final, assert_never

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
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

_CHUNK_WORDS: Final = 1 << 16
"""256 KiB: the words, the mask being added and the zeros it is made of stay in a core's cache together."""

_STREAMS_AT_ONCE: Final = 256
"""Cipher contexts alive at a time; each takes about a kilobyte, and a server has tens of thousands of seeds."""

_LANE_BITS: Final = 32
"""Packed words are assembled in lanes of this many bits."""

_ZEROS: Final = bytes(4 * _CHUNK_WORDS)


class MaskGenerator(StrEnum):
    """The pseudo-random generator of a session; every device of the session uses the same."""

    AES_128_CTR = "aes-128-ctr"
    CHACHA20 = "chacha20"


def agree_on_generator(offers: Iterable[Iterable[MaskGenerator]]) -> MaskGenerator:
    """AES-128-CTR if every device offers it, else ChaCha20 (faster where a processor lacks AES instructions).

    Raises:
        MaskError: no generator is offered by all, or nobody offers anything.
    """
    sets = [frozenset(offer) for offer in offers]
    if not sets:
        raise MaskError("no device offers a mask generator: there is nobody to agree with")
    shared = frozenset.intersection(*sets)
    for generator in (MaskGenerator.AES_128_CTR, MaskGenerator.CHACHA20):
        if generator in shared:
            return generator
    raise MaskError(
        f"no mask generator is offered by all {len(sets)} devices; every device must offer {MaskGenerator.CHACHA20.value!r}"
    )


def expand_mask(seed: bytes, count: int, *, generator: MaskGenerator) -> NDArray[np.uint32]:
    """The mask of a 32-byte seed, uint32 (count,); raises MaskError for a seed of another length."""
    mask = np.zeros(count, np.uint32)
    add_masks(mask, added=[seed], generator=generator)
    return mask


def add_masks(
    words: NDArray[np.uint32],
    *,
    added: Iterable[bytes] = (),
    subtracted: Iterable[bytes] = (),
    generator: MaskGenerator,
) -> None:
    """Add and subtract the masks of many 32-byte seeds to `words` (d,), in place, modulo 2^32.

    Memory beyond `words` is bounded, whatever the number of seeds: they may come from a generator expression. Undo it by
    swapping `added` and `subtracted`.

    Raises:
        MaskError: `words` is not a contiguous writable uint32 vector, or a seed is not 32 bytes; seeds before the faulty
            one may be applied, so the words are then of no use.
    """
    if (
        words.dtype != np.uint32
        or words.ndim != 1
        or not (words.flags.c_contiguous and words.flags.writeable)
    ):
        raise MaskError(
            f"masks are added to a contiguous writable uint32 vector, got {words.dtype} of shape {words.shape}"
        )
    _accumulate(words, added, generator, np.add)
    _accumulate(words, subtracted, generator, np.subtract)


def _accumulate(
    words: NDArray[np.uint32], seeds: Iterable[bytes], generator: MaskGenerator, operation: np.ufunc
) -> None:
    mask = np.empty(min(_CHUNK_WORDS, max(words.size, 1)), "<u4")
    mask_bytes = mask.data.cast("B")
    zeros = memoryview(_ZEROS)
    remaining = iter(seeds)
    while streams := [_key_stream(seed, generator) for seed in islice(remaining, _STREAMS_AT_ONCE)]:
        # Chunk by chunk through all streams, so that each chunk of the words is read from memory once per group.
        for start in range(0, words.size, _CHUNK_WORDS):
            chunk = words[start : start + _CHUNK_WORDS]
            part = mask[: chunk.size]
            part_zeros = zeros[: 4 * chunk.size]
            for stream in streams:
                stream.update_into(part_zeros, mask_bytes)
                operation(chunk, part, out=chunk)


def _key_stream(seed: bytes, generator: MaskGenerator) -> CipherContext:
    if len(seed) != SEED_BYTES:
        raise MaskError(f"a mask seed is {SEED_BYTES} bytes, got {len(seed)}")
    match generator:
        case MaskGenerator.AES_128_CTR:
            # The second half of the seed is the first counter block: guessing among many keys at once gains nothing.
            return Cipher(algorithms.AES(seed[:16]), modes.CTR(seed[16:])).encryptor()
        case MaskGenerator.CHACHA20:
            # 16 zero bytes: block counter 0 and nonce 0; a seed is used once, so the nonce has nothing to tell apart.
            return Cipher(algorithms.ChaCha20(seed, bytes(16)), None).encryptor()
        case _:
            assert_never(generator)


def packed_bytes(count: int, word_bits: int) -> int:
    """How many bytes `count` words of `word_bits` bits take when packed."""
    return (count * word_bits + 7) // 8


def pack_words(words: NDArray[np.uint32], word_bits: int) -> bytes:
    """The lower `word_bits` bits of each word, least significant bit first, without gaps.

    Raises:
        MaskError: `word_bits` is not in 2..32.
    """
    _check_word_bits(word_bits)
    if word_bits == MAX_WORD_BITS:
        return words.astype("<u4", copy=False).tobytes()
    group_words, group_lanes = _grouping(word_bits)
    lanes = np.zeros((-(-words.size // group_words), group_lanes), "<u4")
    for first, last in _group_ranges(len(lanes), group_words):
        columns = np.zeros((last - first, group_words), np.uint32)
        part = words[first * group_words : last * group_words]
        columns.reshape(-1)[: part.size] = part
        columns &= np.uint32((1 << word_bits) - 1)
        for word, lane, shift in _overlaps(group_words, word_bits):
            lanes[first:last, lane] |= _shifted(columns[:, word], -shift)
    return lanes.tobytes()[: packed_bytes(words.size, word_bits)]


def unpack_words(content: bytes, count: int, word_bits: int) -> NDArray[np.uint32]:
    """Read `count` packed words back, a new uint32 array (count,) with values below 2^word_bits.

    Raises:
        MaskError: `content` is not exactly `packed_bytes(count, word_bits)` long, or its padding bits are not zero.
    """
    _check_word_bits(word_bits)
    if len(content) != packed_bytes(count, word_bits):
        raise MaskError(
            f"{count} words of {word_bits} bits take {packed_bytes(count, word_bits)} bytes, got {len(content)}"
        )
    if word_bits == MAX_WORD_BITS:
        return np.frombuffer(content, "<u4").astype(np.uint32)
    padding_bits = 8 * len(content) - count * word_bits
    if padding_bits and content[-1] >> (8 - padding_bits):
        raise MaskError(f"the last {padding_bits} bits after {count} packed words must be zero")
    group_words, group_lanes = _grouping(word_bits)
    lanes = np.zeros((-(-count // group_words), group_lanes), "<u4")
    lanes.reshape(-1).view(np.uint8)[: len(content)] = np.frombuffer(content, np.uint8)
    words = np.zeros((len(lanes), group_words), np.uint32)
    for first, last in _group_ranges(len(lanes), group_words):
        for word, lane, shift in _overlaps(group_words, word_bits):
            words[first:last, word] |= _shifted(lanes[first:last, lane], shift)
        words[first:last] &= np.uint32((1 << word_bits) - 1)
    return words.reshape(-1)[:count]


def _grouping(word_bits: int) -> tuple[int, int]:
    """(words, lanes) of a group: the fewest words that fill whole 32-bit lanes."""
    divisor = gcd(word_bits, _LANE_BITS)
    return _LANE_BITS // divisor, word_bits // divisor


def _group_ranges(groups: int, group_words: int) -> Iterator[tuple[int, int]]:
    """Ranges of groups whose words stay in the cache while every overlap is visited: a third of the time."""
    step = _CHUNK_WORDS // group_words
    return ((first, min(first + step, groups)) for first in range(0, groups, step))


def _overlaps(group_words: int, word_bits: int) -> list[tuple[int, int, int]]:
    """(word, lane, shift) wherever a lane holds bits of a word; word bit 0 lies `-shift` bits above lane bit 0."""
    return [
        (word, lane, word_bits * -word + _LANE_BITS * lane)
        for word in range(group_words)
        for lane in range(word * word_bits // _LANE_BITS, ((word + 1) * word_bits - 1) // _LANE_BITS + 1)
    ]


def _shifted(words: NDArray[np.uint32], left: int) -> NDArray[np.uint32]:
    """Shifted left by `left` bits, right where it is negative; what leaves the 32 bits is lost."""
    return words << np.uint32(left) if left >= 0 else words >> np.uint32(-left)


def _check_word_bits(word_bits: int) -> None:
    if not MIN_WORD_BITS <= word_bits <= MAX_WORD_BITS:
        raise MaskError(f"words have {MIN_WORD_BITS} to {MAX_WORD_BITS} bits, got {word_bits}")
