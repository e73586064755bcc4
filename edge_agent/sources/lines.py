"""Lines of text that come by themselves, each a row: CSV or JSON objects, from standard input, a serial port or a named pipe.

A line is at most 64 KiB; what is longer is passed over to its end. A cell that is no number is missing; a line that has no number at
all, or another count of cells, is passed over, counted, and told once. Nothing is guessed: cells stand in the order of the settings, or
in that of a first line that names the columns.
"""

from __future__ import annotations

import json
import logging
import math
import os
import select
import stat
import termios
import tty
from collections import deque
from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import SourceError
from edge_agent.sources.live_settings import LineSettings
from edge_agent.sources.port import SourceWindow
from edge_agent.sources.sampled import number
from models.features import passthrough_spec, raw_spec
from runtime.unreadable import UNREADABLE

__all__ = ["LineReader", "LineSource"]

log = logging.getLogger(__name__)

LONGEST_LINE: Final = 64 * 1024
_WAIT_S: Final = 1.0
"""For a line, in one call; the driver's thread has nothing else to do."""
_MISSING: Final = frozenset({"", "nan", "na", "n/a", "null", "none", "-"})


class LineReader:
    """What lines say: bytes in, rows out; knows no file.

    Attributes:
        passed_over: lines that gave no row, and `why` of the last one.
    """

    def __init__(self, settings: LineSettings) -> None:
        self._settings = settings
        self._places: list[int] | None = None
        self._cells = len(settings.columns)
        self._rest = b""
        self._is_skipping = False
        self.passed_over, self.why = 0, ""

    def take(self, data: bytes) -> list[NDArray[np.float32]]:
        """The rows that these bytes complete; raises SourceError where a first line names the columns and lacks one."""
        rows = []
        *lines, rest = (self._rest + data).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = rest
        for line in lines:
            if self._is_skipping:
                self._is_skipping = False
                self._pass_over(f"a line of more than {LONGEST_LINE:,} bytes")
            elif len(line) > LONGEST_LINE:
                self._pass_over(f"a line of {len(line):,} bytes; at most {LONGEST_LINE:,} are read")
            elif (row := self._row(line)) is not None:
                rows.append(row)
        if len(self._rest) > LONGEST_LINE:
            self._rest, self._is_skipping = b"", True
        return rows

    def forget(self) -> None:
        """The sender begins anew: what was begun is no line, and a first line may name the columns again."""
        self._rest, self._is_skipping, self._places = b"", False, None
        self._cells = len(self._settings.columns)

    def _row(self, line: bytes) -> NDArray[np.float32] | None:
        text = line.decode("utf-8", errors="replace").strip("\ufeff \x00")
        if not text or text.startswith("#"):
            return None
        return self._of_json(line) if text.startswith("{") else self._of_cells(text)

    def _of_json(self, line: bytes) -> NDArray[np.float32] | None:
        try:
            found = msgspec.json.decode(line)
        except UNREADABLE:
            self._pass_over("a line that begins like JSON and is none")
            return None
        if not isinstance(found, Mapping) or not any(name in found for name in self._settings.columns):
            self._pass_over("a JSON object with none of the columns")
            return None
        return _as_row([number(found.get(name)) for name in self._settings.columns])

    def _of_cells(self, text: str) -> NDArray[np.float32] | None:
        cells = [cell.strip().strip('"') for cell in text.split(self._settings.delimiter)]
        if self._places is None:
            self._places = self._header(cells)
            if self._places is not None:
                self._cells = len(cells)
                return None
            self._places = list(range(self._cells))
        if len(cells) != self._cells:
            self._pass_over(f"a line of {len(cells)} cells where {self._cells} are expected")
            return None
        row = _as_row([self._number(cells[place]) for place in self._places])
        if np.isnan(row).all():
            self._pass_over("a line without a number")
            return None
        return row

    def _header(self, cells: list[str]) -> list[int] | None:
        """Where the columns stand, if this line names columns; None for a row of values."""
        if any(not math.isnan(self._number(cell)) for cell in cells):
            return None
        if lacking := [name for name in self._settings.columns if name not in cells]:
            if len(lacking) == len(self._settings.columns):
                return None
            raise SourceError(
                f"{self._settings.where}: the first line names {', '.join(cells[:20])}, and lacks {', '.join(lacking[:20])}"
            )
        return [cells.index(name) for name in self._settings.columns]

    def _number(self, cell: str) -> float:
        if cell.casefold() in _MISSING or len(cell) > 64 or "_" in cell:
            return math.nan
        if self._settings.decimal_comma:
            cell = cell.replace(",", ".")
        try:
            return number(float(cell))
        except ValueError:
            return math.nan

    def _pass_over(self, why: str) -> None:
        self.passed_over += 1
        if why != self.why:
            log.warning("line_passed_over source=%s why=%s", self._settings.where, json.dumps(why))
        self.why = why


