"""The block bootstrap keeps neighbours together, asks for larger thresholds where windows misbehave, and only there."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from models.drift.bootstrap import (
    FEWEST_WINDOWS,
    LARGEST_FACTOR,
    bootstrap_factor,
    bootstrap_rows,
    factor_for_run_length,
    fit_calibrated_reference,
)
from models.drift.monitor import DriftMonitor, DriftSettings
from models.drift.reference import fit_reference
from models.errors import InputError

pytestmark = pytest.mark.edge

Float = NDArray[np.float64]


def world(seed: int, windows: int, rho: float, sensors: int = 6) -> tuple[Float, Float]:
    """Autoregressive healthy windows (n, F) and log-normal scores (n,)."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((windows, sensors + 1))
    for i in range(1, windows):
        x[i] = rho * x[i - 1] + (1 - rho**2) ** 0.5 * x[i]
    return x[:, :-1], np.exp(0.4 * x[:, -1])


def test_block_bootstrap_keeps_neighbours_together() -> None:
    rows = np.arange(100.0).reshape(-1, 1)
    steps = np.diff(bootstrap_rows(rows, length=64, block=8, rng=np.random.default_rng(0))[:, 0])
    assert np.isin(steps, (1.0, -99.0)).reshape(-1)[np.arange(63) % 8 != 7].all()


def test_thresholds_grow_where_the_bootstrap_saw_more_than_they_allow() -> None:
    random = np.random.default_rng(1)
    quiet, loud = random.gumbel(0.4, 0.05, 100), random.gumbel(0.9, 0.1, 100)
    assert factor_for_run_length(quiet, windows=1000, run_length=10_000) == 1.0
    assert factor_for_run_length(loud, windows=1000, run_length=10_000) == pytest.approx(
        0.9 + 0.1 * np.log(10), abs=0.1
    )


def test_independent_windows_ask_for_next_to_nothing_and_rare_regimes_for_more() -> None:
    rows, scores = world(2, 400, 0.0)
    # A machine that now and then does something else for a while: no autoregression describes it.
    elsewhere = np.isin(np.arange(400) // 20, (3, 9, 16))[:, None] * 2.0
    random = np.random.default_rng(4)
    plain = fit_calibrated_reference(rows, scores, DriftSettings(), rng=random)
    rare = fit_calibrated_reference(rows + elsewhere, scores, DriftSettings(), rng=random)
    assert 1.0 <= plain.threshold_factor < 1.2
    assert plain.threshold_factor + 0.1 < rare.threshold_factor <= LARGEST_FACTOR


def test_few_windows_are_not_resampled() -> None:
    rows, scores = world(5, FEWEST_WINDOWS - 1, 0.0)
    random = np.random.default_rng(0)
    assert fit_calibrated_reference(rows, scores, DriftSettings(), rng=random) == fit_reference(rows, scores)


def test_a_larger_factor_makes_a_monitor_slower_to_say_drift() -> None:
    rows, scores = world(6, 400, 0.0)
    reference = fit_reference(rows, scores)
    scores_of = []
    for factor in (1.0, 2.0):
        watcher = DriftMonitor(msgspec.structs.replace(reference, threshold_factor=factor))
        for row, score in zip(rows[:160] + 0.3, scores, strict=False):
            watcher.update(row, float(score))
        scores_of.append(watcher.verdict().score)
    assert scores_of[0] > 1.3 * scores_of[1]


def test_too_few_windows_for_the_blocks_are_refused() -> None:
    rows, scores = world(7, 100, 0.0)
    with pytest.raises(InputError, match="needs 300 windows, got 100"):
        bootstrap_factor(
            rows, scores, DriftSettings(), block=30, windows=50, chains=2, rng=np.random.default_rng(0)
        )
