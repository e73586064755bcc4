"""Whether a promise about false alarms is kept: what was promised, and what came of it on this machine.

Counted as `models.detection.openings` counts: an opening, and one more for each 60 windows that an alarm goes on.
A true alarm counts as well: only a person can tell them apart, and a device that silenced itself for having seen
faults would be of no use.

A promise speaks of as many windows as were looked ahead when it was made, its horizon. It then goes on from horizon to
horizon for as long as it is kept: live windows are what held-out ones stand for. Where it was not kept, or drift is
under investigation, a person is asked. One that was not kept is remembered when the device learns anew, until so many
windows came that another is shown to be kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta, Struct

from models.detection.openings import AlarmRules
from models.detection.poisson import poisson_interval
from models.detection.promise import Promise

__all__ = ["KeptPromise", "Realised"]

Count = Annotated[int, Meta(ge=0, le=10**9)]


class Realised(Struct, kw_only=True):
    """What came since a promise was made: judged `windows`, `alarms` as counted, windows `in_alarm`; `elapsed` of the horizon.

    `broken` promises of this release came before it, since it was last shown that one is kept.
    """

    windows: Count = 0
    alarms: Count = 0
    in_alarm: Count = 0
    elapsed: Count = 0
    broken: Count = 0

    def note(self, alarm_windows: int, rules: AlarmRules) -> None:
        """One more judged window, and the windows of the alarm so far if it was in one: 1 if that opened, else 0."""
        self.windows += 1
        self.elapsed += 1
        if alarm_windows:
            self.in_alarm += 1
            self.alarms += (alarm_windows - 1) % rules.again_after_windows == 0

    def go_on(self, *, is_shown: bool) -> None:
        """For another horizon; `is_shown`: what came shows that the promise is kept, and what was broken before is over."""
        self.elapsed = 0
        self.broken = 0 if is_shown else self.broken

    @property
    def interval_per_1000(self) -> tuple[float, float | None]:
        """The exact 95 % interval of alarms per 1000 windows; nothing is known from above before the first window."""
        if not self.windows:
            return 0.0, None
        low, high = poisson_interval(self.alarms)
        return 1000 * low / self.windows, 1000 * high / self.windows


@dataclass(frozen=True, kw_only=True)
class KeptPromise:
    """A promise beside what came of it."""

    promise: Promise
    realised: Realised

    @property
    def promised_per_1000(self) -> float:
        """Alarms per 1000 windows that were promised at most."""
        return 1000 * self.promise.rate

    @property
    def is_kept(self) -> bool:
        """Can as many alarms as came have come at the promised rate?"""
        return self.realised.interval_per_1000[0] <= self.promised_per_1000

    @property
    def horizon_left(self) -> int:
        """Windows that it still speaks of."""
        return max(self.promise.horizon_windows - self.realised.elapsed, 0)

    @property
    def is_shown(self) -> bool:
        """Do so many windows with so few alarms show that the promise is kept: is the interval below it from end to end?"""
        high = self.realised.interval_per_1000[1]
        return high is not None and high <= self.promised_per_1000

    @property
    def broken(self) -> int:
        """Promises of this release that were not kept, this one among them."""
        return self.realised.broken + (not self.is_kept)

    @property
    def came(self) -> str:
        """What came, in a few words: health says it again and again."""
        realised = self.realised
        return f"{realised.alarms} in {realised.windows:,} windows, at most {self.promised_per_1000:g} in 1,000 promised"

    @property
    def text(self) -> str:
        """The promise and what came of it, in one sentence for people."""
        realised = self.realised
        if not realised.windows:
            return self.promise.text
        low, high = realised.interval_per_1000
        before = f"; before it {realised.broken} not kept" if realised.broken else ""
        return (
            f"{self.promise.text}; so far {realised.alarms} in {realised.windows:,}:"
            f" {1000 * realised.alarms / realised.windows:.2g} in 1000 ({low:.2g} to {high:.2g}){before}"
        )
