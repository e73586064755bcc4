"""Training runs as tables for people, and a progress bar for what takes longer than two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from runtime.printable import printable
from service.client import ApiClient

__all__ = ["follow_run", "print_run", "print_runs", "training_progress"]


FINAL = frozenset({"COMPLETED", "REJECTED_BY_GATE", "FAILED", "CANCELED"})


def print_runs(items: Sequence[dict[str, Any]]) -> None:
    """One line a run, the newest first."""
    identity = Column("run", overflow="fold", no_wrap=True, min_width=len("run-1767225600-00000000"))
    table = Table(identity, "family", "state", "rounds", "trigger", "started", "release", "detail", box=None)
    for run in items:
        cells = (
            run["id"],
            run["family"],
            run["state"],
            f"{run['finished_rounds']}/{run['planned_rounds']}",
            run["trigger"],
            _time(run["created_at"]),
            run["release"] or "-",
            run["detail"],
        )
        table.add_row(*(escape(printable(cell)) for cell in cells))
    _console().print(table if items else "no training run yet")


def print_run(run: dict[str, Any]) -> None:
    """A run in full: state, rounds, who was silent, refused or in a group that was left out, and why, the gate's checks."""
    console = _console()
    console.print(printable(f"{run['id']}  {run['family']}  {run['state']}: {run['detail']}"), markup=False)
    if run.get("mode"):
        console.print(printable(f"mode {run['mode']}: {run['protection']}"), markup=False)
    rounds = Table("round", "devices", "lost", "seconds", "note", box=None)
    for entry in run.get("rounds", []):
        rounds.add_row(
            f"{entry['number']}.{entry['attempt']}",
            f"{len(entry['participants'])}/{entry['asked']}",
            str(len(entry["lost"])),
            f"{entry['seconds']:.2f}",
            escape(printable(entry["note"])),
        )
    console.print(rounds)
    for name in ("rounds", "refits", "assessments"):
        for entry in run.get(name, []):
            _print_absent(console, entry)
    for check in run.get("checks", []):
        console.print(printable(f"{_verdict(check)}  {check['reason']}"), markup=False)


def _print_absent(console: Console, entry: dict[str, Any]) -> None:
    stages, title = entry.get("stages", {}), f"{entry['kind']} {entry['number']}.{entry['attempt']}"
    for device in entry["lost"]:
        console.print(
            printable(f"{title}: {device} did not answer {stages.get(device, '')}".rstrip()), markup=False
        )
    for refused in entry["refused"]:
        console.print(printable(f"{title}: refused {refused['device']}: {refused['reason']}"), markup=False)
    for group in entry.get("groups", []):
        if group["left_out"]:
            console.print(
                printable(f"{title}: left out {', '.join(group['devices'])}: {group['left_out']}"),
                markup=False,
            )


def follow_run(client: ApiClient, run_id: str, *, quiet: bool) -> dict[str, Any]:
    """Wait until a run is over, telling each change of its state on standard error; returns its last record."""
    said = ""
    while True:
        run: dict[str, Any] = client.get(f"/v1/training-runs/{run_id}")
        line = f"{run['state']}: {run['detail']}"
        if not quiet and line != said:
            sys.stderr.write(f"{printable(line)}\n")
            said = line
        if run["state"] in FINAL:
            return run
        time.sleep(1.0)


def _verdict(check: dict[str, Any]) -> str:
    if not check["is_passed"]:
        return "FAILED"
    return "WARNING" if check.get("is_warning") else "passed"


@contextmanager
def training_progress(*, quiet: bool, title: str = "version 1") -> Iterator[Callable[[str, float], None]]:
    """A bar on stderr, of what `title` names, that is told the stage, and the finished share of it, 0 to 1."""
    columns = (TextColumn(f"{escape(title)}: {{task.description}}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as progress:
        task = progress.add_task("reading", total=1.0)
        yield lambda stage, share: progress.update(task, description=stage, completed=share)


def _console() -> Console:
    console = Console()
    # Into a pipe or file nothing may be cut off: a run's id is there to be copied.
    return console if console.is_terminal else Console(width=240)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
