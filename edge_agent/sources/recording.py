"""Reads a recording: a table of finite numbers from CSV or NPZ, refused with the exact place where it is not one.

Whole recordings are held in memory as float32 (4 bytes a value): meant for replays of up to some 100 MB, not archives.
NPZ files are opened without pickle, so a hostile file cannot run code.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import SourceError
from models.array_archives import array_names, read_arrays
from models.errors import ArrayArchiveError

__all__ = ["Recording", "read_csv", "read_npz"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """`rows` is finite float32 (rows, columns); `names` has one name a column."""

    rows: NDArray[np.float32]
    names: tuple[str, ...]


def read_csv(path: Path, *, columns: Sequence[str] = (), delimiter: str = ",") -> Recording:
    """Read the named columns of a CSV file with a header line; all of them when none is named.

    Raises:
        SourceError: no such file, a missing column, or a cell that is not a finite number, with file and line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=delimiter)
            header = [name.strip() for name in next(reader, [])]
            if not header:
                raise SourceError(f"{path}: the recording is empty; the first line must name the columns")
            names = tuple(columns) or tuple(header)
            picked = [_column(path, header, name) for name in names]
            rows = [_numbers(path, reader.line_num, line, picked, header) for line in reader if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path}: the recording cannot be read: {_reason(error)}") from None
    if not rows:
        raise SourceError(f"{path}: the recording has a header but no rows")
    return Recording(rows=np.asarray(rows, np.float32), names=names)


def read_npz(path: Path, *, key: str | None) -> Recording:
    """Read the 2-d array `key` of an NPZ file; column names come from its ``feature_names`` where it has them.

    Raises:
        SourceError: no such file or key, not a table of numbers, or a value that is not finite, with row and column.
    """
    try:
        arrays = read_arrays(path, only={str(key), "feature_names"})
        keys = [name for name in array_names(path) if name != "feature_names"]
    except ArrayArchiveError as error:
        raise SourceError(str(error)) from None
    if key is None or key not in keys:
        raise SourceError(f"{path}: no array named {key!r}; source.key must be one of {_listed(keys)}")
    table, labels = arrays[key], arrays.get("feature_names", np.empty(0))
    if table.ndim != 2 or not table.size or table.dtype.kind not in "fiu":
        raise SourceError(
            f"{path}: array {key!r} has shape {table.shape} of {table.dtype}; a recording is (rows, columns) of numbers"
        )
    # A float64 beyond float32's range becomes infinite here and is refused with its place below.
    with np.errstate(over="ignore"):
        rows = table.astype(np.float32)
    bad = np.argwhere(~np.isfinite(rows))
    names = (
        tuple(str(n) for n in labels)
        if labels.shape == (rows.shape[1],)
        else tuple(f"f{i}" for i in range(rows.shape[1]))
    )
    if len(bad):
        row, column = bad[0].tolist()
        raise SourceError(
            f"{path}: {key!r} row {row}, column {names[column]!r}: {table[row, column]} is not a finite number"
        )
    return Recording(rows=rows, names=names)


def _column(path: Path, header: list[str], name: str) -> int:
    if name not in header:
        raise SourceError(f"{path}: no column {name!r}; the header has {_listed(header)}")
    return header.index(name)


def _numbers(path: Path, line: int, cells: list[str], picked: list[int], header: list[str]) -> list[float]:
    if len(cells) != len(header):
        raise SourceError(f"{path}:{line}: {len(cells)} cells, but the header names {len(header)} columns")
    numbers = []
    for column in picked:
        try:
            number = float(cells[column])
        except ValueError:
            number = np.nan
        if not abs(number) <= float(np.finfo(np.float32).max):
            raise SourceError(
                f"{path}:{line}: column {header[column]!r} holds {cells[column]!r}, which is not a finite number"
            )
        numbers.append(number)
    return numbers


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _reason(error: Exception) -> str:
    return (
        error.strerror
        if isinstance(error, OSError) and error.strerror
        else str(error) or type(error).__name__
    )
