"""How commands answer: sentences and tables for people, JSON for programs, all on standard output.

What a device or a person far away has written is shown as it is, and never does anything to a terminal.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from runtime.printable import printable, printable_json

__all__ = ["Columns", "print_json", "print_rows", "print_table", "say", "show_number", "show_time"]

LOCAL_TIME: Final = "FEDGE_LOCAL_TIME"

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
    limit: int = 0,
) -> None:
    """Print `rows` as they are for programs, or as a table of `columns`: heading → what of a row stands there.

    Where there are as many as the `limit` that was asked for (0: none was), a line on standard error says that there may be more.
    """
    if limit and len(rows) == limit:
        print(f"these are {limit}, and there may be more: --limit 0 gives all", file=sys.stderr)
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
    """A time for people, to the second: UTC; with FEDGE_LOCAL_TIME=1 that of this machine's zone, which is named."""
    if unix_s is None:
        return None
    moment = datetime.fromtimestamp(unix_s, UTC)
    if os.environ.get(LOCAL_TIME, "0") in {"", "0"}:
        return f"{moment:%Y-%m-%d %H:%M:%S}"
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %Z}"


def show_number(value: float | None) -> str | None:
    """A figure for people: three significant digits."""
    return None if value is None else f"{value:.3g}"
