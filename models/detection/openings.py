"""How often a detector would have raised an alarm at each level, counted where it had not been fitted: the openings curve.

    statistic ─► at each of 209 levels: open · hold · close ─► openings C(h), windows in alarm T(h)
    fleet     ─► A(h) = ΣC / ΣN, and a power law beyond the last level with 25 openings
    own       ─► (a + C) / (a/A + N):  a from how much devices differ in what they counted

The curve contains what no quantile does: autocorrelation, the time scales, how alarms open and close. An alarm that stays
open counts once more for each 60 windows, and its windows count as time in alarm: a budget of openings alone would
be kept best by an alarm that never closes.

Devices of the same age are counted together: how often a detector that learnt from 120 windows errs is asked of
detectors that learnt from 120 windows. A mature device plays being young on its own rows (`age_counts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.detection.experts import FOLDS, fit_form, held_out_statistics
from models.detection.poisson import poisson_interval
from models.detection.spread import SpreadPrior
from models.detection.sums import Sums, total
from models.detection.time_scales import averages_for
from protocol.grids import AGES, LEVELS, SQUARED

__all__ = [
    "AGES",
    "LARGEST_ALIKENESS",
    "LEVELS",
    "AlarmRules",
    "Curve",
    "Openings",
    "OpeningsSums",
    "age_counts",
    "count_openings",
    "own_counts",
]

Floats = NDArray[np.float64]

_SEGMENTS: Final = 6
"""How often a mature device plays being young."""
_COUNTED: Final = 25
"""Openings that make a level trustworthy: their rate is known within a fifth."""
_TAIL: Final = (0.3, 15.0)
"""Exponent of the tail before anything is seen, and how many openings that opinion is worth: scores of real machines have .15 to .6,
and 25 openings of a few machines, which come in clusters, tell it no better than within a half."""
_SAME_LENGTH: Final = 5.0
"""Openings that the opinion is worth that rare alarms last as long as those at the last level that was counted."""
_CONTRADICTED: Final = 10.0
"""Times as often as the fleet says: no fleet of machines that differ this much knows anything of one of them."""
_REACH: Final = 5
"""Levels, a factor of 1.43: about as far as a network's threshold moves from one release to the next (`python benchmarks/poisoning.py mixture`)."""
LARGEST_ALIKENESS: Final = 25.0
"""However alike devices were, the fleet's word is worth no more than as many openings of the device's own: it may be the odd one."""


