"""What files say of each other: halves and days of one machine, and a machine whose decimal marks got lost."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.recordings.contents import Part
from models.recordings.folders import FoundFile
from models.recordings.machines import Column, Machine
from models.recordings.questions import Question
from models.recordings.recording import listed, shown

__all__ = ["copies", "mixed_units", "parts_of_one", "question_of_twins", "scales", "twins_of"]

_OTHER_SCALE: Final = 50.0
_LOST_DIGIT: Final = 5.0
"""How many times larger whole numbers are on one machine than numbers with decimals on the others, where a mark was lost."""
_HALF: Final = re.compile(r"(?:^|(?<=[-_ ]))(?P<half>train|test)(?=$|[-_ ])", re.IGNORECASE)
_DATE: Final = re.compile(
    r"[-_. ]?(?:19|20)\d\d[-_.]?[01]\d(?:[-_.]?[0-3]\d)?(?:[-_.T ]?[0-2]\d(?:[-_.]?[0-5]\d){0,2})?"
)


def parts_of_one(
    machines: dict[str, list[Part]], answers: Mapping[str, str], notes: list[str]
) -> list[Question]:
    """Join NAME_train and NAME_test in place; ask about files whose names differ by a date alone."""
    for name in [n for n in machines if (found := _HALF.search(n)) and found["half"].lower() == "train"]:
        other = _HALF.sub("test", name)
        if other not in machines or other == name:
            continue
        stem = re.sub(r"[-_ ]{2,}", "-", _HALF.sub("", name)).strip("-_ ") or "machine"
        halves = machines.pop(name) + machines.pop(other)
        if any(part.labels is not None for part in halves):
            for part in halves:
                part.labels = np.full(len(part.rows), -1, np.int8) if part.labels is None else part.labels
        machines[stem] = halves
        notes.append(f"{name} and {other} were taken as one machine, {stem}, in that order")
    dated: dict[str, list[str]] = {}
    for name in machines:
        if (stem := _DATE.sub("", name)) != name:
            dated.setdefault(stem.strip("-_. ") or "machine", []).append(name)
    dated = {stem: names for stem, names in dated.items() if len(names) > 1}
    if not dated:
        return []
    stem, names = next(iter(dated.items()))
    answer = answers.get("files")
    if answer == "parts":
        for of_stem, of_names in dated.items():
            machines[of_stem] = [part for name in sorted(of_names) for part in machines.pop(name)]
    if answer is not None:
        return []
    return [
        Question(
            key="files",
            text=f"the names of {len(names)} files differ by a date alone ({listed(names[:3])}): are they parts of one machine, {shown(stem)}, or a machine each",
            allowed=("parts", "machines"),
            path=machines[names[0]][0].path,
        )
    ]


def twins_of(files: Sequence[FoundFile]) -> list[list[FoundFile]]:
    """Files of one folder whose names differ by their endings alone: x.csv beside x.tsv."""
    by_stem: dict[Path, list[FoundFile]] = {}
    for file in files:
        by_stem.setdefault(file.path.with_suffix(""), []).append(file)
    return [found for found in by_stem.values() if len(found) > 1]


def question_of_twins(twins: Collection[FoundFile]) -> Question:
    """The same key as for files that differ by a date: parts of one machine, or a machine each."""
    names = sorted(file.path.name for file in twins)
    return Question(
        key="files",
        text=f"the names of {len(names)} files differ by their endings alone ({listed(names[:4])}): are they parts of one machine, a machine each, or the "
        f"same rows twice (then take one away)",
        allowed=("parts", "machines"),
        path=min(file.path for file in twins),
    )


def mixed_units(
    files: Sequence[tuple[Path, Sequence[Column]]], sensors: Sequence[str], answers: Mapping[str, str]
) -> list[Question]:
    """A sensor that one file has in bar and another in psi."""
    questions = []
    for name in sensors:
        found: dict[str, tuple[str, Path]] = {}
        for path, columns in files:
            for column in columns:
                if column.name == name and column.unit:
                    found.setdefault(column.unit.casefold().replace(" ", ""), (column.unit, path))
        if len(found) > 1 and f"units:{name}" not in answers:
            (unit, _), (other, path) = list(found.values())[:2]
            questions.append(
                Question(
                    key=f"units:{name}",
                    text=f"sensor {shown(name)} is in {other} here and in {unit} in another file: convert one of them, or are they the same",
                    allowed=("as written",),
                    path=path,
                )
            )
    return questions


def copies(machines: Sequence[Machine]) -> list[str]:
    """What is to be said of machines with the same rows, as of a file that was copied."""
    seen: dict[tuple[int, bytes], str] = {}
    notes = []
    for machine in machines:
        key = (len(machine.rows), machine.rows[:1000].tobytes())
        if key in seen:
            notes.append(
                f"{machine.name} begins with the rows of {seen[key]} and has as many: is its file a copy?"
            )
        seen.setdefault(key, machine.name)
    return notes


def scales(machines: Sequence[Machine], sensors: Sequence[str], answers: Mapping[str, str]) -> list[Question]:
    """A machine whose sensor is a hundred times another's has perhaps lost decimal marks in its text."""
    if len(machines) < 2:
        return []
    questions = []
    middles = np.array([_quantiles(machine) for machine in machines])
    for place, name in enumerate(sensors):
        column = middles[:, 1, place]
        told = np.flatnonzero(column > 0)
        if len(told) < 2 or f"scale:{name}" in answers:
            continue
        usual = float(np.median(column[told]))
        whole = {int(k) for k in told if _is_whole(machines[int(k)], place)}
        mostly_fractions = 2 * len(whole) < len(told)
        far = [
            k
            for k in told
            if _is_other_scale(
                middles[int(k), :, place],
                middles[told, :, place],
                is_whole=mostly_fractions and int(k) in whole,
            )
        ]
        if far:
            machine = machines[int(far[0])]
            questions.append(
                Question(
                    key=f"scale:{name}",
                    text=f"sensor {shown(name)} is about {column[far[0]]:.6g} on {shown(machine.name)} and {usual:.6g} on most: "
                    f"is a decimal mark lost, or a unit another",
                    allowed=("as written",),
                    path=machine.path,
                )
            )
    return questions


def _quantiles(machine: Machine) -> NDArray[np.float64]:
    """(3, sensors): the small, middle and large magnitudes of each."""
    some = np.abs(machine.rows[:: max(1, len(machine.rows) // 2000)].astype(np.float64))
    some[:, np.isnan(some).all(axis=0)] = 0.0
    return np.asarray(np.nanquantile(some, (0.05, 0.5, 0.95), axis=0))


def _is_other_scale(own: NDArray[np.float64], all_of: NDArray[np.float64], *, is_whole: bool) -> bool:
    """Small, middle and large magnitudes (3,) are all many times those of most machines (n, 3), or as small a part."""
    usual = np.median(all_of, axis=0)
    if not (own > 0).all() or not (usual > 0).all():
        return False
    ratios = own / usual
    is_lost = is_whole and bool((ratios > _LOST_DIGIT).all())
    return is_lost or bool((ratios > _OTHER_SCALE).all() or (ratios * _OTHER_SCALE < 1).all())


def _is_whole(machine: Machine, place: int) -> bool:
    some = machine.rows[:2000, place]
    some = some[~np.isnan(some)]
    return bool((some == np.rint(some)).all())
