"""SKAB's 34 labelled recordings of one pump testbed, its leaderboard protocol, and what is done to a recording first.

Protocol: of each recording the first 400 rows (one a second) train, thresholds included, and the rest are judged; true and false
positives and negatives are added up over the recordings. J = 1 - FAR - MAR. One of the 34 (other/2) has anomalous rows
among its first 400; the protocol leaves them there, and so does this.

    8 sensors ─► those that do not drift by themselves ─► exponential average ─► own scale of the first 400, ±8

Which sensors stay is decided without a label: a sensor whose variance over the first 400 rows lies mostly BETWEEN blocks of 40 s
is on its way somewhere (the water and the housing warm up), and where it will be in ten minutes says nothing. The share is
averaged over the recordings, so no recording chooses for itself.

Source of data and protocol: Katser, Kozitsin, "Skoltech Anomaly Benchmark (SKAB)", 2020, repository waico/SKAB, version 0.9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.standardiser import fit_standardiser

__all__ = [
    "SENSORS",
    "TRAIN_ROWS",
    "Prepared",
    "Recording",
    "confusion",
    "exponential_average",
    "figures",
    "load_recordings",
    "prepare",
    "slow_shares",
    "steady_sensors",
    "windows",
]

Floats = NDArray[np.floating]

TRAIN_ROWS: Final = 400
SENSORS: Final = (
    "Accelerometer1RMS",
    "Accelerometer2RMS",
    "Current",
    "Pressure",
    "Temperature",
    "Thermocouple",
    "Voltage",
    "Volume Flow RateRMS",
)
BLOCK_ROWS: Final = 40
LARGEST_SLOW_SHARE: Final = 0.5
"""More than half of a sensor's variance between blocks is more trend than wobble."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """One recording: rows (n, 8) of the `SENSORS`, a row a second, and whether each row is anomalous (n,)."""

    name: str
    rows: NDArray[np.float64]
    is_anomalous: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A recording as a detector sees it: standardised rows (n, F), of which the first `train_rows` may be learned from."""

    rows: NDArray[np.float32]
    is_anomalous: NDArray[np.bool_]
    train_rows: int

    @property
    def training(self) -> NDArray[np.float32]:
        """The rows that may be learned from (train_rows, F)."""
        return self.rows[: self.train_rows]


def load_recordings(folder: Path) -> list[Recording]:
    """All 34, in the order valve1, valve2, other, each by number; raises FileNotFoundError where one folder is empty."""
    recordings = []
    for group in ("valve1", "valve2", "other"):
        files = sorted((folder / group).glob("*.csv"), key=lambda path: int(path.stem))
        if not files:
            raise FileNotFoundError(
                f"{folder / group} holds no recordings; SKAB has some in each of its groups"
            )
        for path in files:
            table = np.genfromtxt(path, delimiter=";", skip_header=1, usecols=range(1, 10))
            recordings.append(
                Recording(
                    name=f"{group}/{path.stem}", rows=table[:, :8], is_anomalous=table[:, 8].astype(np.bool_)
                )
            )
    return recordings


def slow_shares(recording: Recording) -> NDArray[np.float64]:
    """Which part of each sensor's variance over the training rows lies between blocks of 40 rows (8,); 0.02 for white noise."""
    rows = recording.rows[:TRAIN_ROWS]
    between = rows.reshape(-1, BLOCK_ROWS, rows.shape[1]).mean(axis=1).var(axis=0)
    return np.asarray(between / np.maximum(rows.var(axis=0), 1e-12))


def steady_sensors(recordings: Sequence[Recording]) -> list[int]:
    """Columns of the sensors that wobble rather than travel: mean slow share at most a half; uses training rows only."""
    shares = np.mean([slow_shares(recording) for recording in recordings], axis=0)
    return [int(column) for column in np.flatnonzero(shares <= LARGEST_SLOW_SHARE)]


def exponential_average(x: Floats, span: float) -> NDArray[np.float64]:
    """Causal exponential average over the first axis, weight 2 / (span + 1), started at the first row; span 1 changes nothing."""
    weight = 2.0 / (span + 1.0)
    averaged = np.empty(x.shape, np.float64)
    state = np.asarray(x[0], np.float64)
    for i, row in enumerate(x):
        state = state + weight * (row - state)
        averaged[i] = state
    return averaged


def prepare(recording: Recording, sensors: Sequence[int], *, span: float) -> Prepared:
    """The recording's own view: its sensors averaged over `span` rows, in units of its own first 400."""
    averaged = exponential_average(recording.rows[:, list(sensors)], span)
    scale = fit_standardiser(averaged[:TRAIN_ROWS])
    return Prepared(rows=scale.apply(averaged), is_anomalous=recording.is_anomalous, train_rows=TRAIN_ROWS)


def windows(prepared: Prepared, samples: int) -> Prepared:
    """Every window of `samples` rows, time-major (n - samples + 1, samples · F); each speaks for its last row."""
    view = np.lib.stride_tricks.sliding_window_view(prepared.rows, samples, axis=0)
    return Prepared(
        rows=np.ascontiguousarray(view.transpose(0, 2, 1)).reshape(len(view), -1),
        is_anomalous=prepared.is_anomalous[samples - 1 :],
        train_rows=prepared.train_rows - samples + 1,
    )


def confusion(is_alarm: NDArray[np.bool_], is_anomalous: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(TP, FP, FN, TN) as counts (4,), which add up over recordings."""
    return np.array(
        [
            (is_alarm & is_anomalous).sum(),
            (is_alarm & ~is_anomalous).sum(),
            (~is_alarm & is_anomalous).sum(),
            (~is_alarm & ~is_anomalous).sum(),
        ],
        np.float64,
    )


def figures(counts: NDArray[np.float64]) -> dict[str, float]:
    """J, F1, FAR and MAR of counts (4,) that were summed over recordings."""
    hits, false, missed, quiet = (float(count) for count in counts)
    far, mar = false / (false + quiet), missed / (missed + hits)
    return {
        "J": 1.0 - far - mar,
        "F1": 2 * hits / max(2 * hits + false + missed, 1.0),
        "FAR": far,
        "MAR": mar,
    }
