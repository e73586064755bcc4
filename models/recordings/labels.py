"""A column that says which rows were faults, in ones and zeros or in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.recordings.numerals import is_value
from models.recordings.questions import Question
from models.recordings.raw_columns import RawColumn, Table, few_values
from models.recordings.recording import listed, shown
from models.recordings.words import (
    FAULT_WORDS,
    NORMAL_WORDS,
    is_label_name,
    may_say_normal,
    says_normal,
    words_of,
)

__all__ = ["Labels", "labels_of_column", "names_more_than_a_label"]

_BESIDE: Final = frozenset(
    [
        "is",
        "has",
        "binary",
        "flag",
        "gt",
        "actual",
        "real",
        "ground",
        "true",
        "status",
        "state",
        "no",
        "not",
        "non",
        "free",
        "normal",
        "healthy",
        "ok",
        "machine",
    ]
)
_YES: Final = frozenset({"1", "true", "yes"})
_NO: Final = frozenset({"0", "false", "no"})


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """`labels` int8 (n,): 1 a fault, 0 normal operation, -1 where the cell says nothing."""

    labels: NDArray[np.int8]
    questions: tuple[Question, ...]
    settled: dict[str, str]


def labels_of_column(column: RawColumn, answers: Mapping[str, str], table: Table) -> Labels | None:
    """The labels of a column; None where it has too many values for one. Words that we do not know are asked about."""
    if column.sort == "word":
        words = list(column.vocabulary)
        numbers = column.codes.astype(np.int64)
    else:
        distinct = few_values(column.values)
        if distinct is None:
            return None
        words = [f"{value:.9g}" for value in distinct.tolist()]
        numbers = np.searchsorted(distinct, np.nan_to_num(column.values)).astype(np.int64)
        numbers[np.isnan(column.values)] = -1
    low = [_plain(word) for word in words]
    key = f"normal:{column.name}"
    normal: frozenset[str] = frozenset()
    questions, settled = [], {}
    if key in answers:
        normal = frozenset(_plain(part) for part in answers[key].split(","))
        settled[key] = answers[key]
    elif set(low) <= _YES | _NO and says_normal(column.name) and not is_label_name(column.name):
        normal = _YES
    elif set(low) <= NORMAL_WORDS | FAULT_WORDS and not (
        set(low) <= _YES | _NO and may_say_normal(column.name)
    ):
        normal = NORMAL_WORDS
    else:
        questions.append(
            Question(
                key=key,
                text=f"column {shown(column.name)} holds {listed(words[:10])}: which of them is normal operation (several with commas between)",
                allowed=tuple(words[:10]),
                path=table.path,
                line=table.line_of(0),
            )
        )
    is_fault = np.array([word not in normal for word in low] or [False], np.int8)
    labels = np.where(numbers >= 0, is_fault[np.maximum(numbers, 0)], np.int8(-1)).astype(np.int8)
    return Labels(labels=labels, questions=tuple(questions), settled=settled)


def names_more_than_a_label(name: str) -> bool:
    """Does a name with the word of a label in it name something else, too: ``target_position``, ``light_barrier_broken``?

    >>> names_more_than_a_label("is_anomaly"), names_more_than_a_label("target_position")
    (False, True)
    """
    return any(not is_label_name(word) and word not in _BESIDE for word in words_of(name))


def _plain(word: str) -> str:
    """Without case, spaces and hyphens: fault-free is "faultfree", -1 stays -1."""
    text = word.strip().casefold()
    return text if is_value(text) else re.sub(r"[ _-]", "", text)
