"""Rotation: the fast transform is the slow one, it keeps norms, flattens spikes and can be undone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.privacy.errors import SumError, UpdateError
from protocol.privacy.rotation import padded_length, rotate, transform, unrotate

pytestmark = pytest.mark.edge


def transform_by_definition(x: np.ndarray) -> np.ndarray:
    n = x.size
    return np.array(
        [sum((-1) ** (i & j).bit_count() * x[j] for j in range(n)) / math.sqrt(n) for i in range(n)]
    )


@pytest.mark.parametrize("bits", range(9))
def test_the_fast_transform_is_the_definition(bits: int) -> None:
    x = np.random.default_rng(bits).normal(size=1 << bits)
    np.testing.assert_allclose(transform(x), transform_by_definition(x), atol=1e-12)


@given(size=st.integers(1, 3000), seed=st.binary(max_size=40))
@settings(max_examples=50, deadline=None)
def test_rotation_keeps_the_norm_and_can_be_undone(size: int, seed: bytes) -> None:
    x = np.random.default_rng(size).normal(size=size)
    rotated = rotate(x, seed)
    assert rotated.shape == (padded_length(size),)
    assert np.linalg.norm(rotated) == pytest.approx(np.linalg.norm(x), rel=1e-12)
    np.testing.assert_allclose(unrotate(rotated, seed, size), x, atol=1e-11)


def test_a_sum_of_rotated_vectors_is_the_rotated_sum() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 700))
    np.testing.assert_allclose(rotate(a, b"r") + rotate(b, b"r"), rotate(a + b, b"r"), atol=1e-12)


def test_a_spike_is_spread_over_all_coordinates() -> None:
    spike = np.zeros(5000)
    spike[17] = 1.0
    assert np.abs(rotate(spike, b"seed")).max() == pytest.approx(1 / math.sqrt(8192))


def test_another_seed_gives_another_rotation() -> None:
    x = np.ones(64)
    assert not np.allclose(rotate(x, b"a"), rotate(x, b"b"))
    assert np.abs(unrotate(rotate(x, b"a"), b"b", 64) - x).max() > 0.1


@pytest.mark.parametrize(("size", "padded"), [(1, 1), (2, 2), (3, 4), (1024, 1024), (1025, 2048)])
def test_lengths_are_padded_to_powers_of_two(size: int, padded: int) -> None:
    assert padded_length(size) == padded


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UpdateError, match=r"got \(0,\)"):
        rotate(np.zeros(0), b"")
    with pytest.raises(UpdateError, match=r"got \(2, 2\)"):
        rotate(np.zeros((2, 2)), b"")
    with pytest.raises(SumError, match=r"shape \(128,\), got \(64,\)"):
        unrotate(np.zeros(64), b"", 100)
    with pytest.raises(SumError, match=r"shape \(128,\), got \(256,\)"):
        unrotate(np.zeros(256), b"", 100)
