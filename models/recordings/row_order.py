"""The rows of one machine in the order of time: turned round, asked about, spread, cut into pieces; and their rate."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.recordings.contents import FileContent, Part
from models.recordings.questions import Question
from models.recordings.times import Clock

__all__ = ["pieces_of", "put_in_order"]

_MOST_BACK: Final = 0.001
_MOST_REPEATED: Final = 0.2
_LEAST_REGULAR: Final = 0.8
_LEAST_EVEN: Final = 0.9
_FEWEST_STEPS: Final = 20
_DAY_S: Final = 86_400.0
_MOST_PHASES: Final = 12
_APART: Final = 0.8
"""Share of a sensor's variance that lies between the first, second, … rows of each time, from which on they may be machines."""
_SAMPLED: Final = 100_000
_MOST_LOST: Final = 20.0
_ROUNDED: Final = 0.05
_GAP: Final = 3.0
"""Steps of the usual length from which on a step is a gap."""


def put_in_order(
    part: Part, clock: Clock | None, notes: list[str], found: FileContent, answers: Mapping[str, str]
) -> None:
    """Put newest-first rows the other way round, ask about others that step back, find the rate and the gaps."""
    if part.times_s is None or len(part.times_s) < 2:
        return
    of = f" of {part.machine}" if part.machine else ""
    steps = np.diff(part.times_s)
    back = int(np.count_nonzero(steps < 0))
    if back and not (steps > 0).any():
        _reorder(part, np.arange(len(part.rows))[::-1])
        notes.append(f"the rows{of} come newest first and were turned round")
    elif back > max(3, _MOST_BACK * len(steps)) and not (
        clock and not clock.is_dated and _restarts(part.times_s)
    ):
        answer = answers.get("order")
        if answer is None:
            at = int(np.argmax(steps < 0)) + 1
            found.questions.append(
                Question(
                    key="order",
                    text=f"{back} of {len(steps)} steps in time{of} go back, first at {part.times_s[at]:.3f} s after {part.times_s[at - 1]:.3f} s: "
                    f"are the rows out of order, or is it more than one machine (column:NAME=device)",
                    allowed=("sort", "as written"),
                    path=part.path,
                    line=None,
                )
            )
            return
        found.settled["order"] = answer
        if answer == "sort":
            _reorder(part, np.argsort(part.times_s, kind="stable"))
            notes.append(f"the rows{of} were sorted by time")
    elif back and clock and clock.is_dated and _lost_half(part.times_s, steps) and "order" not in answers:
        at = int(np.argmax(steps < 0)) + 1
        found.questions.append(
            Question(
                key="order",
                text=f"the time{of} steps back by 12 hours after row {at}, and no hour is above 12: is AM or PM missing (then write it in each row), or was "
                f"the clock set back",
                allowed=("as written",),
                path=part.path,
            )
        )
    elif back:
        notes.append(f"the time{of} steps back {back} times; what follows is a piece of its own")
    del steps
    _measure_steps(part, of, notes, found, answers)


def _lost_half(times_s: NDArray[np.float64], steps: NDArray[np.float64]) -> bool:
    """Do all steps back go from 12:59 to 1:00, as on a clock of twelve hours?"""
    hours = times_s % _DAY_S // 3600
    turns = steps[steps < 0] + _DAY_S / 2
    return bool((hours >= 1).all() and (hours <= 12).all() and (np.abs(turns) <= 3 * _usual(steps)).all())


def _restarts(times_s: NDArray[np.float64]) -> bool:
    """Do all steps back lead to where the time began, as recordings that were put together do?"""
    starts = times_s[1:][np.diff(times_s) < 0]
    return bool((np.abs(starts - times_s[0]) <= 0.01 * (np.max(times_s) - np.min(times_s)) + 1e-9).all())


def _reorder(part: Part, order: NDArray[np.intp]) -> None:
    part.rows = part.rows[order]
    if part.times_s is not None:
        part.times_s = part.times_s[order]
    if part.labels is not None:
        part.labels = part.labels[order]


