"""Files that are written out of the description, and what becomes of them when they are written again.

::

    missing                         ─► made
    as it shall be                  ─► kept
    as we wrote it the last time    ─► brought up to date
    changed by somebody             ─► theirs: left alone, and said

What was written is remembered as SHA-256 in ``.written.json``. Keys, tokens and certificates are no such files: they are made once.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from runtime.durable_files import read_bytes, write_durably

__all__ = ["Outcome", "WrittenFiles"]

_MEMORY: Final = ".written.json"


class Outcome(StrEnum):
    """What became of a file."""

    MADE = "made"
    KEPT = "kept"
    UPDATED = "brought up to date"
    RENEWED = "renewed"
    THEIRS = "yours, left alone"


@dataclass
class WrittenFiles:
    """The files below one folder, and what became of each, in order: path → outcome. Use `close` at the end."""

    folder: Path
    outcomes: dict[Path, Outcome] = field(default_factory=dict)
    _memory: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read what was written before; a memory that is damaged is none: then every file that differs is theirs."""
        try:
            self._memory = msgspec.json.decode(
                read_bytes(self.folder / _MEMORY) or b"{}", type=dict[str, str]
            )
        except msgspec.DecodeError:
            self._memory = {}

    def write(self, path: Path, content: str, *, mode: int = 0o644) -> Outcome:
        """Bring a file about; raises StorageError."""
        key, new = str(path.relative_to(self.folder)), content.encode()
        there = read_bytes(path)
        if there is None:
            outcome = Outcome.MADE
        elif there == new:
            outcome = Outcome.KEPT
        elif self._memory.get(key) == _digest(there):
            outcome = Outcome.UPDATED
        else:
            outcome = Outcome.THEIRS
        if outcome in {Outcome.MADE, Outcome.UPDATED}:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, new, mode=mode)
        if outcome is not Outcome.THEIRS:
            self._memory[key] = _digest(new)
        self.outcomes[path] = outcome
        return outcome

    def note(self, path: Path, outcome: Outcome) -> None:
        """Tell of a file that is made once, by somebody else."""
        self.outcomes[path] = outcome

    def close(self) -> None:
        """Remember what was written; raises StorageError."""
        content = json.dumps(self._memory, indent=1, sort_keys=True).encode()
        if read_bytes(self.folder / _MEMORY) != content:
            write_durably(self.folder / _MEMORY, content)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
