"""Standardised windows of this device, on disk and bounded: for training, for a new normal, or until a person has spoken.

One writer (the agent), any number of readers at the same time (the learner). It is not durable to the last row: rows
are handed to the kernel every few seconds and fsynced when a segment is full, because a lost second of windows costs
nothing; `sync` is for who cannot do without. What IS certain: a reader sees only rows whose checksum holds and whose
columns are those it asks for, in the order they were kept; a torn tail is dropped; the oldest segment goes first.

::

    buffer/rows-00000007.seg =  "FEDGERW2" | features u32 | fingerprint of the columns, 32 bytes | crc32 u32 | record ...
    record                   =  crc32 of what follows u32 | machine time f64 | wall time f64 | row f32 × features

All little endian. Segments of builds before these have the magic "FEDGEROW", no fingerprint and no wall time. They are
read where their width fits, as rows of time 0: an update of the agent must not cost a fleet its windows, and it is no
more likely than any other start to come with other columns.
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

from protocol.manifest import FeatureSpec
from runtime.durable_files import fsync_directory, private_directory
from runtime.errors import StorageError

__all__ = ["BufferedRows", "SampleBuffer", "fingerprint_of", "read_rows"]

_MAGIC: Final = b"FEDGERW2"
_HEAD: Final = struct.Struct("<8sI32sI")
_OLD_MAGIC: Final = b"FEDGEROW"
_OLD_HEAD: Final = struct.Struct("<8sII")
_MAXIMUM_SEGMENTS: Final = 16
"""A bounded buffer loses at most this share (1/16) of its rows when the oldest segment goes."""
_PENDING_ROWS: Final = 64
"""Rows gathered in memory before they go to the kernel without being asked: one write instead of 64."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BufferedRows:
    """Rows in the order kept: `rows` (n, features) float32; seconds (n,) float64 of the machine's and of the wall's clock."""

    rows: NDArray[np.float32]
    machine_s: NDArray[np.float64]
    wall_s: NDArray[np.float64]

    def __len__(self) -> int:
        """How many rows."""
        return len(self.machine_s)

    def where(self, wanted: NDArray[np.bool_]) -> BufferedRows:
        """The `wanted` ones (n,), in their order."""
        return BufferedRows(
            rows=self.rows[wanted], machine_s=self.machine_s[wanted], wall_s=self.wall_s[wanted]
        )


