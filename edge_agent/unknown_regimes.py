"""Where a machine came to rest and nobody knows it: one finding, not an alarm a window.

    drift settles while an anomaly is open ─► its level is remembered, with the time: "unknown regime since ..."
    windows at that level ─► the anomaly stays open, and none opens ─► set aside, until a person calls them normal

A window belongs to an unknown regime if it would be judged an anomaly and is less of one from there. What goes wrong *in* an unknown
regime still opens an anomaly: it is over the threshold from there, too. What nobody has seen for a week and a day is forgotten,
and told again. Nothing is registered that no anomaly was opened for, so that what creeps is told before it can be a level. A
person's word, or another scale, ends it: then the regime is known, or means nothing.

Invariants: a bounded number of levels; none is ever made of a window with a gap.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from edge_agent.detection_memory import DetectionMemory, UnknownRegime
from edge_agent.judges import Judge, MixtureJudge

__all__ = ["UnknownRegimes", "told_since"]

log = logging.getLogger(__name__)

Float = NDArray[np.float32]

_MOST: Final = 4
_FORGOTTEN_S: Final = 8 * 86_400.0
"""A week and a day without a visit: what comes back after that is told again. It may be the fault that was mended."""
_NOTED_S: Final = 3600.0
"""How often a visit is written down: a machine may come and go."""
_AVERAGED: Final = 32
"""Windows that a level is the mean of, roughly: half of those that drift takes to call it one."""


class UnknownRegimes:
    """Those of one device.

    Args:
        memory: what survives a restart.
        features: F; a level of another number of them means nothing.

    Attributes:
        levels: (k, F), for a judge; None without any.
    """

    def __init__(self, memory: DetectionMemory, features: int) -> None:
        self._memory, self._features = memory, features
        self._mean = np.zeros(features, np.float32)
        self._windows = 0
        self._is_told = False
        self._known = tuple(one for one in memory.remembered.unknown_regimes if _is_sound(one, features))
        self.levels = _levels(self._known)

    def follow(self, row: Float, judge: Judge | None, *, is_told: bool) -> None:
        """One more row (F,), as it is judged, of a machine that is away; `is_told`: at rest, and an anomaly is open."""
        if (
            not isinstance(judge, MixtureJudge)
            or len(row) != self._features
            or not math.isfinite(row.dot(row))
        ):
            return
        self._windows += 1
        self._mean += (row - self._mean) / np.float32(min(self._windows, _AVERAGED))
        if is_told and not self._is_told and self._windows >= _AVERAGED and judge.beside is None:
            self._is_told = True
            since_s = self._memory.remembered.drift_since_s
            log.warning("unknown_regime since_s=%.0f", since_s)
            found = UnknownRegime(level=tuple(self._mean.tolist()), since_s=since_s, last_s=since_s)
            self._use((*self._known, found)[-_MOST:], judge)

    def visit(self, judge: Judge | None, wall: Callable[[], float]) -> bool:
        """Is the machine at one of them now? `wall` is asked for Unix seconds then."""
        if not isinstance(judge, MixtureJudge) or judge.beside is None:
            return False
        which, now_s = judge.which_unknown, wall()
        before, one, after = self._known[:which], self._known[which], self._known[which + 1 :]
        away_s = now_s - one.last_s
        if away_s > _FORGOTTEN_S:
            log.warning("unknown_regime_again after_s=%.0f", away_s)
            self._use((*before, *after), judge)
        elif away_s > _NOTED_S:
            self._use((*before, replace(one, last_s=now_s), *after), judge)
        return True

    def leave(self) -> None:
        """The machine moves: on from where it was, or home."""
        self._windows, self._is_told = 0, False

    def forget(self, judge: Judge | None) -> None:
        """They are known now, or of another scale."""
        self.leave()
        self._use((), judge)

    def _use(self, known: tuple[UnknownRegime, ...], judge: Judge | None) -> None:
        self._known, self.levels = known, _levels(known)
        if isinstance(judge, MixtureJudge):
            judge.unknown_levels = self.levels
            if not known:
                judge.beside = None
        self._memory.remember(unknown_regimes=known)


def told_since(since_s: float) -> str:
    """A Unix time for a person."""
    try:
        return datetime.fromtimestamp(since_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError, OSError):
        return "an unknown time"


def _is_sound(one: UnknownRegime, features: int) -> bool:
    return len(one.level) == features and all(math.isfinite(value) for value in one.level)


def _levels(known: tuple[UnknownRegime, ...]) -> Float | None:
    return np.array([one.level for one in known], np.float32) if known else None
