"""Machines of many files put side by side: the same sensors in the same order, one rate, labels from lists of faults.

A file whose sensors are others is refused with what is missing, and the rest is read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from models.errors import RecordingError
from models.recordings.contents import FileContent, Part
from models.recordings.events import labels_of
from models.recordings.folders import FoundFile
from models.recordings.machines import Column, ColumnKind, Machine, Reading
from models.recordings.named_labels import named_labels
from models.recordings.neighbours import (
    copies,
    mixed_units,
    parts_of_one,
    question_of_twins,
    scales,
    twins_of,
)
from models.recordings.questions import Question, QuestionsOpen
from models.recordings.recording import listed, one_line, shown
from models.recordings.row_order import pieces_of

__all__ = ["joined"]

_SAME_RATE: Final = 0.05
_MOST_NOTES: Final = 200


def joined(
    contents: Sequence[tuple[FoundFile, FileContent]],
    refused: list[tuple[Path, str]],
    notes: list[str],
    answers: Mapping[str, str],
) -> Reading:
    """One reading of all files.

    Raises:
        QuestionsOpen: no rate is known, or machines differ in rate or scale as a misread file would.
        RecordingError: no file measured anything.
    """
    answers = dict(answers)
    measured = [(file, content) for file, content in contents if any(part.names for part in content.parts)]
    if not measured:
        reasons = [reason for _, reason in refused] + [
            f"{file.path}: holds no sensor" for file, _ in contents
        ]
        raise RecordingError(one_line("; ".join(reasons[:5])))
    named = named_labels(measured, answers, notes)
    questions = named.questions + _of_every_file([content for _, content in measured])
    sensors = _common_sensors(measured)
    twins = {file for pair in twins_of([file for file, _ in measured]) for file in pair}
    if twins and "files" not in answers:
        questions.append(question_of_twins(twins))
    machines: dict[str, list[Part]] = {}
    is_alone = len(measured) == 1
    for file, content in measured:
        for part in content.parts:
            fitted = _fitted(part, content, sensors)
            if fitted is None:
                missing = [name for name in sensors if name not in part.names]
                refused.append(
                    (
                        file.path,
                        f"{file.path}: has no column {listed(missing)}, as the other files have; study it by itself",
                    )
                )
                break
            name = part.machine if part.machine is not None else named.machines[file]
            if part.machine is not None and file.way == ".npz" and not is_alone:
                name = f"{named.machines[file]}-{part.machine}"
            if part.machine is None and answers.get("files") == "machines" and file in twins:
                name = f"{name}{file.path.suffix}"
            machines.setdefault(name, []).append(fitted)
    _label_by_neighbours(contents, machines, notes, refused)
    questions += parts_of_one(machines, answers, notes)
    questions += mixed_units([(file.path, content.columns) for file, content in measured], sensors, answers)
    settled_files = {key: answers[key] for key in ("files", "names") if key in answers}
    rate, settled, more = _rate([content for _, content in measured], machines, answers)
    questions += more
    found = [_machine(name, parts, notes) for name, parts in machines.items()]
    written = {file.path for file, _ in measured if file.way == "text"}
    questions += scales([machine for machine in found if machine.path in written], sensors, answers)
    if questions:
        raise QuestionsOpen(*{question.key: question for question in questions}.values())
    notes += _told_once(contents)
    notes += copies(found)
    if len(notes) > _MOST_NOTES:
        notes[_MOST_NOTES:] = [f"and {len(notes) - _MOST_NOTES} more notes of this sort"]
    return Reading(
        sensors=sensors,
        columns=_columns([content for _, content in measured]),
        sample_rate_hz=rate,
        machines=tuple(found),
        notes=tuple(map(one_line, notes)),
        refused=tuple((path, one_line(reason)) for path, reason in refused),
        answers=answers | _settled([content for _, content in measured]) | settled | settled_files,
    )


def _told_once(contents: Sequence[tuple[FoundFile, FileContent]]) -> list[str]:
    """What is said of many files is said once, with the first and how many more."""
    files: dict[str, list[Path]] = {}
    for file, content in contents:
        for note in content.notes:
            files.setdefault(note.removeprefix(f"{file.path}: "), []).append(file.path)
    return [
        f"{paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}: {note}"
        for note, paths in files.items()
    ]


def _of_every_file(contents: Sequence[FileContent]) -> list[Question]:
    """What is in doubt of a column in every file is asked: one that never falls, or that float32 keeps as one number."""
    names = set.intersection(*(set(content.everywhere) for content in contents))
    return [question for name, question in contents[0].everywhere.items() if name in names]


def _common_sensors(measured: Sequence[tuple[FoundFile, FileContent]]) -> tuple[str, ...]:
    """The sensors that most machines have, in the first such file's order."""
    sets = Counter(frozenset(part.names) for _, content in measured for part in content.parts)
    most = max(sets.values())
    return next(
        part.names for _, content in measured for part in content.parts if sets[frozenset(part.names)] == most
    )


