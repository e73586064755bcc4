"""Operator tokens of the aggregator (``ao_…``), beside the runs in ``aggregator.sqlite``; made as `service.tokens` says.

Making one works whether the server runs or not.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import msgspec

from service.errors import TokenChangeError
from service.roles import Role
from service.tokens import StoredTokens, TokenRecord

__all__ = ["DATABASE", "PREFIX", "ROLES", "SqliteRows", "TokenStore"]

DATABASE: Final = "aggregator.sqlite"
PREFIX: Final = "ao_"

ROLES: Final = (Role.VIEWER, Role.OPERATOR, Role.ADMIN)
"""Nothing is published here, so nobody is a publisher."""

_COLUMNS: Final = {
    "name": "TEXT PRIMARY KEY",
    "role": "TEXT NOT NULL",
    "sha256": "TEXT NOT NULL UNIQUE",
    "created_at": "REAL NOT NULL",
    "person": "TEXT",
    "is_program": "INTEGER NOT NULL DEFAULT 0",
    "families": "TEXT",
    "rotated_at": "REAL",
    "earlier_sha256": "TEXT",
    "earlier_until": "REAL",
    "expires_at": "REAL",
    "revoked_at": "REAL",
    "last_used_at": "REAL",
}
"""One for each field of `TokenRecord`; the first four are those of the first release."""

_FIELDS: Final = tuple(field.name for field in fields(TokenRecord))
_SELECT: Final = f"SELECT {', '.join(_FIELDS)} FROM tokens"  # noqa: S608 - the fields of a class of ours


class TokenStore(StoredTokens):
    """The tokens of one data directory.

    Args:
        path: of the database.
        now: Unix seconds.
    """

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db_lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        with self.rows() as rows:
            rows.prepare()
        super().__init__(lambda: self.rows("DEFERRED"), self.rows, now)

    def close(self) -> None:
        """Close the file."""
        with self._db_lock:
            self._db.close()

    @contextmanager
    def rows(self, kind: str = "IMMEDIATE") -> Iterator[SqliteRows]:
        """A transaction; of the kind DEFERRED only to read."""
        with self._db_lock:
            self._db.execute(f"BEGIN {kind}")
            try:
                yield SqliteRows(self._db)
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


class SqliteRows:
    """Implements `service.tokens.TokenRows` in a transaction of the aggregator's database."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._db = database

    def prepare(self) -> None:
        """Make the table, or bring that of an older aggregator to this one's columns: a token is then its namesake's."""
        columns = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())
        self._db.execute(f"CREATE TABLE IF NOT EXISTS tokens ({columns}) STRICT")
        known = {row[1] for row in self._db.execute("PRAGMA table_info(tokens)")}
        for name, kind in _COLUMNS.items():
            if name not in known:
                self._db.execute(f"ALTER TABLE tokens ADD COLUMN {name} {kind}")
        if "person" not in known:
            self._db.execute("UPDATE tokens SET person = lower(name) WHERE role IN ('operator', 'admin')")

    def find(self, name: str) -> TokenRecord | None:
        """See `TokenRows`."""
        return self._one(f"{_SELECT} WHERE name = ?", name)

    def find_digest(self, digest: str) -> TokenRecord | None:
        """See `TokenRows`."""
        return self._one(f"{_SELECT} WHERE sha256 = ?1 OR earlier_sha256 = ?1", digest)

    def put(self, record: TokenRecord) -> None:
        """See `TokenRows`; raises TokenChangeError for a role that means nothing here."""
        if record.role not in ROLES:
            raise TokenChangeError(
                f"role {record.role.value!r} means nothing here; valid are {', '.join(ROLES)}"
            )
        values = vars(record) | {
            "role": record.role.value,
            "is_program": int(record.is_program),
            "families": None,
        }
        marks = ", ".join(f":{name}" for name in _FIELDS)
        put = f"INSERT OR REPLACE INTO tokens ({', '.join(_FIELDS)}) VALUES ({marks})"  # noqa: S608 - the fields of a class of ours
        self._db.execute(put, values)

    def note(self, action: str, name: str, at: float, **detail: object) -> None:
        """See `TokenRows`: the aggregator keeps no audit log; each run says who asked for it."""

    def all(self) -> list[TokenRecord]:
        """Every token, by name."""
        return [_record(row) for row in self._db.execute(f"{_SELECT} ORDER BY name")]

    def _one(self, query: str, value: str) -> TokenRecord | None:
        row = self._db.execute(query, (value,)).fetchone()
        return None if row is None else _record(row)


def _record(row: tuple[Any, ...]) -> TokenRecord:
    return msgspec.convert(dict(zip(_FIELDS, row, strict=True)), TokenRecord, strict=False)
