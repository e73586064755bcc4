"""Healthy lives of real machines, replayed through the device's own monitor: is the promised run length kept, and at what power?

A *life* is a machine's healthy rows in one of three orders, cut into a reference and what is watched afterwards:

    shuffled    rows in random order: nothing changes, so the promise has to hold to the letter
    days        days (1440 rows) in random order: a daily cycle and days that differ, nothing that lasts
    recorded    as it was: real machines wander

All of it is taken as healthy and no label is read. Rows are standardised by the reference (`models.standardiser`), the
anomaly score is their mean square, so that no model has to be trained for it.

Power: the same lives with some standard deviations of the reference added to one sensor from some window on; found is what
is reported within `WITHIN` windows. Several sizes of shift make the curve of what a wander allowance costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.drift.bins import SMALLEST_STD
from models.drift.monitor import DriftMonitor, DriftSettings
from models.drift.reference import DriftReference
from models.drift.replay import fit_calibrated_reference
from models.standardiser import CLIP, fit_standardiser

__all__ = [
    "ALLOWED",
    "PLANS",
    "PROMISED",
    "SHIFT_STDS",
    "WITHIN",
    "Life",
    "Outcome",
    "lives",
    "measure_promise",
]

REFERENCE_ROWS: Final = {"skab": 2000, "pronostia": 500, "cmapss": 60, "smd": 5000}
DAY_ROWS: Final = 1440
PROMISED: Final = 20_000.0
SHIFT_STDS: Final = 4.0
SHIFTS: Final = (1.0, 2.0, 3.0, SHIFT_STDS, 6.0)
WITHIN: Final = 200
PLANS: Final = (
    # set, order, times: at least ten promises of windows for what is judged, as far as there are any
    ("pronostia", "shuffled", 38),
    ("pronostia", "recorded", 1),
    ("skab", "shuffled", 28),
    ("skab", "recorded", 1),
    ("smd", "shuffled", 2),
    ("smd", "days", 2),
    ("smd", "recorded", 1),
    ("cmapss", "recorded", 1),
)
ALLOWED: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the allowance for what wanders, by which share of time in drift is traded for power."""
_TRIES: Final = {"skab": 80, "pronostia": 10, "smd": 10, "cmapss": 1}
_SEEDS_OF_POWER: Final = 2
_BEFORE_SHIFT: Final = 300
_SHORTEST_LIFE: Final = 1400
"""Of a bearing: the first half of a shorter one leaves too little to watch."""

