"""The newest standardised windows of this device, on disk and bounded, for training and for a new normal.

One writer (the agent), any number of readers at the same time (the learner). It is not durable to the last row: rows
are handed to the kernel every few seconds and fsynced when a segment is full, because a lost second of healthy
windows costs nothing. What IS certain: a reader sees only rows whose checksum holds, in the order they were
observed; a torn tail is dropped; the oldest segment goes first.

::

    buffer/rows-00000007.seg =  "FEDGEROW" | features u32 | crc32 of the 12 bytes before u32 | record | record | ...
    record                   =  crc32 of what follows u32 | machine time f64 | row f32 × features      (little endian)
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from runtime.durable_files import fsync_directory, private_directory
from runtime.errors import StorageError

__all__ = ["BufferedRows", "SampleBuffer", "read_rows"]

_MAGIC: Final = b"FEDGEROW"
_HEAD: Final = struct.Struct("<8sII")
_MAXIMUM_SEGMENTS: Final = 16
"""A bounded buffer loses at most this share (1/16) of its rows when the oldest segment goes."""
_PENDING_ROWS: Final = 64
"""Rows gathered in memory before they go to the kernel without being asked: one write instead of 64."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BufferedRows:
    """Rows in the order observed: `rows` (n, features) float32 standardised, `machine_s` (n,) float64 seconds."""

    rows: NDArray[np.float32]
    machine_s: NDArray[np.float64]

    def __len__(self) -> int:
        """How many rows."""
        return len(self.machine_s)


