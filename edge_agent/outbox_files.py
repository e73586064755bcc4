"""The files around the outbox: what is set aside is kept under another name, the last two of each sort."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

__all__ = ["aside_files", "set_aside"]

KEPT: Final = 2
"""How many files of a sort are kept; each is bounded like the outbox."""


def set_aside(path: Path, suffix: str) -> Path:
    """Rename a database, and its log, to ``<name>.<suffix>``; the oldest of the sort (up to the first hyphen) go.

    A disk that refuses the renaming refuses the next step too, which tells.
    """
    aside = path.with_name(f"{path.name}.{suffix}")
    sort = suffix.partition("-")[0]
    with contextlib.suppress(OSError):
        path.rename(aside)
        for end in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + end).rename(aside.with_name(aside.name + end))
        for old in aside_files(path, sort)[:-KEPT]:
            for end in ("", "-wal", "-shm"):
                old.with_name(old.name + end).unlink(missing_ok=True)
    return aside


def aside_files(path: Path, sort: str) -> list[Path]:
    """The databases that were set aside for this sort of reason, oldest first."""
    return sorted(
        (p for p in path.parent.glob(f"{path.name}.{sort}-*") if not p.name.endswith(("-wal", "-shm"))),
        key=_made_s,
    )


def _made_s(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):  # a person has it taken over, or deletes it, just now
        return path.stat().st_mtime
    return 0.0
