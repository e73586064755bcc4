"""One honest reader for what people have: files and folders in, machines out; what is ambiguous is asked, never guessed.

::

    files ─► what was said of each (`csv`, `npz`) ─► times, labels ─► one `Machine` a file ─► `Reading`
                                                  └─► doubts ─► `QuestionsOpen`
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import RecordingError
from models.recordings.csv import read_csv
from models.recordings.machines import Column, ColumnKind, Machine, Reading
from models.recordings.questions import Question, QuestionsOpen

__all__ = ["Column", "ColumnKind", "Machine", "Question", "QuestionsOpen", "Reading", "read_machines"]

_LABELS: Final = frozenset({"anomaly", "label", "fault", "is_anomaly"})
_LEFT_OUT: Final = frozenset({"changepoint"})


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
    files = sorted(file for path in paths for file in (path.rglob("*.csv") if path.is_dir() else [path]))
    if not files:
        raise RecordingError(
            f"{', '.join(map(str, paths))}: no recording; give .csv files or a folder of them"
        )
    machines, sensors = [], tuple[str, ...]()
    columns: list[Column] = []
    for done, file in enumerate(files):
        first = file.read_text("utf-8-sig").splitlines()[:1]
        delimiter = max(",;\t", key=(first or [""])[0].count)
        names = next(csv.reader(first, delimiter=delimiter), [])
        found = read_csv(file, delimiter=delimiter)
        labels = next((name for name in found.names if name.lower() in _LABELS), None)
        taken = [n for n in found.names if n.lower() not in _LABELS | _LEFT_OUT]
        if not sensors:
            sensors = tuple(taken)
            columns = [
                Column(name=n, kind=ColumnKind.SENSOR if n in taken else ColumnKind.LEFT_OUT) for n in names
            ]
        picked = found.picked(sensors, str(file)).rows
        machines.append(
            Machine(
                name=file.stem,
                rows=picked,
                times_s=_times(file, delimiter),
                labels=None
                if labels is None
                else found.picked([labels], str(file)).rows[:, 0].astype(np.int8),
                pieces=(slice(0, len(picked)),),
                path=file,
            )
        )
        if progress is not None:
            progress((done + 1) / len(files))
    rates = [1 / np.median(np.diff(m.times_s)) for m in machines if m.times_s is not None]
    return Reading(
        sensors=sensors,
        columns=tuple(columns),
        sample_rate_hz=float(np.median(rates)) if rates else None,
        machines=tuple(machines),
        notes=(),
        refused=(),
        answers=dict(answers or {}),
    )


def _times(file: Path, delimiter: str) -> NDArray[np.float64] | None:
    lines = file.read_text("utf-8-sig").splitlines()[1:]
    try:
        stamps = [datetime.fromisoformat(line.split(delimiter)[0]) for line in lines]
    except ValueError:
        return None
    return np.array([stamp.replace(tzinfo=stamp.tzinfo or UTC).timestamp() for stamp in stamps])
