"""What a person sees of a crowd: one line that changes, and a table at the end."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
from rich.console import Console
from rich.table import Table

from runtime.durable_files import write_quickly
from simulations.hollow.accounts import Accounts
from simulations.hollow.playing import Figures

__all__ = ["CrowdScreen", "draw_figures", "write_figures"]


class CrowdScreen:
    """Shows what is told: on a terminal in one line, elsewhere a line each."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("hollow devices") if console.is_terminal else None
        self._last = ""

    def __enter__(self) -> Self:
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()

    def tell(self, line: str) -> None:
        """Show a line; where each stays, only one that is new."""
        if self._status is not None and not line.startswith("fleet:"):
            self._status.update(line)
        elif line != self._last:
            self._console.print(line, highlight=False, soft_wrap=True)
        self._last = line


def draw_figures(figures: Figures, accounts: Accounts | None) -> Table:
    """The last table."""
    table = Table(show_header=False, title="hollow devices")
    table.add_column()
    table.add_column(justify="right")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:,}")
    for name, value in asdict(accounts).items() if accounts is not None else ():
        table.add_row(f"in the database: {name}", f"{value:,}")
    return table


def write_figures(file: Path, figures: Figures, accounts: Accounts | None) -> None:
    """The same as JSON."""
    content = {**figures, "accounts": None if accounts is None else asdict(accounts)}
    write_quickly(file, msgspec.json.encode(content))
