"""VUS-PR: the area under precision and recall, averaged over how far from a labelled event an alarm may still count for it.

A row within w/2 rows of an event gets the label √(1 - distance/w) instead of 0, for each buffer w = 0 … W; recall counts events besides
rows. Equations and constants as in the reference implementation of the authors (package TSB-AD 1.5, `RangeAUC_volume_opt`), with which a
test compares; this one needs no loop over thresholds. Beyond the reference: no buffer reaches over the begin of another recording.

Source: Paparrizos, Boniol, Palpanas, Tsay, Elmore, Franklin, "Volume Under the Surface: A New Accuracy Evaluation Measure for Time-Series
Anomaly Detection", PVLDB 15(11), 2022; Liu, Paparrizos, "The Elephant in the Room", NeurIPS 2024, which takes it as the one to trust.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detection_tables.ranking import Event, events_of

__all__ = ["THRESHOLDS", "default_buffer", "volume_under_surface"]

Floats = NDArray[np.floating]
Flags = NDArray[np.bool_]

THRESHOLDS: Final = 250
LARGEST_BUFFER: Final = 100
"""What TSB-AD's `get_metrics` takes where no period is known."""


def default_buffer(rows: int) -> int:
    """W for a test of so many rows: 100, and on short ones a tenth, so that a buffer does not swallow what it lies in."""
    return min(LARGEST_BUFFER, rows // 10)


def volume_under_surface(
    labels: Flags, scores: Floats, buffer: int, *, starts: Sequence[int] = (0,)
) -> float:
    """VUS-PR of scores (n,) with buffers 0 … `buffer`; labels (n,) hold at least one True."""
    events = events_of(labels, starts)
    bounds = _bounds(events, [*starts, len(labels)])
    ranked = np.sort(scores)[::-1]
    thresholds = ranked[np.linspace(0, len(scores) - 1, THRESHOLDS).astype(np.intp)]
    predicted = len(scores) - np.searchsorted(ranked[::-1], thresholds, side="left")
    order = np.argsort(-scores, kind="stable")
    areas = [
        _range_area(
            _soft_labels(labels, events, bounds, width),
            labels,
            scores,
            order,
            predicted,
            thresholds,
            _segments(events, bounds, width),
        )
        for width in range(buffer + 1)
    ]
    return float(np.mean(areas))


def _range_area(
    soft: Floats,
    labels: Flags,
    scores: Floats,
    order: NDArray[np.intp],
    predicted: NDArray[np.intp],
    thresholds: Floats,
    segments: Sequence[tuple[int, int]],
) -> float:
    found = np.cumsum(soft[order])[predicted - 1]
    beside = np.cumsum(np.where(labels, 0.0, soft)[order])[predicted - 1]
    positives = int(labels.sum())
    # Section 3.2: P_new is the mean of the labelled rows and of the labelled and softly labelled ones that are predicted.
    recall = np.minimum(found / ((positives + positives + beside) / 2), 1.0)
    highest = np.sort([scores[first:end].max() for first, end in segments])
    existence = 1.0 - np.searchsorted(highest, thresholds, side="left") / len(segments)
    precision = found / predicted
    return float(np.diff(recall * existence, prepend=0.0) @ precision)


def _soft_labels(
    labels: Flags, events: Sequence[Event], bounds: Sequence[tuple[int, int]], width: int
) -> Floats:
    soft = labels.astype(np.float64)
    for event, (begin, end) in zip(events, bounds, strict=True):
        last = event.end - 1
        after = np.arange(last + 1, min(last + width // 2 + 1, end))
        soft[after] += np.sqrt(1 - (after - last) / max(width, 1))
        before = np.arange(max(event.first - width // 2, begin), event.first)
        soft[before] += np.sqrt(1 - (event.first - before) / max(width, 1))
    return np.minimum(soft, 1.0)


def _segments(
    events: Sequence[Event], bounds: Sequence[tuple[int, int]], width: int
) -> list[tuple[int, int]]:
    """Events with half a buffer on either side, [first, end), those that touch as one."""
    half = width // 2
    segments: list[tuple[int, int]] = []
    for event, (begin, end) in zip(events, bounds, strict=True):
        first, stop = max(event.first - half, begin), min(event.end + half, end)
        if segments and first < segments[-1][1]:
            segments[-1] = (segments[-1][0], stop)
        else:
            segments.append((first, stop))
    return segments


def _bounds(events: Sequence[Event], edges: Sequence[int]) -> list[tuple[int, int]]:
    """The recording [begin, end) that each event lies in."""
    places = [int(np.searchsorted(edges, event.first, side="right")) for event in events]
    return [(edges[place - 1], edges[place]) for place in places]