Float = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Life:
    """Rows (n, F) in order; the first `reference` of them teach."""

    machine: str
    rows: Float
    reference: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What monitors said of healthy windows: how many reports, and in how many windows they were in drift, and away.

    `power`: of shifts by so many standard deviations, how many were reported, and of how many.
    """

    windows: int
    reports: int
    drifted: int
    away: int
    power: dict[float, tuple[int, int]]


def measure_promise(folder: Path, name: str, order: str, *, seeds: int, allowed: float = 1.0) -> Outcome:
    """All lives of one data set in one order, each of `seeds` times, with so much of the allowance for what wanders."""
    windows = reports = drifted = away = 0
    power = dict.fromkeys(SHIFTS, (0, 0))
    rng = np.random.default_rng(1)
    for seed in range(seeds):
        for life in lives(folder, name, order, seed=seed):
            watched = prepare(life, DriftSettings(run_length=PROMISED), allowed=allowed)
            monitor = DriftMonitor(watched.reference, watched.settings)
            for row, score in zip(watched.rows, watched.scores.tolist(), strict=True):
                monitor.update(row, score)
                drifted += monitor.drifted
                away += monitor.is_away
            windows, reports = windows + len(watched.rows), reports + monitor.reports
            # A life too short to be watched before and after says nothing of power.
            tries = _TRIES[name] if len(watched.rows) > WITHIN + 50 and seed < _SEEDS_OF_POWER else 0
            for shift, (hits, of) in power.items():
                found = count_found(watched, tries=tries, shift=shift, rng=rng)
                power[shift] = (hits + found, of + tries)
    return Outcome(windows=windows, reports=reports, drifted=drifted, away=away, power=power)


def lives(folder: Path, name: str, order: str, *, seed: int) -> Iterator[Life]:
    """The lives of one data set (`REFERENCE_ROWS`) in one order."""
    random = np.random.default_rng(seed)
    for machine, rows in _machines(folder, name):
        match order:
            case "shuffled":
                ordered = rows[random.permutation(len(rows))]
            case "days":
                days = [rows[start : start + DAY_ROWS] for start in range(0, len(rows), DAY_ROWS)]
                ordered = np.vstack([days[i] for i in random.permutation(len(days))])
            case _:
                ordered = rows
        yield Life(machine=machine, rows=ordered, reference=REFERENCE_ROWS[name])


def _machines(folder: Path, name: str) -> Iterator[tuple[str, Float]]:
    match name:
        case "smd":
            with np.load(folder / "smd" / "smd.npz") as archive:
                for key in sorted(key for key in archive.files if key.endswith("_train")):
                    yield key.removesuffix("_train"), archive[key].astype(np.float64)
        case "skab":
            path = folder / "skab" / "anomaly-free" / "anomaly-free.csv"
            yield "pump", np.loadtxt(path, delimiter=";", skiprows=1, usecols=range(1, 9))
        case "pronostia":
            with np.load(folder / "pronostia" / "pronostia_features.npz") as archive:
                for key in sorted(key for key in archive.files if key.startswith("B")):
                    if len(archive[key]) >= _SHORTEST_LIFE:
                        yield key, archive[key][: len(archive[key]) // 2].astype(np.float64)
        case _:
            with np.load(folder / "cmapss" / "cmapss.npz") as archive:
                table = archive["train"].astype(np.float64)
            for engine in np.unique(table[:, 0]):
                rows = table[table[:, 0] == engine, 2:]
                healthy = rows[: int(0.6 * len(rows))]
                if len(healthy) > REFERENCE_ROWS[name]:
                    yield f"engine-{engine:g}", healthy


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A life made ready: its reference, and what comes after it, standardised (n, F), with scores (n,)."""

    reference: DriftReference
    settings: DriftSettings
    rows: NDArray[np.float32]
    scores: Float


def prepare(life: Life, settings: DriftSettings, *, allowed: float = 1.0) -> Watched:
    """Learn a life's normal, as a device does; of its wander and swing a share is `allowed` for."""
    scale = fit_standardiser(life.rows[: life.reference])
    x = scale.apply(life.rows)
    scores = (x.astype(np.float64) ** 2).mean(axis=1)
    reference = fit_calibrated_reference(x[: life.reference], scores[: life.reference], settings)
    if allowed != 1.0:
        wander, swing = (tuple(allowed * each for each in of) for of in (reference.wander, reference.swing))
        reference = msgspec.structs.replace(reference, wander=wander, swing=swing)
    return Watched(
        reference=reference, settings=settings, rows=x[life.reference :], scores=scores[life.reference :]
    )


def count_found(watched: Watched, *, tries: int, shift: float, rng: np.random.Generator) -> int:
    """How many of so many shifts, each of one random sensor at a random time, are reported within `WITHIN` windows."""
    std = np.asarray(watched.reference.std)
    moving = np.flatnonzero(std > 2 * SMALLEST_STD)
    found = 0
    for _ in range(tries):
        start = int(rng.integers(8, len(watched.rows) - WITHIN + 1))
        sensor = int(rng.choice(moving))
        begin = max(0, start - _BEFORE_SHIFT)
        rows = watched.rows[begin : start + WITHIN].copy()
        shifted = rows[start - begin :, sensor]
        np.clip(shifted + shift * std[sensor], -CLIP, CLIP, out=shifted)
        scores = (rows.astype(np.float64) ** 2).mean(axis=1)
        monitor, earlier = DriftMonitor(watched.reference, watched.settings), 0
        for t, (row, score) in enumerate(zip(rows, scores.tolist(), strict=True)):
            monitor.update(row, score)
            if t < start - begin:
                earlier = monitor.reports
        found += monitor.reports > earlier
    return found