def _measure_steps(
    part: Part, of: str, notes: list[str], found: FileContent, answers: Mapping[str, str]
) -> None:
    if part.times_s is None:
        return
    steps = np.diff(part.times_s)
    usual = _usual(steps)
    if not usual:
        if "sample_rate" in answers:
            part.times_s = None
            return
        found.questions.append(
            Question(
                key="sample_rate",
                text=f"all {len(part.times_s)} rows{of} have the same time",
                allowed=("<rows a second>", "none"),
                path=part.path,
            )
        )
        return
    repeated = int(np.count_nonzero(steps == 0))
    if repeated > _MOST_REPEATED * len(steps):
        usual = _spread(part, of, notes, found, answers)
    elif repeated:
        notes.append(f"{repeated} rows{of} repeat the time of the row before")
    is_near = (steps >= usual / 2) & (steps <= 1.5 * usual)
    # Rows that are missing make steps of twice or three times the usual one.
    ratios = steps / (usual or 1.0)
    is_even = is_near | ((ratios < _MOST_LOST) & (ratios > 1) & (np.abs(ratios - np.rint(ratios)) < _ROUNDED))
    regular = np.count_nonzero(is_even) / max(1, len(steps) - repeated)
    del ratios, is_even
    if repeated <= _MOST_REPEATED * len(steps) and regular < _LEAST_REGULAR and len(steps) >= _FEWEST_STEPS:
        if "steps" not in answers:
            found.questions.append(
                Question(
                    key="steps",
                    text=f"the steps in time{of} vary from {steps[steps > 0].min():.6g} to {steps.max():.6g} s, and only {regular:.0%} are near the usual "
                    f"{usual:.6g} s: a detector takes rows as evenly spaced",
                    allowed=("as written",),
                    path=part.path,
                )
            )
        else:
            found.settled["steps"] = answers["steps"]
    if repeated <= _MOST_REPEATED * len(steps) and is_near.any():
        # Stamps may be rounded: the mean of the usual steps is nearer to the clock than any of them.
        usual = float(np.mean(steps, where=is_near))
    part.rate_hz = 1.0 / usual if usual else None
    del is_near
    part.pieces = pieces_of(part.times_s)
    if len(part.pieces) > 1:
        gaps = int(np.count_nonzero(steps > _GAP * usual))
        if gaps:
            notes.append(f"{gaps} gaps{of}, the longest of {steps.max():.6g} s")


def _spread(part: Part, of: str, notes: list[str], found: FileContent, answers: Mapping[str, str]) -> float:
    """Stamps that are coarser than the rows: as many rows to each are spread over it."""
    assert part.times_s is not None  # noqa: S101 - the caller looked
    is_repeated = np.diff(part.times_s, prepend=-np.inf) == 0
    if _are_copies(part.rows, is_repeated) and "repeats" not in answers:
        found.questions.append(
            Question(
                key="repeats",
                text=f"{int(is_repeated.sum())} of {len(part.times_s)} rows{of} repeat the row before, its time and its values: was each written twice",
                allowed=("drop", "coarse clock"),
                path=part.path,
            )
        )
    if _complement(part.rows, is_repeated) and "repeats" not in answers:
        found.questions.append(
            Question(
                key="repeats",
                text=f"{int(is_repeated.sum())} of {len(part.times_s)} rows{of} repeat the time of the row before and hold other columns: are they one row",
                allowed=("merge", "coarse clock"),
                path=part.path,
            )
        )
    if answers.get("repeats") == "merge":
        found.settled["repeats"] = "merge"
        _merge(part)
        notes.append(f"{int(is_repeated.sum())} rows{of} were merged with others of the same time")
        return _usual(np.diff(part.times_s))
    if answers.get("repeats") == "drop":
        found.settled["repeats"] = "drop"
        _reorder(part, np.flatnonzero(~is_repeated))
        notes.append(f"{int(is_repeated.sum())} rows{of} that repeat a time were dropped")
        forward = np.diff(part.times_s)
        return float(np.median(forward[forward > 0]))
    starts = np.flatnonzero(~is_repeated)
    lengths = np.diff(np.append(starts, len(part.times_s)))
    length = float(np.median(lengths[1:-1])) if len(lengths) > 2 else float(lengths.max())
    step = float(np.median(np.diff(part.times_s[starts])))
    even = (
        float(np.mean(np.abs(lengths[1:-1] - length) <= max(1.0, 0.1 * length))) if len(lengths) > 2 else 0.0
    )
    if even < 0.9 and "repeats" not in answers:
        found.questions.append(
            Question(
                key="repeats",
                text=f"{len(part.times_s) - len(starts)} of {len(part.times_s)} rows{of} repeat the time of the row before, unevenly: "
                f"is it more than one machine (column:NAME=device), or a coarse clock",
                allowed=("coarse clock",),
                path=part.path,
            )
        )
    elif "repeats" not in answers and _take_turns(part.rows, starts, round(length)):
        found.questions.append(
            Question(
                key="repeats",
                text=f"each time{of} stands in {length:g} rows, whose values differ in the same way each time: is it more than one machine (name it in a column), "
                f"or a coarse clock",
                allowed=("coarse clock",),
                path=part.path,
            )
        )
    if "repeats" in answers:
        found.settled["repeats"] = answers["repeats"]
    if np.mean(lengths[1:-1] == length) < _LEAST_EVEN:
        notes.append(
            f"the time{of} is written only every {step:g} s, for {np.mean(lengths):.3g} rows on average; they were spread evenly"
        )
        return _evened(part, starts, step)
    within = np.arange(len(part.times_s)) - np.repeat(starts, lengths)
    part.times_s = part.times_s + within * step / np.repeat(np.maximum(lengths, length), lengths)
    notes.append(
        f"the time{of} is written only every {step:g} s, for {length:g} rows each; they were spread over it"
    )
    return step / length


