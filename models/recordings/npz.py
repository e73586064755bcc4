"""The door for NPZ: what a zip claims is held against what the file can hold, before a byte of it is unpacked.

::

    file ─► zip directory ─► member: stored or deflated, not encrypted, no more bytes than deflate can pack
         ─► .npy header (version, dtype, shape, order) = the member's size ─► values, in pieces, into float32 ─► checksum

No pickle is ever loaded. Floats and integers of any width and byte order are numbers, booleans are 0 and 1; complex numbers, dates,
text, records and objects are refused by name. ``feature_names`` names the last axis of every table beside it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import RecordingError
from models.recordings.clocks import without_clocks
from models.recordings.files import foreign_format, open_recording
from models.recordings.npy_header import ArrayHeader, read_header
from models.recordings.recording import Recording, check_names, check_size, listed, shown

__all__ = ["FEATURE_NAMES", "Tables", "read_table", "read_tables"]

FEATURE_NAMES: Final = "feature_names"
"""The array that names the columns of the others."""

_SUFFIX: Final = ".npy"
_MAXIMUM_MEMBERS: Final = 10_000
_DIRECTORY_BYTES: Final = 4 << 20
"""Of zip directory: a hundred times less than Python makes of it in memory."""
_END_RECORD: Final = 22
_LONGEST_COMMENT: Final = 65_535
_MOST_PACKED: Final = 1100
"""Bytes that one byte of deflate can become: 1032 by its format, and a little for short members."""
_PIECE_BYTES: Final = 1 << 18
_NO_NUMBERS: Final = {
    "c": "complex numbers",
    "M": "dates",
    "m": "time spans",
    "U": "text",
    "S": "text",
    "V": "records",
    "O": "Python objects",
}
_LONGEST_NAMES: Final = 1 << 24


@dataclass(frozen=True, kw_only=True, eq=False)
class Tables:
    """The recordings of one archive by name, what has to be said of its other arrays, and those of one axis or none if asked for."""

    tables: dict[str, Recording]
    notes: tuple[str, ...]
    vectors: dict[str, NDArray[np.float64]] = field(default_factory=dict)


def read_table(path: Path, *, key: str | None, columns: Sequence[str] = ()) -> Recording:
    """The one table `key` (rows, columns) of an archive; `columns` picks and orders by name, by default all but clocks.

    Raises:
        RecordingError: no such file, archive, array or column, or not a table of numbers; the message says which and where.
    """
    with _opened(path) as archive:
        if key is None or key not in archive.names or key == FEATURE_NAMES:
            names = [name for name in archive.names if name != FEATURE_NAMES]
            asked = "no key is given" if key is None else f"no array named {shown(key)}"
            raise RecordingError(f"{path}: {asked}; key must be one of {listed(names)}")
        header = archive.header(key)
        if len(header.shape) != 2:
            raise RecordingError(
                f"{archive.where(key)} has shape {header.shape}; a recording is (rows, columns) of numbers"
            )
        found = archive.table(key, header)
    where = f"{path}: {key!r}"
    return (found.picked(columns, where) if columns else without_clocks(found, where)).with_remarks()


def read_tables(path: Path, *, with_vectors: bool = False) -> Tables:
    """All tables of an archive: arrays (rows, columns) and (windows, samples, channels); fewer axes are told in `Tables.notes`.

    With `with_vectors` arrays of numbers with fewer axes are read, too, and an archive may hold nothing else.

    Raises:
        RecordingError: no such file or archive, a table that is none of numbers, or none at all.
    """
    tables: dict[str, Recording] = {}
    notes: list[str] = []
    total = 0
    vectors: dict[str, NDArray[np.float64]] = {}
    with _opened(path) as archive:
        for name in archive.names:
            if name == FEATURE_NAMES:
                continue
            header = archive.header(name)
            if with_vectors and len(header.shape) < 2 and header.dtype.kind in "fiub":
                check_size((max(1, header.count), 2), archive.where(name))
                vectors[name] = archive.vector(name, header)
                continue
            if len(header.shape) < 2:
                notes.append(
                    f"{archive.where(name)} has shape {header.shape} and was left out: a recording is (rows, columns)"
                )
                continue
            total += header.count
            if tables:
                check_size((total, 1), f"{path} up to {shown(name)}")
            tables[name] = archive.table(name, header).with_remarks()
    if not tables and not vectors:
        raise RecordingError(
            f"{path} holds no recording: an array (rows, columns) for each machine; {'; '.join(notes[:5]) or 'only names'}"
        )
    return Tables(tables=tables, notes=tuple(notes), vectors=vectors)


@contextmanager
def _opened(path: Path) -> Iterator[_Archive]:
    with open_recording(path) as (file, size):
        head = file.read(16)
        if not head.startswith(b"PK\x03\x04"):
            kind = foreign_format(head)
            raise RecordingError(
                f"{path} is no NPZ archive, as numpy.savez makes one{f', but {kind}' if kind else ''}; "
                f"a table in CSV has a name that ends in .csv"
            )
        _check_directory(file, size, path)
        try:
            directory = zipfile.ZipFile(file)
        except OSError:
            raise
        except Exception:  # noqa: BLE001 - zip files have half a dozen errors for bytes that are none
            raise RecordingError(
                f"{path} is no NPZ archive, as numpy.savez makes one, or a damaged one; a table in CSV has a name that ends in .csv"
            ) from None
        with directory:
            yield _Archive(path, size, directory)


def _check_directory(file: BinaryIO, size: int, path: Path) -> None:
    """Python reads the whole directory into objects, so its length is looked at first."""
    file.seek(max(0, size - _END_RECORD - _LONGEST_COMMENT - 20))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    end = tail[at : at + _END_RECORD]
    if at < 0 or len(end) < _END_RECORD:
        raise RecordingError(
            f"{path} is no NPZ archive, as numpy.savez makes one: its end is missing, as if it had been cut off"
        )
    if tail[max(0, at - 20) : at].startswith(b"PK\x06\x07"):
        raise RecordingError(
            f"{path} is an archive of more than 4 GiB or 65,535 arrays; divide it into several"
        )
    if int.from_bytes(end[12:16], "little") > _DIRECTORY_BYTES:
        raise RecordingError(f"{path} has a directory of more than {_DIRECTORY_BYTES:,} bytes; divide it")


class _Archive:
    """An open archive; `names` are its arrays in the order in which they were written."""

    def __init__(self, path: Path, size: int, directory: zipfile.ZipFile) -> None:
        self._path, self._size, self._directory = path, size, directory
        members = [member for member in directory.infolist() if member.filename.endswith(_SUFFIX)]
        self._members = {member.filename.removesuffix(_SUFFIX): member for member in members}
        self.names: Final = list(self._members)
        if not members:
            inside = listed(directory.namelist())
            raise RecordingError(f"{path} is no NPZ archive: it holds no array, but {inside}")
        if len(members) > _MAXIMUM_MEMBERS:
            raise RecordingError(f"{path} holds {len(members)} arrays; at most {_MAXIMUM_MEMBERS} are read")
        if len(self.names) < len(members):
            raise RecordingError(f"{path} holds two arrays of one name; write it again with numpy.savez")

    def where(self, name: str) -> str:
        """For a message."""
        return f"{self._path}: array {shown(name)}"

    def header(self, name: str) -> ArrayHeader:
        """Type and shape of one array, believed only as far as the file can bear it out."""
        member = self._members[name]
        self._check_claims(member, name)
        with self._damage_told(name), self._directory.open(member) as stream:
            header = read_header(stream, self.where(name))
        if header.size_bytes != member.file_size:
            raise RecordingError(
                f"{self.where(name)} is damaged: {header.shape} of {header.dtype} is not what its {member.file_size:,} bytes hold"
            )
        return header

    def table(self, name: str, header: ArrayHeader) -> Recording:
        """One array as float32, with the names of its last axis."""
        self._check_numbers(name, header)
        check_size(header.shape, self.where(name))
        rows = np.empty(header.shape, np.float32)
        with self._stream(name, header) as stream:
            _fill(rows, stream, header, self.where(name))
        names = self._feature_names(rows.shape[-1], name)
        return Recording(
            rows=rows,
            names=names or tuple(f"f{place}" for place in range(rows.shape[-1])),
            is_named=bool(names),
        )

    def vector(self, name: str, header: ArrayHeader) -> NDArray[np.float64]:
        """One array of one axis or none as float64 (n,)."""
        with self._stream(name, header) as stream:
            content = stream.read(header.count * header.dtype.itemsize)
        return np.frombuffer(content, header.dtype, header.count).astype(np.float64)

    def _feature_names(self, columns: int, name: str) -> tuple[str, ...]:
        if FEATURE_NAMES not in self._members:
            return ()
        where, header = self.where(FEATURE_NAMES), self.header(FEATURE_NAMES)
        if header.dtype.kind not in "US" or header.shape != (columns,):
            raise RecordingError(
                f"{where} has shape {header.shape} of {header.dtype}, but {shown(name)} has {columns} columns: give it one name "
                f"as text for each"
            )
        if header.size_bytes > _LONGEST_NAMES:
            raise RecordingError(
                f"{where} takes {header.size_bytes:,} bytes; at most {_LONGEST_NAMES:,} are read"
            )
        with self._stream(FEATURE_NAMES, header) as stream:
            content = stream.read()
        try:
            found = np.frombuffer(content, header.dtype).tolist() if header.dtype.itemsize else [""] * columns
            names = [str(n, "utf-8") if isinstance(n, bytes) else str(n) for n in found]
        except (UnicodeError, ValueError):
            raise RecordingError(f"{where} holds bytes that are no text") from None
        return check_names([n.strip() for n in names], where)

    def _check_claims(self, member: zipfile.ZipInfo, name: str) -> None:
        where = self.where(name)
        if member.flag_bits & 0x61:
            raise RecordingError(f"{where} is encrypted; write the archive without a password")
        if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise RecordingError(
                f"{where} is packed by method {member.compress_type}; numpy.savez_compressed packs by deflate"
            )
        most = member.compress_size * (_MOST_PACKED if member.compress_type == zipfile.ZIP_DEFLATED else 1)
        if member.compress_size > self._size or member.file_size > most:
            raise RecordingError(
                f"{where} is damaged: it claims {member.file_size:,} bytes in {member.compress_size:,} of a file of {self._size:,}"
            )

    def _check_numbers(self, name: str, header: ArrayHeader) -> None:
        kind = header.dtype.kind
        if kind not in "fiub":
            raise RecordingError(
                f"{self.where(name)} holds {_NO_NUMBERS.get(kind, str(header.dtype))} ({header.dtype}) instead of plain numbers; a recording is (rows, "
                f"columns) of numbers, floats or integers"
            )
        if len(header.shape) not in {2, 3}:
            raise RecordingError(
                f"{self.where(name)} has shape {header.shape}; a recording is (rows, columns) of numbers"
            )

    @contextmanager
    def _stream(self, name: str, header: ArrayHeader) -> Iterator[IO[bytes]]:
        """The values of one array; whoever reads them to their end has had the checksum verified."""
        with self._damage_told(name), self._directory.open(self._members[name]) as stream:
            stream.read(header.offset)
            yield stream
            if stream.read(1):
                raise RecordingError(f"{self.where(name)} is damaged: it goes on behind its last value")

    @contextmanager
    def _damage_told(self, name: str) -> Iterator[None]:
        try:
            yield
        except (RecordingError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - zip and zlib have half a dozen errors for damaged bytes
            raise RecordingError(
                f"{self.where(name)} is damaged: {error or type(error).__name__}; copy or record it again"
            ) from None


def _fill(rows: NDArray[np.float32], stream: IO[bytes], header: ArrayHeader, where: str) -> None:
    """Read the values into `rows` piece by piece, whichever axis comes first in the file."""
    target, flat = (rows.T.flat, False) if header.is_fortran else (rows.reshape(-1), True)
    step = max(1, _PIECE_BYTES // header.dtype.itemsize)
    for first in range(0, header.count, step):
        length = min(step, header.count - first)
        content = stream.read(length * header.dtype.itemsize)
        if len(content) < length * header.dtype.itemsize:
            raise RecordingError(f"{where} is damaged: it ends after {first} of {header.count} values")
        values = np.frombuffer(content, header.dtype)
        # A float64 beyond float32's range becomes infinite here and is refused with its place.
        with np.errstate(over="ignore", invalid="ignore"):
            piece = values.astype(np.float32)
        if np.isinf(piece).any():
            at = int(np.argmax(np.isinf(piece)))
            shape = rows.shape if flat else rows.shape[::-1]
            place = np.unravel_index(first + at, shape)
            raise RecordingError(
                f"{where} row {(place if flat else place[::-1])[0]}, column {(place if flat else place[::-1])[-1]}: {values[at]} is not a finite number of float32"
            )
        target[first : first + length] = piece
