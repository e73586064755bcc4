"""The databases of a plant as they were at one and the same moment, while its services go on writing.

::

    every SQLite file: BEGIN IMMEDIATE ─► nobody writes ─► PostgreSQL: a snapshot is exported
                                                        ─► every SQLite file: a reader begins ─► ROLLBACK: writing goes on
    copies are made of what the readers see, for as long as it takes: SQLite's backup API, pg_dump --snapshot

So what the fleet stored of a run and what the aggregator stored of it belong together, and no privacy ledger is shorter than a
release says. Writers wait for some milliseconds. Passwords go to PostgreSQL's programs by their environment.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

from fleet.errors import UnavailableError
from fleet.storage.addresses import parsed_address

__all__ = ["Instant", "at_one_instant", "is_sqlite", "postgresql_environment", "run_postgresql"]

_SQLITE: Final = b"SQLite format 3\0"
WRITERS_STOP_S: Final = 30.0
"""How long a writer is waited for; our services hold a database for less than ten seconds."""

_ASK: Final = "Install it with: apt-get install postgresql-client"


def is_sqlite(path: Path) -> bool:
    """Whether this file is a SQLite database, whatever its name."""
    with path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


@dataclass(frozen=True, kw_only=True)
class Instant:
    """One moment of several databases, held for as long as `at_one_instant` lasts."""

    sqlite: dict[Path, sqlite3.Connection]
    snapshot: str

    def copy_sqlite(self, path: Path, target: Path) -> None:
        """Write `path`, as it was, to a new file; a backup on a connection that reads already copies what it sees."""
        with closing(sqlite3.connect(target)) as copy:
            self.sqlite[path].backup(copy)

    def dump(self, url: str, target: Path) -> None:
        """Write the PostgreSQL database at `url`, as it was, in pg_dump's custom format."""
        run_postgresql(
            "pg_dump",
            url,
            "--format=custom",
            "--no-owner",
            "--no-privileges",
            f"--snapshot={self.snapshot}",
            f"--file={target}",
        )


@contextmanager
def at_one_instant(files: Sequence[Path], url: str | None) -> Iterator[Instant]:
    """Hold the moment of the SQLite `files`, and of the PostgreSQL database at `url` where one is given.

    Raises:
        UnavailableError: a database is held by somebody for too long, or does not answer.
    """
    with ExitStack() as stack:
        readers: dict[Path, sqlite3.Connection] = {}
        snapshot = ""
        with ExitStack() as still:
            for path in sorted(files):
                writer = still.enter_context(closing(_connect(path)))
                _do(path, writer, "BEGIN IMMEDIATE")
            if url is not None:
                snapshot = _export_snapshot(stack, url)
            for path in sorted(files):
                readers[path] = stack.enter_context(closing(_connect(path)))
                _do(path, readers[path], "BEGIN")
                _do(path, readers[path], "SELECT count(*) FROM sqlite_master")  # only what is read is held
        yield Instant(sqlite=readers, snapshot=snapshot)


def run_postgresql(program: str, url: str, *arguments: str) -> None:
    """Run pg_dump or pg_restore on the database at `url`.

    Raises:
        UnavailableError: it is not installed, or it failed; says with what.
    """
    if shutil.which(program) is None:
        raise UnavailableError(f"{program} is not installed, and the database is PostgreSQL. {_ASK}")
    name, environment = postgresql_environment(url)
    done = subprocess.run(
        [program, f"--dbname={name}", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = " ".join((done.stderr.strip() or f"status {done.returncode}").split())
        raise UnavailableError(f"{program} failed: {reason[:500]}")


def postgresql_environment(url: str) -> tuple[str, dict[str, str]]:
    """What libpq's programs are given for a database_url: a connection string without a password, and the password aside."""
    parsed = parsed_address(url).set(drivername="postgresql")
    password = parsed.password
    shown = parsed._replace(password=None)  # `set` takes None for "as it is"
    return shown.render_as_string(), {"PGPASSWORD": str(password)} if password else {}


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=WRITERS_STOP_S, isolation_level=None)


def _do(path: Path, connection: sqlite3.Connection, statement: str) -> None:
    try:
        connection.execute(statement).fetchall()
    except sqlite3.DatabaseError as error:
        raise UnavailableError(
            f"{path} cannot be copied: {error}; is it being upgraded, or damaged?"
        ) from None


def _export_snapshot(stack: ExitStack, url: str) -> str:
    name, environment = postgresql_environment(url)
    try:
        connection = stack.enter_context(
            closing(psycopg.connect(name, password=environment.get("PGPASSWORD"), autocommit=True))
        )
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        row = connection.execute("SELECT pg_export_snapshot()").fetchone()
    except psycopg.Error as error:
        raise UnavailableError(
            f"the database does not answer: {' '.join(str(error).split())[:300]}"
        ) from None
    return str(row[0]) if row else ""
