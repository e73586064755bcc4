"""How commands answer: sentences and tables for people, JSON for programs, all on standard output.

What a device or a person far away has written is shown as it is, and never does anything to a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from runtime.printable import printable, printable_json

__all__ = ["Columns", "print_json", "print_rows", "print_table", "say", "show_number", "show_time"]

Row = TypeVar("Row")
Columns = Mapping[str, Callable[[Row], object]]
"""Heading → what of a row stands under it; None is shown as a dash."""


def say(sentence: str) -> None:
    """Print one line."""
    print(printable(sentence))


def print_json(value: Any) -> None:
    """Print a value, or what the fleet answered, as indented JSON."""
    print(printable_json(json.dumps(value, indent=2, ensure_ascii=False, default=_plain)))


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    raise TypeError(f"{value!r} is no JSON")


def print_rows(
    rows: Sequence[Row],
    title: str,
    columns: Columns[Row],
    *,
    as_json: bool,
) -> None:
    """Print `rows` as they are for programs, or as a table of `columns`: heading → what of a row stands there."""
    if as_json:
        print_json(rows)
    else:
        print_table(title, list(columns), ([cell(row) for cell in columns.values()] for row in rows))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under `columns`; None prints as a dash."""
    table = Table(*columns, title=escape(printable(title)), title_justify="left")
    for row in rows:
        table.add_row(*("–" if cell is None else escape(printable(str(cell))) for cell in row))
    console = Console()
    # into a pipe or file nothing may be cut off
    console.print(table, soft_wrap=False) if console.is_terminal else Console(width=240).print(table)


def show_time(unix_s: float | None) -> str | None:
    """A time for people: UTC to the second."""
    return None if unix_s is None else datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S")


def show_number(value: float | None) -> str | None:
    """A figure for people: three significant digits."""
    return None if value is None else f"{value:.3g}"
