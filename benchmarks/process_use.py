"""What programs use while something else is measured: memory and processor, as the kernel counts them."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path

from edge_agent.health import memory_pss_bytes

__all__ = ["Cores", "Memory", "memory_mb"]


def memory_mb(pid: int) -> float:
    """Its proportional share of memory."""
    return memory_pss_bytes(Path(f"/proc/{pid}/smaps_rollup")) / 2**20


class Memory:
    """The largest PSS that a process had, looked at twice a second."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self.largest_mb = 0.0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            self.largest_mb = max(self.largest_mb, memory_mb(self._pid))

    def stop(self) -> float:
        """Look no more; what it was."""
        self._stop.set()
        self._thread.join()
        return self.largest_mb


class Cores:
    """Seconds of CPU that programs (name → process id) have used so far, with what they start."""

    def __init__(self, programs: Mapping[str, int]) -> None:
        self._programs = dict(programs)

    def used_s(self) -> dict[str, float]:
        """Of each program, and of what it started unless that is one of the others."""
        apart = set(self._programs.values())
        return {name: _cpu_s(pid, apart - {pid}) for name, pid in self._programs.items()}


def _cpu_s(pid: int, but: set[int]) -> float:
    """Of a process and its children, those that it has waited for included; seconds."""
    try:
        figures = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has ended
        return 0.0
    own = sum(map(int, figures[11:15])) / os.sysconf("SC_CLK_TCK")
    return own + sum(_cpu_s(int(child), but) for child in children if int(child) not in but)