class LineSource:
    """Implements `port.Source`; a line is a row, and its time is when it came.

    Attributes:
        summary: what is read, in sentences for a person.
    """

    def __init__(self, settings: LineSettings) -> None:
        self._settings, self._reader = settings, LineReader(settings)
        names, window = settings.columns, settings.window_rows
        self.spec: Final = (
            passthrough_spec(names)
            if window == 1
            else raw_spec(names, window, sample_rate_hz=1.0 / settings.every_s)
        )
        self.summary: Final = (
            f"{settings.where}: lines of {len(names)} sensors, CSV or JSON, {window} a window",
        )
        self._rows: deque[NDArray[np.float32]] = deque()
        self._descriptor: int | None = None
        self._began_s: float | None = None
        self._has_ended = False
        self._index = 0

    @property
    def next_due_s(self) -> float:
        """See `port.Source`: at once, for nobody knows when a line comes; never, once standard input is at its end."""
        return math.inf if self._has_ended and len(self._rows) < self._settings.window_rows else -math.inf

    def next_window(self, now: float) -> SourceWindow | None:
        """See `port.Source`; waits for a line, up to a second. Raises SourceError where the port cannot be read, or lines give no row."""
        window = self._settings.window_rows
        if len(self._rows) < window and not self._has_ended:
            passed_over = self._reader.passed_over
            self._rows.extend(self._reader.take(self._read()))
            if not self._rows and self._reader.passed_over > passed_over:
                raise SourceError(f"{self._settings.where}: {self._reader.why}")
        if len(self._rows) < window:
            return None
        samples = np.stack([self._rows.popleft() for _ in range(window)])
        self._began_s = now if self._began_s is None else self._began_s
        found = SourceWindow(samples=samples, observed_at_s=now - self._began_s, index=self._index)
        self._index += 1
        return found

    def close(self) -> None:
        """See `port.Source`; standard input stays open, it is not ours."""
        if self._descriptor is not None and self._settings.input != "-":
            os.close(self._descriptor)
        self._descriptor = None

    def _read(self) -> bytes:
        try:
            if self._descriptor is None:
                self._descriptor = _opened(self._settings)
                self._reader.forget()
            if not select.select([self._descriptor], [], [], _WAIT_S)[0]:
                return b""
            data = os.read(self._descriptor, LONGEST_LINE)
        except BlockingIOError:
            return b""
        except (OSError, termios.error) as error:
            self.close()
            told = getattr(error, "strerror", None) or str(error)
            raise SourceError(
                f"source.input {self._settings.where} cannot be read: {told}; is it plugged in, and may this user read it (group dialout)?"
            ) from None
        if not data:
            return self._ended()
        return data

    def _ended(self) -> bytes:
        if self._settings.input == "-":
            self._has_ended = True
            return b"\n"  # a last line without its end is one
        self.close()  # the writer of a pipe is gone, another may come
        select.select([], [], [], _WAIT_S)
        return b""


def _opened(settings: LineSettings) -> int:
    if settings.input == "-":
        return 0
    descriptor = os.open(settings.input, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if is_serial := os.isatty(descriptor):
            _set_line(descriptor, settings.baud)
    except BaseException:
        os.close(descriptor)
        raise
    if not is_serial and not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SourceError(
            f"source.input {settings.input} is neither a serial port nor a named pipe; a recording is kind = 'replay'"
        )
    return descriptor


def _set_line(descriptor: int, baud: int) -> None:
    """Raw, 8N1, at this rate: no echo, no line editing, no signals from bytes."""
    tty.setraw(descriptor)
    attributes = termios.tcgetattr(descriptor)
    speed = getattr(termios, f"B{baud}")
    attributes[4] = attributes[5] = speed
    attributes[2] = (
        (attributes[2] & ~(termios.CSIZE | termios.PARENB | termios.CSTOPB))
        | termios.CS8
        | termios.CLOCAL
        | termios.CREAD
    )
    termios.tcsetattr(descriptor, termios.TCSANOW, attributes)


def _as_row(values: list[float]) -> NDArray[np.float32]:
    return np.array(values, np.float32)
