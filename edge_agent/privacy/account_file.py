"""The file of the privacy account: opened, checked, brought up to date. One SQLite database, every commit fsynced.

::

    charges    every answer that was masked, and what it costs          append only; the table that older agents wrote
    answers    of which kind it was, from which snapshot                append only, one for each charge since there are snapshots
    reveals    over which devices this device opened its sum, at which cost (none without noise)     append only
    snapshots  when windows were copied, and whose allowance they use   append only
    windows    which windows the newest snapshot of some columns holds
    elapsed    time that has passed, and when it was last looked at     one row
    refusal    what was declined last, and why                          one row

A new account appears under its name when it is whole; one that is empty, damaged, or of a newer agent is refused and left as it is,
because an empty account in its place would be a new allowance.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from runtime.durable_files import fsync_directory
from runtime.errors import StorageError

__all__ = ["AccountFile"]

_FORMAT: Final = 1
"""Kept as the database's user_version; accounts of agents before snapshots have 0."""

_BUSY_S: Final = 30.0
"""How long one learner waits for another's transaction; a snapshot is written within one, and a card may take seconds for it."""

_CHARGES: Final = """
CREATE TABLE IF NOT EXISTS charges (
    number INTEGER PRIMARY KEY, run TEXT NOT NULL, round TEXT NOT NULL, at REAL NOT NULL,
    rho REAL NOT NULL, xi REAL NOT NULL, noised INTEGER NOT NULL, UNIQUE (run, round)
) STRICT;
"""
_SCHEMA: Final = (
    _CHARGES
    + """
CREATE TABLE IF NOT EXISTS snapshots (
    number INTEGER PRIMARY KEY, allowance INTEGER NOT NULL, content TEXT NOT NULL, sha256 TEXT NOT NULL, rows INTEGER NOT NULL,
    end INTEGER NOT NULL, at REAL NOT NULL, elapsed_s REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS answers (
    number INTEGER PRIMARY KEY REFERENCES charges (number), kind TEXT NOT NULL, snapshot INTEGER NOT NULL, allowance INTEGER NOT NULL,
    cover INTEGER NOT NULL, elapsed_s REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS reveals (
    number INTEGER PRIMARY KEY REFERENCES answers (number), survivors TEXT NOT NULL, rho REAL, xi REAL
) STRICT;
CREATE TABLE IF NOT EXISTS windows (columns TEXT PRIMARY KEY, known BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS elapsed (
    id INTEGER PRIMARY KEY CHECK (id = 1), boot TEXT NOT NULL, uptime_s REAL NOT NULL, wall_s REAL NOT NULL, elapsed_s REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS refusal (
    id INTEGER PRIMARY KEY CHECK (id = 1), at REAL NOT NULL, code TEXT NOT NULL, words TEXT NOT NULL
) STRICT;
"""
    + "".join(
        f"CREATE TRIGGER IF NOT EXISTS {table}_{name} BEFORE {change} ON {table} BEGIN SELECT RAISE(ABORT, 'append only'); END;\n"
        for table in ("charges", "answers", "reveals", "snapshots")
        for name, change in (("stay", "UPDATE"), ("last", "DELETE"))
    )
)


class AccountFile:
    """The open database; every method raises StorageError where the disk or the file fails.

    Args:
        path: the file; made where it is missing.
        traces: whether something else shows that there was an account already: then it is lost, and none is made.

    Raises:
        StorageError: the file cannot be opened, or is damaged; take part in nothing.
    """

    def __init__(self, path: Path, *, traces: bool = False) -> None:
        self.path = path
        try:
            if not path.exists():
                if traces:
                    raise sqlite3.DatabaseError(
                        "it is gone, and the snapshot that it belongs to is still there"
                    )
                _make(path)
            self._db = _open(path)
        except (sqlite3.Error, OSError, StorageError) as error:
            raise StorageError(
                f"the privacy account {path} cannot be used: {error}; no round is answered until it can. Restore the file, "
                "or have the owner decide about a new one: what was given stays given"
            ) from None

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction; on leaving it what was written survives a power cut, or nothing was and the error says so.

        Immediate: a second process (an orphaned learner) waits here and then sees what this one wrote.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StorageError(
                f"the privacy account {self.path} does not take the charge: {error}; this answer does not leave the device"
            ) from None

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One consistent view."""
        try:
            self._db.execute("BEGIN")
            try:
                yield self._db
            finally:
                self._db.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise StorageError(f"the privacy account {self.path} cannot be read: {error}") from None

    def close(self) -> None:
        """Close the file; nothing is pending."""
        self._db.close()


def _make(path: Path) -> None:
    """A whole, empty account under its name, or none: a kill in the middle leaves nothing that could be taken for a damaged one."""
    draft = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
    try:
        db = sqlite3.connect(draft, isolation_level=None)
        try:
            draft.chmod(0o600)
            db.execute("PRAGMA synchronous = FULL")
            # Not WAL yet: a second file could not be renamed together with the first.
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_FORMAT}; COMMIT;")
        finally:
            db.close()
        # A link and no rename: where another learner was faster, its account may hold a charge already.
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
        fsync_directory(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_S, check_same_thread=False)
    try:
        path.chmod(0o600)
        db.execute("PRAGMA cache_size = -256")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        version = _require_sound(db)
        if version < _FORMAT:
            db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_FORMAT}; COMMIT;")
    except BaseException:
        db.close()
        raise
    return db


def _require_sound(db: sqlite3.Connection) -> int:
    """The format of a database that is a whole account; raises sqlite3.DatabaseError for any other."""
    if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise sqlite3.DatabaseError("the integrity check found damage")
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > _FORMAT:
        raise sqlite3.DatabaseError(f"it is of format {version}, this agent knows formats up to {_FORMAT}")
    if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'charges'").fetchone():
        raise sqlite3.DatabaseError("it holds no charges: it was cut off or emptied")
    return version
