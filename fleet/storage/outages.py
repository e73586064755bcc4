"""Whether the database answers, and takes what is written: told once when it stops, once when it does again.

::

    read | write ─► `watched` ─┬─ done, begun since ───────► well again? one line in the log
                               └─ the database's fault ────► unwell? one line in the log ─► DatabaseAwayError

A database that goes down takes its connections one by one: what was begun before the last failure, or right after it, and still
succeeds says nothing of the database as it is now.

Whoever only needs to know that it cannot go on now catches `DatabaseAwayError` and says nothing: it has been said. What is not
the database's fault (a value that it cannot hold, a statement of ours that is wrong) passes through unchanged.
"""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from fleet.errors import UnavailableError

__all__ = ["DatabaseAwayError", "Outage", "OutageWatch", "why_not_stored"]

CONNECTION_STATES: Final = ("08", "25P03", "57P")
"""SQLSTATE classes: the connection is broken; it was ended because its transaction said nothing; the server is stopped, or starts."""

REFUSING_STATES: Final = (*CONNECTION_STATES, "25006", "40", "53", "55P03", "57", "58")
"""And: it is read-only; took another's side; has no disk, memory or connection left; a lock was not had in time."""

NO_ANSWER: Final = "it does not answer"
CROWDED: Final = "another transaction holds it"
READ_ONLY: Final = "it is read-only"
FULL: Final = "its disk is full"

_OF_SQLITE: Final = {
    sqlite3.SQLITE_BUSY: CROWDED,
    sqlite3.SQLITE_LOCKED: CROWDED,
    sqlite3.SQLITE_READONLY: READ_ONLY,
    sqlite3.SQLITE_FULL: FULL,
    sqlite3.SQLITE_CANTOPEN: "its file cannot be opened",
}
_OF_POSTGRESQL: Final = {
    "25006": READ_ONLY,
    "40": CROWDED,
    "531": FULL,
    "53": "its server has nothing left",
    "55P03": CROWDED,
}

SETTLES_S: Final = 0.25
"""A success that began so much later than the last failure is believed."""

_log = structlog.get_logger(__name__)


class DatabaseAwayError(UnavailableError, SQLAlchemyError):
    """The database does not answer, or takes nothing, at present; it has been logged. Nothing of the transaction was stored."""

    is_told = True


@dataclass(frozen=True, kw_only=True)
class Outage:
    """What is wrong, in words that tell a stranger nothing of our machines, and since when on the watch's clock.

    `only_writes`: reading is possible all the same.
    """

    kind: str
    since: float
    only_writes: bool


class OutageWatch:
    """What is known of one database's health; safe from any thread.

    Args:
        now: seconds of a clock that never goes back.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._outage: Outage | None = None
        self._failed_at = dict.fromkeys((False, True), -math.inf)

    @property
    def outage(self) -> Outage | None:
        """What is wrong at present; None: nothing."""
        return self._outage

    @contextmanager
    def watched(self, *, writes: bool) -> Iterator[None]:
        """Run a block that uses the database, and learn from how it ends; raises DatabaseAwayError where that is its fault."""
        began = self._now()
        try:
            yield
        except DatabaseAwayError as error:
            self._note_away(CROWDED, str(error), only_writes=writes)
            raise
        except SQLAlchemyError as error:
            kind = _fault(error)
            if kind is None:
                raise
            self._note_away(kind, why_not_stored(error), only_writes=writes and not _is_cut_off(error))
            raise DatabaseAwayError(f"the database is away: {kind}; ask again") from None
        self._note_well(began, writes=writes)

    def _note_away(self, kind: str, reason: str, *, only_writes: bool) -> None:
        with self._lock:
            former, now = self._outage, self._now()
            self._failed_at[only_writes] = now
            if former is not None and (only_writes or not former.only_writes):
                return
            since = now if former is None else former.since
            self._outage = Outage(kind=kind, since=since, only_writes=only_writes)
        if former is None:
            _log.error("database_away", kind=kind, reason=reason, reads=only_writes)

    def _note_well(self, began: float, *, writes: bool) -> None:
        former = self._outage  # a look without the lock: nearly always there is nothing to tell
        if former is None or (former.only_writes and not writes):
            return
        with self._lock:
            # that nothing is written says nothing of reading
            failed_at = max(self._failed_at.values()) if writes else self._failed_at[False]
            if began < failed_at + SETTLES_S:
                return
            former, self._outage = self._outage, None
        if former is not None:
            _log.info("database_back", away_s=round(self._now() - former.since, 1))


def why_not_stored(error: SQLAlchemyError) -> str:
    """The database's own words in one line, for a log: what SQLAlchemy says before them is about its own use."""
    orig = error.orig if isinstance(error, DBAPIError) else None
    return (str(orig or error).splitlines() or [repr(error)])[0]


def _fault(error: SQLAlchemyError) -> str | None:
    """What is wrong with the database; None where the fault is the statement's."""
    if isinstance(error, PoolTimeoutError):
        return "every connection to it is in use"
    if not isinstance(error, DBAPIError):
        return None
    if (code := getattr(error.orig, "sqlite_errorcode", None)) is not None:
        # SQLITE_ERROR is a statement of ours that is wrong
        is_ours = code & 0xFF == sqlite3.SQLITE_ERROR or not isinstance(error, OperationalError)
        return None if is_ours else _OF_SQLITE.get(code & 0xFF, "its file cannot be used")
    state = getattr(error.orig, "sqlstate", None)
    is_refusing = (
        str(state).startswith(REFUSING_STATES)
        if state is not None
        else isinstance(error, OperationalError | InterfaceError)
    )
    if not (is_refusing or error.connection_invalidated):
        return None
    return next(
        (words for prefix, words in _OF_POSTGRESQL.items() if str(state).startswith(prefix)), NO_ANSWER
    )


def _is_cut_off(error: SQLAlchemyError) -> bool:
    """Whether no connection is left, so that there is nothing to be read either."""
    if not isinstance(error, DBAPIError):
        return False
    if (code := getattr(error.orig, "sqlite_errorcode", None)) is not None:
        return bool(code & 0xFF == sqlite3.SQLITE_CANTOPEN)
    state = getattr(error.orig, "sqlstate", None)
    return error.connection_invalidated or str(state or CONNECTION_STATES[0]).startswith(CONNECTION_STATES)
