"""Change points of a real pump (SKAB, 34 recordings, 8 sensors, 1 Hz) at a wanted number of alarms per hour.

Every recording's first 400 rows are healthy and teach; all else is judged. Every detector is held to the same wanted number
of false alarms per hour: ours by `models.drift.replay`, the others by a block bootstrap of those 400 rows (river's ADWIN with
one delta for all recordings, the others with a level each). What counts as an alarm of ours is each report of the monitor,
a further change included; river's detectors start anew by themselves.

A change point (labelled, beginnings and ends of faults) is found when an alarm comes within `WITHIN_S`; an alarm that
comes at no such time is false. The pump wanders, so nobody keeps the wanted rate: what is compared is the share found at
the same *measured* number of false alarms an hour (`share_found_at`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from river.drift import ADWIN

from drift_lab.rivals import KswinLives, LivesDetector, PageHinkleyLives
from models.drift.monitor import DriftMonitor, DriftSettings
from models.drift.reference import DriftReference, memory_of
from models.drift.replay import fit_calibrated_reference
from models.standardiser import CLIP

__all__ = [
    "RATES_PER_HOUR",
    "WITHIN_S",
    "Outcome",
    "Recording",
    "measure_skab",
    "recordings",
    "share_found_at",
]

TRAIN_ROWS: Final = 400
WITHIN_S: Final = 60
RATES_PER_HOUR: Final = (0.1, 1.0, 6.0, 20.0, 60.0)
_CHAINS: Final = 24
_DELTAS: Final = np.geomspace(1e-40, 1.0, 41)

Float = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Rows (n, 8) standardised by the first 400, and the rows (from 400 on) at which something changes."""

    name: str
    rows: Float
    change_points: NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a detector did on all recordings at one wanted rate."""

    detector: str
    wanted_per_hour: float
    change_points: int
    found: int
    mean_delay_s: float
    false_alarms: int
    hours: float

    @property
    def false_per_hour(self) -> float:
        """False alarms per hour in which none was due."""
        return self.false_alarms / self.hours


def recordings(folder: Path) -> Iterator[Recording]:
    """All labelled recordings under `folder`."""
    for path in sorted(folder.glob("[vo]*/*.csv")):
        with path.open() as lines:
            header = lines.readline().strip().split(";")
            table = np.array([line.strip().split(";")[1:] for line in lines], np.float64)
        columns = header[1:]
        labels = table[:, columns.index("changepoint")]
        rows = np.delete(table, [columns.index("anomaly"), columns.index("changepoint")], axis=1)
        train = rows[:TRAIN_ROWS]
        scaled = np.clip((rows - train.mean(axis=0)) / np.maximum(train.std(axis=0), 1e-9), -CLIP, CLIP)
        points = np.flatnonzero(labels == 1)
        yield Recording(
            name=f"{path.parent.name}/{path.stem}",
            rows=scaled,
            change_points=points[points >= TRAIN_ROWS],
        )


def measure_skab(folder: Path, progress: Callable[[str], None], *, rates: Sequence[float]) -> list[Outcome]:
    """Every detector at every rate."""
    every = list(recordings(folder))
    outcomes = []
    for rate in rates:
        run_length = 3600.0 / rate
        delta = _delta_for(every, run_length)
        alarms: dict[str, list[list[int]]] = {"ours": [], "page-hinkley": [], "kswin": [], "adwin": []}
        for number, recording in enumerate(every):
            rng = np.random.default_rng(number)
            alarms["ours"].append(_our_alarms(recording, run_length))
            alarms["page-hinkley"].append(_level_alarms(recording, PageHinkleyLives, run_length, rng))
            alarms["kswin"].append(_level_alarms(recording, KswinLives, run_length, rng))
            alarms["adwin"].append(_adwin_alarms(recording.rows, delta)[0])
        outcomes += [_judge(name, rate, every, found) for name, found in alarms.items()]
        progress(f"SKAB at {rate:g} alarms per hour: done")
    return outcomes


def share_found_at(outcomes: Sequence[Outcome], false_per_hour: float) -> float | None:
    """Share of change points found at a measured rate, interpolated between one detector's outcomes; None beyond them."""
    curve = sorted((o.false_per_hour, o.found / o.change_points) for o in outcomes)
    if not curve[0][0] <= false_per_hour <= curve[-1][0]:
        return None
    return float(np.interp(false_per_hour, [rate for rate, _ in curve], [share for _, share in curve]))


def _our_alarms(recording: Recording, run_length: float) -> list[int]:
    settings = DriftSettings(run_length=run_length)
    rows = recording.rows.astype(np.float32)
    healthy = rows[:TRAIN_ROWS]
    # There is no model here, so the score says nothing: a constant.
    monitor = DriftMonitor(fit_calibrated_reference(healthy, np.ones(len(healthy)), settings), settings)
    alarms: list[int] = []
    for t in range(TRAIN_ROWS, len(rows)):
        monitor.update(rows[t], 1.0)
        if monitor.reports > len(alarms):
            alarms.append(t)
    return alarms


