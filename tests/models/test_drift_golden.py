"""What the drift detectors say of one fixed machine, held fast number by number; and the limits of those that read verdicts.

The thresholds come out of simulations that take hours and the detectors out of formulas with many constants; other tests show
on random worlds that they do what they should, this one that nothing has slipped since. After a deliberate change write the
golden file anew with ``python tests/models/test_drift_golden.py`` and look at its diff.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from models.drift.adwin import Adwin
from models.drift.bootstrap import (
    FEWEST_WINDOWS,
    bootstrap_factor,
    factor_for_run_length,
    fit_calibrated_reference,
)
from models.drift.calibration import HISTOGRAM_RATES, SHARES, histogram_threshold, stuck_run, threshold
from models.drift.labels import PrecisionSettings, watch_precision
from models.drift.monitor import DriftMonitor, DriftSettings, make_detectors
from models.drift.page_hinkley import PageHinkley
from models.drift.reference import fit_reference, log_score_moments

GOLDEN = Path(__file__).parent / "golden" / "drift.txt"
SENSORS = ("quiet", "slow", "stepped", "constant", "drifting")


def uniforms(count: int) -> NDArray[np.float64]:
    """The same numbers in [0, 1) on every machine and under every NumPy."""
    state, made = 2463534242, np.empty(count)
    for i in range(count):
        state = (1664525 * state + 1013904223) % 2**32
        made[i] = state / 2**32
    return made


def machine(windows: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Windows (n, 5) and scores (n,) of a machine whose last sensor drifts in the second half and whose second sticks at the end."""
    noise = uniforms(windows * 12 * 3).reshape(windows, 3, 12).sum(axis=2) - 6.0
    slow = np.empty(windows)
    value = 0.0
    for i in range(windows):
        value = 0.8 * value + 0.6 * noise[i, 1]
        slow[i] = value
    rising = noise[:, 2] + np.where(np.arange(windows) > windows // 2, 2.0, 0.0)
    slow[-6:] = slow[-6]
    rows = np.column_stack([noise[:, 0], slow, np.round(noise[:, 2]), np.zeros(windows), rising])
    return rows.astype(np.float32), np.exp(0.3 * noise[:, 0]) * np.where(
        np.arange(windows) > 3 * windows // 4, 3.0, 1.0
    )


def numbers(values: object) -> str:
    return " ".join(f"{value:.4g}" for value in np.ravel(np.asarray(values, np.float64)))


def threshold_lines() -> Iterator[str]:
    for statistic in SHARES:
        for run_length in (500.0, 1e4, 1e6) if statistic not in {"histogram", "stuck"} else ():
            fitted_on = np.array([1e9, 1000.0, 500.0, 250.0, 120.0, 90.0, 60.0, 20.0])
            yield f"threshold {statistic} {run_length:g}: {numbers(threshold(statistic, run_length, fitted_on=fitted_on))}"
    for rate in HISTOGRAM_RATES:
        for fitted_on in (1e9, 1000.0, 250.0, 120.0, 60.0, 20.0):
            limits = [
                histogram_threshold(rate, length, fitted_on=fitted_on, memory=np.array([1.0, 4.0]))
                for length in (1e4, 1e6)
            ]
            yield f"histogram {rate:g} {fitted_on:g}: {numbers(limits)}"
    for repeats in (0.0, 0.1, 0.5, 1.0):
        runs = [stuck_run(1e6, repeats=repeats, fitted_on=n, shortest=3) for n in (60, 1000)]
        yield f"stuck {repeats:g}: {numbers(runs)}"


def golden_lines() -> Iterator[str]:
    yield from threshold_lines()
    rows, scores = machine(400)
    settings = DriftSettings()
    reference = fit_reference(rows[:200], scores[:200])
    for name in reference.__struct_fields__:
        yield f"reference {name}: {numbers(getattr(reference, name))}"
    yield f"log score moments: {numbers(log_score_moments(reference))}"
    yield f"memory of a fleet's reference: {numbers(fit_reference(rows[::2], scores[::2]).memory)}"
    for row in make_detectors(reference, settings).thresholds:
        yield f"thresholds: {numbers(row)}"
    unmeasured = msgspec.structs.replace(reference, memory=(), repeats=(), tails=(), threshold_factor=1.5)
    for row in make_detectors(unmeasured, settings).thresholds:
        yield f"thresholds of a fleet's reference: {numbers(row)}"
    for name, one in (("own", reference), ("fleet's", unmeasured)):
        monitor = DriftMonitor(one, settings, sensors=SENSORS)
        for i, (row, score) in enumerate(zip(rows, scores, strict=True)):
            monitor.update(row, float(score))
            verdict = monitor.verdict()
            if i % 8 == 7:
                found = ", ".join(
                    f"{each.detector} {each.sensor} {each.statistic:.4g}" for each in verdict.findings
                )
                yield f"{name} {i}: {verdict.score:.4g} {verdict.drifted} {verdict.windows} {found}"
    rng = np.random.default_rng(1)
    factor = bootstrap_factor(rows[:160], scores[:160], settings, block=16, windows=96, chains=3, rng=rng)
    yield f"bootstrap factor: {factor:.4g}"
    adwin = Adwin()
    for i, value in enumerate(rows[:, 4].tolist()):
        if adwin.update(value):
            yield f"adwin {i}: {adwin.width} {adwin.mean:.4g} {len(adwin._buckets)}"


def test_nothing_that_the_detectors_say_of_a_fixed_machine_has_slipped() -> None:
    assert list(golden_lines()) == GOLDEN.read_text().splitlines()


def test_the_published_settings() -> None:
    assert DriftSettings() == DriftSettings(
        run_length=20_000.0,  # windows between false reports of a whole device
        stuck_windows=3,
        range_windows=12,
        recovered_below=0.7,
        recover_windows=25,
        block=8,
        closer_block=2,
        closer_above=0.6,
        threshold_factor=1.0,
    )
    assert PrecisionSettings() == PrecisionSettings(
        baseline=30, recent=30, tolerance=0.05, confidence_z=1.645, page_hinkley_limit=8.0, adwin_delta=0.002
    )


@pytest.mark.parametrize("wrong", [{"delta": 0.0}, {"delta": 1.0}, {"every": 0}, {"fewest": 0}])
def test_adwin_refuses_what_it_cannot_compare(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"delta in \(0, 1\), every ≥ 1 and fewest ≥ 1"):
        Adwin(**wrong)  # type: ignore[arg-type]
    Adwin(delta=0.5, every=1, fewest=1)


@pytest.mark.parametrize(
    "wrong", [{"limit": 0.0}, {"tolerance": -0.1}, {"fewest": 0}, {"keep": 0.0}, {"keep": 1.1}]
)
def test_page_hinkley_refuses_what_would_never_or_always_alarm(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"limit > 0, tolerance ≥ 0, fewest ≥ 1 and keep in \(0, 1\]"):
        PageHinkley(**wrong)  # type: ignore[arg-type]
    PageHinkley(limit=0.5, tolerance=0.0, fewest=1, keep=1.0)


def alarms(test: PageHinkley, values: list[float]) -> list[int]:
    return [i for i, value in enumerate(values) if test.update(value)]


def test_page_hinkley_alarms_when_the_sum_has_risen_by_more_than_its_limit_and_begins_anew() -> None:
    # Mean 0 for four values, then 1: x - mean is 4/5, 4/6, 4/7, …; the sum passes 2.1 with the fourth.
    stream = [0.0] * 4 + [1.0] * 4
    assert alarms(PageHinkley(limit=2.1, tolerance=0.0, fewest=1, keep=1.0), stream) == [7]
    exact = 4 / 5 + 4 / 6 + 4 / 7
    assert alarms(PageHinkley(limit=exact - 1e-9, tolerance=0.0, fewest=1, keep=1.0), stream) == [6]
    assert alarms(PageHinkley(limit=exact + 1e-9, tolerance=0.0, fewest=1, keep=1.0), stream) == [7]
    assert alarms(PageHinkley(limit=2.1, tolerance=0.5, fewest=1, keep=1.0), stream) == []
    assert alarms(PageHinkley(limit=2.1, tolerance=0.0, fewest=9, keep=1.0), stream) == []
    assert alarms(PageHinkley(limit=2.1, tolerance=0.0, fewest=8, keep=1.0), stream) == [7]
    assert alarms(PageHinkley(limit=2.1, tolerance=0.0, fewest=1, keep=1.0), stream * 2) == [7, 15]
    quiet = PageHinkley()
    assert quiet.statistic == 0.0
    assert (quiet.update(0.0), quiet.statistic) == (False, 0.0)
    assert alarms(PageHinkley(), [0.0] * 100 + [1.0] * 30) == [108]


def told(verdicts: str, **settings: float) -> tuple[int | None, tuple[str, ...]]:
    """Since when precision has drifted, and who says so; `1` is a true alarm."""
    quiet = {"page_hinkley_limit": 1e9, "adwin_delta": 1e-12}
    state = watch_precision((mark == "1" for mark in verdicts), PrecisionSettings(**{**quiet, **settings}))  # type: ignore[arg-type]
    return state.drifted_at, state.found_by


def test_a_drop_counts_from_the_first_full_comparison_and_is_dated_with_the_verdict_that_showed_it() -> None:
    assert told("1" * 30 + "0" * 29) == (None, ())
    assert told("1" * 30 + "0" * 30) == (59, ("drop",))
    assert told("1" * 30 + "0" * 40) == (59, ("drop",))


def test_a_drop_must_exceed_the_tolerance_and_chance() -> None:
    # Nine of ten, without doubt about either share: a drop to 0.85 is one beyond 5 % of 0.9 = 0.855, to 0.86 is none.
    sure = {"confidence_z": 0.0, "baseline": 10, "recent": 50}
    assert told("1" * 9 + "0" + "1" * 43 + "0" * 7, **sure) == (None, ())
    assert told("1" * 9 + "0" + "1" * 42 + "0" * 8, **sure) == (59, ("drop",))
    # With 1.645 standard errors of doubt the same drop is chance.
    assert told("1" * 9 + "0" + "1" * 42 + "0" * 8, baseline=10, recent=50) == (None, ())


def test_drift_is_over_when_as_many_verdicts_as_are_recent_are_good_again() -> None:
    bad = "1" * 30 + "0" * 30
    assert told(bad + "1" * 29)[0] == 59
    assert told(bad + "1" * 30) == (None, ())
    assert told(bad + "1" * 27 + "00" + "1" * 2)[0] == 59


def test_each_detector_is_named_once_in_the_order_in_which_it_spoke() -> None:
    since, by = told("1" * 60 + "0" * 60, page_hinkley_limit=8.0, adwin_delta=0.002)
    assert since is not None
    assert 60 < since < 75
    assert sorted(by) == ["adwin", "drop", "page-hinkley"]
    assert told("0" * 60 + "1" * 60, adwin_delta=0.002) == (None, ()), "better is no drift"


def test_few_windows_keep_the_tables_thresholds_and_no_factor_is_below_one_or_above_three() -> None:
    rows, scores = machine(200)
    rows = np.sort(rows, axis=0)  # a machine that never comes back to where it was
    settings = DriftSettings()

    def factor(count: int) -> float:
        rng = np.random.default_rng(0)
        return fit_calibrated_reference(rows[:count], scores[:count], settings, rng=rng).threshold_factor

    assert FEWEST_WINDOWS == 80
    assert factor(79) == 1.0
    assert 1.0 < factor(80) <= 3.0
    assert factor_for_run_length(np.full(8, 0.25), windows=480, run_length=20_000.0) == 1.0
    # Gumbel by its two moments: location = mean - γ·scale, scale = std·√6/π, and the logarithm of the run length.
    largest = np.array([1.0, 3.0])
    scale = math.sqrt(6) / math.pi
    expected = 2.0 - 0.5772 * scale + scale * math.log(20_000 / 480)
    assert factor_for_run_length(largest, windows=480, run_length=20_000.0) == pytest.approx(expected)


def test_a_log_normal_score_has_the_moments_of_its_reference() -> None:
    rows, scores = machine(100)
    reference = msgspec.structs.replace(fit_reference(rows, scores), score_mean=2.0, score_std=1.0)
    mean, std = log_score_moments(reference)
    assert math.exp(mean + std**2 / 2) == pytest.approx(2.0)
    assert (math.exp(std**2) - 1) * 4.0 == pytest.approx(1.0)
    steady = msgspec.structs.replace(reference, score_std=1e-6)
    assert log_score_moments(steady)[1] == 0.05


if __name__ == "__main__":
    GOLDEN.write_text("".join(f"{line}\n" for line in golden_lines()))
