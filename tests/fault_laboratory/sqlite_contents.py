"""What a SQLite database holds, as one short word: two that hold the same rows have the same."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["contents_digest", "opened"]


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The database by a connection of its own."""
    db = sqlite3.connect(path)
    try:
        yield db
    finally:
        db.close()


def contents_digest(path: Path) -> str:
    """Of the schema and every row; "" where there is no database."""
    if not path.exists():
        return ""
    with opened(path) as db:
        schema = db.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
        digest = hashlib.sha256(repr(schema).encode())
        for kind, name, _ in schema:
            if kind == "table":
                digest.update(repr(db.execute(f'SELECT * FROM "{name}"').fetchall()).encode())  # noqa: S608 - its own tables
        return digest.hexdigest()[:16]