def _fitted(part: Part, content: FileContent, sensors: tuple[str, ...]) -> Part | None:
    """The part with these sensors in this order; one that is dead here stays missing."""
    if part.names == sensors:
        return part
    dead = {column.name for column in content.columns if column.kind is ColumnKind.DEAD}
    if not set(sensors) <= set(part.names) | dead:
        return None
    if more := [name for name in part.names if name not in sensors]:
        content.notes.append(f"columns that the other files do not have were left out: {listed(more)}")
    rows = np.full((len(part.rows), len(sensors)), np.nan, np.float32)
    for place, name in enumerate(sensors):
        if name in part.names:
            rows[:, place] = part.rows[:, part.names.index(name)]
    part.rows, part.names = rows, sensors
    return part


def _label_by_neighbours(
    contents: Sequence[tuple[FoundFile, FileContent]],
    machines: dict[str, list[Part]],
    notes: list[str],
    refused: list[tuple[Path, str]],
) -> None:
    """Labels from lists of faults, and from files that hold nothing but a label for each row."""
    for file, content in contents:
        if content.events is not None:
            hit = 0
            for name, parts in machines.items():
                for part in parts:
                    if part.times_s is not None:
                        part.labels = labels_of(content.events, name, part.times_s)
                        hit += int(part.labels.any())
            notes.append(
                f"{file.path}: is a list of faults with start and end; it labels rows of {hit} machines"
            )
        elif content.parts and not content.parts[0].names and content.parts[0].labels is not None:
            labels = content.parts[0].labels
            stem = re.sub(r"[_-]?labels?", "", file.machine)
            fitting = [
                p
                for n, ps in machines.items()
                if n == stem or len(machines) == 1
                for p in ps
                if len(p.rows) == len(labels)
            ]
            if len(fitting) == 1:
                fitting[0].labels = labels
                notes.append(f"{file.path}: holds a label for each row of {stem}")
            else:
                refused.append(
                    (
                        file.path,
                        f"{file.path}: holds {len(labels)} labels, and no machine {shown(stem)} has as many rows",
                    )
                )


