"""Who leads: of the processes that serve one database, the one that runs rollouts, housekeeping, roll-up and renewal.

::

    PostgreSQL   a connection of its own ─► advisory lock (tried every `LOOKS_EVERY_S`) ─► epoch + 1 ─► leads
                      ├─ says something every `LOOKS_EVERY_S`; silent for `LEASE_S`, PostgreSQL ends it: the lock is free
                      ├─ broken, or unanswered: leads no more, at once
                      └─ hears what the others tell (`fleet.replicas`)
    SQLite       a lock on a file beside it, held for as long as the process lives: a second process is refused

A process that was stopped and wakes up does not know yet that another one leads. So leadership has a second half, a fence:
whatever a leader writes, it writes through `Leadership.database`, which compares the epoch it was begun under with the one
in the database, within the writing transaction. A new leader raises the epoch in such a transaction before it does
anything else; writers are one at a time (`fleet.storage.base`), so nothing of the former one comes after that.

Not fenced is what leaves by the broker; `fleet.mqtt.link` says what is done there.

Source: M. Kleppmann, "How to do distributed locking" (2016): a lock with a lease needs a fencing token.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

import structlog
from sqlalchemy import text
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from fleet.errors import NotLeaderError
from fleet.storage.addresses import parsed_address
from fleet.storage.base import WRITE_LOCK, Database, connection_options
from runtime.durable_files import private_directory
from service.errors import StartError

__all__ = [
    "CHANNEL",
    "Leadership",
    "PostgresqlLeadership",
    "SoleLeadership",
    "alone_on",
    "is_led",
    "open_leadership",
]

LEADER_LOCK: Final = 0x0FED6F
"""Key of PostgreSQL's advisory lock that the leader's session holds."""

CHANNEL: Final = "fedge_fleet"
"""PostgreSQL's channel on which processes tell each other something."""

LOOKS_EVERY_S: Final = 1.0
"""How often a process says that it lives, or tries the lock: after a kill another one leads about so much later."""

LEASE_S: Final = 8.0
"""A leader that says nothing for so long is ended by the database. A loop that is busy for seconds must not cost the lead."""

MARGIN_S: Final = 1.0
"""A leader gives up by its own clock so much before the database ends it."""

TAKE_OVER_S: Final = 45.0
"""Patience for the write lock when the epoch is raised: longer than any transaction of ours may wait for it."""

_EPOCH: ContextVar[int | None] = ContextVar("epoch", default=None)
"""The epoch under which the running work was begun, also in the threads it uses; None: whatever it is now."""

_log = structlog.get_logger()


