"""Each drift detector equals its naive twin, keeps its run length, and finds what the design says it finds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.drift.calibration import (
    HISTOGRAM_RATES,
    bootstrap_rows,
    cusum_run_length,
    cusum_threshold,
    factor_for_run_length,
    histogram_threshold,
)
from models.drift.cusum import WINSORISE_AT, Cusum
from models.drift.ewma_histogram import EwmaHistogram
from models.drift.reference import fit_reference, memory_of
from models.drift.sensor_checks import SensorChecks
from models.standardiser import CLIP

pytestmark = pytest.mark.edge

Float = NDArray[np.float64]
RATES = np.array(HISTOGRAM_RATES)
NORMAL_EDGES = np.array([-1.28155, -0.84162, -0.52440, -0.25335, 0.0, 0.25335, 0.52440, 0.84162, 1.28155])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def autoregressive(n: int, columns: int, rho: float, random: np.random.Generator) -> Float:
    x = random.standard_normal((n, columns))
    for i in range(1, n):
        x[i] = rho * x[i - 1] + (1 - rho**2) ** 0.5 * x[i]
    return x


def naive_histogram(edges: Float, rate: float, rows: Float) -> tuple[Float, Float]:
    """p and S from the definition: every cell decays with every window, S is summed anew."""
    p = np.full((len(edges), 10), 0.1)
    for row in rows:
        for f, value in enumerate(row):
            hit = np.zeros(10)
            hit[int(np.sum(edges[f] < value))] = 1.0
            p[f] = (1 - rate) * p[f] + rate * hit
    return p, ((p - 0.1) ** 2).sum(axis=1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 60), st.integers(1, 9))
def test_the_lazy_histogram_equals_the_one_recomputed_in_full(
    seed: int, sensors: int, windows: int, block: int
) -> None:
    random = rng(seed)
    edges = np.sort(random.normal(0, 3, (sensors, 9)), axis=1) + 1e-3 * np.arange(9)
    rows = random.normal(0, 5, (windows, sensors))
    fast = EwmaHistogram(edges, RATES)
    for start in range(0, windows, block):
        fast.update(rows[start : start + block])
    for i, rate in enumerate(HISTOGRAM_RATES):
        p, s = naive_histogram(edges, rate, rows)
        np.testing.assert_allclose(fast.histograms[i], p, atol=1e-6)
        np.testing.assert_allclose(fast.statistic[i], s, atol=1e-6)


def test_the_lazy_histogram_is_still_exact_after_its_weight_was_folded_many_times() -> None:
    rows = rng(1).standard_normal((5000, 2)) + 0.3
    fast = EwmaHistogram(np.tile(NORMAL_EDGES, (2, 1)), RATES)
    fast.update(rows)
    p, s = naive_histogram(np.tile(NORMAL_EDGES, (2, 1)), 0.01, rows)
    np.testing.assert_allclose(fast.histograms[0], p, atol=1e-5)
    np.testing.assert_allclose(fast.statistic[0], s, atol=1e-5)
    np.testing.assert_allclose(fast.histograms.sum(axis=2), 1.0, atol=1e-5)


def naive_cusum(mean: float, scale: float, k: float, column: Float) -> tuple[float, float]:
    up = down = 0.0
    for value in column:
        z = min(max((value - mean) / scale, -WINSORISE_AT), WINSORISE_AT)
        up, down = max(0.0, up + z - k), max(0.0, down - z - k)
    return up, down


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 9))
def test_the_blockwise_cusum_equals_the_recursion(seed: int, windows: int, block: int) -> None:
    random = rng(seed)
    rows = random.normal(0.2, 2.0, (windows, 3))
    fast = Cusum(
        mean=np.array([0.0, 0.1, -0.2]),
        scale=np.array([1.0, 2.0, 0.5]),
        allowance=np.full(3, 0.25),
        ceiling=np.full(3, 1e9),
    )
    for start in range(0, windows, block):
        fast.update(rows[start : start + block])
    for c, (mean, scale) in enumerate([(0.0, 1.0), (0.1, 2.0), (-0.2, 0.5)]):
        assert fast.statistic[:, c] == pytest.approx(naive_cusum(mean, scale, 0.25, rows[:, c]), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 9))
def test_blockwise_sensor_checks_equal_counting_one_by_one(seed: int, windows: int, block: int) -> None:
    random = rng(seed)
    rows = random.choice(np.array([0, 1, 1, 7.9, CLIP], np.float32), (windows, 2))
    fast = SensorChecks(mean=np.zeros(2), std=np.full(2, 0.9))
    for start in range(0, windows, block):
        fast.update(rows[start : start + block])
    for f in range(2):
        stuck = outside = 0
        previous = np.nan
        for value in rows[:, f]:
            stuck = stuck + 1 if value == previous and abs(value) < CLIP else 0
            outside = outside + 1 if abs(value) > 7.2 else 0
            previous = value
        assert fast.statistic[:, f].tolist() == [stuck, outside]


def test_a_sensor_that_was_always_constant_is_not_called_stuck() -> None:
    checks = SensorChecks(mean=np.zeros(1), std=np.array([1e-3]))
    checks.update(np.zeros((50, 1), np.float32))
    assert checks.statistic[0, 0] == 0


def test_the_histogram_threshold_is_the_figure_of_the_design() -> None:
    assert histogram_threshold(0.01, 10_000, fitted_on=10**9) == pytest.approx(0.0147, abs=0.001)


def test_thresholds_grow_with_the_run_length_the_memory_and_fewer_reference_windows() -> None:
    plain = histogram_threshold(0.002, 10_000, fitted_on=1000)
    assert histogram_threshold(0.002, 100_000, fitted_on=1000) > plain
    assert histogram_threshold(0.002, 10_000, fitted_on=120) > plain
    assert histogram_threshold(0.002, 10_000, fitted_on=1000, memory=3.0) == pytest.approx(2 * plain)
    with pytest.raises(ValueError, match="no thresholds were simulated"):
        histogram_threshold(0.05, 10_000, fitted_on=1000)


def test_siegmunds_run_length_matches_a_simulation() -> None:
    h = cusum_threshold(500.0, 0.25)
    assert cusum_run_length(h, 0.25) == pytest.approx(500.0, rel=1e-6)
    random, lengths = rng(3), np.zeros(400)
    up, down, alive = np.zeros(400), np.zeros(400), np.ones(400, bool)
    while alive.any():
        z = random.standard_normal(400)
        up, down = np.maximum(0, up + z - 0.25), np.maximum(0, down - z - 0.25)
        lengths += alive
        alive &= (up < h) & (down < h)
    assert lengths.mean() == pytest.approx(500.0, rel=0.15)


DELAYS = {  # change: (EWMA-histogram at λ=.01, CUSUM); mean delay at ARL0 = 10 000, None = no promise
    "mean .5σ": (lambda x: x + 0.5, 104, 54),
    "mean 1σ": (lambda x: x + 1.0, 38, 18),
    "scale ×1.5": (lambda x: x * 1.5, 102, None),
    "scale ×.5": (lambda x: x * 0.5, 61, None),
    "stuck": (lambda x: np.zeros_like(x) + x[0], 12, None),
}


@pytest.mark.parametrize("change", DELAYS)
def test_mean_delays_are_those_of_the_design_table(change: str) -> None:
    alter, by_histogram, by_cusum = DELAYS[change]
    sensors, windows = 300, 600
    random = rng(4)
    histogram = EwmaHistogram(np.tile(NORMAL_EDGES, (sensors, 1)), RATES)
    one = np.ones(sensors)
    cusum = Cusum(mean=0 * one, scale=one, allowance=0.25 * one, ceiling=1e9 * one)
    settled = random.standard_normal((400, sensors))
    histogram.update(settled)
    cusum.update(settled)
    s_limit, h_limit = histogram_threshold(0.01, 10_000, fitted_on=10**9), cusum_threshold(10_000, 0.25)
    first = np.full((2, sensors), float(windows))
    for i, row in enumerate(alter(random.standard_normal((windows, sensors)))):
        histogram.update(row[None])
        cusum.update(row[None])
        over = np.stack([histogram.statistic[0] > s_limit, cusum.statistic.max(axis=0) > h_limit])
        first = np.where(over & (first == windows), i + 1, first)
    assert first[0].mean() == pytest.approx(by_histogram, rel=0.2, abs=3)
    if by_cusum is not None:
        assert first[1].mean() == pytest.approx(by_cusum, rel=0.2, abs=3)


@pytest.mark.parametrize("shape", ["gaussian", "t3", "log-normal"])
def test_the_histogram_is_free_of_the_distribution(shape: str) -> None:
    random = rng(5)
    draw = {
        "gaussian": random.standard_normal,
        "t3": lambda size: random.standard_t(3, size),
        "log-normal": lambda size: random.lognormal(0, 1, size),
    }[shape]
    edges = np.quantile(draw(200_000), np.arange(1, 10) / 10)
    histogram = EwmaHistogram(np.tile(edges, (200, 1)), RATES)
    largest = np.zeros(200)
    rows = draw((3000, 200))
    for row in rows:
        histogram.update(row[None])
        largest = np.maximum(largest, histogram.statistic[0])
    alarmed = float((largest > histogram_threshold(0.01, 10_000, fitted_on=10**9)).mean())
    assert alarmed == pytest.approx(1 - np.exp(-3000 / 10_000), abs=0.1)


def test_memory_is_one_for_independent_windows_and_that_of_an_autoregression_otherwise() -> None:
    assert memory_of(autoregressive(2000, 50, 0.0, rng(6))).mean() < 1.25
    assert memory_of(autoregressive(2000, 50, 0.7, rng(7))).mean() == pytest.approx(
        (1 + 0.7) / (1 - 0.7), rel=0.15
    )


def test_a_reference_refuses_what_it_cannot_learn_from() -> None:
    good = rng().standard_normal((50, 3))
    with pytest.raises(ValueError, match="at least 20 windows, got 10"):
        fit_reference(good[:10], np.ones(10))
    with pytest.raises(ValueError, match=r"\(n, F\) with n scores"):
        fit_reference(good, np.ones(3))
    with pytest.raises(ValueError, match="finite"):
        fit_reference(np.where(good > 1, np.nan, good), np.ones(50))


def test_a_reference_of_a_constant_sensor_still_has_ascending_edges() -> None:
    reference = fit_reference(np.column_stack([np.zeros(50), np.arange(50.0)]), np.ones(50))
    assert all(b > a for row in reference.edges for a, b in itertools.pairwise(row))


def test_block_bootstrap_keeps_neighbours_together() -> None:
    rows = np.arange(100.0).reshape(-1, 1)
    steps = np.diff(bootstrap_rows(rows, length=64, block=8, rng=rng())[:, 0])
    assert np.isin(steps, (1.0, -99.0)).reshape(-1)[np.arange(63) % 8 != 7].all()


def test_thresholds_grow_where_the_bootstrap_saw_more_than_they_allow() -> None:
    quiet, loud = rng(1).gumbel(0.4, 0.05, 100), rng(1).gumbel(0.9, 0.1, 100)
    assert factor_for_run_length(quiet, windows=1000, run_length=10_000) == 1.0
    assert factor_for_run_length(loud, windows=1000, run_length=10_000) == pytest.approx(
        0.9 + 0.1 * np.log(10), abs=0.1
    )
