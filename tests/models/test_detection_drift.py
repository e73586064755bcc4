"""Each drift detector equals its naive twin, keeps its run length, and finds what the design says it finds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.drift.bins import SMALLEST_STD, Bins, fit_bins
from models.drift.calibration import SHARES, for_scores, histogram_threshold, threshold
from models.drift.cusum import CusumCharts, largest_sums
from models.drift.detectors import Detectors
from models.drift.ewma_histogram import HISTOGRAM_RATE, EwmaHistogram
from models.drift.normal_scores import NormalScores
from models.drift.reference import DriftReference, fit_reference, memory_of
from models.drift.repeats import Repeats
from models.drift.sensor_checks import SensorChecks
from models.drift.state_file import decode_state, encode_state
from models.errors import DriftStateError, InputError
from models.standardiser import CLIP

pytestmark = pytest.mark.edge

Float = NDArray[np.float64]
NORMAL_EDGES = np.array([-1.28155, -0.84162, -0.52440, -0.25335, 0.0, 0.25335, 0.52440, 0.84162, 1.28155])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def autoregressive(n: int, columns: int, rho: float, random: np.random.Generator) -> Float:
    x = random.standard_normal((n, columns))
    for i in range(1, n):
        x[i] = rho * x[i - 1] + (1 - rho**2) ** 0.5 * x[i]
    return x


def naive_histogram(bins: list[Bins], rate: float, rows: Float) -> tuple[Float, Float]:
    """p and S from the definition: every cell decays with every window, S is summed anew."""
    q = np.array([each.masses for each in bins])
    p = q.copy()
    for row in rows:
        for f, value in enumerate(row):
            hit = np.zeros(10)
            hit[int(np.sum(np.float32(bins[f].edges) <= value))] = 1.0
            p[f] = (1 - rate) * p[f] + rate * hit
    return p, ((p - q) ** 2 / (10 * np.maximum(q, 0.05))).sum(axis=1)


def lumpy_bins(random: np.random.Generator, sensors: int) -> list[Bins]:
    """Bins with real masses, two of them empty."""
    masses = random.dirichlet(np.ones(8), sensors)
    edges = np.sort(random.normal(0, 3, (sensors, 9)), axis=1) + 1e-3 * np.arange(9)
    return [
        Bins(edges=tuple(e), masses=(0.0, *m[:-1], 0.0, m[-1])) for e, m in zip(edges, masses, strict=True)
    ]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 60), st.integers(1, 9))
def test_the_lazy_histogram_equals_the_one_recomputed_in_full(
    seed: int, sensors: int, windows: int, block: int
) -> None:
    random = rng(seed)
    bins = lumpy_bins(random, sensors)
    rows = random.normal(0, 5, (windows, sensors)).astype(np.float32)
    fast, scores = EwmaHistogram(bins), NormalScores(bins)
    for start in range(0, windows, block):
        scores(rows[start : start + block])
        fast.update(scores.cells)
    p, s = naive_histogram(bins, HISTOGRAM_RATE, rows)
    np.testing.assert_allclose(fast.histograms, p, atol=1e-6)
    np.testing.assert_allclose(fast.statistic, s, atol=1e-6)


def test_the_lazy_histogram_is_still_exact_after_its_weight_was_folded_many_times() -> None:
    bins = [Bins(edges=tuple(NORMAL_EDGES.tolist()))] * 2
    rows = (rng(1).standard_normal((5000, 2)) + 0.3).astype(np.float32)
    fast, scores = EwmaHistogram(bins), NormalScores(bins)
    scores(rows)
    fast.update(scores.cells)
    p, s = naive_histogram(bins, HISTOGRAM_RATE, rows)
    np.testing.assert_allclose(fast.histograms, p, atol=1e-5)
    np.testing.assert_allclose(fast.statistic, s, atol=1e-5)
    np.testing.assert_allclose(fast.histograms.sum(axis=1), 1.0, atol=1e-5)


def naive_charts(z: Float, memory: float, fitted_on: float, wander: float, swing: float) -> list[list[float]]:
    """The six sums of one column from their definition, after each window."""
    a, w = 1 / fitted_on**0.5, wander / memory**0.5
    wide = (1 + wander**2) * math.exp(swing)
    sums, told = [0.0] * 6, []
    for value in z:
        m = value / memory**0.5
        steps = (*(s * m - k - w - 1.5 * a for k in (0.25, 0.5) for s in (1, -1)),)
        steps += (value**2 - 1.4596 * wide - 2.8 * a, 0.5747 / wide - 1.4 * a - value**2)
        sums = [max(0.0, s + step) for s, step in zip(sums, steps, strict=True)]
        told.append(sums)
    return told


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 9))
def test_the_blockwise_charts_equal_the_recursion(seed: int, windows: int, block: int) -> None:
    z = np.clip(rng(seed).normal(0.2, 1.2, (windows, 3)), -3, 3).astype(np.float32)
    memory, fitted_on = np.array([1.0, 2.0, 5.0]), np.array([100.0, 400.0, 1e9])
    wander, swing = np.array([0.0, 0.4, 1.0]), np.array([0.0, 1.0, 0.2])
    known = {"memory": memory, "fitted_on": fitted_on, "swing": swing}
    fast = CusumCharts(**known, wander=wander, ceiling=np.full((6, 3), 1e9))
    for start in range(0, windows, block):
        fast.update(z[start : start + block])
    for c in range(3):
        expected = naive_charts(z[:, c].astype(float), memory[c], fitted_on[c], wander[c], swing[c])
        np.testing.assert_allclose(fast.statistic[:, c], expected[-1], atol=1e-3)
        largest = largest_sums(z, **known, wander=wander)[:, c]
        np.testing.assert_allclose(largest, np.max(expected, axis=0), atol=1e-3)


def test_sums_stop_at_their_ceiling() -> None:
    nothing = np.zeros(1)
    charts = CusumCharts(
        memory=np.ones(1),
        fitted_on=np.full(1, 1e9),
        wander=nothing,
        swing=nothing,
        ceiling=np.full((6, 1), 7.0),
    )
    charts.update(np.full((100, 1), 3.0, np.float32))
    assert charts.statistic[:, 0].tolist() == [7.0, 0.0, 7.0, 0.0, 7.0, 0.0]


def gaussian_reference(sensors: int = 1, **changes: object) -> DriftReference:
    """What an endless commissioning on a standard Gaussian would teach."""
    known = DriftReference(
        edges=(tuple(NORMAL_EDGES.tolist()),) * sensors,
        mean=(0.0,) * sensors,
        std=(1.0,) * sensors,
        score_mean=1.0,
        score_std=0.4,
        fitted_on=10**9,
        repeats=(Repeats(windows_away=10**9, away=0, longest_away=0),) * sensors,
    )
    return msgspec.structs.replace(known, **changes)


def test_normal_scores_of_a_gaussian_are_its_standardised_values() -> None:
    x = np.linspace(-2.9, 2.9, 59, dtype=np.float32)
    z = NormalScores(gaussian_reference().columns)(np.column_stack([x, x]))
    np.testing.assert_allclose(z[:, 0], x, atol=2e-3)
    wild = np.full((1, 2), 1e3, np.float32)
    np.testing.assert_allclose(
        NormalScores(gaussian_reference().columns)(np.vstack([wild, -wild])), [[3, 3], [-3, -3]], atol=1e-3
    )


@pytest.mark.parametrize("shape", ["gaussian", "t3", "log-normal", "uniform", "zero-inflated", "dice"])
def test_normal_scores_have_mean_0_and_variance_1_whatever_the_distribution(shape: str) -> None:
    x = draw(shape, rng(8))((20_000, 1)).astype(np.float32)
    z = NormalScores(fit_reference(x, np.ones(20_000)).columns)(np.column_stack([x, x]))[:, 0]
    assert z.mean() == pytest.approx(0, abs=0.03)
    assert z.std() == pytest.approx(1, abs=0.04)
    order = np.argsort(x[:, 0])
    assert (np.diff(z[order]) >= -1e-4).all()


def test_deviations_are_compared_as_they_are_where_a_machine_wanders() -> None:
    bins = [Bins(edges=tuple(NORMAL_EDGES.tolist()))] * 2
    scores = NormalScores(
        bins, cut=np.float32([2.0, 4.0]), moments=(np.array([1.0, 0.0]), np.array([2.0, 1.0]))
    )
    rows = np.float32([[3.0, 3.5], [9.0, -9.0]])
    np.testing.assert_allclose(scores(rows), [[1.0, 3.5], [2.0, -4.0]])


@pytest.mark.parametrize("rest", [0.5, 0.9, 0.97])
def test_the_thresholds_of_a_sensor_at_rest_keep_its_run_length(rest: float) -> None:
    random = rng(31)
    x = np.where(random.random((2000, 400)) < rest, 0.0, random.exponential(1, (2000, 400))).astype(
        np.float32
    )
    reference = fit_reference(x[:, :1], np.ones(2000))
    z = NormalScores([reference.columns[0]] * 400)(x)
    nothing = np.zeros(400)
    found = largest_sums(z, memory=np.ones(400), fitted_on=np.full(400, 2000), wander=nothing, swing=nothing)
    for row, statistic in ((0, "small shift"), (2, "shift")):
        limit = threshold(statistic, 2000 * SHARES[statistic], fitted_on=2000)
        over = found[row : row + 2].max(axis=0) > limit * for_scores(statistic, reference.columns[0])
        assert over.mean() < 1 - math.exp(-1) + 0.08


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 9))
def test_blockwise_sensor_checks_equal_counting_one_by_one(seed: int, windows: int, block: int) -> None:
    random = rng(seed)
    rows = random.choice(np.array([0, 1, 1, 7.9, CLIP], np.float32), (windows, 2))
    fast = SensorChecks(np.full(2, 0.9))
    for start in range(0, windows, block):
        fast.watch_repeats(rows[start : start + block])
    for f in range(2):
        stuck = 0
        previous = np.nan
        for value in rows[:, f]:
            stuck = stuck + 1 if value == previous and abs(value) < CLIP else 0
            previous = value
        assert fast.stuck[f] == stuck


def test_a_sensor_that_was_always_constant_is_not_called_stuck() -> None:
    checks = SensorChecks(np.array([SMALLEST_STD]))
    checks.watch_repeats(np.zeros((50, 1), np.float32))
    assert checks.stuck[0] == 0


def test_the_histogram_threshold_is_the_figure_of_the_design_less_what_looking_every_16_windows_saves() -> (
    None
):
    assert histogram_threshold(10_000, fitted_on=10**9) == pytest.approx(0.0147, rel=0.15)


def test_thresholds_grow_with_the_run_length_the_memory_and_fewer_reference_windows() -> None:
    plain = histogram_threshold(10_000, fitted_on=1000)
    assert histogram_threshold(100_000, fitted_on=1000) > plain
    assert histogram_threshold(10_000, fitted_on=120) > plain
    assert histogram_threshold(10_000, fitted_on=1000, memory=3.0) == pytest.approx(2 * plain)
    assert histogram_threshold(10_000, fitted_on=1000, bins=10) == pytest.approx(float(plain))
    assert histogram_threshold(10_000, fitted_on=1000, bins=3) < 0.8 * plain
    for statistic in ("small shift", "shift", "spread up", "spread down"):
        assert threshold(statistic, 1e6, fitted_on=1e9) > threshold(statistic, 1e4, fitted_on=1e9)
    with pytest.raises(ValueError, match="no thresholds were simulated for 'slope'"):
        threshold("slope", 10_000, fitted_on=1000)


def test_the_chart_for_a_small_shift_matches_siegmunds_run_length() -> None:
    # Sequential Analysis (1985), Eq. (2.56): two-sided, k = 1/4, with the 1.166 overshoot correction
    h = float(threshold("small shift", 10_000 * SHARES["small shift"], fitted_on=math.inf))
    b = 0.5 * (h + 1.166)
    assert (math.exp(b) - 1 - b) / (2 * 0.25**2) / 2 == pytest.approx(10_000, rel=0.1)


CHANGES = {  # change: mean delay that the product promises at ARL0 = 10 000 a sensor, for all detectors together
    "mean .5": (lambda x: x + 0.5, 54),
    "mean 1": (lambda x: x + 1.0, 18),
    "scale x1.5": (lambda x: x * 1.5, 102),
    "scale x.5": (lambda x: x * 0.5, 61),
    "stuck": (lambda x: np.repeat(x[:1], len(x), axis=0), 12),
}


def first_alarms(sensors: int, rows: Float, *, settled: Float) -> NDArray[np.float64]:
    """Windows until each column of `rows` raises the alarm, looked at with every window."""
    detectors = Detectors(
        gaussian_reference(sensors), run_length=10_000, factor=1.0, shortest_stuck=3, missing_windows=12
    )
    first = np.full(sensors, np.inf)
    for i, row in enumerate(np.vstack([settled, rows]).astype(np.float32), 1 - len(settled)):
        detectors.watch(np.append(row, 0.0)[None])
        alarmed = detectors.ratios[:, :-1].max(axis=0) >= 1
        if i <= 0:  # an alarm before the change: this life does not count
            alarmed, first = np.zeros_like(alarmed), np.where(alarmed, np.nan, first)
        first = np.where(alarmed & np.isinf(first), i, first)
    return first[np.isfinite(first)]


@pytest.mark.parametrize("change", CHANGES)
def test_mean_delays_are_those_that_the_design_asks_for(change: str) -> None:
    alter, promised = CHANGES[change]
    random = rng(4)
    settled, after = random.standard_normal((200, 500)), random.standard_normal((400, 500))
    delays = first_alarms(500, alter(after), settled=settled)
    assert len(delays) > 450
    # the monitor looks every second window when something builds up, every eighth before: stuck waits for that
    assert (
        delays.mean() <= promised + (0 if change != "stuck" else -4) + 3 * delays.std() / len(delays) ** 0.5
    )


def test_all_detectors_of_a_sensor_together_keep_the_run_length() -> None:
    first = first_alarms(600, rng(5).standard_normal((3000, 600)), settled=np.empty((0, 600)))
    assert 1 - math.exp(-3000 / 10_000) == pytest.approx(len(first) / 600, abs=0.08)


def draw(shape: str, random: np.random.Generator) -> Callable[[tuple[int, ...]], Float]:
    return {
        "gaussian": random.standard_normal,
        "t3": lambda size: random.standard_t(3, size),
        "log-normal": lambda size: random.lognormal(0, 1, size),
        "uniform": random.random,
        "zero-inflated": lambda size: np.maximum(random.standard_normal(size), 0.0),
        "dice": lambda size: random.integers(1, 7, size).astype(float),
    }[shape]


@pytest.mark.parametrize("shape", ["gaussian", "t3", "log-normal", "zero-inflated", "dice"])
def test_the_histogram_is_free_of_the_distribution(shape: str) -> None:
    sample = draw(shape, rng(5))
    bins = [fit_bins(sample((200_000,)).astype(np.float32))] * 200
    histogram, scores = EwmaHistogram(bins), NormalScores(bins)
    largest = np.zeros(200)
    rows = sample((3000, 200)).astype(np.float32)
    for start in range(0, 3000, 16):  # as the monitor does
        scores(rows[start : start + 16])
        histogram.update(scores.cells)
        largest = np.maximum(largest, histogram.statistic)
    used = np.count_nonzero(bins[0].masses)
    alarmed = float((largest > histogram_threshold(10_000, fitted_on=10**9, bins=used)).mean())
    assert alarmed == pytest.approx(1 - np.exp(-3000 / 10_000), abs=0.12)


def test_memory_is_one_for_independent_windows_and_that_of_an_autoregression_otherwise() -> None:
    assert memory_of(autoregressive(2000, 50, 0.0, rng(6))).mean() < 1.25
    assert memory_of(autoregressive(2000, 50, 0.7, rng(7))).mean() == pytest.approx(
        (1 + 0.7) / (1 - 0.7), rel=0.15
    )


def test_a_memory_is_never_longer_than_twenty_windows() -> None:
    drifting = np.cumsum(rng(8).standard_normal((2000, 5)), axis=0)
    assert memory_of(drifting).tolist() == [20.0] * 5


def test_a_reference_refuses_what_it_cannot_learn_from() -> None:
    good = rng().standard_normal((50, 3))
    with pytest.raises(InputError, match="at least 20 windows, got 10"):
        fit_reference(good[:10], np.ones(10))
    with pytest.raises(InputError, match=r"\(n, F\) with n scores"):
        fit_reference(good, np.ones(3))
    with pytest.raises(InputError, match="finite"):
        fit_reference(np.where(good > 1, np.nan, good), np.ones(50))
    with pytest.raises(InputError, match="finite"):
        fit_reference(good, np.full(50, -0.5))


def test_the_edges_of_a_constant_sensor_ascend_about_its_value() -> None:
    reference = fit_reference(np.column_stack([np.zeros(50), np.arange(50.0)]), np.ones(50))
    assert all(b >= a for row in reference.edges for a, b in itertools.pairwise(row))
    assert reference.edges[0][0] < 0 < reference.edges[0][1]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mean": (0.0, math.nan)}, "mean must be"),
        ({"mean": (0.0, 1.0, 2.0)}, "must be"),
        ({"std": (1.0,)}, "std must be"),
        ({"edges": ((0.0,) * 8,) * 2}, "edges must be"),
        ({"edges": ((0.0,) * 9, (0.0,) * 8)}, "edges is ragged"),
        ({"wander": (0.1, math.inf, 0.0)}, "wander must be"),
        ({"swing": (0.1, 0.2)}, "swing must be"),
        ({"bins": [{"edges": (0.0,) * 9}] * 2}, "bins.edges must be"),
        ({"std": (1.0, 0.0)}, "needs positive std and finite score statistics"),
        ({"score_mean": math.nan}, "needs positive std and finite score statistics"),
        ({"score_std": math.inf}, "needs positive std and finite score statistics"),
    ],
)
def test_a_reference_that_nothing_can_be_compared_with_is_refused(
    wrong: dict[str, object], said: str
) -> None:
    content = msgspec.to_builtins(gaussian_reference(2)) | wrong
    with pytest.raises(ValueError, match=said):
        msgspec.convert(content, DriftReference)


@pytest.mark.parametrize(
    ("counters", "arrays", "said"),
    [
        ({"n": 1}, {"s": np.zeros(2)}, None),
        ({}, {"s": np.zeros(2)}, "holds"),
        ({"n": 1}, {"other": np.zeros(2)}, "holds"),
        ({"n": 1}, {"s": np.zeros(3)}, r"s of the saved drift state is <f8\(3,\), want <f8\(2,\)"),
        ({"n": 1}, {"s": np.zeros(2, np.float32)}, r"is <f4\(2,\)"),
    ],
)
def test_a_saved_state_of_another_layout_is_refused(
    counters: dict[str, int], arrays: dict[str, NDArray[np.floating]], said: str | None
) -> None:
    like = encode_state("f", {"n": 0}, {"s": np.zeros(2)})
    saved = encode_state("f", counters, arrays)
    if said is None:
        assert decode_state(saved, like=like, fingerprint="f", most_pending=1)[0] == {"n": 1}
        return
    with pytest.raises(DriftStateError, match=said):
        decode_state(saved, like=like, fingerprint="f", most_pending=1)