class Leadership(ABC):
    """Whether this process leads; subclasses say when. Construct inside the running loop.

    Args:
        database: the fleet's.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._leads, self._follows = asyncio.Event(), asyncio.Event()
        self._follows.set()

    @property
    def is_leader(self) -> bool:
        """Whether it leads now. From any thread."""
        return self._leads.is_set()

    @property
    def term(self) -> int | None:
        """Of which epoch it is the leader; None: of none."""
        return self._epoch() if self.is_leader else None

    @abstractmethod
    async def run(self) -> None:
        """Come to lead whenever nobody else does, until canceled."""

    async def wait_until_leader(self) -> None:
        """Return once this process leads."""
        await self._leads.wait()

    async def while_leading(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` whenever this process leads, and cancel it when it leads no more; until canceled.

        What `work` does on threads may go on for a moment: what it writes through `database` is refused then.

        Raises:
            Exception: what `work` raised while this process led.
        """
        await self._while(self._leads, self._follows, work)

    async def while_following(self, work: Callable[[], Awaitable[None]]) -> None:
        """The same whenever this process does not lead."""
        await self._while(self._follows, self._leads, work)

    async def _while(
        self, begun: asyncio.Event, over: asyncio.Event, work: Callable[[], Awaitable[None]]
    ) -> None:
        while True:
            await begun.wait()
            doing = asyncio.ensure_future(self._do(work))
            lost = asyncio.ensure_future(over.wait())
            try:
                await asyncio.wait({doing, lost}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                doing.cancel()
                lost.cancel()
                await asyncio.wait({doing, lost})
            if not doing.cancelled() and (error := doing.exception()) is not None:
                if not isinstance(error, NotLeaderError):
                    raise error
                await asyncio.sleep(LOOKS_EVERY_S)

    async def _do(self, work: Callable[[], Awaitable[None]]) -> None:
        _EPOCH.set(self._epoch())
        await work()

    def _epoch(self) -> int | None:
        return 0

    def _lead(self) -> None:
        self._follows.clear()
        self._leads.set()

    def _resign(self) -> None:
        self._leads.clear()
        self._follows.set()


class SoleLeadership(Leadership):
    """Of a process that is alone on its database: `alone_on` sees to it."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._lead()

    async def run(self) -> None:
        """Nothing to do."""
        await asyncio.Event().wait()


class PostgresqlLeadership(Leadership):
    """Of processes on one PostgreSQL.

    Args:
        database: the fleet's.
        instance: how this process is called in logs.
        installation: names the data_dir, which replicas share.
        hear: told each word on `CHANNEL`, in the loop; must not raise.

    Attributes:
        is_connected: whether it hears the others now.
    """

    def __init__(
        self, database: Database, *, instance: str, installation: str, hear: Callable[[str], None]
    ) -> None:
        super().__init__(database.fenced(self._check))
        self._engine = database.engine
        self._instance, self._installation, self._hear = instance, installation, hear
        self._term: int | None = None
        self._lease_ends: asyncio.TimerHandle | None = None
        self._is_away = self.is_connected = False

    async def run(self) -> None:
        """See `Leadership`. Says once when the database goes away, and once when it is back."""
        import psycopg  # here: who runs on SQLite need not have it

        while True:
            try:
                connection = await asyncio.wait_for(_connect(self._engine), LEASE_S)
                try:
                    await self._campaign(connection)
                finally:
                    self.is_connected = False
                    self._resign()
                    await connection.close()
            except (psycopg.Error, OSError, TimeoutError) as error:
                if not self._is_away:
                    _log.warning("leadership_not_known", error=str(error).splitlines()[:1])
                self._is_away = True
            await asyncio.sleep(LOOKS_EVERY_S)

    async def _campaign(self, connection: Any) -> None:
        """Try for the lead and keep it, for as long as the connection lasts; raises what ended it."""
        async with asyncio.timeout(LEASE_S):
            for silence in ("idle_session_timeout", "idle_in_transaction_session_timeout"):
                await connection.execute(f"SET {silence} = '{LEASE_S:g}s'")
            await connection.execute(f"LISTEN {CHANNEL}")
        self._is_away, self.is_connected = False, True
        while True:
            asked_at = asyncio.get_running_loop().time()
            if self._term is None:
                async with asyncio.timeout(TAKE_OVER_S):
                    if await self._take(connection):
                        asked_at = asyncio.get_running_loop().time()
                        continue  # leads once the lock is known to be held still
            else:
                async with asyncio.timeout(LEASE_S):
                    await connection.execute("SELECT 1")
                self._hold_until(asked_at + LEASE_S - MARGIN_S)
            async for told in connection.notifies(timeout=LOOKS_EVERY_S):
                self._hear(told.payload)

    async def _take(self, connection: Any) -> bool:
        """Take the lock where it is free, and raise the epoch."""
        got = await (await connection.execute(f"SELECT pg_try_advisory_lock({LEADER_LOCK})")).fetchone()
        if not got[0]:
            return False
        async with connection.transaction():
            await connection.execute(f"SELECT pg_advisory_xact_lock({WRITE_LOCK})")
            raised = await connection.execute(
                "INSERT INTO leader (id, epoch, instance, installation, since) VALUES (1, 1, %s, %s, %s)"
                " ON CONFLICT (id) DO UPDATE SET epoch = leader.epoch + 1, instance = excluded.instance,"
                " installation = excluded.installation, since = excluded.since RETURNING epoch",
                (self._instance, self._installation, time.time()),
            )
            (self._term,) = await raised.fetchone()
        return True

    def _hold_until(self, moment: float) -> None:
        if self._lease_ends is not None:
            self._lease_ends.cancel()
        # fires first of all after a process was stopped, before anything it was about to do goes on
        self._lease_ends = asyncio.get_running_loop().call_at(moment, self._resign)
        if not self.is_leader:
            self._lead()
            _log.info("leads", instance=self._instance, epoch=self._term)

    def _resign(self) -> None:
        if self._lease_ends is not None:
            self._lease_ends.cancel()
        if self.is_leader:
            _log.warning("leads_no_more", instance=self._instance, epoch=self._term)
        self._term = self._lease_ends = None
        super()._resign()

    def _epoch(self) -> int | None:
        return self._term

    def _check(self, session: Session) -> None:
        """Of a write of a leader: raises NotLeaderError where another one leads, or led since the work was begun."""
        begun = _EPOCH.get()
        mine = self._term if begun is None else begun
        now = session.execute(
            text("SELECT epoch, set_config('fedge.leads', 'on', true) FROM leader WHERE id = 1")
        ).first()
        if mine is None or now is None or now.epoch != mine:
            raise NotLeaderError(
                f"epoch {mine} is over: the database says {now and now.epoch}, so another process leads now"
            )


def open_leadership(
    database: Database, *, instance: str, installation: str, hear: Callable[[str], None]
) -> Leadership:
    """The leadership that goes with the kind of database; arguments as `PostgresqlLeadership`."""
    if database.engine.dialect.name == "postgresql":
        return PostgresqlLeadership(database, instance=instance, installation=installation, hear=hear)
    return SoleLeadership(database)


def is_led(database: Database) -> bool:
    """Whether some process leads now; on SQLite nobody else can."""
    if database.engine.dialect.name != "postgresql":
        return False
    held = (
        "SELECT 1 FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database"
        " WHERE datname = current_database() AND locktype = 'advisory' AND granted AND objid = :lock"
    )
    with database.read() as session:
        return session.execute(text(held), {"lock": LEADER_LOCK}).first() is not None


@contextmanager
def alone_on(database_url: str) -> Iterator[None]:
    """Hold a SQLite database for this process alone, for as long as the block lasts; PostgreSQL may have several.

    Taken before the database is opened, so that a newer build does not migrate it below an older one that runs.

    Raises:
        StartError: another process serves it, or the lock cannot be made.
    """
    url = parsed_address(database_url)
    if url.get_backend_name() != "sqlite" or not url.database:
        yield
        return
    path = Path(f"{os.path.realpath(url.database)}.serving")  # one lock, by whichever link it is named
    try:
        file = (private_directory(path.parent) / path.name).open("a+", encoding="utf-8")
    except OSError as error:
        raise StartError(
            f"cannot open {path}, by which one service has the database: {error.strerror}"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise StartError(
                f"process {file.read(20).strip() or 'of another user'} serves {url.database} already, and a SQLite database has one"
                " service; stop that one, or let several share a PostgreSQL (docs/scaling.md)"
            ) from None
        except OSError as error:
            raise StartError(
                f"cannot lock {path}, by which one service has the database: {error.strerror}; a SQLite database lies on a local disk"
            ) from None
        with suppress(OSError):  # a full disk: the name is for people
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
        yield


async def _connect(engine: Engine) -> Any:
    from psycopg import AsyncConnection

    _, arguments = engine.dialect.create_connect_args(engine.url)
    return await AsyncConnection.connect(**arguments, **connection_options(engine.url), autocommit=True)
