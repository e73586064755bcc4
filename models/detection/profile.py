"""What a machine shows at this hour, every day: the cycle that its clock knows, taken out of a row before it is judged.

    rows with their time ─► `Periods`: sums of each bin of each whole period ─► `Profile`: mean course of a period, shrunk
    row − profile(clock) ─► judged, watched for drift, counted as an opening: all the same row

A period's course is its bins' means about the period's own mean, so that a level that moves from day to day is none of it.
The profile is the mean course, smoothed, and times b for each sensor: the slope of a period's course on the mean of the
others', less its error. A sensor without a cycle has b = 0 and stays as it is.

Rows that were learnt from are looked at through the course of the *other* periods (`Profile.held_out`), so that what is fitted and
counted on them has not seen itself. Whether a profile is used at all is not decided here but in `models.detection.context`.

Its own guard: `ProfileGuard` regresses what is seen on what the profile expects, period after period. A cycle that has gone, or a
clock that was set, leaves a slope near 0; below ½ the profile adds more than it takes away.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST_BINS", "Periods", "Profile", "ProfileGuard", "fewest_periods"]

Float = NDArray[np.float32]
Floats = NDArray[np.float64]

_FEWEST_PERIODS: Final = 7
"""A day is not known before a week has been seen, with its Sunday; nor is a shift."""
_FEWEST_LONG_PERIODS: Final = 3
"""Of what is longer than a day: one to hold out, and two whose courses can differ."""
_DAY_S: Final = 86400.0
_MOST_PERIODS: Final = 64
"""The newest: what a cycle was like in last year's season is no help."""
_MOST_FOLDS: Final = 16
_BINS: Final = 24
MOST_BINS: Final = 168
"""An hour of a week; of a shorter period a 24th."""
_FILLED: Final = 0.75
"""Of its bins; of less than that a period has no mean of its own."""
_LEAST_GAIN: Final = 0.01
"""Of a sensor's variance: less is not worth its error."""
_CERTAIN_ERRORS: Final = 3.0
"""Of a slope: one sensor in a hundred without a cycle shows one, of seven periods."""
_FADED: Final = 0.5
_FADED_PERIODS: Final = 2
"""In a row. One may be a holiday."""


def fewest_periods(period_s: float) -> int:
    """How many whole periods have to have been seen."""
    return _FEWEST_PERIODS if period_s <= _DAY_S else _FEWEST_LONG_PERIODS


class Periods:
    """Sums over the newest whole periods before `newest_s`, on the machine's clock; constant memory, whatever is added.

    Attributes:
        period_s: of one.
        newest_s: the end of the last of them; later rows, and those of no whole period, do not count.
    """

    def __init__(self, period_s: float, newest_s: float, features: int) -> None:
        self.period_s, self.newest_s = period_s, newest_s
        self.bins: Final = int(np.clip(period_s / 3600.0, _BINS, MOST_BINS))
        self._sums: dict[int, Floats] = {}
        self._counts: dict[int, Floats] = {}
        self._features = features

    def add(self, rows: NDArray[np.floating], machine_s: Floats) -> None:
        """Rows (n, F) seen at (n,), in any order."""
        ages = self._ages(machine_s)
        bins = _bin(machine_s, self.period_s, self.bins)
        for age in np.unique(ages[(ages >= 0) & (ages < _MOST_PERIODS)]).tolist():
            meant = ages == age
            sums = self._sums.setdefault(age, np.zeros((self.bins, self._features)))
            np.add.at(sums, bins[meant], np.asarray(rows[meant], np.float64))
            counts = self._counts.setdefault(age, np.zeros(self.bins))
            counts += np.bincount(bins[meant], minlength=self.bins)

    @property
    def whole(self) -> list[int]:
        """Ages of the periods seen nearly whole, the newest (0) first."""
        return sorted(age for age, counts in self._counts.items() if (counts > 0).mean() >= _FILLED)

    def folds_of(self, machine_s: Floats) -> NDArray[np.intp]:
        """To which fold of `courses` each row (n,) belongs; -1: to none."""
        fold_of = {age: fold for fold, ages in enumerate(self._grouped()) for age in ages}
        return np.array([fold_of.get(age, -1) for age in self._ages(machine_s).tolist()], np.intp)

    def courses(self) -> Floats:
        """The course (K, B, F) of each fold of whole periods about its own mean, NaN where nothing was seen."""
        found = []
        for ages in self._grouped():
            sums, counts = (
                np.sum([part[age] for age in ages], axis=0) for part in (self._sums, self._counts)
            )
            means = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], np.nan)
            found.append(means - np.nanmean(means, axis=0))
        return np.array(found).reshape(-1, self.bins, self._features)

    def _grouped(self) -> list[NDArray[np.intp]]:
        ages = np.array(self.whole, np.intp)
        return np.array_split(ages, min(len(ages), _MOST_FOLDS)) if len(ages) else []

    def _ages(self, machine_s: Floats) -> NDArray[np.intp]:
        ages = np.floor((self.newest_s - machine_s) / self.period_s)
        return np.clip(ages, -1, _MOST_PERIODS).astype(np.intp)


