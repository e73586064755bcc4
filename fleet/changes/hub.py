"""Hands what changed to everybody who listens: one statement a second, however many they are.

A listener who does not keep up is ended, as is one whose token is void, and everybody where the service stops: each is told why, comes
back with the id of the last event it had, and misses nothing that is not told as skipped.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError

from fleet.changes.change import Change, ChangeKind, Marks
from fleet.changes.query import Batch, present_marks, read_changes
from fleet.errors import TooOftenError, UnavailableError
from fleet.storage.base import Database
from fleet.storage.outages import DatabaseAwayError
from service.access import TokenHolders
from service.errors import AccessError
from service.roles import Caller

__all__ = ["ChangeHub", "Listener"]

EVERY_S: Final = 1.0
HEARTBEAT_S: Final = 15.0
"""So that a connection that is gone is noticed, and the places in between do not take it for dead."""

LONGEST_S: Final = 3600.0
"""A connection lasts an hour; who comes back goes on where it was, perhaps at another replica."""

LISTENERS, LISTENERS_OF_CALLER = 128, 16
WAITING: Final = 2000
"""Changes that wait for a slow listener: some 400 kB."""

Told = tuple[Marks, Change | None]
"""What a listener hears: a change and the place after it; None: nothing happened, and this is the place."""

_log = structlog.get_logger()


class Listener:
    """One who listens, from a place on.

    Args:
        token: by which the caller came; it is looked at again and again.
        caller: whom it is of.
    """

    def __init__(self, token: str, caller: Caller) -> None:
        self.token, self.caller = token, caller
        self._waiting: deque[Told] = deque()
        self._woken = asyncio.Event()
        self._ended: str | None = None

    def hear(self, batch: Batch, now: float) -> None:
        """Take what changed; one who has too much waiting already is ended."""
        told = [
            (batch.marks, Change(kind=ChangeKind.SKIPPED, at=now, name=kind.value)) for kind in batch.skipped
        ]
        if len(self._waiting) + len(told) + len(batch.changes) > WAITING:
            self.end("you are too slow for what happens; come back and read on")
            return
        self._waiting.extend(batch.changes)
        self._waiting.extend(told)
        if self._waiting:
            self._woken.set()

    def catch_up(self, batch: Batch, now: float) -> None:
        """Take what was before all that it has heard so far."""
        waiting, self._waiting = self._waiting, deque()
        self.hear(batch, now)
        self._waiting.extend(waiting)

    def end(self, reason: str) -> None:
        """Nothing more comes."""
        self._ended = self._ended or reason
        self._woken.set()

    async def told(
        self, begin: Marks, now: Callable[[], float], place: Callable[[], Marks]
    ) -> AsyncIterator[Told]:
        """What it hears, to its end; at least a place every `HEARTBEAT_S`.

        Args:
            begin: told first, so that who is cut off at once knows where to go on.
            now: Unix seconds.
            place: of the hub, for heartbeats.
        """
        last = begin
        yield begin, None
        loop = asyncio.get_running_loop()
        until = loop.time() + LONGEST_S
        while True:
            while self._waiting:
                last, change = self._waiting.popleft()
                yield last, change
            if self._ended is None and loop.time() >= until:
                self._ended = "an hour is over; come back and read on"
            if self._ended is not None:
                yield last, Change(kind=ChangeKind.END, at=now(), reason=self._ended)
                return
            self._woken.clear()
            try:
                async with asyncio.timeout(min(HEARTBEAT_S, until - loop.time())):
                    await self._woken.wait()
            except TimeoutError:
                if not self._waiting:
                    last = place()
                    yield last, None


class ChangeHub:
    """Reads what changed and tells everybody.

    Args:
        database: the fleet's.
        tokens: says whose token is still good.
        now: Unix seconds.
    """

    def __init__(self, database: Database, tokens: TokenHolders, now: Callable[[], float]) -> None:
        self._database, self._tokens, self._now = database, tokens, now
        self._listeners: set[Listener] = set()
        self._marks: Marks | None = None
        self._is_closed = False

    async def run(self) -> None:
        """Read and tell every `EVERY_S` until canceled; while the database is away nothing is lost."""
        while True:
            try:
                batch = await asyncio.to_thread(self._read)
                for listener in self._listeners:
                    listener.hear(batch, self._now())
                self._marks = batch.marks
                for token in {listener.token for listener in self._listeners}:
                    await self._check(token)
            except DatabaseAwayError:
                pass  # it has been told
            except SQLAlchemyError:
                _log.exception("changes_not_read")
            await asyncio.sleep(EVERY_S)

    def close(self) -> None:
        """End everybody: the service stops. From the event loop's thread."""
        self._is_closed = True
        for listener in self._listeners:
            listener.end("the service stops; come back")

    async def listen(
        self, token: str, caller: Caller, since: Marks | None
    ) -> tuple[Listener, AsyncIterator[Told]]:
        """A new listener, who begins after `since` (None: now); hand it to `leave` at its end.

        Raises:
            UnavailableError: the service stops, has not begun, or has too many listeners.
            TooOftenError: the caller has too many.
            DatabaseAwayError: what happened since cannot be read.
        """
        if self._is_closed or self._marks is None or len(self._listeners) >= LISTENERS:
            raise UnavailableError("nobody else can listen at present; come back")
        of_caller = Counter(listener.caller.actor for listener in self._listeners)
        if of_caller[caller.actor] >= LISTENERS_OF_CALLER:
            raise TooOftenError(
                f"{caller.actor} listens {LISTENERS_OF_CALLER} times already; close one of the connections"
            )
        listener = Listener(token, caller)
        # from here on it hears what the hub reads; what was before that is read for it alone, up to this place
        self._listeners.add(listener)
        here = self._marks
        begin = here if since is None else since
        try:
            if since is not None and since != here:
                batch = await asyncio.to_thread(self._read_between, since, here)
                listener.catch_up(batch, self._now())
        except BaseException:
            self.leave(listener)
            raise
        return listener, listener.told(begin, self._now, lambda: self._marks or here)

    def leave(self, listener: Listener) -> None:
        """It is gone."""
        self._listeners.discard(listener)

    @property
    def place(self) -> Marks | None:
        """After everything that it has read; None: it has not begun."""
        return self._marks

    def __len__(self) -> int:
        """How many listen."""
        return len(self._listeners)

    def _read(self) -> Batch:
        with self._database.read() as session:
            if self._marks is None:
                return Batch(changes=(), skipped=(), marks=present_marks(session))
            return read_changes(session, self._marks)

    def _read_between(self, since: Marks, here: Marks) -> Batch:
        with self._database.read() as session:
            return read_changes(session, since, here)

    async def _check(self, token: str) -> None:
        try:
            await asyncio.to_thread(self._tokens.find_caller, token)
        except AccessError as error:
            for listener in self._listeners:
                if listener.token == token:
                    listener.end(str(error))
