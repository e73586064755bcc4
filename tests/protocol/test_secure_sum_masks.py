"""Masks cancel, words pack without gaps, and the fast way equals the plain one."""

from __future__ import annotations

import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.secure_sum import masks
from protocol.secure_sum.errors import MaskError
from protocol.secure_sum.masks import (
    MaskGenerator,
    add_masks,
    agree_on_generator,
    expand_mask,
    pack_words,
    packed_bytes,
    unpack_words,
)

pytestmark = pytest.mark.edge
AES, CHACHA = MaskGenerator.AES_128_CTR, MaskGenerator.CHACHA20
GENERATORS = [AES, CHACHA]


def naive_mask(seed: bytes, count: int, generator: MaskGenerator) -> list[int]:
    """One word after the other from one long key stream."""
    cipher = (
        Cipher(algorithms.AES(seed[:16]), modes.CTR(seed[16:]))
        if generator is AES
        else Cipher(algorithms.ChaCha20(seed, bytes(16)), None)
    )
    stream = cipher.encryptor().update(bytes(4 * count))
    return [int.from_bytes(stream[4 * i : 4 * i + 4], "little") for i in range(count)]


def naive_pack(words: list[int], word_bits: int) -> bytes:
    """All words as one long integer."""
    number = sum((word % (1 << word_bits)) << (word_bits * i) for i, word in enumerate(words))
    return number.to_bytes(packed_bytes(len(words), word_bits), "little")


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("count", [0, 1, 3, 1000, masks._CHUNK_WORDS, 2 * masks._CHUNK_WORDS + 5])
def test_adding_many_masks_equals_adding_them_one_word_at_a_time(
    generator: MaskGenerator, count: int
) -> None:
    rng = np.random.default_rng(count)
    words = rng.integers(0, 2**32, count, np.uint32)
    added = [rng.bytes(32) for _ in range(3)]
    subtracted = [rng.bytes(32) for _ in range(2)]
    expected = words.astype(np.int64)
    for seed in added:
        expected += np.array(naive_mask(seed, count, generator), np.int64)
    for seed in subtracted:
        expected -= np.array(naive_mask(seed, count, generator), np.int64)
    add_masks(words, added=added, subtracted=subtracted, generator=generator)
    assert np.array_equal(words, expected % 2**32)


@pytest.mark.parametrize("generator", GENERATORS)
def test_more_seeds_than_streams_at_once_come_from_an_iterator_and_all_count(
    generator: MaskGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masks, "_STREAMS_AT_ONCE", 4)
    seeds = [os.urandom(32) for _ in range(11)]
    words = np.zeros(50, np.uint32)
    add_masks(words, added=(seed for seed in seeds), generator=generator)
    expected = sum(expand_mask(seed, 50, generator=generator).astype(np.int64) for seed in seeds)
    assert np.array_equal(words, expected % 2**32)


def test_swapping_added_and_subtracted_takes_masks_off_again() -> None:
    words = np.arange(1000, dtype=np.uint32)
    added, subtracted = [os.urandom(32)], [os.urandom(32), os.urandom(32)]
    add_masks(words, added=added, subtracted=subtracted, generator=AES)
    assert not np.array_equal(words, np.arange(1000))
    add_masks(words, added=subtracted, subtracted=added, generator=AES)
    assert np.array_equal(words, np.arange(1000))


@pytest.mark.parametrize("word_bits", [8, 18, 20, 32])
def test_pair_masks_cancel_in_the_sum_of_packed_words(word_bits: int) -> None:
    rng = np.random.default_rng(3)
    seed = rng.bytes(32)
    one, other = rng.integers(0, 2**32, (2, 777), np.uint32)
    masked_one, masked_other = one.copy(), other.copy()
    add_masks(masked_one, added=[seed], generator=AES)
    add_masks(masked_other, subtracted=[seed], generator=AES)
    total = sum(
        unpack_words(pack_words(words, word_bits), 777, word_bits).astype(np.int64)
        for words in (masked_one, masked_other)
    )
    assert np.array_equal(total % 2**word_bits, (one.astype(np.int64) + other) % 2**word_bits)


def test_masks_of_different_seeds_or_generators_differ() -> None:
    seed, one_bit_off = bytes(32), bytes(31) + b"\x01"
    streams = {expand_mask(s, 8, generator=g).tobytes() for s in (seed, one_bit_off) for g in GENERATORS}
    assert len(streams) == 4


