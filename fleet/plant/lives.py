"""Processes of a plant, found by the mark that each carries in its environment, and ended with whatever they have left behind.

The mark is the plant's folder and the service's name. So what a killed supervisor left is found without a record of it: a record
can be lost in the same moment, and an old one names a stranger. Linux alone has ``/proc``.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["GRACE_S", "Life", "end_lives", "find_lives", "mark"]

VARIABLE: Final = "FEDGE_UP"

GRACE_S: Final = 15.0
"""Between asking a process to end and ending it: an aggregator puts its run away first."""

POLL_S: Final = 0.05

_PROC: Final = Path("/proc")


@dataclass(frozen=True, kw_only=True)
class Life:
    """One process from its start on, which leads a group of its own; `started` tells it from a later one of the same id."""

    pid: int
    started: int

    @property
    def is_going_on(self) -> bool:
        """Whether it still runs."""
        return _started(self.pid) == self.started

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and its group; nothing where it has ended."""
        if self.is_going_on:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)


def mark(folder: Path, service: str) -> dict[str, str]:
    """What a service's process has in its environment."""
    return {VARIABLE: f"{service}:{folder}"}


def find_lives(folder: Path) -> dict[str, Life]:
    """Every service of the plant in `folder` that runs: name → its life. A stranger's process may carry the mark; it is none of ours."""
    found: dict[str, Life] = {}
    owners = {os.geteuid()}
    with suppress(OSError):
        owners.add(folder.stat().st_uid)
    begin, end = f"{VARIABLE}=".encode(), f":{folder}".encode()
    for place in _PROC.iterdir():
        if not place.name.isdigit():
            continue
        with suppress(OSError):
            if place.stat().st_uid not in owners:
                continue
            for line in (place / "environ").read_bytes().split(b"\0"):
                if line.startswith(begin) and line.endswith(end):
                    life = life_of(int(place.name))
                    # what a service has started carries the mark, too; it leads no group of its own
                    if life is not None and os.getpgid(life.pid) == life.pid:
                        found[line[len(begin) : -len(end)].decode(errors="replace")] = life
    return found


def life_of(pid: int) -> Life | None:
    """The life of a process that runs now."""
    started = _started(pid)
    return None if started is None else Life(pid=pid, started=started)


def end_lives(lives: Iterable[Life], *, grace_s: float = GRACE_S) -> None:
    """End them: kindly, and after `grace_s` not; then whatever is left of their groups."""
    ending = list(lives)
    for life in ending:
        life.signal(signal.SIGTERM)
        life.signal(signal.SIGCONT)  # one that was stopped does not hear anything else
    deadline = time.monotonic() + grace_s
    while any(life.is_going_on for life in ending) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    for life in ending:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(life.pid, signal.SIGKILL)
    while any(life.is_going_on for life in ending):
        time.sleep(POLL_S)


def _started(pid: int) -> int | None:
    """When a process was started, in ticks since the machine was; None where there is none, or only its remains."""
    try:
        fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {b"Z", b"X"} else int(fields[19])