def _machine(name: str, parts: list[Part], notes: list[str]) -> Machine:
    """One machine; several files of it in the order of their times."""
    if len(parts) == 1:
        part = parts[0]
        pieces = part.pieces or (slice(0, len(part.rows)),)
        return Machine(
            name=name, rows=part.rows, times_s=part.times_s, labels=part.labels, pieces=pieces, path=part.path
        )
    timed = [(p.times_s, p) for p in parts if p.times_s is not None]
    if len(timed) == len(parts):
        parts = [p for _, p in sorted(timed, key=lambda pair: float(pair[0][0]))]
    rows = np.concatenate([part.rows for part in parts])
    times = (
        np.concatenate([p.times_s for p in parts if p.times_s is not None])
        if len(timed) == len(parts)
        else None
    )
    has_labels = any(part.labels is not None for part in parts)
    labels = (
        np.concatenate([np.full(len(p.rows), -1, np.int8) if p.labels is None else p.labels for p in parts])
        if has_labels
        else None
    )
    if times is not None:
        pieces = pieces_of(times)
    else:
        edges = np.cumsum([0, *(len(part.rows) for part in parts)]).tolist()
        pieces = tuple(slice(a, b) for a, b in pairwise(edges))
    notes.append(f"{len(parts)} files hold rows of {name}; they were put together")
    return Machine(name=name, rows=rows, times_s=times, labels=labels, pieces=pieces, path=parts[0].path)


def _rate(
    contents: Sequence[FileContent], machines: Mapping[str, list[Part]], answers: Mapping[str, str]
) -> tuple[float | None, dict[str, str], list[Question]]:
    """The rate of all, what settles it, and what has to be asked."""
    answer = answers.get("sample_rate")
    if answer is not None:
        return (None if answer == "none" else _hertz(answer)), {"sample_rate": answer}, []
    rates = {
        name: part.rate_hz for name, parts in machines.items() for part in parts if part.rate_hz is not None
    }
    told = next((content.rate_hz for content in contents if content.rate_hz is not None), None)
    if not rates and told is not None:
        return float(f"{told:.9g}"), {"sample_rate": f"{told:.9g}"}, []
    if not rates:
        if all(content.is_counted for content in contents):
            return None, {}, []
        first = contents[0]
        question = Question(
            key="sample_rate",
            text=f"no column tells the time and nothing the rate: how many rows a second are there, or none where rows are no moments ({len(machines)} machines)",
            allowed=("<rows a second>", "none"),
            path=first.path,
        )
        return None, {}, [question]
    usual = sorted(rates.values())[len(rates) // 2]
    others = [name for name, rate in rates.items() if abs(rate / usual - 1) > _SAME_RATE]
    if others:
        question = Question(
            key="sample_rate",
            text=f"machines were recorded at different rates: {shown(others[0])} has {rates[others[0]]:.6g} rows a second, most have {usual:.6g}; "
            f"study them by themselves, or say which rate all are taken at",
            allowed=("<rows a second>", "none"),
            path=next(part.path for part in machines[others[0]]),
        )
        return None, {}, [question]
    return _rounded(usual), {}, []


def _hertz(answer: str) -> float:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:[eE]-?\d+)?)\s*(k?)(?:hz)?\s*", answer, re.IGNORECASE)
    if found is None or float(found[1]) <= 0:
        raise RecordingError(
            f"answer sample_rate={answer}: must be a number of rows a second above 0, such as 25600 or 0.1, or none"
        )
    return float(found[1]) * (1000.0 if found[2] else 1.0)


def _rounded(rate: float) -> float:
    """Times have steps of a microsecond at best, so 0.99999997 is 1."""
    return float(f"{rate:.6g}")


def _columns(contents: Sequence[FileContent]) -> tuple[Column, ...]:
    """Every column once; one that varies in any file is no constant."""
    found: dict[str, Column] = {}
    for content in contents:
        for column in content.columns:
            known = found.get(column.name)
            if known is None or (
                known.kind in {ColumnKind.CONSTANT, ColumnKind.DEAD} and column.kind is not known.kind
            ):
                found[column.name] = column
    return tuple(found.values())


def _settled(contents: Sequence[FileContent]) -> dict[str, str]:
    """What every file settles in the same way."""
    found: dict[str, str] = {}
    for key in {key for content in contents for key in content.settled}:
        values = {content.settled[key] for content in contents if key in content.settled}
        is_shared = key.startswith(("column:", "normal:", "missing:", "words:"))
        if len(values) == 1 and (is_shared or all(key in content.settled for content in contents)):
            found[key] = values.pop()
    return found