class SampleBuffer:
    """The writing end. Rows of another width than `features` found on disk are removed: they cannot be trained on."""

    def __init__(self, directory: Path, features: int, maximum_bytes: int) -> None:
        """Open or create the buffer in `directory`.

        Args:
            directory: for this buffer alone.
            features: width F of a row.
            maximum_bytes: bound of all segments together.

        Raises:
            StorageError: the directory cannot be used.
        """
        self._directory = private_directory(directory)
        self._features = features
        self._record_bytes = _record(features).itemsize
        self._segment_rows = max(1, maximum_bytes // _MAXIMUM_SEGMENTS // self._record_bytes)
        self._pending = bytearray()
        self._pack = struct.Struct(f"<d{4 * features}s").pack
        self._rows_in: dict[int, int] = {}
        self._open: int | None = None
        for path in _segments(directory):
            found = _read_segment(path, features)
            if found is None:
                path.unlink(missing_ok=True)
            else:
                self._rows_in[_number(path)] = len(found)

    def __len__(self) -> int:
        """How many rows are kept, those not yet on disk included."""
        return sum(self._rows_in.values()) + len(self._pending) // self._record_bytes

    def append(self, row: NDArray[np.float32], machine_s: float) -> None:
        """Keep one standardised row, shape (features,), finite.

        Raises:
            StorageError: the disk refuses; then the pending rows are dropped.
            ValueError: another shape.
        """
        if row.shape != (self._features,):
            raise ValueError(f"a row for this buffer must have shape ({self._features},), got {row.shape}")
        body = self._pack(machine_s, row.astype("<f4", copy=False).tobytes())
        self._pending += zlib.crc32(body).to_bytes(4, "little") + body
        if len(self._pending) >= _PENDING_ROWS * self._record_bytes:
            self.flush()

    def flush(self) -> None:
        """Hand pending rows to the kernel: a killed agent loses nothing from before, a reader sees all.

        Raises:
            StorageError: the disk is full or broken; the pending rows are dropped, older ones stay.
        """
        pending, self._pending = self._pending, bytearray()
        while pending:
            part = bytearray()
            try:
                number = self._writable_segment()
                room = (self._segment_rows - self._rows_in[number]) * self._record_bytes
                part, pending = pending[:room], pending[room:]
                self._write(number, bytes(part))
            except OSError as error:
                # What may be a torn record ends this segment; the next rows start a new one.
                self._open = None
                raise StorageError(
                    f"cannot append to the sample buffer {self._directory}: {error.strerror or error}; {len(pending + part) // self._record_bytes} rows dropped"
                ) from None
            self._rows_in[number] += len(part) // self._record_bytes

    def newest(self, count: int) -> BufferedRows:
        """The last `count` rows at most, pending ones included where the disk takes them."""
        with contextlib.suppress(StorageError):  # what is on disk already is still worth reading
            self.flush()
        return read_rows(self._directory, self._features, newest=count)

    def clear(self) -> None:
        """Forget every row: the standardiser they were made with is gone."""
        self._pending.clear()
        self._rows_in.clear()
        self._open = None
        for path in _segments(self._directory):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Flush what the disk takes; the buffer may be opened again."""
        with contextlib.suppress(StorageError):  # the agent ends: nobody is left to act on it
            self.flush()

    def _writable_segment(self) -> int:
        if self._open is not None and self._rows_in[self._open] < self._segment_rows:
            return self._open
        # A fresh start never appends to an old segment, whose tail may be torn.
        number = max(self._rows_in, default=0) + 1
        most_rows = (_MAXIMUM_SEGMENTS - 1) * self._segment_rows
        while len(self._rows_in) >= _MAXIMUM_SEGMENTS or sum(self._rows_in.values()) > most_rows:
            oldest = min(self._rows_in)
            _path(self._directory, oldest).unlink(missing_ok=True)
            del self._rows_in[oldest]
        self._rows_in[number] = 0
        self._open = number
        return number

    def _write(self, number: int, records: bytes) -> None:
        path = _path(self._directory, number)
        is_new = not path.exists()
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            content = (_head(self._features) if is_new else b"") + records
            if os.write(descriptor, content) != len(content):
                raise OSError(errno.ENOSPC, "the disk took only a part")
            if (
                self._rows_in[number] * self._record_bytes + len(records)
                >= self._segment_rows * self._record_bytes
            ):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            fsync_directory(self._directory)


def read_rows(directory: Path, features: int, *, newest: int | None = None) -> BufferedRows:
    """Read a buffer that another process may be writing.

    Args:
        directory: of the buffer; may be missing (no rows).
        features: width F; segments of another width are skipped.
        newest: at most this many rows, the last ones.

    Returns:
        Every row whose checksum holds, oldest first.
    """
    parts: list[NDArray[np.void]] = []
    wanted = newest
    for path in reversed(list(_segments(directory))):
        if wanted is not None and wanted <= 0:
            break
        found = _read_segment(path, features)
        if found is None or not len(found):
            continue
        parts.append(found if wanted is None else found[-wanted:])
        if wanted is not None:
            wanted -= len(parts[-1])
    records = np.concatenate(parts[::-1]) if parts else np.empty(0, _record(features))
    return BufferedRows(
        rows=np.ascontiguousarray(records["row"], np.float32).reshape(-1, features),
        machine_s=np.ascontiguousarray(records["machine_s"], np.float64),
    )


def _record(features: int) -> np.dtype[np.void]:
    return np.dtype([("crc", "<u4"), ("machine_s", "<f8"), ("row", "<f4", (features,))])


def _head(features: int) -> bytes:
    unchecked = _HEAD.pack(_MAGIC, features, 0)[:12]
    return unchecked + zlib.crc32(unchecked).to_bytes(4, "little")


def _path(directory: Path, number: int) -> Path:
    return directory / f"rows-{number:08d}.seg"


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("rows-"))


def _segments(directory: Path) -> Iterator[Path]:
    return iter(sorted(p for p in directory.glob("rows-*.seg") if p.stem.removeprefix("rows-").isdigit()))


def _read_segment(path: Path, features: int) -> NDArray[np.void] | None:
    """Its sound records up to the first unsound one, or None where it is no segment of this width (or just evicted)."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if content[: _HEAD.size] != _head(features):
        return None
    kind = _record(features)
    whole = (len(content) - _HEAD.size) // kind.itemsize
    records = np.frombuffer(content, kind, whole, _HEAD.size)
    body = memoryview(content)[_HEAD.size :]
    for i in range(whole):
        at = i * kind.itemsize
        if zlib.crc32(body[at + 4 : at + kind.itemsize]) != records["crc"][i]:
            return records[:i]
    return records
