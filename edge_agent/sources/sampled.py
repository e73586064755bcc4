"""A source that asks an instrument for its present values, one row every so often, and makes windows of the rows.

::

    instrument (`opcua`, `modbus`, `topics`) ─► row of float32, NaN where missing ─► window_rows of them ─► SourceWindow

An instrument may block for as long as its patience: it runs in a thread of its own (`edge_agent.source_host`). Opening one connects to
nobody, so an agent starts while its machine is off. A row that could not be taken ends the window that was begun: none holds samples
from both sides of a gap.

Invariants: a value is what the machine said since the last row, or was confirmed by it, or is missing: never the last one repeated.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import SourceError
from edge_agent.private_file import read_private
from edge_agent.sources.pacing import Pace
from edge_agent.sources.port import SourceWindow
from models.features import passthrough_spec, raw_spec
from runtime.errors import StorageError

__all__ = ["Instrument", "SampledSource", "number", "password_in"]

LOOK_S: Final = 5.0
"""How long a person waits for a first look: publishers of a second or two have spoken by then."""
_LOOK_AGAIN_S: Final = 0.25


class Instrument(Protocol):
    """What has present values; one thread."""

    def read(self) -> NDArray[np.float32]:
        """A row (F,), NaN where a sensor gave no number.

        Raises:
            SourceError: there is no row at all; says what is wrong. The next call connects anew.
        """

    def close(self) -> None:
        """Let go of the connection."""


class SampledSource:
    """Implements `port.Source` around an instrument.

    Attributes:
        summary: what is read, from where and how often, in sentences for a person.
    """

    def __init__(
        self,
        names: Sequence[str],
        instrument: Instrument,
        *,
        every_s: float,
        window_rows: int,
        where: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec: Final = (
            passthrough_spec(names)
            if window_rows == 1
            else raw_spec(names, window_rows, sample_rate_hz=1.0 / every_s)
        )
        rows = "a window each" if window_rows == 1 else f"{window_rows} of them a window"
        self.summary: Final = (f"{where}: a row of {len(names)} sensors every {every_s:g} s, {rows}",)
        self._names, self._instrument, self._clock = tuple(names), instrument, clock
        self._rows: list[NDArray[np.float32]] = []
        self._window = window_rows
        self._pace = Pace(period_s=every_s, speed=1.0)
        self._began_s: float | None = None
        self._index = 0

    @property
    def next_due_s(self) -> float:
        """See `port.Source`."""
        return self._pace.next_due_s

    def next_window(self, now: float) -> SourceWindow | None:
        """See `port.Source`; raises SourceError where the instrument has no row."""
        if not self._pace.take(now):
            return None
        try:
            row = self._instrument.read()
        except SourceError:
            self._rows.clear()
            raise
        self._rows.append(row)
        if len(self._rows) < self._window:
            return None
        samples = np.stack(self._rows)
        self._rows.clear()
        self._began_s = now if self._began_s is None else self._began_s
        window = SourceWindow(samples=samples, observed_at_s=now - self._began_s, index=self._index)
        self._index += 1
        return window

    def close(self) -> None:
        """See `port.Source`."""
        self._instrument.close()

    def look(self, patience_s: float = LOOK_S) -> str:
        """One row, as a sentence for a person who asks whether the source works; raises SourceError where none comes in time."""
        until_s = self._clock() + patience_s
        while True:
            try:
                row = self._instrument.read()
            except SourceError:
                if self._clock() >= until_s:
                    raise
            else:
                if not np.isnan(row).any() or self._clock() >= until_s:
                    return _told(self._names, row)
            time.sleep(_LOOK_AGAIN_S)


def number(value: object) -> float:
    """A value that a machine gave, as float32 takes it; NaN for what is no number.

    >>> [number(value) for value in (True, 7, 2.5, "7", None, [1.0])]
    [1.0, 7.0, 2.5, nan, nan, nan]
    """
    if not isinstance(value, bool | int | float):
        return math.nan
    try:
        found = float(value)
    except OverflowError:
        return math.nan
    return found if abs(found) <= 3.4e38 else math.nan


def password_in(file: Path | None) -> str | None:
    """The line in a file that only this user reads; raises SourceError."""
    if file is None:
        return None
    try:
        content = read_private(file)
        text = None if content is None else content.decode().strip("\r\n")
    except (StorageError, UnicodeDecodeError) as error:
        raise SourceError(f"source.password_file {file} cannot be used: {error}") from None
    if not text or "\n" in text:
        raise SourceError(f"source.password_file {file} must hold one line, the password")
    return text


def _told(names: Sequence[str], row: NDArray[np.float32]) -> str:
    said = [
        f"{name} {'missing' if np.isnan(value) else f'{value:.6g}'}"
        for name, value in zip(names, row, strict=True)
    ]
    more = f" and {len(said) - 20} more" if len(said) > 20 else ""
    return f"now: {', '.join(said[:20])}{more}"
