"""What was understood of a folder of recordings: the machines, their sensors, and every column with what it is.

Nothing here reads a file. `models.recordings.reading.read_machines` makes these values.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["SENSOR_KINDS", "Column", "ColumnKind", "Machine", "Reading"]


class ColumnKind(StrEnum):
    """What a column is; only the first three become sensors of a `Reading`."""

    SENSOR = "sensor"
    FLAG = "flag"
    CONSTANT = "constant"
    TIME = "time"
    LABEL = "label"
    DEVICE = "device"
    CATEGORY = "category"
    COUNTER = "counter"
    DEAD = "dead"
    TEXT = "text"
    LEFT_OUT = "leave out"


SENSOR_KINDS: Final = frozenset({ColumnKind.SENSOR, ColumnKind.FLAG, ColumnKind.CONSTANT})
"""What becomes a column of `Machine.rows`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Column:
    """One column of the files.

    Attributes:
        name: as the file has it, without its unit; f0, f1, … where the file names none.
        kind: what it was taken for.
        unit: its unit, where a units row or its name says one.
        note: a sentence for a person; empty where nothing is to be said.
    """

    name: str
    kind: ColumnKind
    unit: str | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Machine:
    """The rows of one machine in the order of time.

    Attributes:
        name: the file's, or the value of the device column.
        rows: float32 (n, F), the sensors in the order of `Reading.sensors`; NaN where a value is missing.
        times_s: float64 (n,), seconds since 1970 in UTC (since the first row where a file has no date); None without a clock.
        labels: int8 (n,), 1 in a fault, 0 in normal operation, -1 unknown; None where nobody labelled anything.
        pieces: stretches of rows without a gap, in order.
        path: the first file of its rows.
    """

    name: str
    rows: NDArray[np.float32]
    times_s: NDArray[np.float64] | None
    labels: NDArray[np.int8] | None
    pieces: tuple[slice, ...]
    path: Path


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """All that was understood.

    Attributes:
        sensors: names of the columns of every `Machine.rows`.
        columns: every column of the files, sensors too.
        sample_rate_hz: rows a second; None where rows are no moments in time, such as cycles.
        machines: in the order of their names.
        notes: what was left out, repaired or assumed, in sentences for a person.
        refused: files that are none of the recordings, each with the reason and the remedy.
        answers: everything that was settled, as ``--answer KEY=VALUE`` takes it; reading again with it asks nothing.
    """

    sensors: tuple[str, ...]
    columns: tuple[Column, ...]
    sample_rate_hz: float | None
    machines: tuple[Machine, ...]
    notes: tuple[str, ...]
    refused: tuple[tuple[Path, str], ...]
    answers: dict[str, str]
