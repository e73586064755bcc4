"""Seventeen bearings as devices: their lives, what each may learn from, and how detectors of any kind are judged on them.

A life is cut by its length n: the first 15 % is healthy and may be learned from, 15-50 % is mid-life and must be quiet,
the last 5 % is the end and must be heard; what lies between is judged by nobody. `Judgement` is what a table shows.

**AUC**, exactly: for one bearing, the probability that a window of its last 5 % scores above a window of its own mid-life,
ties counting half; then the mean over the seventeen bearings. Scores of two bearings are never compared with each other.
**False alarms** are the share of mid-life windows over the bearing's threshold, before any debouncing, again the mean over
bearings. Thresholds see training windows only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.standardiser import Standardiser, fit_standardiser
from models.thresholds import AlarmState, Opened

__all__ = ["Bearing", "Scores", "area_under_curve", "judge", "load_bearings", "score_lives", "split_healthy"]

Floats = NDArray[np.floating]

HEALTHY_SHARE, MIDDLE_SHARE, END_SHARE = 0.15, 0.50, 0.95


@dataclass(frozen=True, kw_only=True, eq=False)
class Bearing:
    """One life (n, 46) of raw features in order of time, a row every ten seconds; `condition` is load and speed, 1-3."""

    name: str
    life: NDArray[np.float32]

    @property
    def condition(self) -> str:
        """The operating condition: the first digit of the challenge's name."""
        return self.name[1]

    @property
    def healthy(self) -> NDArray[np.float32]:
        """What may be learned from (15 %, 46)."""
        return self.life[: int(HEALTHY_SHARE * len(self.life))]

    def standardiser(self) -> Standardiser:
        """Its own scale, of its own healthy windows."""
        return fit_standardiser(self.healthy)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """A bearing's scores: healthy windows it may set a threshold by, mid-life, end of life."""

    healthy: Floats
    middle: Floats
    end: Floats


def load_bearings(folder: Path) -> list[Bearing]:
    """All bearings of ``pronostia_features.npz``, by name."""
    with np.load(folder / "pronostia_features.npz", allow_pickle=False) as data:
        names = sorted(name for name in data.files if name.startswith("B"))
        return [Bearing(name=name, life=data[name]) for name in names]


def load_feature_names(folder: Path) -> list[str]:
    """Names of the 46 features, e.g. ``h_rms``: horizontal, then vertical acceleration."""
    with np.load(folder / "pronostia_features.npz", allow_pickle=False) as data:
        return [str(name) for name in data["feature_names"]]


def split_healthy(
    bearings: Sequence[Bearing], rng: np.random.Generator
) -> tuple[list[NDArray[np.intp]], list[NDArray[np.intp]]]:
    """Indices into each bearing's healthy windows: four fifths to train on, one fifth held out, as the learner does."""
    orders = [rng.permutation(len(bearing.healthy)) for bearing in bearings]
    return [o[: len(o) * 4 // 5] for o in orders], [o[len(o) * 4 // 5 :] for o in orders]


def score_lives(bearings: Sequence[Bearing], score: Callable[[Bearing], Floats]) -> list[Scores]:
    """`score(bearing)` gives a score to each window of a life (n,)."""
    cuts = []
    for bearing in bearings:
        values, n = score(bearing), len(bearing.life)
        cuts.append(
            Scores(
                healthy=values[: len(bearing.healthy)],
                middle=values[len(bearing.healthy) : int(MIDDLE_SHARE * n)],
                end=values[int(END_SHARE * n) :],
            )
        )
    return cuts


def judge(lives: Sequence[Scores], thresholds: Sequence[float]) -> dict[str, NDArray[np.float64]]:
    """Metric → one value per bearing (bearings,)."""
    pairs = list(zip(lives, thresholds, strict=True))
    return {
        "AUC": np.array([area_under_curve(life.middle, life.end) for life in lives]),
        "mid-life false alarms": np.array([(life.middle > t).mean() for life, t in pairs]),
        "end over threshold": np.array([(life.end > t).mean() for life, t in pairs]),
        "ends with an alarm": np.array([_opens_alarm(life.end, t) for life, t in pairs]),
    }


def area_under_curve(negative: Floats, positive: Floats) -> float:
    """Probability that a positive scores above a negative, ties half (Mann-Whitney)."""
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    not_above = np.searchsorted(ordered, positive, side="right")
    return float((below + not_above).mean() / 2 / len(negative))


def mean_over_bearings(figures: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Metric → mean over bearings."""
    return {metric: float(values.mean()) for metric, values in figures.items()}


def _opens_alarm(scores: Floats, threshold: float) -> float:
    alarm = AlarmState()
    return float(any(isinstance(alarm.update(float(s), threshold), Opened) for s in scores))
