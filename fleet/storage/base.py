"""The database under every table: declarative base, engine, and the two kinds of transaction.

SQLite by default, PostgreSQL by URL. Invariants:

* What a `write` block did is on disk when the block has ended (SQLite: WAL and ``synchronous=FULL``, so also
  after a power cut), or not at all when it raised.
* One writer at a time, on either database: a writer takes the write lock when it begins, never in the middle. What it
  read stays true until it commits, so a decision in Python (is this the first verdict? is the rollout still running?)
  needs no lock of its own. Writers of this process queue on a lock, which hands over at once and holds no connection;
  writers of other processes (a replica, the command line) wait up to `BUSY_TIMEOUT_S`. The cost: writes do not run in
  parallel on PostgreSQL either; ours take milliseconds.
* A writer that stops in the middle (a machine that hangs, a wire that was cut) holds up the others for `WRITER_STOPS_S`:
  then PostgreSQL ends its session, and what it had begun never was.
* A reader sees one snapshot, from its first statement to its last.
* Every wait ends: for the lock, a connection, the server's answer. What a database that is away or locked makes of it is one
  error, `DatabaseAwayError`, told in the log once (`fleet.storage.outages`).
* Everything here is synchronous and belongs on a worker thread: FastAPI runs plain ``def`` endpoints on one, tasks
  of the event loop use ``asyncio.to_thread``. The loop itself never waits for a disk.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from copy import copy
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, MetaData, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.types import JSON

from fleet.errors import ConflictError, UnacceptableError
from fleet.storage.addresses import parsed_address
from fleet.storage.outages import DatabaseAwayError, OutageWatch
from runtime.durable_files import private_directory
from runtime.errors import SettingsError

__all__ = ["WRITE_LOCK", "Base", "Database", "connection_options", "open_database"]

BUSY_TIMEOUT_S: Final = 30
"""How long a writer waits for another process's transaction; ours take milliseconds."""

READER_TIMEOUT_S: Final = 2
"""How long a reader waits for one on SQLite, where it need not: only a program that is none of ours makes it."""

QUEUE_S: Final = 10.0
"""How long a writer waits for the others of this process."""

CROWD, CROWD_S = 30, 2.0
"""So many writers may wait as long; who comes later waits so long only, and gives its worker thread back: the API has forty of
them, and whoever reads needs one too. Fifty devices that enrol at once all get in, at some milliseconds each."""

POOL: Final = {
    "pool_size": 8,
    "max_overflow": 32,
    "pool_timeout": 5,
    "pool_pre_ping": True,
    # the one that was used last, whose pages of the database are at hand: each keeps 2 MB of its own
    "pool_use_lifo": True,
}
"""A connection for each worker thread of the API, of which eight are kept."""

WRITER_CACHE_KIB: Final = 32 * 1024
"""Pages that SQLite's writer keeps in memory from one transaction to the next: with its own 2 MiB it wrote pages of a large one
twice, and read them back. It has one connection for that: those of a pool would each know old pages."""

CHECKPOINT_PAGES: Final = 8000
"""Of SQLite's log (32 MiB) before its pages go to the file: a page that each batch changes is written there once in several."""

POSTGRESQL: Final = {
    "connect_timeout": 5,
    # a server that is gone without a word (a cable, a firewall) is found out within a quarter of a minute
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,
    # who was stopped in the middle of a transaction holds up nobody for longer than the others wait
    "options": f"-c lock_timeout={BUSY_TIMEOUT_S}s -c idle_in_transaction_session_timeout={2 * BUSY_TIMEOUT_S}s",
}

WRITER_STOPS_S: Final = 10
"""How long a writer may say nothing within its transaction: less than `BUSY_TIMEOUT_S`, so that whoever waits is served."""

WRITE_LOCK: Final = 0x0FED6E
"""Key of PostgreSQL's advisory lock that a writer holds; `fleet.leadership` has the other one of ours."""

_WRITES: Final = "fedge_write"

_TWICE: Final = (sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, "23505")
"""A key that is there already. With one writer at a time nobody comes upon it; whoever writes past that lock is no 500 either."""


