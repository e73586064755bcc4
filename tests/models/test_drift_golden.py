"""What the drift detectors say of one fixed machine, held fast number by number.

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

from models.drift.calibration import SHARES, for_scores, histogram_threshold, threshold
from models.drift.limits import largest_wander
from models.drift.monitor import DriftMonitor, DriftSettings, make_detectors
from models.drift.reference import fit_reference
from models.drift.repeats import Repeats, stuck_runs
from models.drift.replay import FEWEST_WINDOWS, fit_calibrated_reference

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
    for fitted_on in (1e9, 1000.0, 250.0, 120.0, 60.0, 20.0):
        limits = [
            histogram_threshold(length, fitted_on=fitted_on, memory=np.array([1.0, 4.0]), bins=bins)
            for length in (1e4, 1e6)
            for bins in (2, 5, 10)
        ]
        yield f"histogram {fitted_on:g}: {numbers(limits)}"
    for away in (0, 6, 30, 60):
        repeats = Repeats(windows_away=60, away=away, longest_away=0, windows_resting=60, exits=away)
        yield f"stuck {away}: {numbers(stuck_runs(repeats, run_length=1e6, shortest=3))}"


def flat(value: object) -> list[float]:
    """Every number in nested structs and tuples, in order."""
    plain = msgspec.to_builtins(value)
    parts = plain.values() if isinstance(plain, dict) else plain
    return (
        [x for part in parts for x in flat(part)]
        if isinstance(plain, dict | list | tuple)
        else [float(plain)]
    )


def golden_lines() -> Iterator[str]:
    yield from threshold_lines()
    rows, scores = machine(400)
    settings = DriftSettings()
    reference = fit_calibrated_reference(rows[:200], scores[:200], settings)
    for name in reference.__struct_fields__:
        yield f"reference {name}: {numbers(flat(getattr(reference, name)))}"
    for statistic in ("small shift", "shift", "spread up", "spread down"):
        yield f"lumpy {statistic}: {numbers([for_scores(statistic, bins) for bins in reference.columns])}"
    for row in make_detectors(reference, settings).thresholds:
        yield f"thresholds: {numbers(row)}"
    wanders = msgspec.structs.replace(reference, is_wandering=True, wander=(0.5,) * 6)
    for row in make_detectors(wanders, settings).thresholds:
        yield f"thresholds of a machine that wanders: {numbers(row)}"
    yield f"largest wander: {numbers([largest_wander(each, 1e5) for each in (reference, wanders)])}"
    unmeasured = msgspec.structs.replace(
        reference, bins=(), memory=(), repeats=(), wander=(), swing=(), shape=()
    )
    for row in make_detectors(unmeasured, settings).thresholds:
        yield f"thresholds of a fleet's reference: {numbers(row)}"
    for name, one in (("own", reference), ("wandering", wanders), ("fleet's", unmeasured)):
        monitor = DriftMonitor(one, settings, sensors=SENSORS)
        for i, (row, score) in enumerate(zip(rows, scores, strict=True)):
            monitor.update(row, float(score))
            verdict = monitor.verdict()
            if i % 8 == 7:
                found = ", ".join(
                    f"{each.detector} {each.sensor} {each.statistic:.4g}" for each in verdict.findings
                )
                yield f"{name} {i}: {verdict.score:.4g} {verdict.phase} {verdict.reports} {verdict.severity or 0:.3g} {found}"
        yield f"{name} shapes: {[msgspec.to_builtins(shape) for shape in monitor.shapes()]}"


def test_nothing_that_the_detectors_say_of_a_fixed_machine_has_slipped() -> None:
    assert list(golden_lines()) == GOLDEN.read_text().splitlines()


def test_the_published_settings() -> None:
    assert DriftSettings() == DriftSettings(
        run_length=20_000.0,  # windows between false reports of a whole device
        stuck_windows=3,
        missing_windows=12,
        recovered_below=0.7,
        recover_windows=25,
        block=8,
        closer_block=6,
        closer_above=0.6,
        threshold_factor=1.0,
    )


def test_few_windows_keep_the_tables_thresholds() -> None:
    rows, scores = machine(200)
    rows = np.sort(rows, axis=0)  # a machine that never comes back to where it was
    settings = DriftSettings()
    assert FEWEST_WINDOWS == 60
    assert fit_calibrated_reference(rows[:59], scores[:59], settings) == fit_reference(rows[:59], scores[:59])
    assert fit_calibrated_reference(rows, scores, settings).is_wandering


def test_a_log_normal_score_has_the_moments_of_its_reference() -> None:
    rows, scores = machine(100)
    reference = msgspec.structs.replace(fit_reference(rows, scores), score_mean=2.0, score_std=1.0)
    mean, std = (float(part[-1]) for part in reference.centres)
    assert math.exp(mean + std**2 / 2) == pytest.approx(2.0)
    assert (math.exp(std**2) - 1) * 4.0 == pytest.approx(1.0)
    steady = msgspec.structs.replace(reference, score_std=1e-6)
    assert steady.centres[1][-1] == 0.05


if __name__ == "__main__":
    GOLDEN.write_text("".join(f"{line}\n" for line in golden_lines()))