@settings(deadline=None, max_examples=150)
@given(words=st.lists(st.integers(0, 2**32 - 1), max_size=70), word_bits=st.integers(2, 32))
def test_packing_equals_one_long_integer_and_unpacks(words: list[int], word_bits: int) -> None:
    array = np.array(words, np.uint32)
    packed = pack_words(array, word_bits)
    assert packed == naive_pack(words, word_bits)
    assert unpack_words(packed, len(words), word_bits).tolist() == [word % (1 << word_bits) for word in words]


def test_packing_more_than_a_chunk_leaves_no_seam() -> None:
    count = 2 * masks._CHUNK_WORDS + 3
    words = np.random.default_rng(1).integers(0, 2**32, count, np.uint32)
    packed = pack_words(words, 20)
    assert len(packed) == packed_bytes(count, 20) == -(-count * 20 // 8)
    assert np.array_equal(unpack_words(packed, count, 20), words & 0xFFFFF)
    tail_words, tail_bytes = 16, 40
    assert packed[count // 8 * 20 - tail_bytes : count // 8 * 20] == naive_pack(
        words[count // 8 * 8 - tail_words : count // 8 * 8].tolist(), 20
    )


def test_packing_leaves_the_words_as_they_are_and_unpacking_gives_writable_ones() -> None:
    words = np.full(10, 2**32 - 1, np.uint32)
    for word_bits in (20, 32):
        unpacked = unpack_words(pack_words(words, word_bits), 10, word_bits)
        unpacked += np.uint32(1)
        assert words.min() == 2**32 - 1


def test_upload_of_a_million_words_is_at_most_065_of_float32_at_20_bits() -> None:
    assert packed_bytes(1_000_000, 20) <= 0.65 * 4_000_000


@pytest.mark.parametrize("length", [0, 7, 9])
def test_packed_words_of_another_length_are_refused(length: int) -> None:
    with pytest.raises(MaskError, match=f"3 words of 20 bits take 8 bytes, got {length}"):
        unpack_words(bytes(length), 3, 20)


def test_padding_bits_that_are_not_zero_are_refused() -> None:
    """Otherwise one masked vector would have many encodings, and a signature over it would not pin it down."""
    packed = bytearray(pack_words(np.full(3, 0xFFFFF, np.uint32), 20))
    packed[-1] |= 0x80
    with pytest.raises(MaskError, match="the last 4 bits after 3 packed words must be zero"):
        unpack_words(bytes(packed), 3, 20)


@pytest.mark.parametrize("word_bits", [-1, 0, 1, 33, 64])
def test_word_sizes_outside_2_to_32_are_refused(word_bits: int) -> None:
    with pytest.raises(MaskError, match="2 to 32 bits"):
        pack_words(np.zeros(3, np.uint32), word_bits)
    with pytest.raises(MaskError, match="2 to 32 bits"):
        unpack_words(b"", 0, word_bits)


def test_seeds_and_vectors_of_another_shape_are_refused() -> None:
    words = np.zeros(8, np.uint32)
    with pytest.raises(MaskError, match="a mask seed is 32 bytes, got 16"):
        add_masks(words, added=[bytes(16)], generator=AES)
    read_only = np.zeros(8, np.uint32)
    read_only.flags.writeable = False
    wrongs = (
        np.zeros(8, np.int64),
        np.zeros(8, np.int8),
        np.zeros((2, 4), np.uint32),
        np.zeros((), np.uint32),
    )
    for wrong in (*wrongs, words[::2], read_only):
        with pytest.raises(MaskError, match="contiguous writable uint32 vector"):
            add_masks(wrong, added=[bytes(32)], generator=AES)


def test_the_session_uses_aes_only_where_everybody_has_it() -> None:
    assert agree_on_generator([[AES, CHACHA], [CHACHA, AES]]) is AES
    assert agree_on_generator([[AES, CHACHA], [CHACHA]]) is CHACHA
    with pytest.raises(MaskError, match="no mask generator is offered by all 2 devices"):
        agree_on_generator([[AES], [CHACHA]])
    with pytest.raises(MaskError, match="no device offers"):
        agree_on_generator([])
