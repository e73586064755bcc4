"""Healthy lives of real machines, replayed through the device's own monitor: is the promised run length kept, and at what power?

A *life* is a machine's healthy rows in one of three orders, cut into a reference and what is watched afterwards:

    shuffled    rows in random order: nothing changes, so the promise has to hold to the letter
    days        days (1440 rows) in random order: a daily cycle and days that differ, nothing that lasts
    recorded    as it was: real machines wander

All of it is taken as healthy and no label is read. Rows are standardised by the reference (`models.standardiser`), the
anomaly score is their mean square, so that no model has to be trained for it.

Power: the same lives with `SHIFT_STDS` of the reference added to one sensor from some window on; found is what is reported
within `WITHIN` windows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.drift.replay import fit_calibrated_reference
from models.drift.monitor import DriftMonitor, DriftSettings
from models.drift.reference import DriftReference
from models.standardiser import CLIP, fit_standardiser

__all__ = ["REFERENCE_ROWS", "Life", "Outcome", "lives", "replay", "share_found"]

REFERENCE_ROWS: Final = {"skab": 2000, "pronostia": 500, "cmapss": 60, "smd": 5000}
DAY_ROWS: Final = 1440
SHIFT_STDS: Final = 4.0
WITHIN: Final = 200
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
    """What a monitor said of healthy windows: how often it reported, and how many of them it was in drift."""

    windows: int
    reports: int
    drifted: int
    away: int


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


def prepare(life: Life, settings: DriftSettings) -> Watched:
    """Learn a life's normal, as a device does."""
    scale = fit_standardiser(life.rows[: life.reference])
    x = scale.apply(life.rows)
    scores = (x.astype(np.float64) ** 2).mean(axis=1)
    reference = fit_calibrated_reference(x[: life.reference], scores[: life.reference], settings)
    return Watched(
        reference=reference, settings=settings, rows=x[life.reference :], scores=scores[life.reference :]
    )


def replay(watched: Watched, log: list | None = None) -> Outcome:
    """Watch a healthy life to its end."""
    monitor = DriftMonitor(watched.reference, watched.settings)
    reports = drifted = away = 0
    before = 0
    for i, (row, score) in enumerate(zip(watched.rows, watched.scores.tolist(), strict=True)):
        monitor.update(row, score)
        drifted += monitor.drifted
        away += monitor.is_away
        now = getattr(monitor, "reports", None)
        if now is None:
            now = reports + (monitor.drifted and not before)
            before = monitor.drifted
        if now != reports:
            reports = now
            if log is not None:
                log.append(
                    (
                        i,
                        [
                            (f.detector, f.sensor, round(f.statistic / f.threshold, 2))
                            for f in monitor.verdict().findings[:3]
                        ],
                    )
                )
    return Outcome(windows=len(watched.rows), reports=reports, drifted=drifted, away=away)


def share_found(
    watched: Watched, *, tries: int, shift: float = SHIFT_STDS, rng: np.random.Generator
) -> float:
    """Share of shifts of one random sensor that is reported within `WITHIN` windows."""
    std = np.asarray(watched.reference.std)
    moving = np.flatnonzero(std > 2e-3)
    found = 0
    latest = len(watched.rows) - WITHIN
    for _ in range(tries):
        start = int(rng.integers(min(8, latest), latest + 1)) if latest > 8 else latest
        sensor = int(rng.choice(moving))
        monitor = DriftMonitor(watched.reference, watched.settings)
        begin = max(0, start - _BEFORE_SHIFT)
        rows = watched.rows[begin : start + WITHIN].copy()
        rows[start - begin :, sensor] = np.clip(
            rows[start - begin :, sensor] + shift * std[sensor], -CLIP, CLIP
        )
        scores = (rows.astype(np.float64) ** 2).mean(axis=1)
        for row, score in zip(rows[: start - begin], scores.tolist()):
            monitor.update(row, score)
        was, earlier = monitor.drifted, getattr(monitor, "reports", 0)
        hit = False
        for row, score in zip(rows[start - begin :], scores[start - begin :].tolist()):
            monitor.update(row, score)
            now = getattr(monitor, "reports", None)
            if (now is not None and now > earlier) or (monitor.drifted and not was):
                hit = True
                break
            was = monitor.drifted
        found += hit
    return found / tries
