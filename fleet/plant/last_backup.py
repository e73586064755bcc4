"""When a plant was last backed up, as its own machine knows it: for whoever asks whether that is long ago."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from runtime.durable_files import private_directory, read_bytes, write_durably
from service.plant import Plant

__all__ = ["LastBackup", "note_backup", "read_last_backup"]

_FILE = "last-backup.json"


class LastBackup(Struct, frozen=True, kw_only=True):
    """at: Unix seconds; audit_entries: how many lines the audit log had; file: where it was written."""

    at: float
    audit_entries: int
    file: str


def note_backup(plant: Plant, made: LastBackup) -> None:
    """Remember a backup; raises StorageError."""
    write_durably(private_directory(plant.run) / _FILE, msgspec.json.encode(made))


def read_last_backup(plant: Plant) -> LastBackup | None:
    """The last one that was made here; None where none was, or nobody can read of it. Raises StorageError."""
    try:
        return msgspec.json.decode(read_bytes(plant.run / _FILE) or b"", type=LastBackup)
    except msgspec.DecodeError:
        return None
