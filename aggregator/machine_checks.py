"""Whether what was read of a folder is machines at work: what no training cures is found before it, by machine and column.

::

    Reading ─► faults left out, windows made ─┬─► TrainingRows: machine → rows (n, F)
                                              └─► Misfit: which machine, which column, what to do

Pure. A column that never moves on any machine tells nothing and is left out of the family, which is said; one that never moves on
one machine alone, is missing, or lies far from what the others show is for a person: dead, or in another unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.features import make_extractor
from models.recordings.machines import Machine, Reading
from protocol.manifest import FeatureSpec

__all__ = ["FEWEST_WINDOWS", "Misfit", "TrainingRows", "check_machines", "moving_sensors", "training_rows"]

Rows = NDArray[np.float32]

FEWEST_WINDOWS: Final = 60
"""Of one machine: twenty fit its scale, and of the rest a fifth is held out to judge by."""

_MOST_MISSING: Final = 0.5
_FEWEST_OF_KIND: Final = 3
"""Of two machines neither says which of them is the odd one."""

_FACTOR: Final = 30.0
"""In size and in spread at once: bar and millibar, volt and millivolt; machines of one kind differ by less."""

_TINY: Final = 1e-9


@dataclass(frozen=True, kw_only=True)
class Misfit:
    """A machine that does not fit, the column that shows it (None: all of it), why, and what to do about it."""

    machine: str
    column: str | None
    reason: str
    remedy: str

    def __str__(self) -> str:
        """One line."""
        where = self.machine if self.column is None else f"{self.machine}, column {self.column!r}"
        return f"{where}: {self.reason}; {self.remedy}"


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingRows:
    """Machine → finite rows (n, F), faulty rows of those with labels (machine → rows in order of time), and what was left out."""

    normal: Mapping[str, Rows]
    faulty: Mapping[str, Sequence[Rows]]
    notes: tuple[str, ...]


def moving_sensors(reading: Reading) -> tuple[str, ...]:
    """The sensors that move on some machine; the others tell nothing."""
    moves = np.zeros(len(reading.sensors), dtype=np.bool_)
    for machine in reading.machines:
        moves |= _moves(machine.rows)
    return tuple(name for name, does in zip(reading.sensors, moves, strict=True) if does)


def check_machines(reading: Reading, names: Sequence[str]) -> list[Misfit]:
    """What speaks against each machine, of the columns `names`; empty: all of them can be learnt from."""
    columns = _columns(reading, names)
    rows = {machine.name: machine.rows[:, columns] for machine in reading.machines}
    found: list[Misfit] = []
    for machine, values in rows.items():
        found += _lacking(machine, values, names)
    judged = {
        machine: values for machine, values in rows.items() if machine not in {m.machine for m in found}
    }
    for machine, values in judged.items():
        others = [other for name, other in judged.items() if name != machine]
        found += _strange(machine, values, others, names)
    return found


def training_rows(reading: Reading, names: Sequence[str], features: FeatureSpec) -> TrainingRows:
    """The rows that a family of these features learns from.

    Args:
        reading: what was read.
        names: the columns that its source delivers, in order.
        features: what is made of them: each row a window, or windows of many rows.
    """
    columns = _columns(reading, names)
    normal: dict[str, Rows] = {}
    faulty: dict[str, Sequence[Rows]] = {}
    notes: list[str] = []
    for machine in reading.machines:
        is_faulty = _is_faulty(machine)
        whole = _windows(machine, ~is_faulty, columns, features)
        finite = np.isfinite(whole).all(axis=1)
        normal[machine.name] = whole[finite]
        if lacking := int(np.count_nonzero(~finite)):
            notes.append(f"{machine.name}: {lacking} of {len(whole)} windows miss a value and were left out")
        if is_faulty.any():
            events = [
                window[np.isfinite(window).all(axis=1)]
                for piece in _stretches(is_faulty)
                if len(window := _cut(machine.rows[piece][:, columns], features))
            ]
            faulty[machine.name] = [event for event in events if len(event)]
            notes.append(
                f"{machine.name}: {int(is_faulty.sum())} of {len(is_faulty)} rows are labelled as a fault and were left out"
            )
    return TrainingRows(normal=normal, faulty=faulty, notes=tuple(notes))


def _columns(reading: Reading, names: Sequence[str]) -> list[int]:
    return [reading.sensors.index(name) for name in names]


def _moves(rows: Rows) -> NDArray[np.bool_]:
    """Whether each column takes more than one value."""
    with np.errstate(invalid="ignore"):
        low, high = np.nanmin(rows, axis=0, initial=np.inf), np.nanmax(rows, axis=0, initial=-np.inf)
    return np.asarray(high > low)


def _lacking(machine: str, rows: Rows, names: Sequence[str]) -> list[Misfit]:
    found: list[Misfit] = []
    if len(rows) < FEWEST_WINDOWS:
        return [
            Misfit(
                machine=machine,
                column=None,
                reason=f"it has {len(rows)} rows, and fewer than {FEWEST_WINDOWS} show no machine at work",
                remedy="record more of it, or leave its file out",
            )
        ]
    missing = np.isnan(rows).mean(axis=0)
    for name, share, moves in zip(names, missing, _moves(rows), strict=True):
        if share > _MOST_MISSING:
            reason = f"{share:.0%} of its values are missing"
        elif not moves:
            value = rows[np.flatnonzero(~np.isnan(rows[:, names.index(name)]))[:1], names.index(name)]
            reason = (
                f"it never moves ({float(value[0]):g} in all {len(rows)} rows), and does on other machines"
            )
        else:
            continue
        found.append(Misfit(machine=machine, column=name, reason=reason, remedy=_without(name)))
    return found


def _strange(machine: str, rows: Rows, others: Sequence[Rows], names: Sequence[str]) -> list[Misfit]:
    """Columns whose size and spread are both far from what the others show: another unit."""
    if len(others) + 1 < _FEWEST_OF_KIND:
        return []
    found: list[Misfit] = []
    mine, theirs = _size(rows), np.median([_size(other) for other in others], axis=0)
    for name, (level, spread) in zip(names, mine / theirs, strict=True):
        for factor in (min(level, spread), 1 / max(level, spread)):
            if factor >= _FACTOR:
                said = "as much" if factor == min(level, spread) else "as little"
                found.append(
                    Misfit(
                        machine=machine,
                        column=name,
                        reason=f"its values are {_round(factor):,.0f} times {said} as on the other machines: another unit",
                        remedy="write them in one unit, or "
                        + _without(name).removeprefix("mend the sensor, or "),
                    )
                )
    return found


def _round(factor: float) -> float:
    """To two digits: what is beyond is chance."""
    return float(f"{factor:.2g}")


def _size(rows: Rows) -> NDArray[np.float64]:
    """(F, 2): how far from 0 a column lies, and how far it spreads."""
    values = rows.astype(np.float64)
    low, middle, high = np.nanpercentile(values, [5, 50, 95], axis=0)
    return np.stack([np.abs(middle), high - low], axis=1) + _TINY


def _without(name: str) -> str:
    return f"mend the sensor, or leave the column out of the family: --answer 'column:{name}=leave out'"


def _is_faulty(machine: Machine) -> NDArray[np.bool_]:
    if machine.labels is None:
        return np.zeros(len(machine.rows), dtype=np.bool_)
    return np.asarray(machine.labels == 1)


def _windows(
    machine: Machine, keep: NDArray[np.bool_], columns: Sequence[int], features: FeatureSpec
) -> Rows:
    """(n, F) of the kept rows; no window reaches across a gap or a fault."""
    inside = np.zeros(len(keep), dtype=np.intp)
    for number, piece in enumerate(machine.pieces, 1):
        inside[piece] = number
    starts = [
        slice(stretch.start + begin, stretch.start + end)
        for stretch in _stretches(keep)
        for begin, end in _runs(inside[stretch])
    ]
    cut = [_cut(machine.rows[one][:, columns], features) for one in starts]
    return np.concatenate([np.zeros((0, len(features.names)), np.float32), *cut])


def _stretches(mask: NDArray[np.bool_]) -> list[slice]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [slice(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _runs(numbers: NDArray[np.intp]) -> list[tuple[int, int]]:
    edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    return list(pairwise(edges))


def _cut(rows: Rows, features: FeatureSpec) -> Rows:
    if features.kind == "passthrough":
        return np.ascontiguousarray(rows)
    extract, samples = make_extractor(features).extract, features.window_samples
    whole = rows[: len(rows) // samples * samples].reshape(-1, samples, rows.shape[1])
    made = [extract(window) for window in whole]
    return np.stack(made) if made else np.zeros((0, len(features.names)), np.float32)
