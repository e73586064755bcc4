"""How well scores rank anomalous rows above healthy ones, and what a threshold makes of them; row by row, nothing adjusted.

**AP** is the area under precision over recall as steps, ties as one threshold: what scikit-learn calls the average precision. **AUC** is
`learning_tables.pronostia_bearings.area_under_curve`. Point adjustment, which counts a whole event as found for one of its rows, is not offered:
it makes a random score look excellent (Kim et al., "Towards a rigorous evaluation of time-series anomaly detection", AAAI 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["Event", "average_precision", "events_of", "f1"]

Floats = NDArray[np.floating]
Flags = NDArray[np.bool_]


def average_precision(labels: Flags, scores: Floats) -> float:
    """Σ (R_i - R_(i-1)) P_i over the distinct scores, highest first; labels (n,) hold at least one True."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    hits = np.cumsum(labels[order])[last_of_tie]
    precision = hits / (last_of_tie + 1)
    return float(np.diff(hits, prepend=0) @ precision / labels.sum())


def f1(labels: Flags, alarms: Flags) -> float:
    """2 TP / (2 TP + FP + FN); 0 where nothing was found."""
    hits = float((labels & alarms).sum())
    return 2 * hits / max(float(labels.sum() + alarms.sum()), 1.0)


@dataclass(frozen=True, kw_only=True)
class Event:
    """Labelled rows in a row, [first, end)."""

    first: int
    end: int


def events_of(labels: Flags, starts: Sequence[int] = (0,)) -> list[Event]:
    """The labelled events (n,), in order; no event goes on over the begin of another recording."""
    found = []
    for begin, end in pairwise([*starts, len(labels)]):
        edges = np.diff(labels[begin:end].astype(np.int8), prepend=0, append=0)
        firsts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        found += [Event(first=begin + int(a), end=begin + int(b)) for a, b in zip(firsts, ends, strict=True)]
    return found
