"""Names of folders and files that say how a machine was: ``normal/x.csv`` beside ``faulty/x.csv``.

Such names may be labels of the rows, or parts of a machine's name; nothing in a file tells which, so it is asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from models.recordings.contents import FileContent
from models.recordings.folders import FoundFile
from models.recordings.questions import Question
from models.recordings.recording import listed
from models.recordings.words import words_of

__all__ = ["NamedLabels", "named_labels"]

_FAULT: Final = re.compile(
    r"fault\w*|fail(?:ed|ure|ures)?|anomal\w*|abnormal\w*|broken|defect\w*|damaged?|bad|nok|ng|attack\w*|unhealthy|faulted|fehler\w*|störung\w*|"
    r"defekt\w*|kaputt|schlecht"
)
_NORMAL: Final = re.compile(
    r"normal\w*|healthy|good|ok|okay|nominal|benign|intact|undamaged|nofaults?|faultfree|gut|gesund"
)
_NEGATIONS: Final = frozenset(["no", "not", "non", "without", "free", "kein", "keine", "ohne", "nicht"])


class NamedLabels:
    """`machines` holds the name of each file's machine; `questions` is the one question, where it is open."""

    def __init__(self, machines: dict[FoundFile, str], questions: list[Question]) -> None:
        self.machines, self.questions = machines, questions


def named_labels(
    measured: list[tuple[FoundFile, FileContent]], answers: Mapping[str, str], notes: list[str]
) -> NamedLabels:
    """Label the rows of `measured` by the names of their files, where the answer `names` says so, and put normal operation first."""
    verdicts = {file: _verdict_of(file) for file, _ in measured}
    found = NamedLabels({file: file.machine for file, _ in measured}, [])
    bare = {file for file, content in measured if all(part.labels is None for part in content.parts)}
    told = {verdicts[file] for file in bare}
    answer = answers.get("names")
    if answer == "labels" and told - {-1}:
        found.machines = _machines({file: verdicts[file] for file, _ in measured})
        for file, content in measured:
            for part in content.parts if file in bare else ():
                part.labels = np.full(len(part.rows), verdicts[file], np.int8)
        measured.sort(key=lambda pair: verdicts[pair[0]] == 1)
        faults = sum(verdicts[file] == 1 for file in bare)
        notes.append(f"the names of files label all rows of {faults} of {len(bare)} files as faults")
    elif answer == "machines":
        found.machines = {
            file: f"{file.above}-{file.machine}" if _verdict(file.above) != -1 else file.machine
            for file, _ in measured
        }
    elif answer is None and len(told) > 1:
        said = sorted({part for file in bare for part in file.steps if _verdict(part) != -1})
        first = next(file for file, _ in measured if file in bare and verdicts[file] != -1)
        found.questions = [
            Question(
                key="names",
                text=f"names of folders or files say how a machine was ({listed(said[:5])}): are they labels, so that all rows of a fault's files are "
                f"faults and recordings of one name (of one folder, where no name comes twice) are one machine; or is each a machine",
                allowed=("labels", "machines"),
                path=first.path,
            )
        ]
    return found


def _verdict(name: str) -> int:
    """1 where a name says a fault, 0 where it says normal operation, -1 where it says neither.

    >>> [_verdict(name) for name in ("test_fault", "anomaly-free", "not ok", "Healthy2", "valve1")]
    [1, 0, 1, 0, -1]
    """
    words = _words(name)
    is_negated = bool(_NEGATIONS & set(words))
    if any(_FAULT.fullmatch(word) for word in words):
        return 0 if is_negated else 1
    if any(_NORMAL.fullmatch(word) for word in words):
        return 1 if is_negated else 0
    return -1


def _words(name: str) -> list[str]:
    return [word.rstrip("0123456789") for word in words_of(name)]


def _verdict_of(file: FoundFile) -> int:
    """What the name nearest to the file says."""
    return next((said for step in reversed(file.steps) if (said := _verdict(step)) != -1), -1)


def _machines(verdicts: Mapping[FoundFile, int]) -> dict[FoundFile, str]:
    """By the names without what they say of faults, where one comes on both sides; by the folder above otherwise."""
    names = {file: "-".join(filter(None, map(_plain, file.parts))) or "machine" for file in verdicts}
    of_faults = {name for file, name in names.items() if verdicts[file] == 1}
    if of_faults & {name for file, name in names.items() if verdicts[file] != 1}:
        return names
    return {file: "-".join(filter(None, map(_plain, _level(file.parts)))) or "machine" for file in verdicts}


def _level(parts: Sequence[str]) -> Sequence[str]:
    """The folders above the first part that says anything of faults, or above the file."""
    return parts[: next((k for k, part in enumerate(parts) if _verdict(part) != -1), len(parts) - 1)]


def _plain(part: str) -> str:
    """A part of a path without the words that say how the machine was."""
    if _verdict(part) == -1:
        return part
    kept = [
        piece
        for piece in re.split(r"[-_. ]+", part)
        if _verdict(piece) == -1 and piece.casefold() not in _NEGATIONS
    ]
    return "-".join(kept)
