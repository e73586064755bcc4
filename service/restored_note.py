"""The note in a service's data_dir that it came back from a backup: from when, and when. Written by ``fedge restore``.

What the service did after that moment is not in its files, although it happened: the aggregator asks a person before it spends privacy
that it may have spent already.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from runtime.durable_files import read_bytes, replace_file, write_durably
from runtime.errors import StorageError

__all__ = ["RestoredNote", "accept_restored_note", "read_restored_note", "write_restored_note"]

FILE: Final = "restored.json"
ACCEPTED: Final = "restored.accepted.json"


class RestoredNote(Struct, frozen=True, kw_only=True):
    """Unix seconds: `made_at` is the moment of the backup, `restored_at` when it was brought back."""

    made_at: float
    restored_at: float


def write_restored_note(data_dir: Path, note: RestoredNote) -> None:
    """Leave the note; raises StorageError."""
    write_durably(data_dir / FILE, msgspec.json.encode(note) + b"\n")


def read_restored_note(data_dir: Path) -> RestoredNote | None:
    """The note, or None where nothing was restored; raises StorageError for one that cannot be read."""
    content = read_bytes(data_dir / FILE)
    try:
        return None if content is None else msgspec.json.decode(content, type=RestoredNote)
    except msgspec.DecodeError as error:
        raise StorageError(f"{data_dir / FILE} is no note of fedge restore: {error}") from None


def accept_restored_note(data_dir: Path) -> str:
    """Put the note aside, for a person has said what it asks; returns a sentence for them. Raises StorageError."""
    if read_restored_note(data_dir) is None:
        return f"nothing was restored in {data_dir}, or it was accepted before"
    replace_file(data_dir / FILE, data_dir / ACCEPTED)
    return f"accepted: the note is {data_dir / ACCEPTED} now"
