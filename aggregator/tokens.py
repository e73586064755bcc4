"""Operator tokens of the aggregator's own API: ``ao_`` and 32 random bytes, shown once, stored as SHA-256 only.

A hash without salt or stretching suffices because a token is 256 bits of randomness. Tokens live beside the runs in
``aggregator.sqlite``; making one works whether the server runs or not.
"""

from __future__ import annotations

import base64
import hashlib
import sqlite3
import threading
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Final

from aggregator.errors import AccessError, SettingsError
from protocol.errors import TopicError
from protocol.names import check_name

__all__ = ["DATABASE", "PREFIX", "Role", "TokenStore"]

DATABASE: Final = "aggregator.sqlite"
PREFIX: Final = "ao_"
SECRET_BYTES: Final = 32

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS tokens (
    name TEXT PRIMARY KEY, role TEXT NOT NULL, sha256 TEXT NOT NULL UNIQUE, created_at REAL NOT NULL
) STRICT;
"""


class Role(StrEnum):
    """What a token may do; each role may do what the ones before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def allows(self, needed: Role) -> bool:
        """Whether this role may do what `needed` may."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


class TokenStore:
    """The tokens of one data directory."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def create(self, name: str, role: Role, *, now: float, random_bytes: Callable[[int], bytes]) -> str:
        """Store a new token and return its text, which nobody can recover later.

        Raises:
            SettingsError: the name is taken, or is not a valid name.
        """
        try:
            check_name(name, "token name")
        except TopicError as error:
            raise SettingsError(str(error)) from None
        token = PREFIX + base64.urlsafe_b64encode(random_bytes(SECRET_BYTES)).rstrip(b"=").decode()
        with self._lock:
            try:
                self._db.execute(
                    "INSERT INTO tokens VALUES (?, ?, ?, ?)", (name, role.value, _digest(token), now)
                )
            except sqlite3.IntegrityError:
                raise SettingsError(
                    f"a token named {name!r} exists; revoke it or choose another name"
                ) from None
        return token

    def revoke(self, name: str) -> None:
        """Make a token void; raises SettingsError where there is none of this name."""
        with self._lock:
            if not self._db.execute("DELETE FROM tokens WHERE name = ?", (name,)).rowcount:
                raise SettingsError(f"there is no token named {name!r}")

    def authenticate(self, token: str) -> tuple[str, Role]:
        """(name, role) of a token's holder.

        Raises:
            AccessError: status 401, nobody here issued this token.
        """
        with self._lock:
            row = self._db.execute(
                "SELECT name, role FROM tokens WHERE sha256 = ?", (_digest(token),)
            ).fetchone()
        if row is None:
            raise AccessError(
                "this token was not issued here; make one with: fedge-aggregator tokens create", 401
            )
        return str(row[0]), Role(row[1])


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
