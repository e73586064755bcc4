"""Operator tokens of the aggregator (``ao_…``), beside the runs in ``aggregator.sqlite``; made as `service.tokens` says.

Making one works whether the server runs or not.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from protocol.errors import TopicError
from protocol.names import check_name
from runtime.errors import SettingsError
from service.errors import UnauthenticatedError
from service.roles import Caller, Role
from service.tokens import new_secret, token_digest

__all__ = ["DATABASE", "PREFIX", "ROLES", "TokenStore"]

DATABASE: Final = "aggregator.sqlite"
PREFIX: Final = "ao_"

ROLES: Final = (Role.VIEWER, Role.OPERATOR, Role.ADMIN)
"""Nothing is published here, so nobody is a publisher."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS tokens (
    name TEXT PRIMARY KEY, role TEXT NOT NULL, sha256 TEXT NOT NULL UNIQUE, created_at REAL NOT NULL
) STRICT;
"""


class TokenStore:
    """The tokens of one data directory; implements `service.access.TokenHolders`."""

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
            SettingsError: the name is taken, or is not a valid name; the role is not of `ROLES`.
        """
        try:
            check_name(name, "token name")
        except TopicError as error:
            raise SettingsError(str(error)) from None
        if role not in ROLES:
            raise SettingsError(f"role {role.value!r} means nothing here; valid are {', '.join(ROLES)}")
        token = new_secret(random_bytes, prefix=PREFIX)
        with self._lock:
            try:
                self._db.execute(
                    "INSERT INTO tokens VALUES (?, ?, ?, ?)", (name, role.value, token_digest(token), now)
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

    def find_caller(self, token: str) -> Caller:
        """See `TokenHolders`."""
        with self._lock:
            row = self._db.execute(
                "SELECT name, role FROM tokens WHERE sha256 = ?", (token_digest(token),)
            ).fetchone()
        if row is None:
            raise UnauthenticatedError(
                "this operator token is unknown or revoked; make one with: fedge-aggregator tokens create"
            )
        return Caller(name=row[0], role=Role(row[1]))
