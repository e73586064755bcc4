"""The shut out in a file that an embedded broker of a simulation reads again whenever it changes: one name a line."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fleet.broker_door.shut_out import names_shut_out
from fleet.storage.base import Database
from runtime.durable_files import write_durably

__all__ = ["NameFile"]


class NameFile:
    """`BrokerDoor` in a file, which is replaced as a whole."""

    def __init__(self, database: Database, file: Path) -> None:
        self._database = database
        self._file = file
        self._writing = asyncio.Lock()

    async def shut_out(self, name: str) -> None:  # noqa: ARG002 - the port names it; here all are written
        """See `BrokerDoor.shut_out`."""
        async with self._writing:
            await asyncio.to_thread(self.write)

    def write(self) -> None:
        """Write every name; raises StorageError."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        names = sorted(names_shut_out(self._database))
        write_durably(self._file, "".join(f"{name}\n" for name in names).encode(), mode=0o640)
