"""Rows as CSV, Parquet or JSON lines. A file takes its name when it is whole: what is left of a broken export has another name.

* **CSV** (RFC 4180, UTF-8): objects and lists are JSON in their cell. A text that a spreadsheet would take for a formula gets a ``'``
  before it, because a device may have written it.
* **Parquet**: numbers, truths and texts are typed columns; objects and lists are JSON texts.
* **jsonl**: as the API says it.
"""

from __future__ import annotations

import csv
import json
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from runtime.durable_files import replace_file
from service.errors import ClientError

__all__ = ["FORMATS", "Rows", "open_file", "spreadsheet_safe"]

ROWS_AT_ONCE: Final = 5000
"""Of a Parquet row group: some megabytes in memory."""

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")

Columns = Mapping[str, Any]


class Rows(Protocol):
    """Takes the rows of one file."""

    count: int

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row."""

    def close(self) -> None:
        """Write what is left."""


@contextmanager
def open_file(path: Path, columns: Columns, file_format: str) -> Iterator[Rows]:
    """Rows that become `path` where the block ends well; raises ClientError where a format needs what is not installed."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        rows = FORMATS[file_format](unfinished, columns)
        yield rows
        rows.close()
        replace_file(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def spreadsheet_safe(value: Any) -> Any:
    """A cell that no spreadsheet runs.

    >>> spreadsheet_safe("=HYPERLINK(1)"), spreadsheet_safe(-3.5), spreadsheet_safe({"a": 1})
    ("'=HYPERLINK(1)", -3.5, '{"a": 1}')
    """
    if isinstance(value, dict | list):
        value = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value


class _Csv:
    def __init__(self, path: Path, columns: Columns) -> None:
        self.count = 0
        self._names = list(columns)
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow(self._names)

    def write(self, row: Mapping[str, Any]) -> None:
        self._writer.writerow([spreadsheet_safe(row[name]) for name in self._names])
        self.count += 1

    def close(self) -> None:
        self._file.close()


class _JsonLines:
    def __init__(self, path: Path, _columns: Columns) -> None:
        self.count = 0
        self._file = path.open("w", encoding="utf-8")

    def write(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.count += 1

    def close(self) -> None:
        self._file.close()


class _Parquet:
    def __init__(self, path: Path, columns: Columns) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            raise ClientError("--format parquet needs pyarrow: pip install 'fedge[export]'") from None
        known = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
        self.count = 0
        self._pa = pa
        self._types = {name: known.get(_plain_type(kind), pa.string()) for name, kind in columns.items()}
        self._schema = pa.schema(list(self._types.items()))
        self._writer = pq.ParquetWriter(str(path), self._schema)
        self._waiting: list[dict[str, Any]] = []

    def write(self, row: Mapping[str, Any]) -> None:
        text = self._pa.string()
        self._waiting.append(
            {name: _as_text(row[name]) if kind == text else row[name] for name, kind in self._types.items()}
        )
        self.count += 1
        if len(self._waiting) >= ROWS_AT_ONCE:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(self._pa.Table.from_pylist(self._waiting, schema=self._schema))
        self._waiting = []


FORMATS: Final[dict[str, Any]] = {"csv": _Csv, "parquet": _Parquet, "jsonl": _JsonLines}


def _plain_type(kind: Any) -> Any:
    """The type of a column, whether or not it may be null."""
    if typing.get_origin(kind) in {types.UnionType, typing.Union}:
        (kind, *others) = [one for one in typing.get_args(kind) if one is not type(None)]
        return str if others else kind
    return kind


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
