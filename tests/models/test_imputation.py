"""Missing values: filled with what the others imply, calm enough for the old threshold, and never louder than they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from recordings import DATA, needs

from models.imputation import Imputer
from models.standardiser import CLIP, fit_standardiser

pytestmark = pytest.mark.edge
SENSORS, HIDDEN = 12, 3


def machine(count: int, seed: int = 0) -> NDArray[np.float32]:
    """(count, 12) of unit variance: three things happen in it, twelve sensors see them, each with noise of its own."""
    mixing = np.random.default_rng(99).normal(size=(HIDDEN, SENSORS))
    mixing /= np.linalg.norm(mixing, axis=0)
    rng = np.random.default_rng(seed)
    seen = rng.normal(size=(count, HIDDEN)) @ mixing * 0.8**0.5 + rng.normal(size=(count, SENSORS)) * 0.2**0.5
    return seen.astype(np.float32)


INNER = np.linalg.svd(machine(5000, 7), full_matrices=False)[2][:HIDDEN]


def reconstruction_error(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """The score of the best linear autoencoder of this machine."""
    return np.square(rows - rows @ INNER.T @ INNER).mean(axis=1)


def without(rows: NDArray[np.float32], *sensors: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    missing = np.zeros(rows.shape[-1], bool)
    missing[list(sensors)] = True
    gappy = rows.copy()
    gappy[..., missing] = np.nan
    return gappy, missing


def test_one_missing_value_is_the_mean_that_the_precision_gives() -> None:
    rows = machine(50_000)
    row, missing = without(machine(1, 5)[0], 4)
    precision = np.linalg.inv(np.cov(rows.T))
    mean = rows.mean(axis=0)
    others = np.arange(SENSORS) != 4
    expected = mean[4] - precision[4, others] @ (row - mean)[others] / precision[4, 4]
    filled = Imputer(rows, SENSORS).fill(row, missing)
    assert filled[4] == pytest.approx(expected, abs=0.01)
    assert np.array_equal(filled[others], row[others])
    assert np.isnan(row[4]), "the row of the caller stays as it was"


def test_any_gap_gets_the_mean_given_the_rest_however_many_came_before() -> None:
    """One value, two, half of them; forty gaps in turn, twice: what is remembered of a gap is that gap's."""
    rows, rng = machine(400), np.random.default_rng(8)
    imputer, row = Imputer(rows, SENSORS), machine(1, 5)[0]
    precision = imputer._precision
    gaps = [rng.permutation(SENSORS)[: rng.integers(1, 7)] for _ in range(40)]
    for gone in gaps * 2:
        gappy, missing = without(row, *gone.tolist())
        mean = rows.mean(axis=0)
        there = precision[np.ix_(missing, ~missing)] @ (row - mean)[~missing]
        expected = mean[missing] - np.linalg.solve(precision[np.ix_(missing, missing)], there)
        np.testing.assert_allclose(imputer.fill(gappy, missing)[missing], expected, atol=1e-4)
    assert len(imputer._gains) <= 16


@pytest.mark.parametrize("gone", [(0,), (1, 5), (0, 2, 4, 6, 8, 10)])
def test_the_estimate_is_better_than_the_healthy_centre(gone: tuple[int, ...]) -> None:
    imputer, rows = Imputer(machine(300), SENSORS), machine(500, 3)
    gappy, missing = without(rows, *gone)
    filled = np.stack([imputer.fill(row, missing) for row in gappy])
    error = np.square(filled - rows)[:, missing].mean()
    assert error < 0.5 * np.square(rows)[:, missing].mean()


@pytest.mark.parametrize("gone", range(SENSORS))
def test_healthy_windows_with_a_dead_sensor_stay_near_the_promise(gone: int) -> None:
    threshold = float(np.quantile(reconstruction_error(machine(20_000, 1)), 0.99))
    imputer, (gappy, missing) = Imputer(machine(500), SENSORS), without(machine(2000, 2), gone)
    scores = reconstruction_error(np.stack([imputer.fill(row, missing) for row in gappy]))
    assert np.mean(scores > threshold) < 0.013


def test_another_sensor_that_is_far_off_still_shows() -> None:
    threshold = float(np.quantile(reconstruction_error(machine(20_000, 1)), 0.99))
    imputer, rows = Imputer(machine(500), SENSORS), machine(200, 4)
    for off in range(1, SENSORS):
        disturbed = rows.copy()
        disturbed[:, off] += 6.0
        gappy, missing = without(disturbed, 0)
        scores = reconstruction_error(np.stack([imputer.fill(row, missing) for row in gappy]))
        assert np.mean(scores > threshold) > 0.9


def distance(
    rows: NDArray[np.floating], mean: NDArray[np.floating], precision: NDArray[np.floating]
) -> NDArray[np.float64]:
    return np.einsum("nf,fg,ng->n", rows - mean, precision, rows - mean)


