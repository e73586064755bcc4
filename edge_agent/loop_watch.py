"""The loop watched from outside it: by systemd's watchdog, and by a timer in this process that needs no one's leave.

Both are fed by the loop alone, after a turn that came round: no thread says that the loop is well. A loop that hangs (a driver
that holds Python's global lock, a disk that never answers) is first seen by the timer: it writes where each thread stands, and
ends the process with status 1; it works in C, so that it needs no Python to go on. It works without systemd too. Where a process
does not even get that far, systemd's watchdog ends it. Either way a supervisor starts another one.

::

    start: EXTEND_TIMEOUT_USEC ─► first turn: READY=1, WATCHDOG_USEC ─► each 10 s: WATCHDOG=1, STATUS ─► STOPPING=1

Source: sd_notify(3), sd_watchdog_enabled(3); faulthandler.dump_traceback_later of the standard library.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import socket
import sys
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["LoopWatch", "Supervisor", "arm_process_guard", "hang_limit_s", "supervisor_of"]

HANG_S: Final = 120.0
"""A turn takes milliseconds; the slowest on purpose is a fit, below."""
_FIT_ROW_S: Final = 0.005
"""For each row of a drift reference: .2 ms measured here, eight times as long on a small board, and as much again in hand."""
START_S: Final = 300.0
"""For a step of the start: a delegate that is tried (20 s each), a database that is mended, a slow card."""
FEED_EVERY_S: Final = 10.0
_BEHIND_S: Final = 60.0
"""How much later than the timer systemd's watchdog bites: the timer says where the loop stands."""
_LONGEST_STATUS: Final = 200


def hang_limit_s(reference_windows: int) -> float:
    """How long a turn of the loop may take, seconds, where a drift reference is fitted on so many windows."""
    return HANG_S + _FIT_ROW_S * reference_windows


@dataclass(frozen=True, kw_only=True)
class Supervisor:
    """Who started this process: `tell` takes lines of sd_notify(3), `watchdog_s` is its watchdog's limit, None without one."""

    tell: Callable[[str], None]
    watchdog_s: float | None = None


def supervisor_of(environment: MutableMapping[str, str], pid: int) -> Supervisor:
    """Read, and take out of the environment, what systemd put there: it is not for the children of this process."""
    address = environment.pop("NOTIFY_SOCKET", "")
    limit, whose = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
    if not address.startswith(("/", "@")):
        return Supervisor(tell=lambda _: None)
    is_ours = limit.isdigit() and int(limit) > 0 and whose in {"", str(pid)}
    name = "\0" + address[1:] if address.startswith("@") else address

    def tell(lines: str) -> None:
        # A supervisor that does not listen is no reason to stop, or to wait.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(0.0)
            sender.sendto(lines.encode(), name)

    return Supervisor(tell=tell, watchdog_s=int(limit) / 1e6 if is_ours else None)


def arm_process_guard(limit_s: float) -> None:
    """End this process with status 1 in `limit_s` seconds, unless it is armed again: where each thread stands on stderr."""
    if (
        sys.stderr is None
    ):  # closed by whoever started us: then nobody is told, and the timer works all the same
        sys.stderr = Path(os.devnull).open("w", encoding="ascii")  # noqa: SIM115 - for as long as the process lives
    faulthandler.enable()  # also for the signal that systemd's watchdog sends
    faulthandler.dump_traceback_later(limit_s, exit=True)


class LoopWatch:
    """Feeds both watches.

    Args:
        supervisor: who started this process.
        arm_guard: ends the process in so many seconds, unless it is called again.
        clock: monotonic seconds.
        limit_s: how long a turn may take.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        arm_guard: Callable[[float], None],
        clock: Callable[[], float],
        limit_s: float = HANG_S,
    ) -> None:
        self._supervisor, self._arm_guard, self._clock, self._limit_s = supervisor, arm_guard, clock, limit_s
        watchdog_s = supervisor.watchdog_s
        # Fed in half of the shortest of the limits, as sd_watchdog_enabled(3) advises, and more often costs nothing.
        self._feed_every_s = min(FEED_EVERY_S, limit_s / 2, (watchdog_s or limit_s) / 2)
        self._feed_at_s = float("-inf")
        self._is_ready = False

    def starting(self, what: str) -> None:
        """A step of the start begins that may take until `START_S`."""
        self._arm_guard(START_S)
        self._supervisor.tell(f"EXTEND_TIMEOUT_USEC={START_S * 1e6:.0f}\nSTATUS={what}")

    def came_round(self, describe: Callable[[], str]) -> None:
        """The loop came round; `describe` says in a line how it is."""
        now_s = self._clock()
        if now_s < self._feed_at_s:
            return
        self._feed_at_s = now_s + self._feed_every_s
        self._arm_guard(self._limit_s)
        lines = ["WATCHDOG=1", "STATUS=" + " ".join(describe().split())[:_LONGEST_STATUS]]
        if not self._is_ready:
            self._is_ready = True
            lines.insert(0, "READY=1")
            needed_s = self._limit_s + _BEHIND_S
            if self._supervisor.watchdog_s is not None and self._supervisor.watchdog_s < needed_s:
                lines.append(f"WATCHDOG_USEC={needed_s * 1e6:.0f}")
        self._supervisor.tell("\n".join(lines))

    def stopping(self) -> None:
        """The loop has ended, and said goodbye."""
        self._supervisor.tell("STOPPING=1\nSTATUS=stopping")
