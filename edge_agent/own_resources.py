"""Has this process nearly used up what it may have? A driver that leaks is started anew before the kernel says no.

Memory against the limit of its control group, open files and threads against theirs: where they run out, nothing can be written,
sent or started any more, and the kernel's way out is to kill without a word.

Source: cgroups(7), Documentation/admin-guide/cgroup-v2 (memory.max) and cgroup-v1/memory (memory.limit_in_bytes); proc(5).
"""

from __future__ import annotations

import errno
import resource
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["OwnResources"]

NEARLY: Final = 0.85
"""What is left must do for a farewell."""
_GROWTH: Final = 2.0
"""A process that is large from the beginning is no leak: starting it again would not make it smaller."""
_MOST_THREADS: Final = 100
"""The agent has six, and the unit allows 128 (TasksMax), a learner's among them."""
_NO_LIMIT: Final = 1 << 50


@dataclass(frozen=True, kw_only=True)
class OwnResources:
    """What this process may have; None where there is no limit. `first_bytes` is what it had of memory when it began."""

    most_bytes: int | None
    most_files: int
    first_bytes: int
    files: Path = Path("/proc/self/fd")

    @classmethod
    def from_kernel(cls, first_bytes: int) -> OwnResources:
        """Ask the kernel."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return cls(most_bytes=_memory_limit(), most_files=files, first_bytes=first_bytes)

    def exhausted(self, memory_bytes: int) -> str:
        """What is nearly used up, in a sentence; empty where there is enough of everything."""
        threads = threading.active_count()
        try:
            open_files = sum(1 for _ in self.files.iterdir())
        except OSError as error:  # no /proc, or no file left to look with
            open_files = self.most_files if error.errno in {errno.EMFILE, errno.ENFILE} else 0
        if self.most_files > 0 and open_files >= NEARLY * self.most_files:
            return f"{open_files} of {self.most_files} files are open"
        if threads >= _MOST_THREADS:
            return f"{threads} threads run, the agent's own are six"
        most = self.most_bytes
        if most is not None and memory_bytes >= max(NEARLY * most, _GROWTH * self.first_bytes):
            return f"{memory_bytes / 1e6:.0f} of {most / 1e6:.0f} MB of memory are used, {self.first_bytes / 1e6:.0f} at first"
        return ""


def _memory_limit(
    cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int | None:
    """Bytes that the control group of this process may have; None without a limit."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        inside = path.lstrip("/")
        if not controllers:
            # Any group above may be the tighter one.
            folders = [cgroups / inside, *(cgroups / inside).parents]
            limits += [_number(folder / "memory.max") for folder in folders if folder.is_relative_to(cgroups)]
        elif "memory" in controllers.split(","):
            limits.append(_number(cgroups / "memory" / inside / "memory.limit_in_bytes"))
    known = [limit for limit in limits if limit is not None and limit < _NO_LIMIT]
    return min(known, default=None)


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # "max", or no such file
        return None