def _bootstrap_rows(rows: Float, *, length: int, block: int, rng: np.random.Generator) -> Float:
    """`length` windows put together from random blocks of `block` successive rows (n, F), in a circle (Kuensch 1989)."""
    starts = rng.integers(0, len(rows), size=-(-length // block))
    index = (starts[:, None] + np.arange(block)) % len(rows)
    return np.asarray(rows[index.ravel()[:length]])


def _level_alarms(
    recording: Recording,
    make: Callable[[DriftReference, np.random.Generator], LivesDetector],
    run_length: float,
    rng: np.random.Generator,
) -> list[int]:
    healthy = recording.rows[:TRAIN_ROWS]
    sensors = healthy.shape[1]
    length = int(min(max(run_length, 300), 1800))
    chains = [_bootstrap_rows(healthy, length=length, block=_block(healthy), rng=rng) for _ in range(_CHAINS)]
    detector = make(_columns(_CHAINS * sensors), rng)
    largest = np.zeros(_CHAINS)
    for row in np.concatenate(chains, axis=1):
        np.maximum(largest, detector.update(row).reshape(_CHAINS, sensors).max(axis=1), out=largest)
    scale = float(largest.std()) * 6**0.5 / np.pi  # a Gumbel law, as everywhere
    level = float(largest.mean()) - 0.5772 * scale + scale * np.log(run_length / length)
    alarms, detector = [], make(_columns(sensors), rng)
    for t, row in enumerate(recording.rows):
        if (detector.update(row) >= level).any():
            if t >= TRAIN_ROWS:
                alarms.append(t)
            detector = make(_columns(sensors), rng)
    return alarms


def _delta_for(every: Sequence[Recording], run_length: float) -> float:
    """The largest delta that keeps the run length on shuffled blocks of all recordings' healthy rows."""
    rng = np.random.default_rng(0)
    shuffled = [
        _bootstrap_rows(r.rows[:TRAIN_ROWS], length=1000, block=_block(r.rows[:TRAIN_ROWS]), rng=rng)
        for r in every[::3]
    ]
    low, high = 0, len(_DELTAS) - 1
    while low < high:
        middle = (low + high + 1) // 2
        alarms = sum(len(_adwin_alarms(rows, _DELTAS[middle])[1]) for rows in shuffled)
        if alarms <= sum(map(len, shuffled)) / run_length:
            low = middle
        else:
            high = middle - 1
    return float(_DELTAS[low])


def _adwin_alarms(rows: Float, delta: float) -> tuple[list[int], list[int]]:
    """(alarms after the training rows, all alarms) of one ADWIN a sensor; several at once are one."""
    detectors = [ADWIN(delta=delta) for _ in range(rows.shape[1])]
    alarms = []
    for t, row in enumerate(rows.tolist()):
        fired = False
        for detector, value in zip(detectors, row, strict=True):
            detector.update(value)
            fired |= detector.drift_detected
        if fired:
            alarms.append(t)
    return [t for t in alarms if t >= TRAIN_ROWS], alarms


def _judge(
    detector: str, rate: float, every: Sequence[Recording], alarms: Sequence[Sequence[int]]
) -> Outcome:
    delays, false_alarms, points, quiet_s = [], 0, 0, 0
    for recording, raised in zip(every, alarms, strict=True):
        due = np.zeros(len(recording.rows), bool)
        for point in recording.change_points:
            due[point : point + WITHIN_S] = True
            within = [t - point + 1 for t in raised if 0 <= t - point < WITHIN_S]
            delays += within[:1]
        points += len(recording.change_points)
        false_alarms += sum(not due[t] for t in raised)
        quiet_s += int((~due[TRAIN_ROWS:]).sum())
    return Outcome(
        detector=detector,
        wanted_per_hour=rate,
        change_points=points,
        found=len(delays),
        mean_delay_s=float(np.mean(delays)) if delays else float(WITHIN_S),
        false_alarms=false_alarms,
        hours=quiet_s / 3600.0,
    )


def _block(healthy: Float) -> int:
    return min(max(8, int(3 * memory_of(healthy).max())), len(healthy) // 10)


def _columns(count: int) -> DriftReference:
    """A reference of as many columns, for detectors that ask for nothing else."""
    return DriftReference(
        edges=((0.0,) * 9,) * count,
        mean=(0.0,) * count,
        std=(1.0,) * count,
        score_mean=1.0,
        score_std=1.0,
        fitted_on=TRAIN_ROWS,
    )
