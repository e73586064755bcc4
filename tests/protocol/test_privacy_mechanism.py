"""From updates to the mean of their sum: right on average, as noisy as planned, and never released with less."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
from privacy_oracles import seeded_bytes

from protocol.privacy.errors import SumError, UnderNoisedError, UpdateError
from protocol.privacy.mechanism import PrivacyParameters, decode, encode
from protocol.privacy.parameters import NoiseKind

pytestmark = pytest.mark.edge


def sum_words(words: list[np.ndarray], bits: int) -> np.ndarray:
    """What a secure sum gives, by plain integers."""
    return (np.sum(words, axis=0, dtype=np.uint64) % np.uint64(1 << bits)).astype(np.uint32)


def updates(count: int, dimension: int, norm: float) -> np.ndarray:
    x = np.random.default_rng(dimension).normal(size=(count, dimension))
    return x / np.linalg.norm(x, axis=1, keepdims=True) * norm


@pytest.mark.parametrize("noise", [NoiseKind.DISCRETE_GAUSSIAN, NoiseKind.SKELLAM])
@pytest.mark.parametrize("bits", [14, 20, 32])
def test_the_sums_noise_is_within_two_percent_of_the_plan(bits: int, noise: NoiseKind) -> None:
    parameters = PrivacyParameters(
        dimension=30_000,
        clip=0.7,
        noise_multiplier=1.3,
        cohort=12,
        bits=bits,
        noise=noise,
        maximum_dropouts=2,
        colluders=1,
    )
    sent, random_bytes = updates(12, 30_000, 0.69), seeded_bytes(bits)
    words = [encode(u, parameters, random_bytes, rotation_seed=b"round 7") for u in sent]
    for survivors in (12, 10):
        total = sum_words(words[:survivors], bits)
        mean = decode(total, parameters, survivors=survivors, rotation_seed=b"round 7")
        error = (mean - sent[:survivors].mean(axis=0)) * survivors
        planned = 1.3 * 0.7 * math.sqrt(survivors / 9)
        assert error.std() == pytest.approx(planned, rel=0.02)
        assert abs(error.mean()) < 4 * planned / math.sqrt(error.size)
        in_steps = parameters.realised(survivors).lattice_std * math.sqrt(survivors / (survivors - 1))
        assert in_steps == pytest.approx(planned * parameters.scale, rel=1e-9)


@pytest.mark.parametrize("bits", [16, 20, 32])
def test_devices_that_all_push_one_coordinate_do_not_wrap_the_words(bits: int) -> None:
    parameters = PrivacyParameters(dimension=3000, clip=1.0, noise_multiplier=0.5, cohort=50, bits=bits)
    spike = np.zeros(3000)
    spike[7] = 100.0
    words = [encode(spike, parameters, seeded_bytes(i)) for i in range(50)]
    mean = decode(sum_words(words, bits), parameters, survivors=50)
    assert mean[7] == pytest.approx(1.0, abs=5 * 0.5 / 50)


def test_a_sum_over_one_device_is_that_device_and_its_noise() -> None:
    parameters = PrivacyParameters(dimension=5, clip=10.0, noise_multiplier=1e-4, cohort=1, bits=32)
    update = np.array([1.0, -2.0, 3.0, 0.0, 0.5])
    mean = decode(encode(update, parameters, os.urandom), parameters, survivors=1)
    np.testing.assert_allclose(mean, update, atol=6e-3)


def test_the_same_update_is_never_encoded_twice_alike() -> None:
    parameters = PrivacyParameters(dimension=50, clip=1.0, noise_multiplier=1.0, cohort=10)
    first, second = (encode(np.zeros(50), parameters, os.urandom) for _ in range(2))
    assert not np.array_equal(first, second)


def test_the_same_randomness_gives_the_same_encoding() -> None:
    parameters = PrivacyParameters(dimension=50, clip=1.0, noise_multiplier=1.0, cohort=10, bits=16)
    update = np.linspace(-1, 1, 50)
    first, second = (encode(update, parameters, seeded_bytes(4), rotation_seed=b"r") for _ in range(2))
    assert np.array_equal(first, second)


def test_an_encoding_does_not_change_the_callers_update() -> None:
    parameters = PrivacyParameters(dimension=50, clip=0.1, noise_multiplier=1.0, cohort=10)
    update = np.ones(50)
    encode(update, parameters, seeded_bytes(0))
    assert (update == 1).all()


@pytest.mark.parametrize("bits", [8, 20, 32])
def test_every_word_is_below_two_to_the_bits(bits: int) -> None:
    parameters = PrivacyParameters(dimension=4000, clip=1.0, noise_multiplier=1.0, cohort=10, bits=bits)
    words = encode(-np.ones(4000), parameters, seeded_bytes(0))
    assert words.dtype == np.uint32
    assert words.shape == (parameters.vector_length,)
    assert words.max() < 2**bits
    assert words.max() > 2 ** (bits - 1)


def test_a_sum_with_too_few_survivors_is_void() -> None:
    parameters = PrivacyParameters(dimension=4, clip=1.0, noise_multiplier=1.0, cohort=10, maximum_dropouts=2)
    total = np.zeros(4, np.uint32)
    with pytest.raises(
        UnderNoisedError, match=r"7 of 10 devices .* at least 8: the round is void.* at least 3"
    ):
        decode(total, parameters, survivors=7)
    assert decode(total, parameters, survivors=7, accept_less_noise=True).shape == (4,)
    assert decode(total, parameters, survivors=8).shape == (4,)


def test_an_update_of_another_length_or_not_finite_is_refused() -> None:
    parameters = PrivacyParameters(dimension=4, clip=1.0, noise_multiplier=1.0, cohort=10)
    with pytest.raises(UpdateError, match="4 entries, got 5"):
        encode(np.zeros(5), parameters, os.urandom)
    with pytest.raises(UpdateError, match="finite"):
        encode(np.array([0, 0, 0, np.nan]), parameters, os.urandom)


def test_a_sum_that_is_not_of_the_agreed_words_is_refused() -> None:
    parameters = PrivacyParameters(dimension=4, clip=1.0, noise_multiplier=1.0, cohort=10, bits=20)
    with pytest.raises(SumError, match=r"shape \(4,\), got \(5,\)"):
        decode(np.zeros(5, np.uint32), parameters, survivors=10)
    with pytest.raises(SumError, match=r"below 2\^20"):
        decode(np.full(4, 1 << 20, np.uint32), parameters, survivors=10)
    with pytest.raises(SumError, match="int64"):
        decode(np.zeros(4, np.int64), parameters, survivors=10)  # type: ignore[arg-type]  # on purpose