@dataclass(frozen=True, kw_only=True, eq=False)
class Profile:
    """A period's expected course: `table` (B, F) at the middles of its bins, in the rows' units.

    `until_s` is the newest time that it was learnt from: a clock that shows less has begun anew.
    """

    period_s: float
    table: Float
    until_s: float
    _steps: Float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Lay out for interpolation."""
        object.__setattr__(self, "_steps", np.roll(self.table, -1, axis=0) - self.table)

    @classmethod
    def of(cls, periods: Periods) -> Profile | None:
        """What the periods have in common; None where they are too few, or no sensor has a cycle."""
        if len(periods.whole) < fewest_periods(periods.period_s):
            return None
        courses = periods.courses()
        worth = _worth(courses)
        if not worth.any():
            return None
        return cls(
            period_s=periods.period_s,
            table=(worth * _mean_course(courses)).astype(np.float32),
            until_s=periods.newest_s,
        )

    def expected(self, machine_s: float) -> Float:
        """The course (F,) at this time of the machine's clock."""
        bins = len(self.table)
        place = (machine_s % self.period_s) / self.period_s * bins - 0.5
        whole = int(place // 1)
        expected: Float = self._steps[whole] * np.float32(place - whole)
        expected += self.table[whole]  # -1 is the last one
        return expected

    def expected_rows(self, machine_s: Floats) -> Float:
        """The course (n, F) at each of the times (n,)."""
        return _interpolated(self.table, machine_s, self.period_s)

    @staticmethod
    def held_out(periods: Periods, machine_s: Floats) -> Float:
        """What rows at these times (n,) would be expected to show by all periods but their own (n, F)."""
        courses = periods.courses()
        folds = periods.folds_of(machine_s)
        worth = _worth(courses)
        expected = np.empty((len(machine_s), courses.shape[2]), np.float32)
        for fold in np.unique(folds).tolist():
            others = courses if fold < 0 else np.delete(courses, fold, axis=0)
            meant = folds == fold
            expected[meant] = _interpolated(
                (worth * _mean_course(others)).astype(np.float32), machine_s[meant], periods.period_s
            )
        return expected


class ProfileGuard:
    """Watches whether a profile still says something, in constant memory: of each period of which most hours were seen."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._until_s: float | None = None
        self._faded = 0
        self._begin()

    def note(self, row: Float, expected: Float, machine_s: float) -> bool:
        """One window (F,), not yet without what was `expected` (F,); True once the profile has faded."""
        # A window whose clock slipped ahead must not put the end off for good.
        if self._until_s is None or self._until_s - machine_s > self._period_s:
            self._until_s = machine_s + self._period_s
        self._seen += float(row.dot(expected))
        self._expected += float(expected.dot(expected))
        self._hours |= 1 << int(machine_s % self._period_s / self._period_s * _BINS)
        if machine_s < self._until_s or self._hours.bit_count() < _FILLED * _BINS:
            return False
        self._faded = self._faded + 1 if self._seen < _FADED * self._expected else 0
        self._until_s = machine_s + self._period_s
        self._begin()
        return self._faded >= _FADED_PERIODS

    def _begin(self) -> None:
        self._seen = self._expected = 0.0
        self._hours = 0


def _mean_course(courses: Floats) -> Floats:
    """The smoothed mean (B, F) of courses (K, B, F); what none of them has seen lies between its neighbours."""
    seen = np.isfinite(courses)
    mean = np.where(seen, courses, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    is_known = np.asarray(seen.any(axis=0)).all(axis=1)
    if not is_known.all():
        known = np.flatnonzero(is_known)
        places = np.arange(len(mean))
        mean = np.stack(
            [np.interp(places, known, column[known], period=len(mean)) for column in mean.T], axis=1
        )
    return np.asarray(mean / 2 + (np.roll(mean, 1, axis=0) + np.roll(mean, -1, axis=0)) / 4)


def _worth(courses: Floats) -> Floats:
    """How much (F,) of the mean course is worth subtracting, in [0, 1], for courses (K, B, F), K ≥ 3."""
    others = [_mean_course(np.delete(courses, fold, axis=0)) for fold in range(len(courses))]
    seen = np.isfinite(courses)
    products = np.array([np.where(s, c, 0.0) * o for s, c, o in zip(seen, courses, others, strict=True)])
    squares = np.array([s * np.square(o) for s, o in zip(seen, others, strict=True)])
    size = squares.sum(axis=1)
    slopes = products.sum(axis=1) / np.maximum(size, 1e-12)
    error = slopes.std(axis=0, ddof=1) / np.sqrt(len(slopes))
    worth = np.clip(slopes.mean(axis=0) - error, 0.0, 1.0)
    gain = (2 * worth * slopes.mean(axis=0) - np.square(worth)) * size.mean(axis=0) / courses.shape[1]
    is_certain = slopes.mean(axis=0) > _CERTAIN_ERRORS * error
    return np.where((gain > _LEAST_GAIN) & is_certain, worth, 0.0)


def _bin(machine_s: Floats, period_s: float, bins: int) -> NDArray[np.intp]:
    place = np.floor((machine_s % period_s) / period_s * bins).astype(np.intp)
    return np.minimum(place, bins - 1)


def _interpolated(table: Float, machine_s: Floats, period_s: float) -> Float:
    bins = len(table)
    place = (machine_s % period_s) / period_s * bins - 0.5
    whole = np.floor(place).astype(np.intp)
    share = (place - whole).astype(np.float32)[:, None]
    return table[whole % bins] * (1 - share) + table[(whole + 1) % bins] * share