class Base(DeclarativeBase):
    """Root of every table; named constraints, so that migrations can refer to them on any database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    # mypy and SQLAlchemy read a JSON object column from this annotation
    type_annotation_map = {dict[str, Any]: JSON, dict[str, str]: JSON, list[Any]: JSON, list[str]: JSON}  # noqa: RUF012 - SQLAlchemy reads it as a class attribute


class Database:
    """Read and write transactions over one engine."""

    def __init__(self, engine: Engine, writer: Engine | None = None) -> None:
        self.engine = engine
        self._check: Callable[[Session], None] = lambda _session: None
        self.watch = OutageWatch()
        self._write_lock = threading.Lock()
        self._places = threading.Semaphore(CROWD)
        self._writer = (writer or engine).execution_options(**{_WRITES: True})
        self._reader = engine
        if engine.dialect.name == "postgresql":
            self._reader = engine.execution_options(isolation_level="REPEATABLE READ")

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session over one consistent snapshot; whatever it changed is discarded.

        Raises:
            UnacceptableError: a value that no column of this database can hold (also `write`).
            ConflictError: a key that is there already (also `write`).
            DatabaseAwayError: it does not answer (also `write`).
        """
        with (
            _holding_values(),
            self.watch.watched(writes=False),
            Session(self._reader, expire_on_commit=False, autoflush=False) as session,
        ):
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session that commits durably when the block ends, and rolls back when it raises.

        Not re-entrant: do not open a second `write` inside one.
        """
        with (
            _holding_values(),
            self.watch.watched(writes=True),
            self._alone(),
            Session(self._writer, expire_on_commit=False) as session,
            session.begin(),
        ):
            self._check(session)
            yield session

    @contextmanager
    def _alone(self) -> Iterator[None]:
        has_place = self._places.acquire(blocking=False)
        is_mine = self._write_lock.acquire(timeout=QUEUE_S if has_place else CROWD_S)
        if has_place:
            self._places.release()
        if not is_mine:
            raise DatabaseAwayError(
                "the database is away: another transaction holds it, and others wait; ask again"
            )
        try:
            yield
        finally:
            self._write_lock.release()

    def fenced(self, check: Callable[[Session], None]) -> Database:
        """The same database, whose every `write` first asks `check` within its transaction; what that raises ends it."""
        other = copy(self)
        other._check = check  # noqa: SLF001 - of the same class
        return other

    def forget_deleted(self) -> None:
        """Have the disk forget what was deleted and committed, as far as the database does so at once.

        SQLite has overwritten it in its file, and empties its log here (a reader that is busy may keep it a little longer).
        PostgreSQL overwrites at its next VACUUM.
        """
        if self.engine.dialect.name == "sqlite":
            with self._write_lock, closing(self.engine.raw_connection()) as connection:
                connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Return every connection."""
        self.engine.dispose()
        self._writer.dispose()


@contextmanager
def _holding_values() -> Iterator[None]:
    # PostgreSQL keeps no NUL in a text and nothing longer than its column: whoever sent it must change it
    try:
        yield
    except DataError as error:
        reason = str(error.orig).splitlines()[0]
        raise UnacceptableError(f"the database cannot hold a value of this request: {reason}") from None
    except IntegrityError as error:
        code = getattr(error.orig, "sqlite_errorcode", None) or getattr(error.orig, "sqlstate", None)
        if code not in _TWICE:
            raise
        raise ConflictError(
            "the same was stored by somebody else at this moment; ask again to see it"
        ) from None


def open_database(url: str) -> Database:
    """Connect to `url` (``sqlite:////path`` or ``postgresql+psycopg://…``); creates a SQLite file's directory, mode 0700.

    Raises:
        StorageError: that directory cannot be made.
        SettingsError: the URL does not parse or names another kind of database.
    """
    parsed = parsed_address(url)
    match parsed.get_backend_name():
        case "sqlite":
            if parsed.database:
                private_directory(Path(parsed.database).parent)
            engine = _sqlite_engine(parsed, POOL if parsed.database else {})
            if not parsed.database:  # in memory: another connection would have another one
                return Database(engine)
            alone = _sqlite_engine(parsed, {"pool_size": 1, "max_overflow": 0})
            event.listen(alone, "connect", _prepare_sqlite_writer)
            return Database(engine, alone)
        case "postgresql":
            engine = create_engine(
                parsed.set(drivername="postgresql+psycopg"),
                connect_args=connection_options(parsed),
                json_deserializer=_read_json,
                **POOL,
            )
            event.listen(engine, "begin", _begin_postgresql)
        case other:
            raise SettingsError(f"database_url names {other!r}; valid are sqlite and postgresql")
    return Database(engine)


def _sqlite_engine(parsed: URL, pool: Mapping[str, Any]) -> Engine:
    engine = create_engine(
        parsed,
        connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
        json_deserializer=_read_json,
        **pool,
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _read_json(text: str | bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:  # the standard library's, of older builds, wrote NaN
        return json.loads(text)


def connection_options(url: URL) -> dict[str, Any]:
    """What libpq is told about a connection to PostgreSQL at `url`, but for what the URL itself says."""
    return {name: value for name, value in POSTGRESQL.items() if name not in url.query}


def _prepare_sqlite(connection: DBAPIConnection, _record: object) -> None:
    # the driver must not begin transactions by itself: `_begin_sqlite` decides between BEGIN and BEGIN IMMEDIATE
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "case_sensitive_like=ON",
        "secure_delete=ON",  # what is erased is overwritten, and not only no longer found
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _prepare_sqlite_writer(connection: DBAPIConnection, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in (f"cache_size=-{WRITER_CACHE_KIB}", f"wal_autocheckpoint={CHECKPOINT_PAGES}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql(
        f"PRAGMA busy_timeout = {1000 * (BUSY_TIMEOUT_S if writes else READER_TIMEOUT_S)}"
    )
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _begin_postgresql(connection: Connection) -> None:
    # the driver has begun; each statement after the lock sees everything that former writers committed
    if connection.get_execution_options().get(_WRITES, False):
        connection.exec_driver_sql(
            f"SELECT set_config('idle_in_transaction_session_timeout', '{WRITER_STOPS_S}s', true),"
            f" pg_advisory_xact_lock({WRITE_LOCK})"
        )
