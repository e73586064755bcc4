"""Does the agent that wrote status.json live, and does its loop turn? Answered by looking at the process, not at a date.

A process is known by its id, by when it was started and by which start of the device that was: an id is given again, and a clock can
be set. A process that lives and whose status is old hangs, or its disk refuses.

Source: proc(5), ``/proc/[pid]/stat``: state (3) and starttime (22, ticks since the device started).
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from edge_agent.settings import Settings
from edge_agent.status import Status, read_status, write_status
from edge_agent.trusted_clock import TrustedClock, boot_clock_s, kernel_boot
from protocol.messages.kinds import AgentState
from runtime.errors import StorageError

__all__ = [
    "STALE_AFTER_S",
    "STARTING_S",
    "ProcessSight",
    "ProcessState",
    "ThisProcess",
    "announce_start",
    "sight_from_here",
    "started_ticks",
]

STALE_AFTER_S: Final = 15.0
"""The status is written every second; one that is older was not written for a reason."""
STARTING_S: Final = 300.0
"""A start may try a delegate, mend a database and read a slow card; the unit gives it as long."""


@dataclass(frozen=True, kw_only=True)
class ThisProcess:
    """The process that runs the agent, and its clock."""

    pid: int
    started_ticks: int | None
    clock: TrustedClock


class ProcessState(StrEnum):
    """What became of the process that wrote a status."""

    RUNS = "runs"
    HANGS = "hangs"
    GONE = "gone"


@dataclass(frozen=True, kw_only=True)
class ProcessSight:
    """What can be seen of processes and time from here: `boot_s` since the start of the device that `kernel_boot` names.

    `proc` is where the kernel shows processes, `status_every_s` how often the agent is to write, `disk_problem` why it may
    be unable to.
    """

    boot_s: float
    kernel_boot: str
    status_every_s: float = 1.0
    disk_problem: str = ""
    proc: Path = Path("/proc")

    def state(self, status: Status) -> ProcessState:
        """What became of the process that wrote `status`."""
        if status.kernel_boot != self.kernel_boot or not self._lives(status):
            return ProcessState.GONE
        patience_s = max(STALE_AFTER_S, 3 * self.status_every_s)
        if not status.boot_id:  # written by `announce_start`
            patience_s = max(patience_s, STARTING_S)
        is_fresh = -1.0 <= self.boot_s - status.written_boot_s < patience_s
        return ProcessState.RUNS if is_fresh else ProcessState.HANGS

    def told(self, status: Status) -> str:
        """The state in words for a person."""
        match self.state(status):
            case ProcessState.RUNS:
                return status.health.state.value
            case ProcessState.HANGS:
                why = f" ({self.disk_problem})" if self.disk_problem else ""
                return f"hangs: process {status.pid} lives, but has not written its status for {self._age(status)}{why}"
            case ProcessState.GONE:
                return f"not running, last seen {self._age(status)} ago"

    def _age(self, status: Status) -> str:
        if status.kernel_boot != self.kernel_boot:
            return "a restart of the device"
        return f"{self.boot_s - status.written_boot_s:.0f} s"

    def _lives(self, status: Status) -> bool:
        found = started_ticks(status.pid, self.proc)
        if found is not None:
            return status.process_started in {None, found}
        try:  # a kernel may hide the processes of others (hidepid), or have no /proc
            os.kill(status.pid, 0)
        except PermissionError:
            return True
        except (OSError, OverflowError):
            return False
        return not (self.proc / "self" / "stat").exists()


def sight_from_here(settings: Settings) -> ProcessSight:
    """What this process can see of the agent of these settings."""
    try:
        disk = os.statvfs(settings.state_dir)
        problem = (
            "its disk is read-only"
            if disk.f_flag & os.ST_RDONLY
            else ""
            if disk.f_bavail
            else "its disk is full"
        )
    except OSError as error:
        problem = f"its disk: {error.strerror or error}"
    return ProcessSight(
        boot_s=boot_clock_s(),
        kernel_boot=kernel_boot(),
        status_every_s=settings.health.status_every_s,
        disk_problem=problem,
    )


def announce_start(path: Path, process: ThisProcess) -> None:
    """Let the last status say that this process starts, as long as it has nothing of its own to say."""
    with contextlib.suppress(StorageError):  # none yet, or a disk that refuses: the loop tells
        last = read_status(path)
        starting = replace(
            last,
            pid=process.pid,
            process_started=process.started_ticks,
            kernel_boot=process.clock.kernel_boot,
            written_at_s=process.clock.wall_s(),
            written_boot_s=process.clock.boot_s(),
            health=replace(last.health, state=AgentState.STARTING),
            boot_id="",
            broker_connected=False,
            problems=(),
        )
        write_status(path, starting)


def started_ticks(pid: int, proc: Path = Path("/proc")) -> int | None:
    """When a process was started, in ticks since the device was; None for one that is not there, or dead and not buried."""
    try:
        # The name in brackets may hold brackets and blanks: what counts comes after the last one.
        fields = (
            (proc / str(pid) / "stat")
            .read_text(encoding="utf-8", errors="replace")
            .rpartition(")")[2]
            .split()
        )
        return None if fields[0] in {"Z", "X"} else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None
