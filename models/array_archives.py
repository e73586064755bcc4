"""NumPy archives (.npz) that people hand over: their arrays by name, or one sentence that says what is wrong with the file.

On foreign bytes NumPy raises what it likes, in words that help nobody who gave a CSV by mistake; none of that leaves here.
Pickled objects are never read. What the arrays mean is the caller's business.
"""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import ArrayArchiveError

__all__ = ["array_names", "read_arrays"]

_SUFFIX: Final = ".npy"


def array_names(path: Path) -> list[str]:
    """The names of an archive's arrays, in the order in which they were written; nothing is read of them.

    Raises:
        ArrayArchiveError: no such file, or it is no archive.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            members = archive.namelist()
    except OSError as error:
        raise ArrayArchiveError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception:  # noqa: BLE001 - zip files have half a dozen errors for bytes that are none
        raise ArrayArchiveError(
            f"{path} is no NPZ archive, as numpy.savez makes one; a table in CSV has a name that ends in .csv"
        ) from None
    return [name.removesuffix(_SUFFIX) for name in members if name.endswith(_SUFFIX)]


def read_arrays(path: Path, only: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of an archive by name; `only` those of these names that are there, by default all.

    Raises:
        ArrayArchiveError: no such file, no archive, or an array that is damaged or holds Python objects.
    """
    return {name: _read(path, name) for name in array_names(path) if only is None or name in only}


def _read(path: Path, name: str) -> NDArray[Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = archive[name]
    except Exception:  # noqa: BLE001 - zip, zlib and NumPy have a dozen errors for the same thing
        found = None
    # NumPy gives the bytes of a member that is no array.
    if not isinstance(found, np.ndarray):
        raise ArrayArchiveError(
            f"{path}: {name!r} is damaged, or holds objects instead of numbers; write the archive with numpy.savez"
        )
    return found
