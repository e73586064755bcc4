"""``install.json``: the journal on disk, replaced whole and durably with every step.

A reader (the learner, `fedge-agent status`) sees the old journal or the new one. A damaged file is set aside and met
with an empty journal: the device then starts from the bundles it finds (see `recovery`).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import msgspec

from edge_agent.installation.journal import Journal
from runtime.durable_files import read_bytes, write_durably
from runtime.errors import StorageError

__all__ = ["JournalFile"]

log: Final = logging.getLogger(__name__)


class JournalFile:
    """Loads and saves the journal at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.was_damaged = False

    def read(self) -> Journal | None:
        """The journal, or None where there is none yet; changes nothing.

        Raises:
            StorageError: the file cannot be read or is damaged.
        """
        content = read_bytes(self._path)
        if content is None:
            return None
        try:
            return msgspec.json.decode(content, type=Journal)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StorageError(f"{self._path} is damaged: {error}") from None

    def load(self) -> Journal | None:
        """The journal for who will write it: a damaged one is renamed to ``install.json.damaged`` and counts as none.

        Raises:
            StorageError: the file cannot be read or set aside.
        """
        try:
            return self.read()
        except StorageError as error:
            self.was_damaged = True
            aside = self._path.with_name(self._path.name + ".damaged")
            log.error("install_journal_set_aside error=%s kept_as=%s", error, aside)  # noqa: TRY400 - the message says it all
            try:
                self._path.replace(aside)
            except OSError as failure:
                raise StorageError(f"{error}; and it cannot be set aside: {failure.strerror}") from None
            return None

    def save(self, journal: Journal) -> None:
        """Make `journal` the one that survives a power cut.

        Raises:
            StorageError: the disk is full or read-only; the former journal still holds.
        """
        write_durably(self._path, msgspec.json.encode(journal), mode=0o600)
