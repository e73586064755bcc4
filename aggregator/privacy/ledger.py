"""The privacy ledger on disk: entries are appended, never changed, and each carries the digest of all before it.

One SQLite file, write-ahead log, ``synchronous=FULL``: when `append` returns, the entry survives a power cut. Each row
holds the entry's JSON and SHA-256(previous digest | JSON); opening a ledger walks the chain and refuses a file in which a row
was changed, removed or reordered. Rows cut off at the end leave a valid, shorter chain: that is seen by whoever holds a
release, because its claim names the digest and the number of entries.

It stores and checks the chain; what entries mean is `history`'s.

Source of the pattern: Haber, Stornetta, "How to Time-Stamp a Digital Document", 1991 (linked digests).
"""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path
from typing import Final

import msgspec

from aggregator.errors import LedgerDamagedError, LedgerError
from aggregator.privacy.ledger_entries import Entry
from runtime.durable_files import fsync_directory

__all__ = ["GENESIS", "Ledger", "LedgerHead"]

GENESIS: Final = hashlib.sha256(b"fedge privacy ledger v1").digest()
"""The digest before the first entry."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY, body BLOB NOT NULL, digest BLOB NOT NULL) STRICT;
CREATE TRIGGER IF NOT EXISTS entries_stay BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER IF NOT EXISTS entries_last BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'append only'); END;
"""
_decoder: Final = msgspec.json.Decoder(Entry)


class LedgerHead(msgspec.Struct, frozen=True, kw_only=True):
    """Where the chain stands: how many entries, and the digest of the last one in hex."""

    entries: int
    sha256: str


class Ledger:
    """An open ledger. Not thread-safe: `accounts.PrivacyAccounts` holds the lock.

    Args:
        path: the file; made, with its folder, unless `read_only`.
        read_only: look at a ledger that an aggregator may be writing.

    Raises:
        LedgerDamagedError: the chain is broken; says at which entry.
        LedgerError: there is no ledger to read, or the disk refuses.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        if read_only and not path.exists():
            raise LedgerError(
                f"there is no privacy ledger at {path}; the aggregator makes it when its first run is planned"
            )
        self._digest, self._count = GENESIS, 0
        try:
            self._db = _connect(path, read_only=read_only)
            self.entries = self._walk()
        except sqlite3.DatabaseError as error:
            raise _storage_error(path, error) from None

    @property
    def head(self) -> LedgerHead:
        """The present end of the chain."""
        return LedgerHead(entries=self._count, sha256=self._digest.hex())

    def append(self, entry: Entry) -> None:
        """Add one entry; on return it survives a power cut.

        Raises:
            LedgerError: the disk refuses, or another process has written meanwhile; the entry is not there.
        """
        body = msgspec.json.encode(entry)
        digest = _chained(self._digest, body)
        try:
            # Outside a transaction of ours each statement commits by itself, with an fsync. The explicit number makes a
            # second writer collide instead of forking the chain.
            self._db.execute("INSERT INTO entries VALUES (?, ?, ?)", (self._count + 1, body, digest))
        except sqlite3.IntegrityError:
            raise LedgerError(
                f"another process has written to the privacy ledger {self._path}; run one aggregator per data_dir and restart this one"
            ) from None
        except sqlite3.Error as error:
            raise LedgerError(
                f"the privacy ledger {self._path} cannot be written: {error}; free space or mend the disk, the round must not go on"
            ) from None
        self._digest, self._count = digest, self._count + 1
        self.entries.append(entry)

    def digest_after(self, entries: int) -> str:
        """The chain's digest after the first `entries` entries, in hex; empty where there are fewer."""
        if entries == 0:
            return GENESIS.hex()
        row = self._db.execute("SELECT digest FROM entries WHERE number = ?", (entries,)).fetchone()
        return "" if row is None else bytes(row[0]).hex()

    def close(self) -> None:
        """Close the file; nothing is pending."""
        self._db.close()

    def _walk(self) -> list[Entry]:
        entries: list[Entry] = []
        for number, body, digest in self._db.execute(
            "SELECT number, body, digest FROM entries ORDER BY number"
        ):
            expected = _chained(self._digest, body)
            if number != self._count + 1 or digest != expected:
                raise LedgerDamagedError(
                    f"the privacy ledger {self._path} is broken at entry {self._count + 1}: it was changed or removed after it was "
                    "written; restore the file from a backup, figures from this one would be false"
                )
            try:
                entries.append(_decoder.decode(body))
            except msgspec.DecodeError as error:
                raise LedgerDamagedError(
                    f"entry {number} of the privacy ledger {self._path} cannot be read by this build: {error}; use the version that wrote it, or newer"
                ) from None
            self._digest, self._count = expected, number
        return entries


def _chained(previous: bytes, body: bytes) -> bytes:
    return hashlib.sha256(previous + body).digest()


def _connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    if read_only:
        # Where nobody writes, nothing is laid beside the file either: an auditor's copy may be on a disk that takes no writes.
        log = path.with_name(f"{path.name}-wal")
        is_still = not log.exists() or not log.stat().st_size
        how = "mode=ro&immutable=1" if is_still else "mode=ro"
        return sqlite3.connect(f"{path.resolve().as_uri()}?{how}", uri=True, isolation_level=None)
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.executescript(_SCHEMA)
    if is_new:
        # SQLite syncs the file; the name of a new file is the folder's to keep.
        fsync_directory(path.parent)
    return db


def _storage_error(path: Path, error: sqlite3.DatabaseError) -> LedgerError:
    if isinstance(error, sqlite3.OperationalError):
        return LedgerError(
            f"the privacy ledger {path} cannot be opened: {error}; check the folder and the disk"
        )
    return LedgerDamagedError(
        f"the privacy ledger {path} is no readable database: {error}; restore it from a backup"
    )
