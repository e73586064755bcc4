"""What one file says: parts of machines, columns, events, and what has to be said or asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.recordings.events import Events
from models.recordings.machines import Column
from models.recordings.questions import Question

__all__ = ["FileContent", "Part"]


@dataclass(kw_only=True, eq=False)
class Part:
    """Rows of one machine from one file; `names` are its sensors. A machine has a name of its own only where the file gives one."""

    machine: str | None
    names: tuple[str, ...]
    rows: NDArray[np.float32]
    times_s: NDArray[np.float64] | None
    labels: NDArray[np.int8] | None
    path: Path
    pieces: tuple[slice, ...] | None = None
    rate_hz: float | None = None


@dataclass(kw_only=True, eq=False)
class FileContent:
    """All of one file. `is_counted` tells that its rows are counted and have no rate."""

    path: Path
    parts: list[Part] = field(default_factory=list)
    columns: list[Column] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    settled: dict[str, str] = field(default_factory=dict)
    questions: list[Question] = field(default_factory=list)
    everywhere: dict[str, Question] = field(default_factory=dict)
    is_counted: bool = False
    has_clock: bool = False
    rate_hz: float | None = None
    events: Events | None = None
