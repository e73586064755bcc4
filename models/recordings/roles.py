"""What each column of a file is: sensor, label, machine, category, counter; by what it holds, and by its name where that fits.

What could be two things, such as a column of ones and zeros called "alarm", is asked. An answer ``column:NAME=KIND`` settles any column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.recordings.counters import counts_rows, may_be_time, only_grows
from models.recordings.devices import found_devices
from models.recordings.labels import labels_of_column, names_more_than_a_label
from models.recordings.machines import SENSOR_KINDS, Column, ColumnKind
from models.recordings.questions import Question
from models.recordings.raw_columns import RawColumn, Table, as_words, few_values, is_whole
from models.recordings.recording import listed, shown
from models.recordings.row_keys import is_long, may_be_key, takes_turns
from models.recordings.sentinels import found_sentinels, wraps
from models.recordings.spacing import doubt_of_spacing
from models.recordings.times import Clock
from models.recordings.units import is_unit
from models.recordings.words import (
    FAULT_WORDS,
    NORMAL_WORDS,
    is_flagged_name,
    is_label_name,
    is_score_name,
    is_state_name,
    is_target_name,
    is_time_name,
    is_variable_name,
    says_normal,
    words_of,
)

__all__ = ["Roles", "found_roles"]

_FEW: Final = 20
_MOST_CATEGORIES: Final = 200
_BEGINS_NUMBERS: Final = frozenset("0123456789+-(<>'~=.")
_IDENTITY: Final = frozenset(["id", "uuid", "guid", "serial", "key", "hash", "sn", "tag"])
_ANSWERS: Final = ("sensor", "label", "device", "leave out")


@dataclass(kw_only=True, eq=False)
class Roles:
    """`columns` by place; `labels` int8 (n,) or None; `devices` int64 (n,) places in `device_names`, or None; `variable` of a long table.

    `everywhere` are questions about columns that never fall, or that float32 keeps as one number; they are worth asking where no other
    machine's is otherwise.
    """

    columns: list[Column] = field(default_factory=list)
    labels: NDArray[np.int8] | None = None
    devices: NDArray[np.int64] | None = None
    device_names: tuple[str, ...] = ()
    variable: RawColumn | None = None
    questions: list[Question] = field(default_factory=list)
    everywhere: dict[str, Question] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    settled: dict[str, str] = field(default_factory=dict)

    @property
    def sensors(self) -> list[int]:
        """Places of what was measured."""
        return [place for place, column in enumerate(self.columns) if column.kind in SENSOR_KINDS]


def found_roles(table: Table, clock: Clock | None, answers: Mapping[str, str]) -> Roles:
    """Decide about every column; what is in doubt is among `questions`."""
    return _Decision(table, clock, answers).roles


class _Decision:
    def __init__(self, table: Table, clock: Clock | None, answers: Mapping[str, str]) -> None:
        self._names_time = any(is_time_name(column.name) for column in table.columns)
        self.roles = Roles()
        self._table, self._answers, self._path = table, answers, table.path
        self._clock = clock
        devices = found_devices(table, clock, answers)
        self._devices = devices.columns if devices else ()
        if devices is not None:
            self.roles.devices, self.roles.device_names = devices.codes, devices.names
        for column in table.columns:
            kind, note = self._kind(column)
            if kind is ColumnKind.LABEL and note != _TARGET:
                kind, note = self._labelled(column)
            self.roles.columns.append(
                Column(name=column.name, kind=kind, unit=column.unit or None, note=note)
            )
            if kind not in SENSOR_KINDS and f"column:{column.name}" in answers:
                self.roles.settled[f"column:{column.name}"] = answers[f"column:{column.name}"]
        # The values of a long table are of several sensors, some large, some small.
        self.roles.questions += table.questions if self.roles.variable is None else []

    # --- one column ---------------------------------------------------------------------------------------------------------------

    def _kind(self, column: RawColumn) -> tuple[ColumnKind, str]:  # noqa: PLR0911 - one line for each kind
        answer = self._answers.get(f"column:{column.name}", "")
        if self._clock and column.place in self._clock.used:
            return ColumnKind.TIME, ""
        if self._clock and column.place in self._clock.others and answer != "sensor":
            return ColumnKind.TIME, "tells the time, too, and was left out"
        if any(column is device for device in self._devices):
            return ColumnKind.DEVICE, f"tells {len(self.roles.device_names)} machines apart"
        if answer == "leave out":
            return ColumnKind.LEFT_OUT, "was left out as settled"
        if answer == "label":
            return ColumnKind.LABEL, ""
        if column.sort == "stamp":
            return ColumnKind.TIME, "holds times and was left out"
        if column.sort == "word":
            return self._kind_of_words(column, answer)
        return self._kind_of_numbers(column, answer)

    def _kind_of_words(self, column: RawColumn, answer: str) -> tuple[ColumnKind, str]:
        words = [word.casefold() for word in column.vocabulary]
        if not words:
            return ColumnKind.DEAD, "has no value in any row"
        if is_label_name(column.name) or (
            set(words) & NORMAL_WORDS and set(words) & FAULT_WORDS and len(words) <= _FEW and not answer
        ):
            return ColumnKind.LABEL, ""
        is_few = len(words) <= min(_MOST_CATEGORIES, max(2, self._table.count // 4))
        if answer == "variable" or (
            is_few and is_variable_name(column.name) and self.roles.variable is None and self._is_long()
        ):
            self.roles.variable = column
            return ColumnKind.CATEGORY, "names what each row measures"
        if answer == "" and all(is_unit(word) for word in column.vocabulary):
            return ColumnKind.CATEGORY, "holds units and was left out"
        looks_odd = not is_few and all(word[0] in _BEGINS_NUMBERS for word in list(column.vocabulary)[:1000])
        if (is_flagged_name(column.name) or is_state_name(column.name)) and _tells_faults(words):
            self._ask(
                f"column:{column.name}",
                f"column {shown(column.name)} holds {listed(list(column.vocabulary)[:5])}: is it a label of faults",
                ("label", "leave out"),
            )
        elif looks_odd and not _IDENTITY & set(words_of(column.name)):
            self._ask_about_odd(column, next(iter(column.vocabulary)))
        if not is_few:
            return (
                ColumnKind.TEXT,
                f"holds text, such as {shown(next(iter(column.vocabulary)))}, and was left out",
            )
        if len(words) > 1 and not answer and self._names_values(column):
            text = f"column {shown(column.name)} holds {listed(list(column.vocabulary)[:5])} beside one column of values: does it name what each row measures"
            self._ask(f"column:{column.name}", text, ("variable", "device", "leave out"))
        elif len(words) > 1 and not answer and self._names_rows(column):
            self._ask(
                f"column:{column.name}",
                f"column {shown(column.name)} holds {listed(list(column.vocabulary)[:5])}: does it tell machines apart, each with rows of its own",
                ("device", "variable", "leave out"),
            )
        elif len(words) > 1 and self._may_be_key(column) and not answer:
            self._ask(
                f"column:{column.name}",
                f"column {shown(column.name)} holds {listed(list(column.vocabulary)[:5])}, and times repeat: does it tell machines apart",
                ("device", "variable", "leave out"),
            )
        return (
            ColumnKind.CATEGORY,
            f"holds {len(words)} words ({listed(list(column.vocabulary)[:5])}) and was left out",
        )

    def _kind_of_numbers(self, column: RawColumn, answer: str) -> tuple[ColumnKind, str]:
        values, name = column.values, shown(column.name)
        unknown = sum(number for number, _ in column.words.values())
        if unknown > len(values) / 2:
            self._ask_about_odd(column, next(iter(column.words)))
            return ColumnKind.TEXT, f"holds text, such as {shown(next(iter(column.words)))}, and was left out"
        if unknown:
            word, (_, line) = next(iter(column.words.items()))
            self._ask(
                f"words:{column.name}",
                f"column {name} holds {shown(word)} among numbers ({unknown} of {len(values)} cells are none): are these missing values",
                ("missing", "leave out"),
                line,
            )
            if self._answers.get(f"words:{column.name}") == "leave out":
                return ColumnKind.LEFT_OUT, "was left out as settled"
        if column.infinite:
            self.roles.notes.append(
                f"column {name} holds {column.infinite} infinite numbers, which were taken as missing"
            )
        if np.isnan(values).all():
            return ColumnKind.DEAD, "has no value in any row"
        if answer == "sensor":
            return self._measured(column)
        if answer == "variable":
            self.roles.variable = as_words(column)
            return ColumnKind.CATEGORY, "names what each row measures"
        return self._identity(column) or self._kind_in_doubt(column) or self._measured(column)

    def _identity(self, column: RawColumn) -> tuple[ColumnKind, str] | None:
        """A number of a message or a part, which measures nothing; None where it is none."""
        is_named = bool(_IDENTITY & set(words_of(column.name))) and is_whole(column.values)
        is_few = few_values(column.values) is not None
        if not is_named or is_few or counts_rows(column, self.roles.devices):
            return None
        note = f"holds identities by its name and was left out; column:{column.name}=sensor keeps it"
        return ColumnKind.TEXT, note

    def _kind_in_doubt(self, column: RawColumn) -> tuple[ColumnKind, str] | None:
        """What a column of numbers may be other than a sensor; None, perhaps with a question, where it is one."""
        values, name, key = column.values, shown(column.name), f"column:{column.name}"
        distinct = few_values(values)
        if is_label_name(column.name) and distinct is not None and names_more_than_a_label(column.name):
            text = f"column {name} has the word of a label in its name: is it a label of faults, or something the machine gives"
            self._ask(key, text, ("label", "sensor", "leave out"))
        elif is_target_name(column.name) or (is_label_name(column.name) and distinct is not None):
            return ColumnKind.LABEL, _TARGET if is_target_name(column.name) else ""
        if is_score_name(column.name):
            text = f"column {name} has the name of a verdict, and many values: a detector must not be given the answer"
            self._ask(key, text, ("leave out", "sensor"))
            return None
        if column.flags and says_normal(column.name) and distinct is not None and len(distinct) == 2:
            text = f"column {name} holds {listed(sorted(column.flags))}: is it a label of faults, or something the machine gives"
            self._ask(key, text, ("label", "sensor", "leave out"))
        codes = distinct if distinct is not None and not column.flags and is_whole(distinct) else None
        some = ", ".join(f"{value:.9g}" for value in codes[:5]) if codes is not None else ""
        if codes is not None and len(codes) > 1 and self._may_be_key(column):
            text = (
                f"column {name} holds {some}, and each time comes once with each: does it tell machines apart"
            )
            self._ask(key, text, ("device", "variable", "sensor", "leave out"))
        elif codes is not None and len(codes) > 1 and _IDENTITY & set(words_of(column.name)):
            text = f"column {name} holds {some}: does it tell machines apart, or what each row measures"
            self._ask(key, text, ("device", "variable", "sensor", "leave out"))
        if counts_rows(column, self.roles.devices):
            return (
                ColumnKind.COUNTER,
                f"counts rows or time ({_first(values):.9g} to {_last(values):.9g}) and was left out",
            )
        if codes is not None and is_state_name(column.name) and len(codes) != 2:
            return (
                ColumnKind.CATEGORY,
                f"holds codes by its name ({some}) and was left out; {key}=sensor keeps it",
            )
        if self._may_be_time(column):
            text = f"column {name} rises by even steps ({_first(values):.9g} to {_last(values):.9g}): is it the time of the rows"
            self._ask(key, text, ("time", "leave out", "sensor"))
            return None
        if (
            codes is not None
            and 1 < len(codes) <= 3
            and np.abs(codes).max() < _FEW
            and (is_flagged_name(column.name) or is_state_name(column.name))
        ):
            text = f"column {name} holds {some}: is it a label of faults, or something the machine gives"
            self._ask(key, text, ("label", "sensor", "leave out"))
        elif wraps(values):
            text = f"column {name} jumps between numbers near 0 and near 65535: is it a register with a sign, read without (then 65535 is -1: write it so)"
            self._ask(key, text, ("leave out", "sensor"))
        elif self.roles.devices is None and only_grows(values):
            self.roles.everywhere[column.name] = Question(
                key=key,
                text=f"column {name} never falls ({_first(values):.9g} to {_last(values):.9g}), as a meter or a counter does; to a detector every later "
                f"day would be an anomaly",
                allowed=("leave out", "sensor") if self._clock else ("leave out", "sensor", "time"),
                path=self._path,
                line=self._table.line_of(0),
            )
        return None

    def _measured(self, column: RawColumn) -> tuple[ColumnKind, str]:
        """A sensor, a flag or a constant; its units and its numbers for nothing are looked at."""
        values = column.values
        self._check_units(column)
        lowest, highest = float(np.nanmin(values)), float(np.nanmax(values))
        if lowest == highest:
            return ColumnKind.CONSTANT, f"is always {lowest:.9g}"
        if column.flags:
            return ColumnKind.FLAG, f"holds the flags {listed(sorted(column.flags))} as 1 and 0"
        found = found_sentinels(column, self._answers, self._table)
        self.roles.questions += found.questions
        self.roles.settled |= found.settled
        if not np.isnan(values).all() and (doubt := doubt_of_spacing(values)):
            self._note_narrow(column, doubt)
        distinct = few_values(values)
        if distinct is not None and set(distinct.tolist()) == {0.0, 1.0}:
            return ColumnKind.FLAG, ""
        return ColumnKind.SENSOR, "; ".join(filter(None, [found.note, self._missing_note(values)]))

    def _note_narrow(self, column: RawColumn, doubt: str) -> None:
        """Say it of this file; ask, unless the column is wider in another."""
        key = f"column:{column.name}"
        self.roles.notes.append(f"column {shown(column.name)} {doubt}")
        if self._answers.get(key) != "sensor":
            self.roles.everywhere[column.name] = Question(
                key=key,
                text=f"column {shown(column.name)} {doubt}: write the difference from a fixed number, or is it to stay without its shape",
                allowed=("leave out", "sensor"),
                path=self._path,
                line=self._table.line_of(0),
            )

    def _ask_about_odd(self, column: RawColumn, example: str) -> None:
        self._ask(
            f"column:{column.name}",
            f"column {shown(column.name)} holds {shown(example)} and the like, which begins as a number does and is none in a form that is read",
            ("leave out",),
        )

    def _missing_note(self, values: NDArray[np.floating]) -> str:
        missing = int(np.count_nonzero(np.isnan(values)))
        return f"misses {missing} of {len(values)} values" if missing else ""

    def _check_units(self, column: RawColumn) -> None:
        told = int(np.count_nonzero(~np.isnan(column.values)))
        if not column.units:
            return
        if len(column.units) == 1 and sum(column.units.values()) == told:
            column.unit = next(iter(column.units))
            return
        without = told - sum(column.units.values())
        more = f" and {without} without a unit" if without else ""
        counted = ", ".join(f"{number} in {unit}" for unit, number in sorted(column.units.items()))
        self._ask(
            f"units:{column.name}",
            f"column {shown(column.name)} mixes units: {counted}{more}; leave it out (column:{column.name}=leave out), or are "
            f"they all one",
            ("as written",),
        )

    def _labelled(self, column: RawColumn) -> tuple[ColumnKind, str]:
        found = labels_of_column(column, self._answers, self._table)
        if found is None:
            return ColumnKind.SENSOR, "has the name of a label, but many values"
        self.roles.questions += found.questions
        self.roles.settled |= found.settled
        if self.roles.labels is not None:
            return ColumnKind.LABEL, "is a second label and was left out"
        self.roles.labels = found.labels
        return (
            ColumnKind.LABEL,
            f"labels {int((found.labels == 1).sum())} of {len(found.labels)} rows as faults",
        )

    # --- helpers ----------------------------------------------------------------------------------------------------------------------

    def _is_long(self) -> bool:
        return is_long(self._table, self._clock, self._devices, self.roles.devices)

    def _may_be_key(self, column: RawColumn) -> bool:
        is_free = self.roles.variable in {None, column}
        return is_free and may_be_key(column, self._table, self._clock, self.roles.devices)

    def _names_values(self, column: RawColumn) -> bool:
        """Do words say what the one column of values measures?"""
        is_free = self.roles.variable is None and not self._devices
        return is_free and takes_turns(column) and self._is_long()

    def _names_rows(self, column: RawColumn) -> bool:
        """Do words say, by their column's name or by changing at nearly every row, which of several things a row is of?"""
        is_free = self.roles.variable is None and not self._devices
        is_few = len(column.vocabulary) <= _FEW and not is_state_name(column.name)
        return is_free and (is_variable_name(column.name) or (is_few and takes_turns(column, most=True)))

    def _may_be_time(self, column: RawColumn) -> bool:
        """Does a column count moments where no other does, and none is asked about already?"""
        is_free = self._clock is None and self.roles.devices is None and not self._names_time
        return is_free and may_be_time(column.values)

    def _ask(self, key: str, text: str, allowed: tuple[str, ...], line: int | None = None) -> None:
        if key in self._answers:
            self.roles.settled[key] = self._answers[key]
            return
        self.roles.questions.append(
            Question(
                key=key,
                text=text,
                allowed=allowed,
                path=Path(self._path),
                line=line or self._table.line_of(0),
            )
        )


_TARGET: Final = "is what is to be foretold and was left out"


def _first(values: NDArray[np.floating]) -> float:
    return float(values[~np.isnan(values)][0])


def _last(values: NDArray[np.floating]) -> float:
    return float(values[~np.isnan(values)][-1])


def _tells_faults(words: Sequence[str]) -> bool:
    """Is one of several words that of a fault, or of normal operation?"""
    plain = {word.replace("-", "").replace("_", "").replace(" ", "") for word in words}
    return len(plain) > 1 and bool(plain & (NORMAL_WORDS | FAULT_WORDS))
