"""The reference machines of a first release: whatever recordings they come in, rows as their devices will see them.

::

    NPZ (an array a machine), CSV (a file a machine) ─► models.recordings ─► the family's columns, by name
        ─► raw windows cut as a replay cuts them ─► rows with a missing value left out, and counted ─► machine → rows (n, F)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import RecordingError
from models.recordings.clocks import is_clock
from models.recordings.csv import read_csv
from models.recordings.npz import Tables, read_tables
from models.recordings.recording import Recording, listed, shown
from protocol.manifest import FeatureSpec
from runtime.errors import SettingsError

__all__ = ["ReferenceMachines", "read_recordings"]

_MOST_MISSING: Final = 0.5
"""Share of a machine's rows that may be left out: what is then left no longer shows how the machine runs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceMachines:
    """Machine → finite rows (n, F), and sentences about what of the files is not in them."""

    rows: dict[str, NDArray[np.float32]]
    notes: tuple[str, ...]


def read_recordings(
    paths: Sequence[Path], features: FeatureSpec, *, delimiter: str = ","
) -> ReferenceMachines:
    """The machines of all files together.

    Columns are found by name where a file names them, in any order; a file that does not is taken in the family's order, which is
    told. A window of kind ``raw`` is an array (windows, samples, channels), or cut from rows one behind the other.

    Args:
        paths: NPZ files with an array for each machine, CSV files with one machine each, under the file's name.
        features: what the family takes.
        delimiter: what parts the cells of a CSV.

    Raises:
        SettingsError: no recording, another shape, a column that is not there, a machine given twice, or more missing than not.
    """
    rows: dict[str, NDArray[np.float32]] = {}
    notes: list[str] = []
    for path in paths:
        try:
            found = _read(path, features, delimiter)
        except RecordingError as error:
            raise SettingsError(str(error)) from None
        notes += found.notes
        for machine, recording in found.tables.items():
            if machine in rows:
                raise SettingsError(
                    f"recording {machine!r} of {path} has the name of an earlier one; each machine is given once"
                )
            where = f"recording {machine!r} in {path}"
            rows[machine], more = _rows_of(recording, features, where)
            notes += [f"{where}: {note}" for note in more]
    return ReferenceMachines(rows=rows, notes=tuple(notes))


def _read(path: Path, features: FeatureSpec, delimiter: str) -> Tables:
    match path.suffix.lower():
        case ".npz":
            return read_tables(path)
        case ".csv":
            recording = read_csv(path, columns=features.names, delimiter=delimiter)
            return Tables(tables={path.stem: recording}, notes=())
        case other:
            raise RecordingError(
                f"{path}: recordings are .npz files with one array for each machine, or .csv files with one machine each, "
                f"not {other or 'without a suffix'}"
            )


def _rows_of(
    recording: Recording, features: FeatureSpec, where: str
) -> tuple[NDArray[np.float32], list[str]]:
    notes: list[str] = []
    if recording.is_named:
        try:
            recording = recording.picked(features.names, where)
        except RecordingError as error:
            raise SettingsError(f"{error}; the family takes {listed(features.names)}") from None
    elif recording.rows.shape[-1] != len(features.names):
        raise SettingsError(
            f"{where} has {recording.rows.shape[-1]} columns; the family has {len(features.names)}: {listed(features.names)}"
        )
    else:
        notes.append("its columns have no names (feature_names) and were taken in the family's order")
    notes = [*recording.notes, *notes]
    notes += [
        f"column {shown(name)} grows as a clock or a row number does; a detector calls every later day an anomaly"
        for c, name in enumerate(features.names)
        if recording.rows.ndim == 2 and is_clock(name, recording.rows[:, c])
    ]
    rows = _windows(recording.rows, features, where)
    return _without_missing(rows, where, notes), notes


def _windows(rows: NDArray[np.float32], features: FeatureSpec, where: str) -> NDArray[np.float32]:
    """(n, F): a row a window."""
    samples = features.window_samples
    if features.kind != "raw":
        if rows.ndim != 2:
            raise SettingsError(
                f"{where} has shape {rows.shape}; features of kind {features.kind!r} are (rows, columns)"
            )
        return rows
    if rows.ndim == 2:
        if len(rows) < samples:
            raise SettingsError(f"{where} has {len(rows)} rows; a window has {samples}")
        rows = rows[: len(rows) // samples * samples].reshape(-1, samples, rows.shape[1])
    if rows.shape[1] != samples:
        raise SettingsError(
            f"{where} has windows of {rows.shape[1]} samples; the family's have {samples}: (windows, samples, channels)"
        )
    return rows.reshape(len(rows), -1)


def _without_missing(rows: NDArray[np.float32], where: str, notes: list[str]) -> NDArray[np.float32]:
    is_whole = ~np.isnan(rows).any(axis=1)
    lacking = len(rows) - int(np.count_nonzero(is_whole))
    if not lacking:
        return rows
    if lacking > _MOST_MISSING * len(rows):
        raise SettingsError(
            f"{where}: a value is missing in {lacking} of {len(rows)} rows ({'; '.join(notes[:5])}); give a recording whose sensors work"
        )
    notes.append(f"{lacking} of {len(rows)} rows miss a value and were left out")
    return rows[is_whole]