@needs("pronostia")
def test_real_bearings_with_a_dead_sensor_are_over_no_more_often_than_whole_ones() -> None:
    """Healthy thirds of six lives, shuffled so that wear is not in question; squared Mahalanobis distance, ridge 3."""
    bearings = np.load(DATA / "pronostia" / "pronostia_features.npz")
    whole, dead = [], []
    for name in ("B1_1", "B1_3", "B1_4", "B2_1", "B2_4", "B2_6"):
        life = bearings[name]
        rng = np.random.default_rng(1)
        rows = rng.permutation(life[: len(life) // 3])
        third = len(rows) // 3
        rows = fit_standardiser(rows[:third]).apply(rows)
        taught, held, later = rows[:third], rows[third : 2 * third], rows[2 * third :]
        mean = taught.mean(axis=0)
        precision = np.linalg.inv(np.cov(taught, rowvar=False) + 3 * np.eye(rows.shape[1]))
        threshold = np.quantile(distance(held, mean, precision), 0.99)
        imputer = Imputer(taught, rows.shape[1])
        whole.append(np.mean(distance(later, mean, precision) > threshold))
        for gone in rng.permutation(rows.shape[1])[:6]:
            gappy, missing = without(later, int(gone))
            filled = np.stack([imputer.fill(row, missing) for row in gappy])
            dead.append(np.mean(distance(filled, mean, precision) > threshold))
    assert np.mean(dead) <= 1.1 * np.mean(whole)


@pytest.mark.parametrize(("gone", "least", "most"), [(6, 0.95, 1.0), (10, 0.0, 0.6)])
def test_with_half_missing_a_fault_still_shows_and_with_nearly_all_it_does_not(
    gone: int, least: float, most: float
) -> None:
    """Why there is a bound at half, and why it is none lower."""
    threshold = float(np.quantile(reconstruction_error(machine(20_000, 1)), 0.99))
    imputer, seen = Imputer(machine(500), SENSORS), []
    for off in range(SENSORS):
        rows = machine(100, 4)
        rows[:, off] += 6.0
        gappy, missing = without(rows, *[(off + i) % SENSORS for i in range(1, gone + 1)])
        scores = reconstruction_error(np.stack([imputer.fill(row, missing) for row in gappy]))
        seen.append(np.mean(scores > threshold))
    assert least <= np.mean(seen) <= most


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 8),
    st.sampled_from([1, 3, 300]),
    st.integers(0, 60),
    st.integers(0, 2**31),
    st.floats(0, 1),
)
def test_whatever_is_missing_the_rest_stays_and_the_filled_is_finite(
    sensors: int, samples: int, count: int, seed: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    width = sensors * samples
    rows = rng.normal(size=(count, width)).clip(-CLIP, CLIP)
    rows[:, : width // 3] = 0.0  # some never say anything
    row = (6 * rng.normal(size=width)).clip(-CLIP, CLIP).astype(np.float32)
    missing = rng.random(width) < share
    filled = Imputer(rows, sensors).fill(np.where(missing, np.float32(np.nan), row), missing)
    assert filled.dtype == np.float32
    assert np.array_equal(filled[~missing], row[~missing])
    assert np.isfinite(filled).all()
    assert np.abs(filled).max() <= CLIP


def test_few_windows_are_believed_little() -> None:
    """Twenty windows of twelve sensors: taken at their word they would make estimates worse than none."""
    rows, errors, of_the_centre = machine(300, 3), [], []
    for seed in range(20):
        imputer = Imputer(machine(20, 100 + seed), SENSORS)
        gappy, missing = without(rows, seed % SENSORS)
        filled = np.stack([imputer.fill(row, missing) for row in gappy])
        errors.append(np.square(filled - rows)[:, missing].mean())
        of_the_centre.append(np.square(rows)[:, missing].mean())
    assert np.mean(errors) < 0.5 * np.mean(of_the_centre)


def test_an_estimate_ends_where_values_do() -> None:
    rows = np.random.default_rng(0).normal(size=(1000, 1)) * [0.3, 1.0]
    missing = np.array([False, True])
    for sign in (1, -1):
        filled = Imputer(rows, 2).fill(np.array([sign * CLIP, np.nan], np.float32), missing)
        assert filled.tolist() == [sign * CLIP, sign * CLIP]


def test_the_same_gap_is_filled_alike_whatever_came_between() -> None:
    imputer, row, rng = Imputer(machine(300), SENSORS), machine(1, 5)[0], np.random.default_rng(0)
    first, missing = without(row, 3, 9)
    expected = imputer.fill(first, missing)
    for _ in range(100):
        gaps = rng.random(SENSORS) < 0.3
        imputer.fill(np.where(gaps, np.float32(np.nan), row), gaps)
    np.testing.assert_array_equal(imputer.fill(first, missing), expected)


def test_a_long_raw_window_is_filled_from_the_other_channels_at_the_same_instant() -> None:
    rng = np.random.default_rng(1)
    waves = rng.normal(size=(40, 400, 1))
    rows = np.concatenate([waves, waves + 0.1 * rng.normal(size=waves.shape)], axis=2).reshape(40, -1)
    row = rows[0].astype(np.float32).copy()
    missing = np.zeros(800, bool)
    missing[1::2] = True  # the second channel
    missing[0:20:2] = True  # and the first ten samples of the first
    filled = Imputer(rows[1:], 2).fill(np.where(missing, np.float32(np.nan), row), missing).reshape(400, 2)
    np.testing.assert_allclose(filled[10:, 1], row.reshape(400, 2)[10:, 0], atol=0.2)
    np.testing.assert_allclose(filled[:10], 0.0, atol=0.1)
