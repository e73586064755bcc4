"""The agent's alarms over a whole recording at once: where they open, and which windows lie in one.

`models.thresholds.AlarmState` judges window by window; a set of recordings has hundreds of thousands, and a threshold is looked for by trying
many. Here a loop goes over alarms and not over windows. It says what `AlarmState` says (a test compares them), and knows nothing besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.settings import DetectionSettings

__all__ = ["AGENT_RULE", "AlarmRule", "Alarms", "find_alarms"]

Floats = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class AlarmRule:
    """When an alarm opens and closes: what `models.thresholds.AlarmState` is made with.

    `again_after_windows`: an alarm that stays open is told of, and counted, once more after as many windows; None: never.
    """

    opens_after_windows: int
    closes_after_windows: int
    closes_below_share: float
    again_after_windows: int | None = None

    @classmethod
    def of(cls, settings: DetectionSettings) -> AlarmRule:
        """As an agent with these settings does it."""
        return cls(
            opens_after_windows=settings.opens_after_windows,
            closes_after_windows=settings.closes_after_windows,
            closes_below_share=settings.closes_below_share,
        )


AGENT_RULE: Final = AlarmRule.of(DetectionSettings())
"""With nothing set by hand."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Alarms:
    """Windows at which an alarm opens, and at which an open one is told of again, ascending; is one open after each window (n,)?"""

    openings: NDArray[np.intp]
    repeats: NDArray[np.intp]
    is_open: NDArray[np.bool_]


def find_alarms(
    scores: Floats, threshold: float, rule: AlarmRule = AGENT_RULE, *, starts: Sequence[int] = (0,)
) -> Alarms:
    """Alarms of scores (n,), each recording that begins at one of `starts` by itself. NaN counts as over, as in the agent."""
    openings: list[int] = []
    repeats: list[int] = []
    again = rule.again_after_windows or max(len(scores), 1)
    is_open = np.zeros(len(scores), np.bool_)
    for begin, end in pairwise([*starts, len(scores)]):
        for opened, closed in _episodes(scores[begin:end], threshold, rule):
            openings.append(begin + opened)
            repeats += range(begin + opened + again, begin + min(closed + 1, end - begin), again)
            is_open[begin + opened : begin + closed] = True
    return Alarms(openings=np.array(openings, np.intp), repeats=np.array(repeats, np.intp), is_open=is_open)


def _episodes(scores: Floats, threshold: float, rule: AlarmRule) -> list[tuple[int, int]]:
    """(opens, closes) of each alarm; one that stays open closes at n."""
    over = ~(scores <= threshold)
    reach, needed = rule.opens_after_windows + 1, rule.opens_after_windows
    count = np.concatenate([[0], np.cumsum(over)])
    over_at = np.flatnonzero(over)
    recent = count[over_at + 1] - count[np.maximum(over_at + 1 - reach, 0)]
    opens_at = over_at[recent >= needed]
    if not len(opens_at):
        return []
    restless_at = np.flatnonzero(~(scores < rule.closes_below_share * threshold))
    episodes: list[tuple[int, int]] = []
    free = 0
    while True:
        place = int(np.searchsorted(opens_at, free))
        # Nothing from before the last closing counts any more, so the first few candidates are counted again.
        while place < len(opens_at):
            candidate = int(opens_at[place])
            if count[candidate + 1] - count[max(free, candidate + 1 - reach)] >= needed:
                break
            place += 1
        if place == len(opens_at):
            return episodes
        opened = int(opens_at[place])
        # Each window that is not clearly under starts the count anew: the first gap of that length ends the alarm.
        after = int(np.searchsorted(restless_at, opened))
        closed = _first_calm(restless_at, after, len(scores), rule.closes_after_windows)
        episodes.append((opened, closed))
        free = closed + 1
        if free >= len(scores):
            return episodes


def _first_calm(restless_at: NDArray[np.intp], place: int, end: int, calm: int) -> int:
    """The window at which `calm` windows in a row have followed the restless one at `place` or a later one; `end` if none do."""
    while True:
        piece = restless_at[place : place + 64]
        gaps = np.flatnonzero(np.diff(piece) > calm)
        if len(gaps):
            return int(piece[gaps[0]]) + calm
        if place + 64 >= len(restless_at):
            return min(int(piece[-1]) + calm, end)
        place += 63
