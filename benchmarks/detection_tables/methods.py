"""What a detection method is to this benchmark: it learns from healthy rows of a fleet and gives every device a judge.

::

    devices (healthy rows), seed ──► Method.fit ──► Promised(promise) ──► a Judge for each device
                                                                          scorer, threshold, alarm rule, what it says of itself

A promise is how many alarms may open in a window, on average, while a machine is healthy. A `Scorer` is what no promise changes, so its
scores are computed once; a judge with a threshold that ignores the promise (today's recipe, the trivial rows' factor) is as welcome.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from detection_tables.alarms import AGENT_RULE, AlarmRule
from detection_tables.devices import Device

__all__ = ["FunctionScorer", "Judge", "Method", "Promised", "Scorer", "own_quantile_judges"]

Floats = NDArray[np.floating]
Rows = NDArray[np.float32]
Score: TypeAlias = Callable[[Rows, Sequence[int]], Floats]

MARGIN = 1.1


class Scorer(Protocol):
    """Scores raw rows (n, F) of one device, higher is more anomalous; a recording begins at each of `starts`, without any memory.

    `first` is the number of the first row, on a clock that began with the first healthy one.
    """

    @property
    def is_timed(self) -> bool:
        """Whether both kinds of scores differ at all."""

    def window_scores(self, rows: Rows, starts: Sequence[int], first: int = 0) -> Floats:
        """One score (n,) for each row by itself: what AP, AUC and VUS-PR rank."""

    def timed_scores(self, rows: Rows, starts: Sequence[int], first: int = 0) -> Floats:
        """What the device holds against its threshold (n,): with time scales, where a method has some."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """What runs on one device under one promise.

    Args:
        scorer: the same object under every promise, where the promise changes no score.
        threshold: of the timed scores.
        rule: when an alarm opens and closes.
        is_provisional: it says beforehand that its data do not support the promise.
        horizon: windows after learning for which it promises anything; None: for ever.
        supported: what it says that its data support, for a person.
    """

    scorer: Scorer
    threshold: float
    rule: AlarmRule = AGENT_RULE
    is_provisional: bool = False
    horizon: int | None = None
    supported: str = ""


Promised: TypeAlias = Callable[[float], Sequence[Judge]]
"""Promise (openings a window) → a judge for each device, in order."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A name, what fits it, and whether a seed changes anything."""

    name: str
    fit: Callable[[Sequence[Device], int], Promised]
    is_random: bool = False


@dataclass(frozen=True, kw_only=True)
class FunctionScorer:
    """A scorer without a memory beyond what `score` itself keeps: timed and window scores are the same."""

    score: Score
    is_timed: bool = False

    def window_scores(self, rows: Rows, starts: Sequence[int], first: int = 0) -> Floats:  # noqa: ARG002 - no clock
        """See `Scorer`."""
        return self.score(rows, starts)

    def timed_scores(self, rows: Rows, starts: Sequence[int], first: int = 0) -> Floats:  # noqa: ARG002 - no clock
        """See `Scorer`."""
        return self.score(rows, starts)


def own_quantile_judges(devices: Sequence[Device], scores: Sequence[Score]) -> Promised:
    """Each device's threshold is the 1 - promise quantile of its own healthy scores times 1.1: what one does without a fleet or a curve."""
    scorers = [FunctionScorer(score=score) for score in scores]
    healthy = [
        scorer.timed_scores(device.healthy, (0,)) for scorer, device in zip(scorers, devices, strict=True)
    ]

    def judges(promise: float) -> list[Judge]:
        return [
            Judge(scorer=scorer, threshold=float(np.quantile(own, 1 - promise)) * MARGIN)
            for scorer, own in zip(scorers, healthy, strict=True)
        ]

    return judges