class SampleBuffer:
    """The writing end. Rows of other columns found on disk are removed; `edge_agent.outdated_state` has kept them before."""

    def __init__(self, directory: Path, columns: FeatureSpec, maximum_bytes: int) -> None:
        """Open or create the buffer in `directory`.

        Args:
            directory: for this buffer alone.
            columns: what the F values of a row are.
            maximum_bytes: bound of all segments together.

        A folder that cannot be made keeps no rows, and nobody from watching: `flush` tells.
        """
        self._directory = directory
        with contextlib.suppress(StorageError):
            private_directory(directory)
        self._columns = columns
        self._features = features = columns.feature_count
        self._record_bytes = _record(features).itemsize
        self._segment_rows = max(1, maximum_bytes // _MAXIMUM_SEGMENTS // self._record_bytes)
        self._pending = bytearray()
        self._pack = struct.Struct(f"<dd{4 * features}s").pack
        self._rows_in: dict[int, int] = {}
        self._open: int | None = None
        for path in _segments(directory):
            found = _read_segment(path, columns)
            if found is None:
                with contextlib.suppress(
                    OSError
                ):  # a disk that cannot be written: no reader takes it for rows
                    path.unlink(missing_ok=True)
            else:
                self._rows_in[_number(path)] = len(found)

    def __len__(self) -> int:
        """How many rows are kept, those not yet on disk included."""
        return sum(self._rows_in.values()) + len(self._pending) // self._record_bytes

    def append(self, row: NDArray[np.float32], machine_s: float, wall_s: float) -> None:
        """Keep one row, shape (features,), observed at `machine_s` of its machine's clock and `wall_s`, Unix seconds.

        Raises:
            StorageError: the disk refuses; then the pending rows are dropped.
            ValueError: another shape.
        """
        if row.shape != (self._features,):
            raise ValueError(f"a row for this buffer must have shape ({self._features},), got {row.shape}")
        body = self._pack(machine_s, wall_s, row.astype("<f4", copy=False).tobytes())
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

    def sync(self) -> None:
        """As `flush`, and the newest segment survives a power cut; raises StorageError like it."""
        self.flush()
        if self._open is None:
            return
        try:
            descriptor = os.open(_path(self._directory, self._open), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StorageError(
                f"cannot make {self._directory} survive a power cut: {error.strerror or error}"
            ) from None

    def newest(self, count: int | None = None) -> BufferedRows:
        """The last `count` rows at most (all without one), pending ones included where the disk takes them."""
        with contextlib.suppress(StorageError):  # what is on disk already is still worth reading
            self.flush()
        return read_rows(self._directory, self._columns, newest=count)

    def parts(self) -> Iterator[BufferedRows]:
        """All rows, a segment at a time, the newest segment first: a sixteenth of them in memory, whatever the bound."""
        with contextlib.suppress(StorageError):
            self.flush()
        for path in reversed(list(_segments(self._directory))):
            found = _read_segment(path, self._columns)
            if found is not None and len(found):
                yield _as_rows(found, self._features)

    def oldest_machine_s(self) -> float:
        """The time of the first row, by its machine's clock; infinite without one on disk."""
        for path in _segments(self._directory):
            found = _read_segment(path, self._columns)
            if found is not None and len(found):
                return float(found["machine_s"][0])
        return float("inf")

    def clear(self) -> None:
        """Forget every row; what a disk that cannot be written keeps, stays."""
        self._pending.clear()
        kept, self._rows_in, self._open = self._rows_in, {}, None
        for path in _segments(self._directory):
            try:
                path.unlink(missing_ok=True)
            except OSError:
                self._rows_in[_number(path)] = kept.get(_number(path), 0)

    def keep_only(self, kept: BufferedRows) -> None:
        """Forget all rows but these: they are on disk again before the others go, so that a power cut loses none.

        It may leave some twice, with the same `wall_s`. Raises StorageError where the disk refuses; then nothing went.
        """
        self.flush()
        old, self._open = list(self._rows_in), None
        for row, machine_s, wall_s in zip(kept.rows, kept.machine_s, kept.wall_s, strict=True):
            self.append(row, float(machine_s), float(wall_s))
        self.sync()
        for number in old:
            try:
                _path(self._directory, number).unlink(missing_ok=True)
            except OSError as error:
                raise StorageError(
                    f"cannot remove rows of {self._directory}: {error.strerror or error}"
                ) from None
            self._rows_in.pop(number, None)

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
            content = (_head(self._columns) if is_new else b"") + records
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


def read_rows(directory: Path, columns: FeatureSpec, *, newest: int | None = None) -> BufferedRows:
    """Read a buffer that another process may be writing.

    Args:
        directory: of the buffer; may be missing (no rows).
        columns: what the values of a row must be; segments of others are skipped.
        newest: at most this many rows, the last ones.

    Returns:
        Every row whose checksum holds, oldest first.
    """
    parts: list[NDArray[np.void]] = []
    wanted = newest
    for path in reversed(list(_segments(directory))):
        if wanted is not None and wanted <= 0:
            break
        found = _read_segment(path, columns)
        if found is None or not len(found):
            continue
        parts.append(found if wanted is None else found[-wanted:])
        if wanted is not None:
            wanted -= len(parts[-1])
    records = np.concatenate(parts[::-1]) if parts else np.empty(0, _record(columns.feature_count))
    return _as_rows(records, columns.feature_count)


def fingerprint_of(directory: Path) -> str | None:
    """Of the columns that the newest segment in `directory` is about; empty for one of an older build, None without any."""
    for path in reversed(list(_segments(directory))):
        with contextlib.suppress(OSError), path.open("rb") as file:
            head = file.read(_HEAD.size)
            if head[:8] == _OLD_MAGIC:
                return ""
            if len(head) == _HEAD.size and head[:8] == _MAGIC:
                return str(_HEAD.unpack(head)[2].hex())
    return None


def _as_rows(records: NDArray[np.void], features: int) -> BufferedRows:
    return BufferedRows(
        rows=np.ascontiguousarray(records["row"], np.float32).reshape(-1, features),
        machine_s=np.ascontiguousarray(records["machine_s"], np.float64),
        wall_s=np.ascontiguousarray(records["wall_s"], np.float64),
    )


def _record(features: int) -> np.dtype[np.void]:
    return np.dtype([("crc", "<u4"), ("machine_s", "<f8"), ("wall_s", "<f8"), ("row", "<f4", (features,))])


def _old_record(features: int) -> np.dtype[np.void]:
    return np.dtype([("crc", "<u4"), ("machine_s", "<f8"), ("row", "<f4", (features,))])


def _head(columns: FeatureSpec) -> bytes:
    unchecked = _HEAD.pack(_MAGIC, columns.feature_count, bytes.fromhex(columns.fingerprint), 0)[:-4]
    return unchecked + zlib.crc32(unchecked).to_bytes(4, "little")


def _old_head(columns: FeatureSpec) -> bytes:
    unchecked = _OLD_HEAD.pack(_OLD_MAGIC, columns.feature_count, 0)[:-4]
    return unchecked + zlib.crc32(unchecked).to_bytes(4, "little")


def _path(directory: Path, number: int) -> Path:
    return directory / f"rows-{number:08d}.seg"


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("rows-"))


def _segments(directory: Path) -> Iterator[Path]:
    return iter(sorted(p for p in directory.glob("rows-*.seg") if p.stem.removeprefix("rows-").isdigit()))


def _read_segment(path: Path, columns: FeatureSpec) -> NDArray[np.void] | None:
    """Its sound records up to the first unsound one, or None where it is no segment of these columns (or just evicted)."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if content[: _HEAD.size] == _head(columns):
        return _sound_records(content[_HEAD.size :], _record(columns.feature_count))
    if content[: _OLD_HEAD.size] != _old_head(columns):
        return None
    old = _sound_records(content[_OLD_HEAD.size :], _old_record(columns.feature_count))
    records = np.zeros(len(old), _record(columns.feature_count))
    for field in ("machine_s", "row"):
        records[field] = old[field]
    return records


def _sound_records(body: bytes, kind: np.dtype[np.void]) -> NDArray[np.void]:
    records = np.frombuffer(body, kind, len(body) // kind.itemsize)
    view = memoryview(body)
    for i in range(len(records)):
        at = i * kind.itemsize
        if zlib.crc32(view[at + 4 : at + kind.itemsize]) != records["crc"][i]:
            return records[:i]
    return records
