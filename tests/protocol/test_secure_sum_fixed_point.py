"""Answers become words that cannot overflow in a sum, and come back right on average; counts come back exactly."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from protocol.questions import AnswerLayout, assess_layout
from protocol.secure_sum.errors import FixedPointError
from protocol.secure_sum.fixed_point import FixedPointCodec, PartBound, center_words, largest_integer
from protocol.secure_sum.masks import MaskGenerator, expand_mask

pytestmark = pytest.mark.edge


def seeded_bytes(seed: int) -> Callable[[int], bytes]:
    return np.random.default_rng(seed).bytes


def one_part(
    bound: float, *, size: int = 1, bits: int = 20, devices: int = 10, step: float | None = None
) -> FixedPointCodec:
    return FixedPointCodec(
        AnswerLayout({"x": size}),
        {"x": PartBound(bound=bound, resolution=step)},
        word_bits=bits,
        devices=devices,
    )


def modular_sum(words: list[NDArray[np.uint32]], word_bits: int) -> NDArray[np.uint32]:
    """What a secure sum gives: the plain sum modulo 2^b."""
    total = sum(each.astype(object) for each in words)
    return np.array([int(value) % (1 << word_bits) for value in total], np.uint32)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_the_sum_of_answers_comes_back_within_one_step_per_device(data: st.DataObject) -> None:
    bits = data.draw(st.integers(4, 32))
    devices = data.draw(st.integers(1, min(12, (1 << (bits - 1)) - 1)))
    parts = {
        "update": PartBound(bound=data.draw(st.floats(1e-6, 1e6))),
        "examples": PartBound(bound=100_000.0, resolution=1.0),
        "loss": PartBound(bound=1000.0, resolution=0.5),
    }
    codec = FixedPointCodec(
        AnswerLayout({"update": 5, "examples": 2, "loss": 1}), parts, word_bits=bits, devices=devices
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    answers = []
    for _ in range(devices):
        update = rng.choice([-1.0, 1.0, 0.0, *rng.uniform(-1, 1, 3)], 5) * parts["update"].bound
        examples = rng.integers(0, 100_001, 2)
        answers.append(np.concatenate([update, examples, rng.integers(-2000, 2001, 1) / 2]))
    total = codec.decode(modular_sum([codec.encode(a, rng.bytes) for a in answers], bits))
    exact = np.sum(answers, axis=0)
    assert np.all(np.abs(total[:5] - exact[:5]) <= devices * codec.steps["update"] * (1 + 1e-9))
    assert np.array_equal(total[5:], exact[5:])


@settings(deadline=None, max_examples=60)
@given(
    bits=st.integers(8, 32),
    devices=st.integers(1, 40),
    most=st.integers(1, 3),
    size=st.integers(1, 11),
    seed=st.integers(0, 2**32),
)
def test_entries_that_share_a_word_come_back_each_by_itself(
    bits: int, devices: int, most: int, size: int, seed: int
) -> None:
    """Counts of one bin or two a device, all of them at either end as well; as many share a word as their sums allow."""
    codec = one_part(float(most), size=size, bits=bits, devices=devices, step=1.0)
    rng = np.random.default_rng(seed)
    for draw in (rng.integers(-most, most + 1, (devices, size)), np.full((devices, size), most)):
        for answers in (draw, -draw):
            words = [codec.encode(answer.astype(float), rng.bytes) for answer in answers]
            np.testing.assert_array_equal(codec.decode(modular_sum(words, bits)), answers.sum(axis=0))
    fitting = int(bits * np.log(2) / np.log(2 * most * devices + 1) + 1e-9)
    assert codec.word_count <= max(-(-size // max(fitting - 1, 1)), size if fitting <= 1 else 1)


@pytest.mark.parametrize(
    ("bits", "devices"), [(20, 1), (20, 100), (20, 7919), (32, 10_000), (8, 127), (2, 1)]
)
def test_no_sum_overflows_even_when_every_device_is_at_its_bound(bits: int, devices: int) -> None:
    codec = one_part(3.0, bits=bits, devices=devices)
    for extreme in (3.0, -3.0):
        words = codec.encode(np.array([extreme]), os.urandom)
        total = np.array([int(words[0]) * devices % (1 << bits)], np.uint32)
        assert codec.decode(total)[0] == pytest.approx(devices * extreme, rel=1e-12)
    assert largest_integer(bits, devices) * devices <= 2 ** (bits - 1) - 1


def test_rounding_is_right_on_average_and_has_the_variance_of_a_coin() -> None:
    codec = one_part(1.0, size=200_000, bits=8, devices=10)
    step = codec.steps["x"]
    value = 0.3 * step
    decoded = codec.decode(codec.encode(np.full(200_000, value), seeded_bytes(1))) / step
    assert set(np.unique(np.round(decoded, 9))) == {0.0, 1.0}
    # Standard deviation of the mean: √(0.3·0.7/200 000) = 0.001.
    assert abs(decoded.mean() - 0.3) < 0.005
    negative = codec.decode(codec.encode(np.full(200_000, -value), seeded_bytes(2))) / step
    assert abs(negative.mean() + 0.3) < 0.005


def test_rounding_equals_its_naive_twin() -> None:
    """Floor plus one coin per entry, in Python numbers, from the documented key stream."""
    codec = one_part(2.0, size=40_000, bits=16, devices=3)
    values = np.random.default_rng(1).uniform(-2, 2, 40_000)
    words = codec.encode(values, seeded_bytes(9))
    coins = expand_mask(seeded_bytes(9)(32), 40_000, generator=MaskGenerator.AES_128_CTR)
    largest = largest_integer(16, 3)
    for value, word, coin in zip(
        values[::97].tolist(), words[::97].tolist(), coins[::97].tolist(), strict=True
    ):
        scaled = value / (2.0 / largest)
        floor = int(np.floor(scaled))
        assert word == (floor + (coin < (scaled - floor) * 2**32)) % 2**32


def test_whole_numbers_add_up_exactly_in_words_too_small_for_them() -> None:
    codec = one_part(1_000_000.0, bits=8, devices=100, step=1.0)
    assert codec.word_count > 5
    words = [codec.encode(np.array([float(n)]), os.urandom) for n in (999_999, 1, 123_456, 0, -1_000_000)]
    assert codec.decode(modular_sum(words, 8))[0] == 123_456.0


def test_an_assess_answer_fits_20_bit_words() -> None:
    layout = assess_layout(tensor_count=7, feature_count=32)
    bounds = dict.fromkeys(layout.sizes, PartBound(bound=4000.0, resolution=1.0))
    bounds["feature_squares"] = PartBound(bound=4000.0 * 64, resolution=1e-3)
    codec = FixedPointCodec(layout, bounds, word_bits=20, devices=100)
    answer = np.random.default_rng(1).integers(0, 4000, layout.total).astype(np.float32)
    total = codec.decode(modular_sum([codec.encode(answer, os.urandom)] * 3, 20))
    parts = layout.unpack(total)
    assert np.array_equal(parts["candidate_scores"], 3.0 * layout.unpack(answer)["candidate_scores"])


def test_words_are_centred_around_zero() -> None:
    words = np.array([0, 1, 127, 128, 255, 256, 2**32 - 1], np.uint32)
    assert center_words(words, 8).tolist() == [0, 1, 127, -128, -1, 0, -1]
    assert center_words(words, 32).tolist() == [0, 1, 127, 128, 255, 256, -1]


def test_a_value_clipped_in_float32_is_taken_as_its_bound() -> None:
    bound = 0.37  # its float32 is a little larger
    codec = one_part(bound, bits=20, devices=10)
    assert float(np.float32(bound)) > bound
    assert codec.decode(codec.encode(np.array([bound], np.float32), os.urandom))[0] == pytest.approx(bound)
    # At 32 bits that rounding is more than a step; taken as it is, ten of them would overflow.
    codec = one_part(bound, bits=32, devices=10)
    words = codec.encode(np.array([bound], np.float32), os.urandom)
    assert words[0] == largest_integer(32, 10)


def test_half_a_step_of_float32_beyond_the_bound_is_the_bound_and_more_is_not() -> None:
    codec = one_part(1.0)
    for sign in (1.0, -1.0):
        codec.encode(np.array([sign * (1 + 2.0**-22)]), os.urandom)
        with pytest.raises(FixedPointError, match="clip it first"):
            codec.encode(np.array([sign * (1 + 2.0**-21)]), os.urandom)


@pytest.mark.parametrize("value", [1.001, -1.001, np.inf, -np.inf, np.nan, 1e300])
def test_a_value_beyond_its_bound_is_refused_and_named(value: float) -> None:
    codec = FixedPointCodec(
        AnswerLayout({"fine": 2, "loss": 3}),
        {"fine": PartBound(bound=5.0), "loss": PartBound(bound=1.0)},
        word_bits=20,
        devices=10,
    )
    with pytest.raises(
        FixedPointError,
        match=re.escape(f"an entry of 'loss' is {value}") + "; it must be finite and within ±1.0",
    ):
        codec.encode(np.array([4.0, -4.0, 0.0, value, 0.5]), os.urandom)


def test_clipping_brings_every_part_within_its_own_bound() -> None:
    codec = FixedPointCodec(
        AnswerLayout({"a": 2, "b": 1}),
        {"a": PartBound(bound=5.0), "b": PartBound(bound=1.0)},
        word_bits=20,
        devices=10,
    )
    assert codec.clip(np.array([9.0, -9.0, 9.0], np.float32)).tolist() == [5.0, -5.0, 1.0]


def test_words_too_small_for_the_cohort_are_refused_with_the_size_it_takes() -> None:
    with pytest.raises(
        FixedPointError, match="8-bit words cannot hold a sum over 128 devices; it takes 9 bits"
    ):
        one_part(1.0, bits=8, devices=128)
    assert one_part(1.0, bits=9, devices=128).word_count == 1


@pytest.mark.parametrize(
    ("bound", "step", "said"),
    [
        (0.0, None, "bound of 'x' must be positive and finite"),
        (-1.0, None, "bound of 'x' must be positive and finite"),
        (float("nan"), None, "bound of 'x' must be positive and finite"),
        (float("inf"), None, "bound of 'x' must be positive and finite"),
        (1.0, 0.0, "resolution of 'x' must be positive and finite"),
        (1.0, float("inf"), "resolution of 'x' must be positive and finite"),
        (1e10, 1e-9, "does not add up exactly; the finest step is 1.11e-05"),
    ],
)
def test_senseless_bounds_are_refused(bound: float, step: float | None, said: str) -> None:
    with pytest.raises(FixedPointError, match=said):
        one_part(bound, step=step)


def test_answers_bounds_and_sums_of_another_shape_are_refused() -> None:
    codec = one_part(1.0, size=3)
    with pytest.raises(FixedPointError, match=r"shape \(3,\), got \(4,\)"):
        codec.encode(np.zeros(4), os.urandom)
    with pytest.raises(FixedPointError, match=r"shape \(3,\), got \(2,\)"):
        codec.decode(np.zeros(2, np.uint32))
    with pytest.raises(FixedPointError, match="every part of the answer needs a bound"):
        FixedPointCodec(AnswerLayout({"x": 1}), {"y": PartBound(bound=1.0)}, word_bits=20, devices=2)
    with pytest.raises(FixedPointError, match="2 to 32 bits, got 40"):
        one_part(1.0, bits=40)
    with pytest.raises(FixedPointError, match="at least one device, got 0"):
        one_part(1.0, devices=0)
