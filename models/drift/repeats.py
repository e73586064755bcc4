"""How long a sensor repeats itself in its reference, and from which run on it is stuck.

A value that recurs is of two kinds: one that a sensor rests at (an atom: no rain, idle, a flag), which it leaves now and
then, and one that it merely hits twice. Each has a limit of its own: a sensor that rests at 0 for hours is found stuck at
any other value within a few windows.

    away from atoms   repeats are independent with a chance of at most (r + 3)/(n + 3)
    at an atom        it is left with a rate of at least the 5 % bound that the exits seen allow; with fewer than four
                      exits nobody knows, and the check is off

Neither is shorter than five times the longest run of the reference and three more: runs are longer than independence
says, and what is watched is longer than the reference.
A sensor with few distinct values, coarse or digital, has one limit for all of them: it rests at each.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.drift.bins import atoms_of

__all__ = ["Repeats", "count_repeats", "stuck_runs"]

NEVER: Final = 30_000
"""A limit that no run reaches: counters stop there."""

_FEWEST_EXITS: Final = 4
_LONGEST: Final = 5
"""Runs of one rate would ask for 2: then as many more are watched as makes the square of those seen."""
_ROWS_A_VALUE: Final = 20
"""A sensor with fewer rows a distinct value is no digital one."""


class Repeats(Struct, frozen=True, kw_only=True):
    """Windows that repeated the one before, of one sensor's reference.

    `away` of `windows_away` lay at no atom, the longest run of them `longest_away`; `windows_resting` lay at an atom,
    the longest run `longest_resting`, and `exits` times one was left.
    """

    windows_away: int
    away: int
    longest_away: int
    windows_resting: int = 0
    longest_resting: int = 0
    exits: int = 0


def count_repeats(values: NDArray[np.float32]) -> Repeats:
    """Count those of one sensor's reference (n,), in the order of time."""
    distinct = np.unique(values)
    is_digital = len(distinct) <= len(values) / _ROWS_A_VALUE
    rests = np.ones(len(values), np.bool_) if is_digital else np.isin(values, atoms_of(values))
    is_repeat = np.append(False, values[1:] == values[:-1])
    return Repeats(
        windows_away=int(np.count_nonzero(~rests)),
        away=int(np.count_nonzero(is_repeat & ~rests)),
        longest_away=_longest(is_repeat & ~rests),
        windows_resting=int(np.count_nonzero(rests)),
        longest_resting=_longest(is_repeat & rests),
        exits=int(np.count_nonzero(rests[:-1] & ~is_repeat[1:])),
    )


def stuck_runs(repeats: Repeats, *, run_length: float, shortest: int) -> tuple[int, int]:
    """Windows in a row with the value before that are no chance: away from atoms, and at one.

    Args:
        repeats: what the reference shows.
        run_length: wanted windows between two false alarms of this check on this sensor.
        shortest: never fewer than this.
    """
    likely = min((repeats.away + 3.0) / (repeats.windows_away + 3.0), 1.0)
    away = _limit(likely, repeats.longest_away, run_length=run_length, shortest=shortest)
    if repeats.exits < _FEWEST_EXITS:
        resting = NEVER
    else:
        rate = _lower_bound(repeats.exits) / repeats.windows_resting
        resting = _limit(math.exp(-rate), repeats.longest_resting, run_length=run_length, shortest=shortest)
    is_digital = repeats.windows_away == 0
    return (resting if is_digital else away), resting


def _limit(likely: float, longest: int, *, run_length: float, shortest: int) -> int:
    by_chance = math.ceil(math.log(run_length) / -math.log(likely)) if likely < 1 else NEVER
    return min(max(shortest, by_chance, _LONGEST * longest + 3), NEVER)


def _lower_bound(exits: int) -> float:
    """The 5 % quantile of a gamma variable of this shape (Wilson and Hilferty, PNAS 17, 1931)."""
    return float(exits * (1 - 1 / (9 * exits) - 1.645 / (3 * exits**0.5)) ** 3)


def _longest(flags: NDArray[np.bool_]) -> int:
    ends = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return int((ends[1::2] - ends[::2]).max(initial=0))
