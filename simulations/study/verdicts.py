"""What alarms were worth, where labels say it: false ones, events that were seen, and how late.

Labels come in here and nowhere else. An alarm is false if none of its windows is labelled a fault; of one among windows that nobody labelled
nothing is said. Without any labels each alarm counts as false, which is the worst case, and is called so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.detection.poisson import poisson_interval
from simulations.study.notebook import Episode, Played
from simulations.study.subjects import Subject

__all__ = ["Event", "Tally", "Verdict", "add_up", "events_of", "judge_alarms"]

DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Event:
    """A labelled fault over held-back windows [first, end); `seen_after`: windows until an alarm was open; None: none was.

    `is_opened`: an alarm of its own opened. One that was open before tells nobody anything.
    """

    first: int
    end: int
    seen_after: int | None
    is_opened: bool


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """On one machine, one way of watching, in int8 or float.

    `healthy` are judged windows that are not labelled a fault, `in_alarm` those of them with an open alarm, `false_alarms` those that
    opened there. `window_s` is how long a window is; None without a clock.
    """

    machine: str
    healthy: int
    false_alarms: int
    in_alarm: int
    events: tuple[Event, ...]
    window_s: float | None


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Verdicts of all machines together.

    Attributes:
        machines: how many.
        healthy, false_alarms, in_alarm: sums.
        low, high: exact 95 % interval of the mean number of false alarms.
        events, seen, opened: labelled faults, those with an alarm open in them, and those that opened one of their own.
        median_delay: windows; None where none was seen.
        watched_s: machine time of the healthy windows; None without a clock.
    """

    machines: int
    healthy: int
    false_alarms: int
    in_alarm: int
    low: float
    high: float
    events: int
    seen: int
    opened: int
    median_delay: float | None
    watched_s: float | None

    def per_1000(self, count: float | None = None) -> float | None:
        """False alarms, or another count, in 1,000 windows; None without any."""
        counted = self.false_alarms if count is None else count
        return 1000 * counted / self.healthy if self.healthy else None

    def per_days(self, days: float, count: float | None = None) -> float | None:
        """False alarms, or another count, of all machines together in so many days; None without a clock."""
        if not self.watched_s:
            return None
        counted = self.false_alarms if count is None else count
        return counted * days * DAY_S * self.machines / self.watched_s

    @property
    def time_in_alarm(self) -> float:
        """Share of healthy windows."""
        return self.in_alarm / self.healthy if self.healthy else 0.0


def judge_alarms(subject: Subject, played: Played, *, is_int8: bool = True) -> Verdict:
    """What the alarms of one machine were worth."""
    alarms = played.alarms if is_int8 else played.float_alarms
    is_judged = np.isfinite(played.ratios)
    told = _held_back_labels(subject)
    is_healthy = is_judged & (told != 1)
    is_open = np.zeros(len(told), np.bool_)
    for alarm in alarms:
        is_open[alarm.first : alarm.end] = True
    return Verdict(
        machine=subject.name,
        healthy=int(is_healthy.sum()),
        false_alarms=sum(_is_false(alarm, told) for alarm in alarms),
        in_alarm=int((is_open & is_healthy).sum()),
        events=tuple(_meet(first, end, alarms, is_open) for first, end in events_of(told == 1)),
        window_s=subject.held_back_s / subject.held_back if subject.has_clock else None,
    )


def add_up(verdicts: Sequence[Verdict]) -> Tally:
    """Of machines under one way of watching."""
    false_alarms = sum(one.false_alarms for one in verdicts)
    events = [event for one in verdicts for event in one.events]
    delays = [event.seen_after for event in events if event.seen_after is not None]
    has_clock = all(one.window_s is not None for one in verdicts)
    low, high = poisson_interval(false_alarms)
    return Tally(
        machines=len(verdicts),
        healthy=sum(one.healthy for one in verdicts),
        false_alarms=false_alarms,
        in_alarm=sum(one.in_alarm for one in verdicts),
        low=low,
        high=high,
        events=len(events),
        seen=len(delays),
        opened=sum(event.is_opened for event in events),
        median_delay=float(np.median(delays)) if delays else None,
        watched_s=sum(one.healthy * (one.window_s or 0.0) for one in verdicts) if has_clock else None,
    )


def events_of(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """[first, end) of each run of flags.

    >>> events_of(np.array([False, True, True, False, True]))
    [(1, 3), (4, 5)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _held_back_labels(subject: Subject) -> NDArray[np.int8]:
    """Of each held-back window; 0 everywhere without labels."""
    if subject.labels is None:
        return np.zeros(subject.held_back, np.int8)
    return subject.labels[subject.learning :]


def _is_false(alarm: Episode, told: NDArray[np.int8]) -> bool:
    return not alarm.is_old and bool((told[alarm.first : alarm.end] == 0).all())


def _meet(first: int, end: int, alarms: Sequence[Episode], is_open: NDArray[np.bool_]) -> Event:
    inside = np.flatnonzero(is_open[first:end])
    return Event(
        first=first,
        end=end,
        seen_after=int(inside[0]) if len(inside) else None,
        is_opened=any(first <= alarm.first < end and not alarm.is_old for alarm in alarms),
    )
