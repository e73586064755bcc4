"""One honest reader for what people have: files and folders in, machines out; what is ambiguous is asked, never guessed.

::

    folders ─► text: `text` ─► `dialect` ─► `table` (grid, numerals, stamps, styles) ─┐
            ─► arrays: NPZ, WAV, Parquet ──────────────────────────────────────────────┼─► `times`, `roles` ─► `parts`
            ─► foreign formats: refused with the line that converts them               │
                                                                                       ▼
    doubts ─► `QuestionsOpen`; answers, or what a file beside it proves ─► again ─► `fleets` ─► `Reading`

Nothing here is a sniffer's best guess: a cell, a date or a column that can be read in two ways makes a `Question`, unless the rest of the
file, or another file with the same header, proves one of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from models.errors import RecordingError
from models.recordings.arrays import read_npz, read_parquet, read_wav
from models.recordings.contents import FileContent
from models.recordings.fleets import joined
from models.recordings.folders import FoundFile, found_files
from models.recordings.machines import Column, ColumnKind, Machine, Reading
from models.recordings.parts import content_of
from models.recordings.questions import Question, QuestionsOpen
from models.recordings.raw_columns import Table
from models.recordings.recording import one_line
from models.recordings.suggestions import Suggestion, suggested
from models.recordings.table import read_table

__all__ = [
    "Column",
    "ColumnKind",
    "Machine",
    "Question",
    "QuestionsOpen",
    "Reading",
    "Suggestion",
    "read_machines",
    "suggested",
]

_KEYS: Final = (
    "date_order",
    "decimal",
    "delimiter",
    "encoding",
    "files",
    "header",
    "names",
    "order",
    "repeats",
    "sample_rate",
    "steps",
    "time_unit",
)
_KEYS_OF_NAMES: Final = ("column", "missing", "normal", "scale", "units", "words")
_SHARED: Final = ("date_order", "decimal", "encoding")
"""What one file of a kind proves for the others."""
_CHOICES: Final = {
    "date_order": ("day-month-year", "month-day-year", "year-month-day"),
    "decimal": ("point", "comma"),
    "delimiter": ("comma", "semicolon", "tab", "bar", "space", "none"),
    "files": ("parts", "machines"),
    "header": ("yes", "no"),
    "names": ("labels", "machines"),
    "order": ("sort", "as written"),
    "steps": ("as written",),
    "repeats": ("coarse clock", "drop", "merge"),
    "time_unit": ("ns", "us", "ms", "s", "min", "h", "d", "rows"),
    "column": ("sensor", "label", "device", "time", "variable", "leave out"),
    "missing": ("yes", "no"),
    "words": ("missing", "leave out"),
    "scale": ("as written",),
    "units": ("as written",),
}


def read_machines(
    paths: Sequence[Path],
    *,
    answers: Mapping[str, str] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Reading:
    """Read the machines of these files and folders.

    Args:
        paths: files, or folders that are walked.
        answers: what is settled already, by key.
        progress: called with the share that is done, 0 to 1.

    Raises:
        QuestionsOpen: something can be read in two ways; ask a person, and read again with the answers.
        RecordingError: nothing could be read; the message says which file, which line, and the remedy.
    """
    given = dict(answers or {})
    _check_answers(given)
    files, refused, notes = found_files([Path(path) for path in paths])
    contents: dict[int, FileContent] = {}
    open_questions: dict[int, tuple[Question, ...]] = {}
    for number, file in enumerate(files):
        try:
            contents[number] = _read(file, given, _share(progress, number, len(files)))
        except QuestionsOpen as error:
            open_questions[number] = error.questions
        except RecordingError as error:
            refused.append((file.path, one_line(str(error))))
    proved, notes_of_proof = _proved(contents, given)
    for number in list(open_questions):
        if not any(question.key in proved for question in open_questions[number]):
            continue
        try:
            contents[number] = _read(files[number], given | proved, None)
        except QuestionsOpen as error:
            open_questions[number] = error.questions
            continue
        except RecordingError as error:
            refused.append((files[number].path, one_line(str(error))))
        del open_questions[number]
        notes += [f"{files[number].path}: {note}" for note in notes_of_proof]
    questions = {
        question.key: question for found in reversed(open_questions.values()) for question in reversed(found)
    }
    if questions:
        raise QuestionsOpen(*sorted(questions.values(), key=lambda q: q.key))
    if not contents:
        raise RecordingError("; ".join(reason for _, reason in refused[:5]))
    ordered = [(files[number], contents[number]) for number in sorted(contents)]
    return joined(ordered, refused, notes, given)


def _read(
    file: FoundFile, answers: Mapping[str, str], progress: Callable[[float], None] | None
) -> FileContent:
    match file.way:
        case ".npz":
            return read_npz(file.path, answers)
        case ".wav":
            return read_wav(file.path)
        case ".parquet" | ".pq":
            return read_parquet(file.path, answers)
        case _:
            table = read_table(file.path, answers, progress)
            answers = _of_annotations(table) | dict(answers)
            if len(table.columns) == 1 and "label" in file.machine.lower():
                # A column without a name, in a file or folder that is called after what it holds.
                answers = {f"column:{table.columns[0].name}": "label"} | dict(answers)
            return content_of(table, answers)


def _of_annotations(table: Table) -> dict[str, str]:
    """What the columns of InfluxDB's annotated CSV are by definition."""
    if not any(line.startswith(("#group", "#datatype")) for line in table.preamble):
        return {}
    names = {column.name: column for column in table.columns}
    found = {
        f"column:{name}": "leave out" for name in ("result", "table", "_start", "_stop") if name in names
    }
    if "_field" in names and "_value" in names and len(names["_field"].vocabulary) > 1:
        found["column:_field"] = "variable"
    return found


def _share(progress: Callable[[float], None] | None, done: int, count: int) -> Callable[[float], None] | None:
    """Progress within one file of many; a file that is read a second time does not step back."""
    if progress is None:
        return None
    highest = 0.0

    def told(share: float) -> None:
        nonlocal highest
        highest = max(highest, share)
        progress((done + highest) / count)

    return told


def _proved(
    contents: Mapping[int, FileContent], given: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """What all files that settle one of `_SHARED` by themselves agree on."""
    proved = {}
    for key in _SHARED:
        found = {content.settled[key] for content in contents.values() if key in content.settled}
        if len(found) == 1 and key not in given:
            proved[key] = found.pop()
    return proved, [f"{key} was taken from the files beside it: {value}" for key, value in proved.items()]


def _check_answers(answers: Mapping[str, str]) -> None:
    """Raises RecordingError for a key that is never asked, or a value that no question allows."""
    for key, value in answers.items():
        stem, _, name = key.partition(":")
        is_known = (stem in _KEYS_OF_NAMES and bool(name)) if ":" in key else key in _KEYS
        if not is_known:
            keys = [*_KEYS, *(f"{k}:NAME" for k in _KEYS_OF_NAMES)]
            near = difflib.get_close_matches(key, keys, 1)
            hint = f"is {near[0]} meant?" if near else f"there are {', '.join(keys)}"
            raise RecordingError(f"answer {key}={value}: no question has that key; {hint}")
        allowed = _CHOICES.get(stem)
        if allowed is not None and value not in allowed:
            raise RecordingError(f"answer {key}={value}: must be one of {', '.join(allowed)}")
