"""The header of one array in an archive: its type, shape and order, read without believing it.

NumPy's own reader takes as many bytes as the header claims, repairs what Python 2 wrote, and builds any type; this one takes what
numpy.savez writes today and says of everything else that it is no array. Source: the NPY format, numpy.lib.format, versions 1 to 3.
"""

from __future__ import annotations

import ast
import re
import warnings
from dataclasses import dataclass
from typing import IO, Final

import numpy as np

from models.errors import RecordingError

__all__ = ["ArrayHeader", "read_header"]

_MAGIC: Final = b"\x93NUMPY"
_LENGTH_BYTES: Final = {(1, 0): 2, (2, 0): 4, (3, 0): 4}
_LONGEST: Final = 10_000
"""As NumPy itself allows for what it does not trust."""
_MOST_AXES: Final = 32
_TYPE: Final = re.compile(r"[<>|=]?[a-zA-Z]\d{0,9}(\[[a-zA-Z0-9]{1,12}\])?")


@dataclass(frozen=True, kw_only=True)
class ArrayHeader:
    """What an array claims to be; `offset` is where in the member its values begin, in bytes."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    is_fortran: bool
    offset: int

    @property
    def count(self) -> int:
        """Values in all; Python's integers, so that no claim overflows."""
        count = 1
        for length in self.shape:
            count *= length
        return count

    @property
    def size_bytes(self) -> int:
        """What a member with this header must weigh."""
        return self.offset + self.count * self.dtype.itemsize


def read_header(stream: IO[bytes], where: str) -> ArrayHeader:
    """The header at the beginning of `stream`; `where` names the array in messages.

    Raises:
        RecordingError: no array, a version or a type that this build does not read, or objects instead of numbers.
    """
    start = stream.read(8)
    version = (start[6], start[7]) if len(start) == 8 else (0, 0)
    if not start.startswith(_MAGIC) or version not in _LENGTH_BYTES:
        raise RecordingError(f"{where} is no array, as numpy.savez writes one")
    length_bytes = _LENGTH_BYTES[version]
    length = int.from_bytes(stream.read(length_bytes), "little")
    text = stream.read(length) if length <= _LONGEST else b""
    if len(text) < length or not length:
        raise RecordingError(f"{where} is no array: its header of {length} bytes is cut off or too long")
    try:
        with warnings.catch_warnings(action="ignore"):  # Python's remarks on a stranger's text help nobody
            found = ast.literal_eval(text.decode("utf-8" if version == (3, 0) else "latin-1"))
        descr, shape, is_fortran = found["descr"], found["shape"], found["fortran_order"]
    except Exception:  # noqa: BLE001 - the parser has half a dozen errors, and so has what it gives
        raise RecordingError(f"{where} is no array: its header cannot be understood") from None
    if not (_is_shape(shape) and isinstance(is_fortran, bool)):
        raise RecordingError(f"{where} is no array: its header names no shape")
    return ArrayHeader(
        dtype=_dtype(descr, where),
        shape=shape,
        is_fortran=is_fortran,
        offset=len(start) + length_bytes + length,
    )


def _is_shape(shape: object) -> bool:
    return (
        isinstance(shape, tuple)
        and len(shape) <= _MOST_AXES
        and all(type(length) is int and 0 <= length < 1 << 63 for length in shape)
    )


def _dtype(descr: object, where: str) -> np.dtype[np.generic]:
    if isinstance(descr, list | tuple):
        raise RecordingError(
            f"{where} holds records instead of numbers; a recording is (rows, columns) of numbers"
        )
    if isinstance(descr, str) and descr.lstrip("|<>=").startswith("O"):
        # Only a pickle can hold them, and a pickle may run code.
        raise RecordingError(
            f"{where} holds Python objects instead of numbers; rows of unequal length become such"
        )
    try:
        if isinstance(descr, str) and _TYPE.fullmatch(descr):
            return np.dtype(descr)
    except (TypeError, ValueError):
        pass
    raise RecordingError(f"{where} is of type {descr!r:.60}, which this build of NumPy does not know")