def _evened(part: Part, starts: NDArray[np.intp], step: float) -> float:
    """Rows whose clock ticks at a rate of its own, now for one row and now for two: evenly between gaps. Gives their step."""
    assert part.times_s is not None  # noqa: S101 - the caller looked
    ticks = part.times_s[starts]
    breaks = np.flatnonzero((np.diff(ticks) > _GAP * step) | (np.diff(ticks) < 0)) + 1
    taken_s, rows = 0.0, 0
    for some in np.split(np.arange(len(starts)), breaks):
        first, stop = int(starts[some[0]]), int(np.append(starts, len(part.times_s))[some[-1] + 1])
        long_s = float(ticks[some[-1]] - ticks[some[0]]) + step
        part.times_s[first:stop] = ticks[some[0]] + np.arange(stop - first) * (long_s / (stop - first))
        taken_s, rows = taken_s + long_s, rows + stop - first
    return taken_s / rows


def _take_turns(rows: NDArray[np.float32], starts: NDArray[np.intp], length: int) -> bool:
    """Does a sensor differ more between the first, second, … row of a time than from one time to the next?"""
    starts = starts[:10_000]
    starts = starts[starts + length <= len(rows)]
    if not 2 <= length <= _MOST_PHASES or len(starts) < _FEWEST_STEPS:
        return False
    phases = rows[starts[:, None] + np.arange(length)].astype(np.float64)
    phases = phases[:, :, ~np.isnan(phases).any(axis=(0, 1))]
    whole = phases.var(axis=(0, 1))
    between = phases.mean(axis=0).var(axis=0)
    return bool((between[whole > 0] > _APART * whole[whole > 0]).any())


def _are_copies(rows: NDArray[np.float32], is_repeated: NDArray[np.bool_]) -> bool:
    """Do most of these rows say what the row before says?"""
    at = np.flatnonzero(is_repeated)[:10_000]
    if not len(at) or not rows.shape[1]:
        return False
    same = (rows[at] == rows[at - 1]) | (np.isnan(rows[at]) & np.isnan(rows[at - 1]))
    return float(same.all(axis=1).mean()) > 0.9


def _complement(rows: NDArray[np.float32], is_repeated: NDArray[np.bool_]) -> bool:
    """Do most of these rows hold what the row before lacks, and nothing that it holds?"""
    at = np.flatnonzero(is_repeated)[:10_000]
    if not len(at) or rows.shape[1] < 2:
        return False
    both = ~np.isnan(rows[at]) & ~np.isnan(rows[at - 1])
    return float((~both.any(axis=1)).mean()) > 0.9


def _merge(part: Part) -> None:
    assert part.times_s is not None  # noqa: S101 - the caller looked
    times, row_of = np.unique(part.times_s, return_inverse=True)
    rows = np.full((len(times), part.rows.shape[1]), np.nan, np.float32)
    for place in range(rows.shape[1]):
        told = ~np.isnan(part.rows[:, place])
        rows[row_of[told], place] = part.rows[told, place]
    if part.labels is not None:
        labels = np.full(len(times), -1, np.int8)
        np.maximum.at(labels, row_of, part.labels)
        part.labels = labels
    part.rows, part.times_s = rows, times


def pieces_of(times_s: NDArray[np.float64]) -> tuple[slice, ...]:
    """Stretches whose steps are neither gaps (more than three of the usual length) nor back."""
    steps = np.diff(times_s)
    usual = _usual(steps)
    breaks = np.flatnonzero((steps < 0) | (steps > (_GAP * usual or np.inf))) + 1
    edges = [0, *breaks.tolist(), len(times_s)]
    return tuple(slice(a, b) for a, b in pairwise(edges))


def _usual(steps: NDArray[np.float64]) -> float:
    """The median of the steps forward, of some of everywhere where there are many; 0 where there is none."""
    some = steps[:: max(1, len(steps) // _SAMPLED)]
    some = some[some > 0]
    if not len(some):
        some = steps[steps > 0]
    return float(np.median(some)) if len(some) else 0.0
