"""Accounts in a password file that the broker reads again whenever it changes: the embedded broker of a simulation.

The file is replaced as a whole, atomically. Many updates at once share one rewrite, and each returns only after a
rewrite that saw its device. Not for Mosquitto: a SIGHUP that arrives while it reads the file is lost (decision 0010).
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from fleet.broker_accounts.accounts import AccountBook
from runtime.durable_files import write_durably

__all__ = ["PasswordFile"]


class PasswordFile:
    """`BrokerAccounts` in a file of lines ``name:entry``."""

    def __init__(self, book: AccountBook, file: Path) -> None:
        self._book = book
        self._file = file
        self._writing = asyncio.Lock()
        self._asked = 0
        self._written = 0

    async def update(self, name: str) -> None:  # noqa: ARG002 - the port names it; here all are written
        """See `BrokerAccounts.update`."""
        self._asked += 1
        ticket = self._asked
        async with self._writing:
            if self._written < ticket:  # else somebody wrote while we queued, after our commit
                covers = self._asked
                await asyncio.to_thread(self.write)
                self._written = covers

    def write(self) -> None:
        """Write every account that must exist; raises StorageError."""
        lines = [f"{name}:{entry}\n" for name, entry in sorted(self._book.entries().items())]
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_durably(self._file, "".join(lines).encode(), mode=0o640)
