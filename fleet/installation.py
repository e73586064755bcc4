"""Which data_dir this is: a name of its own, by which replicas notice that theirs are not one and the same.

Bundles, the signed repository, the device CA and the instruction key lie in the data_dir; replicas share one, on a disk
that all of them mount (docs/scaling.md). Two that made a CA each would give certificates that one broker takes by turns.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from sqlalchemy import select

from fleet.storage.base import Database
from fleet.storage.replica_tables import LeaderRecord
from runtime.durable_files import private_directory, read_bytes, write_durably
from runtime.errors import StorageError
from service.errors import StartError

__all__ = ["check_shared", "installation_of"]

FILE: Final = "installation"


def installation_of(data_dir: Path) -> str:
    """The name of this data_dir, made at its first use; raises StorageError where it can be neither read nor written."""
    path = data_dir / FILE
    if (content := read_bytes(path)) is None:
        made = f"{secrets.token_hex(16)}\n".encode()
        try:
            # of two that make it at once, one is refused here and reads the other's
            write_durably(private_directory(data_dir) / FILE, made, mode=0o600, exclusive=True)
        except StorageError:
            if read_bytes(path) is None:
                raise
        content = read_bytes(path) or b""
    return content.decode("ascii", errors="replace").strip()[:64]


def check_shared(database: Database, data_dir: Path, *, is_led: bool) -> None:
    """Refuse a replica whose data_dir is not the one of the process that leads.

    Args:
        database: the fleet's.
        data_dir: of this process.
        is_led: whether somebody leads now; with nobody there, the first to come says which data_dir it is.

    Raises:
        StartError: it is another one.
    """
    with database.read() as session:
        led = session.scalar(select(LeaderRecord.installation))
    if is_led and led is not None and led != installation_of(data_dir):
        raise StartError(
            f"data_dir {data_dir} is not that of the process that leads this fleet: replicas on one database share one data_dir"
            f" (its file {FILE!r} says which it is), on a disk that all of them mount; see docs/scaling.md"
        )
