"""A source that plays a recording row by row, in a loop or once, and jumps when its control file says so.

Rows are ready features (`passthrough`), or samples of which several make a window (`raw`). Machine time runs on through
loops and jumps: it never goes back, and no window holds samples from both sides of one. A value that is missing in the recording is
NaN in the window.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from edge_agent.errors import SourceError
from edge_agent.sources.control_file import ControlFile
from edge_agent.sources.pacing import Pace
from edge_agent.sources.port import SourceWindow
from edge_agent.sources.settings import ReplaySettings
from models.errors import RecordingError
from models.features import passthrough_spec, raw_spec, vibration_spec
from models.recordings.csv import read_csv
from models.recordings.npz import read_table
from models.recordings.recording import Recording, listed
from protocol.manifest import FeatureSpec

__all__ = ["ReplayControl", "ReplaySource"]

_logger = logging.getLogger(__name__)


class ReplayControl(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Jump to these rows now."""

    rows: tuple[Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=1)]]
    loop: bool = True


class ReplaySource:
    """Implements `port.Source`; its `spec` has the recording's columns as features, or as channels of a raw window.

    Raises:
        SourceError: the recording cannot be used; the message names the file and the place in it.

    Attributes:
        summary: what was read, and what of the file was not, in sentences for a person.
    """

    def __init__(self, settings: ReplaySettings) -> None:
        self._path = settings.path
        recording = _read(settings, self._path)
        self._rows = recording.rows
        self.summary: Final = (
            f"{self._path}: {len(recording.rows)} rows of {len(recording.names)} columns: {listed(recording.names)}",
            *recording.notes,
        )
        for line in self.summary:
            _logger.info("recording_read %s", line)
        self._window, self._step = settings.window_rows, settings.step_rows or settings.window_rows
        self.spec: Final = _spec_of(settings, recording.names)
        self._period_s = self._step * settings.row_every_s
        self._pace = Pace(period_s=self._period_s, speed=settings.speed)
        self._raw_bytes = settings.raw_bytes_per_row
        if self._window > 1:
            # Windows may overlap; a stream would carry each sample once.
            self._raw_bytes = self._step * (settings.raw_bytes_per_row or self._rows[0].nbytes)
        first, end = settings.rows or (0, len(self._rows))
        self._check(first, end)
        self._first, self._end, self._loop = first, end, settings.loop
        self._row = first
        self._index = 0
        control = settings.control_file
        self._control = ControlFile(control, ReplayControl) if control is not None else None

    @property
    def next_due_s(self) -> float:
        """See `port.Source`; a recording that has ended still looks for a jump once a period."""
        return self._pace.next_due_s

    def next_window(self, now: float) -> SourceWindow | None:
        """See `port.Source`; None for good once a recording without loop is through, unless it is told to jump."""
        if not self._pace.take(now):
            return None
        self._obey()
        if self._row + self._window > self._end:
            if not self._loop:
                if self._control is None:
                    self._pace.end()
                return None
            self._row = self._first
        samples = self._rows[self._row : self._row + self._window].copy()
        window = SourceWindow(
            samples=samples,
            observed_at_s=self._index * self._period_s,
            index=self._index,
            raw_bytes=self._raw_bytes,
        )
        self._row += self._step
        self._index += 1
        return window

    def close(self) -> None:
        """The recording is in memory; nothing is held open."""

    def _obey(self) -> None:
        order = self._control.poll() if self._control is not None else None
        if order is None:
            return
        try:
            self._check(*order.rows)
        except SourceError as error:
            _logger.warning("replay_jump_refused reason=%s", error)
            return
        self._first, self._end = order.rows
        self._row, self._loop = self._first, order.loop

    def _check(self, first: int, end: int) -> None:
        if not 0 <= first < end <= len(self._rows):
            raise SourceError(
                f"{self._path}: rows [{first}, {end}] lie outside the recording; it has rows 0 to {len(self._rows)} "
                f"and needs first < last + 1"
            )
        if end - first < self._window:
            raise SourceError(
                f"{self._path}: rows [{first}, {end}] are {end - first}, too few for one window of {self._window}"
            )


def _spec_of(settings: ReplaySettings, names: Sequence[str]) -> FeatureSpec:
    rate_hz, window = 1.0 / settings.row_every_s, settings.window_rows
    try:
        if settings.is_vibration:
            return vibration_spec(rate_hz, window, len(names))
        return passthrough_spec(names) if window == 1 else raw_spec(names, window, sample_rate_hz=rate_hz)
    except ValueError as error:
        raise SourceError(f"source: {error}") from None


def _read(settings: ReplaySettings, path: Path) -> Recording:
    try:
        if settings.answers is not None:
            found = _understood(settings, path, settings.answers)
            return found.picked(settings.columns, str(path)) if settings.columns else found
        match path.suffix.lower():
            case ".npz":
                return read_table(path, key=settings.key, columns=settings.columns)
            case ".csv":
                return read_csv(path, columns=settings.columns, delimiter=settings.delimiter)
            case other:
                raise SourceError(
                    f"{path}: recordings are .csv or .npz files, not {other or 'without a suffix'}"
                )
    except RecordingError as error:
        raise SourceError(str(error)) from None


def _understood(settings: ReplaySettings, path: Path, answers: dict[str, str]) -> Recording:
    """One machine of a file that is read as its family's were; raises RecordingError."""
    # Half a second that a plain recording does not need.
    from models.recordings.reading import read_machines

    reading = read_machines([path], answers=answers)
    names = [machine.name for machine in reading.machines]
    if settings.machine is None and len(names) > 1:
        raise RecordingError(
            f"{path} holds {len(names)} machines: {listed(names)}; say which: machine = {names[0]!r}"
        )
    wanted = names[0] if settings.machine is None else settings.machine
    for machine in reading.machines:
        if machine.name == wanted:
            rows, cut = _whole_windows(machine.rows, machine.pieces, settings)
            notes = [f"{cut} rows beside gaps make no whole window, and were left out"] if cut else []
            return Recording(rows=rows, names=reading.sensors, notes=(*reading.notes, *notes))
    raise RecordingError(f"{path} holds no machine {wanted!r}; there is {listed(names)}")


def _whole_windows(
    rows: NDArray[np.float32], pieces: Sequence[slice], settings: ReplaySettings
) -> tuple[NDArray[np.float32], int]:
    """The rows of which no window holds samples from both sides of a gap, and how many that leaves out."""
    window = settings.window_rows
    if len(pieces) < 2 or window == 1 or settings.step_rows not in {None, window}:
        return rows, 0
    kept = [rows[piece][: len(rows[piece]) // window * window] for piece in pieces]
    whole = np.concatenate(kept)
    return (whole, len(rows) - len(whole)) if len(whole) else (rows, 0)