class AlarmRules(Struct, frozen=True, kw_only=True):
    """When an alarm that opened with one window over the level closes: so many windows in a row below a share of it."""

    closes_after_windows: int = 5
    closes_below_share: float = 0.9
    again_after_windows: int = 60
    """An alarm that goes on counts once more after as many windows; it is told of once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Openings(Sums):
    """Counts of one stretch of windows at each level: `openings` (209,), `in_alarm` (209,), and `windows` in all."""

    openings: Floats
    in_alarm: Floats
    windows: float


def count_openings(
    statistics: NDArray[np.floating], rules: AlarmRules, levels: NDArray[np.floating] = LEVELS
) -> Openings:
    """Play the alarm at each of `levels` (L,) over successive statistics (n,)."""
    size = len(levels)
    is_open, calm, age = np.zeros(size, np.bool_), np.zeros(size, np.int64), np.zeros(size, np.int64)
    openings, in_alarm = np.zeros(size), np.zeros(size)
    calm_below = rules.closes_below_share * levels
    for statistic in np.asarray(statistics, np.float64):
        begins = ~is_open & (statistic > levels)
        age = np.where(begins, 0, age + 1)
        openings += begins | (is_open & (age % rules.again_after_windows == 0))
        calm = np.where(is_open & (statistic < calm_below), calm + 1, 0)
        is_open |= begins
        in_alarm += is_open
        is_open &= calm < rules.closes_after_windows
    return Openings(openings=openings, in_alarm=in_alarm, windows=float(len(statistics)))


def own_counts(
    rows: NDArray[np.floating],
    prior: SpreadPrior | None,
    rules: AlarmRules,
    *,
    shortest_event_windows: int = 2,
) -> Openings:
    """What a device counts at its own age, over held-out fifths of healthy rows (n, F), n ≥ 20, in the order of time."""
    averages = averages_for(len(rows), shortest_event_windows=shortest_event_windows)
    return _counted(held_out_statistics(rows, prior, averages=averages), rules)


def age_counts(
    rows: NDArray[np.floating],
    prior: SpreadPrior | None,
    rules: AlarmRules,
    *,
    shortest_event_windows: int = 2,
) -> dict[int, Openings]:
    """One device's counts at each of `AGES` that it has reached, from healthy rows (n, F) in the order of time.

    At its own age as `own_counts`. At younger ones it fits on so many rows and counts over the next quarter as many, in up to
    six segments.
    """
    own_age = age_of(len(rows))
    if own_age is None:
        return {}
    counted: dict[int, Openings] = {}
    for age in AGES[: AGES.index(own_age)]:
        ahead = age // (FOLDS - 1)
        averages = averages_for(age + ahead, shortest_event_windows=shortest_event_windows)
        starts = np.linspace(0, len(rows) - age - ahead, _SEGMENTS).astype(int)
        ahead_statistics = [
            fit_form(rows[start : start + age], prior, averages=averages).statistics(
                rows[start + age : start + age + ahead]
            )
            for start in dict.fromkeys(starts.tolist())
        ]
        counted[age] = _counted(ahead_statistics, rules)
    counted[own_age] = own_counts(rows, prior, rules, shortest_event_windows=shortest_event_windows)
    return counted


def _counted(stretches: Sequence[Floats], rules: AlarmRules) -> Openings:
    return total([count_openings(stretch, rules) for stretch in stretches])


def age_of(windows: int) -> int | None:
    """The age of a detector fitted on so many windows: the largest of `AGES` that four fifths of them reach; None: too young."""
    fitted = windows * (FOLDS - 1) // FOLDS
    return max((age for age in AGES if age <= fitted), default=None)


@dataclass(frozen=True, kw_only=True, eq=False)
class OpeningsSums(Sums):
    """What `devices` of one age add up over all their `windows`: counts (209,), and C²/N at every fourth level (53,), by which they differ."""

    devices: float
    windows: float
    openings: Floats
    in_alarm: Floats
    squares: Floats

    @classmethod
    def of(cls, counts: Openings) -> OpeningsSums:
        """One device's part."""
        return cls(
            devices=1.0,
            windows=counts.windows,
            openings=counts.openings,
            in_alarm=counts.in_alarm,
            squares=counts.openings[::SQUARED] ** 2 / max(counts.windows, 1.0),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """Openings and share of time in alarm to be expected per window at each level, (209,) each, both falling.

    `windows` is what the fleet counted on, `own_windows` what the device did; `alikeness` is how many own openings the fleet's
    word is worth.
    """

    rate: Floats
    share: Floats
    windows: float
    alikeness: float
    own_windows: float = 0.0

    @classmethod
    def of(cls, sums: OpeningsSums) -> Curve:
        """What follows from the sum over devices of one age, over at least one window."""
        windows = max(sums.windows, 1.0)
        if not sums.openings.any():
            # Nothing moved: no opinion on levels that healthy windows are expected to reach.
            certain = np.where(LEVELS <= 1.0, windows, 0.0)
            sums = replace(sums, openings=certain, in_alarm=certain)
        rate = np.maximum.accumulate(sums.openings[::-1] / windows)[::-1]
        share = np.maximum.accumulate(sums.in_alarm[::-1] / windows)[::-1]
        counted = np.flatnonzero(sums.openings >= min(_COUNTED, sums.openings.max()))
        last = int(counted[-1])
        seen = float(sums.openings[last])
        step = float(np.log(LEVELS[1] / LEVELS[0]))
        opinion, worth = _TAIL
        excess = sums.openings[last + 1 :].sum() + seen / 2
        exponent = (excess * step + worth * opinion) / (seen + worth)
        beyond = np.arange(len(LEVELS)) > last
        tail = (LEVELS / LEVELS[last]) ** (-1.0 / exponent)
        # Alarms at a level hardly ever reached are shorter than those below it: as long as those that were counted beyond.
        in_alarm = sums.in_alarm[last + 1 :].sum() + sums.in_alarm[last] / 2
        length = in_alarm + _SAME_LENGTH * sums.in_alarm[last] / max(seen, 1.0)
        shorter = min(length / (excess + _SAME_LENGTH) * seen / max(float(sums.in_alarm[last]), 1.0), 1.0)
        return cls(
            rate=np.where(beyond, max(float(rate[last]), 1e-12) * tail, rate),
            share=np.where(beyond, max(float(share[last]), 1e-12) * shorter * tail, share),
            windows=windows,
            alikeness=_alikeness(sums, last),
        )

    def in_reach_of(self, before: Curve) -> Curve:
        """The same, but at no level more than `before` had `_REACH` levels lower: so a threshold rises by half at most.

        Devices that say they alarm all the time would make all others deaf. That they never do deafens nobody, and each device finds it
        out by its own counts (`with_own`).
        """
        return replace(
            self,
            rate=np.minimum(
                self.rate, np.concatenate([np.repeat(before.rate[0], _REACH), before.rate[:-_REACH]])
            ),
            share=np.minimum(
                self.share, np.concatenate([np.repeat(before.share[0], _REACH), before.share[:-_REACH]])
            ),
        )

    def with_own(self, own: Openings | None) -> Curve:
        """The curve of one device of this fleet, given what it has counted itself."""
        if own is None or own.windows <= 0:
            return self
        if self._is_contradicted_by(own):
            return Curve.of(OpeningsSums.of(own))
        rate = np.maximum(self.rate, 1e-15)
        posterior = (self.alikeness + own.openings) / (self.alikeness / rate + own.windows)
        posterior = np.maximum.accumulate(posterior[::-1])[::-1]
        return Curve(
            rate=posterior,
            share=np.minimum(self.share * posterior / rate, 1.0),
            windows=self.windows,
            alikeness=self.alikeness,
            own_windows=own.windows,
        )

    def _is_contradicted_by(self, own: Openings) -> bool:
        """Did the device, on windows held out, certainly open many times as often as this says at some level?

        Then it is none of this fleet, or somebody has forged the fleet's word that nothing ever alarms: by that, everything would.
        """
        seen = np.minimum(own.openings, _COUNTED).astype(int)
        certain = np.array([poisson_interval(count)[0] for count in range(_COUNTED + 1)])[seen]
        return bool((certain > _CONTRADICTED * self.rate * own.windows).any())

    def supported(self, rate: float) -> float:
        """The windows behind a promise of `rate`: the device's own, and of the fleet's as many as its word is worth there."""
        return self.own_windows + min(self.windows, self.alikeness / rate)


def _alikeness(sums: OpeningsSums, level: int) -> float:
    """Shape a of the gamma distribution that devices' rates come from, by moments: large where all devices open alike.

    E Σ (C − mN)²/N = D·m + m²·ΣN/a, of which one device's worth goes into estimating m. By the next level below whose squares are known.
    """
    known = level // SQUARED
    rate = float(sums.openings[known * SQUARED]) / max(sums.windows, 1.0)
    explained = rate * rate * sums.windows
    extra = float(sums.squares[known]) - explained - (sums.devices - 1.0) * rate
    return min(explained / extra, LARGEST_ALIKENESS) if extra > 0 and explained > 0 else LARGEST_ALIKENESS
