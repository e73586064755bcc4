"""The outbox's file: events, what was parked, whose they are; SQLite, made anew where it breaks.

::

    events ──(trigger)──► totals          in the file: events, parked, about
       │                                  in memory (temp): sending, totals
       └── sending: how often each event was sent, and from when on it may be sent again

What was sent does not outlive the process, and need not: sending once too often is harmless. Every method may raise `sqlite3.Error`; `Outbox` decides what that means. One thread.

Source: SQLite WAL durability, https://www.sqlite.org/wal.html and https://www.sqlite.org/pragma.html#pragma_synchronous.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edge_agent.link import EventKey
from edge_agent.outbox_entry import ANOMALY_RANK, HEALTH_RANK, Moment, OutboxEntry, rank_of
from edge_agent.sending_notes import NEVER_S, SendingNotes
from protocol.messages.kinds import Kind

__all__ = ["EventStore", "Parked"]

_BUSY_S: Final = 0.1
"""How long to wait for another process (somebody looks into the file): no longer, because the loop that detects waits too."""
_COLUMNS: Final = "boot_id, sequence, kind, created_s, is_set, kernel_boot, boot_s, payload"
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    boot_id TEXT NOT NULL, sequence INTEGER NOT NULL,
    kind TEXT NOT NULL, rank INTEGER NOT NULL, created_s REAL NOT NULL, payload BLOB NOT NULL,
    is_set INTEGER NOT NULL DEFAULT 0, kernel_boot TEXT NOT NULL DEFAULT '', boot_s REAL NOT NULL DEFAULT 0,
    UNIQUE (boot_id, sequence)
);
CREATE INDEX IF NOT EXISTS eviction ON events (rank, id);
CREATE TABLE IF NOT EXISTS parked (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    boot_id TEXT NOT NULL, sequence INTEGER NOT NULL,
    kind TEXT NOT NULL, rank INTEGER NOT NULL, created_s REAL NOT NULL, payload BLOB NOT NULL,
    is_set INTEGER NOT NULL, kernel_boot TEXT NOT NULL, boot_s REAL NOT NULL, reason TEXT NOT NULL, version TEXT NOT NULL,
    UNIQUE (boot_id, sequence)
);
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_TEMPORARY: Final = """
CREATE TEMP TABLE totals AS SELECT count(*) AS events, coalesce(sum(length(payload)), 0) AS bytes FROM main.events;
CREATE TEMP TRIGGER put AFTER INSERT ON main.events BEGIN
    UPDATE totals SET events = events + 1, bytes = bytes + length(new.payload);
END;
CREATE TEMP TRIGGER gone AFTER DELETE ON main.events BEGIN
    UPDATE totals SET events = events - 1, bytes = bytes - length(old.payload);
    DELETE FROM sending WHERE boot_id = old.boot_id AND sequence = old.sequence;
END;
CREATE TEMP TRIGGER changed AFTER UPDATE OF payload ON main.events BEGIN
    UPDATE totals SET bytes = bytes + length(new.payload) - length(old.payload);
END;
"""
_WAS_SENT: Final = (
    "EXISTS (SELECT 1 FROM temp.sending s WHERE s.boot_id = events.boot_id AND s.sequence = events.sequence)"
)
_KINDS: Final = tuple(kind.value for kind in Kind)
_IS_KNOWN: Final = f"kind IN ({', '.join('?' * len(_KINDS))})"
_ADDED: Final = {"is_set": "INTEGER", "kernel_boot": "TEXT", "boot_s": "REAL"}
"""Columns that files of older versions lack."""


@dataclass(frozen=True, kw_only=True)
class Parked:
    """An event that was set apart, and why; made at Unix seconds."""

    key: EventKey
    kind: str
    created_s: float
    payload_bytes: int
    reason: str


class EventStore:
    """One open file, or a database in memory."""

    def __init__(self, path: Path | None) -> None:
        """Open or create; `path` None is a database in memory.

        Raises:
            sqlite3.Error: it is damaged (`sqlite3.DatabaseError` that is no `OperationalError`), or the disk refuses.
        """
        self.path = path
        # No implicit transactions: notes about sending stay in memory, and must not wait for the file.
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None, timeout=_BUSY_S)
        self._unsent_from = {True: 0, False: 0}
        self._version = 0
        try:
            self._prepare()
            self._inode = _inode(path) if path is not None else None
        except (sqlite3.Error, OSError) as error:
            self._db.close()
            if isinstance(error, sqlite3.Error):
                raise
            raise sqlite3.OperationalError(f"cannot protect the file: {error.strerror}") from None

    def _prepare(self) -> None:
        # A small page cache: the resident agent counts every megabyte.
        self._db.execute("PRAGMA cache_size = -256")
        self._db.execute("PRAGMA temp_store = MEMORY")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA journal_size_limit = 1048576")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_SCHEMA)
        present = {row[1] for row in self._db.execute("PRAGMA table_info(events)")}
        for column, kind in _ADDED.items():
            if column not in present:
                default = "''" if kind == "TEXT" else "0"
                self._db.execute(f"ALTER TABLE events ADD COLUMN {column} {kind} NOT NULL DEFAULT {default}")
        if self._db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("the integrity check found damage")
        self.sending = SendingNotes(self._db)
        self._db.executescript(_TEMPORARY)
        if self.path is not None:
            self.path.chmod(0o600)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def is_in_place(self) -> bool:
        """Is the file that is open still the one that the next start will find?"""
        return self.path is None or _inode(self.path) == self._inode

    def log_bytes(self) -> int:
        """Size of the write-ahead log, which grows while somebody else reads the file."""
        if self.path is None:
            return 0
        try:
            return self.path.with_name(f"{self.path.name}-wal").stat().st_size
        except OSError:
            return 0

    def size(self) -> tuple[int, int]:
        """Events, and the bytes of their payloads; counted anew where another process changed them (`take_over`)."""
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._version = version
            self._db.execute(
                "UPDATE temp.totals SET (events, bytes) = (SELECT count(*), coalesce(sum(length(payload)), 0) FROM main.events)"
            )
            self._unsent_from = {True: 0, False: 0}
        events, size = self._db.execute("SELECT events, bytes FROM temp.totals").fetchone()
        return int(events), int(size)

    def about(self, name: str) -> str:
        """What was noted under `name`; empty where nothing was."""
        found = self._db.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
        return str(found[0]) if found else ""

    def note(self, name: str, value: str) -> None:
        """Note something, durably."""
        self._write("INSERT OR REPLACE INTO about VALUES (?, ?)", [(name, value)], is_durable=True)

    def insert(self, entries: Iterable[OutboxEntry], *, is_durable: bool) -> None:
        """Keep events; one that is there already is not put again."""
        self._write(
            f"INSERT OR IGNORE INTO events ({_COLUMNS}, rank) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            ((*_row(entry), rank_of(entry.kind)) for entry in entries),
            is_durable=is_durable,
        )

    def entries(self) -> Iterator[OutboxEntry]:
        """All events that are not known to be at the fleet, oldest first, as far as the file can be read."""
        with contextlib.suppress(sqlite3.DatabaseError):
            rows = self._db.execute(
                f"SELECT {_COLUMNS} FROM events WHERE NOT EXISTS (SELECT 1 FROM temp.sending s"
                " WHERE s.boot_id = events.boot_id AND s.sequence = events.sequence AND s.attempts < 0) ORDER BY id"
            )
            yield from map(_entry, rows)

    def holds(self, kind: Kind, text: str) -> bool:
        """Does an event of this kind wait whose message contains `text`?"""
        found = self._db.execute(
            "SELECT 1 FROM events WHERE kind = ? AND instr(payload, ?) LIMIT 1", (kind.value, text.encode())
        ).fetchone()
        return found is not None

    def never_sent(self, count: int, most_bytes: int | None = None) -> Iterator[OutboxEntry]:
        """Up to `count` events that have not left yet, anomalies first, then oldest first; `most_bytes` bounds each."""
        for is_anomaly in (True, False):
            rows = self._db.execute(
                f"SELECT id, {_COLUMNS} FROM events WHERE rank {'=' if is_anomaly else '<'} ? AND id >= ? AND NOT {_WAS_SENT}"
                " AND length(payload) <= ? ORDER BY id LIMIT ?",
                (
                    ANOMALY_RANK,
                    self._unsent_from[is_anomaly],
                    most_bytes if most_bytes is not None else 1 << 30,
                    count,
                ),
            )
            first = True
            for identifier, *row in rows:
                if first and most_bytes is None:
                    # What lies before has all been sent: it need not be looked through again.
                    self._unsent_from[is_anomaly] = identifier
                first = False
                count -= 1
                yield _entry(row)

    def newest_unsent(self) -> OutboxEntry | None:
        """The newest anomaly, or end of one, that has not left yet."""
        row = self._db.execute(
            f"SELECT {_COLUMNS} FROM events WHERE rank = ? AND NOT {_WAS_SENT} ORDER BY id DESC LIMIT 1",
            (ANOMALY_RANK,),
        ).fetchone()
        return _entry(row) if row else None

    def offer_again(self, key: EventKey) -> None:
        """The event has not left after all: it is one that was never sent, and looked for from the start."""
        self.sending.forget(key)
        self._unsent_from = {True: 0, False: 0}

    def overdue(self, clock_s: float, count: int) -> Iterator[OutboxEntry]:
        """Up to `count` events that were sent and are due again, those that were sent least often first."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM temp.sending s CROSS JOIN events USING (boot_id, sequence)"
            " WHERE s.due_s <= ? ORDER BY s.taken, s.due_s, events.id LIMIT ?",
            (clock_s, count),
        )
        yield from map(_entry, rows)

    def entry(self, key: EventKey) -> OutboxEntry | None:
        """The event of this identity, if it is here."""
        row = self._db.execute(
            f"SELECT {_COLUMNS} FROM events WHERE boot_id = ? AND sequence = ?", key
        ).fetchone()
        return _entry(row) if row else None

    def smallest_sent(self) -> OutboxEntry | None:
        """The smallest event that was sent and that no connection has."""
        row = self._db.execute(
            f"SELECT {_COLUMNS} FROM events WHERE EXISTS (SELECT 1 FROM temp.sending s WHERE s.boot_id = events.boot_id"
            " AND s.sequence = events.sequence AND s.attempts >= 0 AND s.due_s < ?) ORDER BY length(payload), id DESC LIMIT 1",
            (NEVER_S,),
        ).fetchone()
        return _entry(row) if row else None

    def delete(self, keys: Sequence[EventKey]) -> None:
        """Forget events. A lost deletion only means that an event is sent again, so it need not wait for the disk."""
        self._write("DELETE FROM events WHERE boot_id = ? AND sequence = ?", keys, is_durable=False)
        # Those that waited in memory had no row for the trigger.
        self._db.executemany("DELETE FROM temp.sending WHERE boot_id = ? AND sequence = ?", keys)

    def delete_confirmed(self) -> None:
        """Forget what the fleet has and the disk would not let go (`SendingNotes.confirm`)."""
        rows = self._db.execute("SELECT boot_id, sequence FROM temp.sending WHERE attempts < 0").fetchall()
        if rows:
            self.delete(rows)

    def replace_payload(self, entry: OutboxEntry) -> None:
        """Keep another message for the same event."""
        self._write(
            "UPDATE events SET payload = ? WHERE boot_id = ? AND sequence = ?",
            [(entry.payload, *entry.key)],
            is_durable=True,
        )

    def evict(self, excess_bytes: int) -> int:
        """Delete the least important, oldest events until `excess_bytes` are gone; returns how many."""
        victims: list[EventKey] = []
        for boot_id, sequence, size in self._db.execute(
            "SELECT boot_id, sequence, length(payload) FROM events ORDER BY rank, id LIMIT 1000"
        ):
            if excess_bytes <= 0:
                break
            victims.append((boot_id, sequence))
            excess_bytes -= size
        self.delete(victims)
        return len(victims)

    def evict_aged(self, now: Moment, maximum_age_s: float) -> int:
        """Delete what is older than `maximum_age_s` for certain, anomalies and their ends excepted; returns how many.

        Within one start of the device its own clock tells. Of an event from before, the date tells where it was known then
        and is now; otherwise it is at least as old as this start.
        """
        rows = self._db.execute(
            "SELECT boot_id, sequence FROM events WHERE rank < ? AND CASE WHEN kernel_boot = ? AND kernel_boot <> ''"
            " THEN ? - boot_s WHEN is_set AND ? THEN ? - created_s ELSE ? END > ?",
            (
                ANOMALY_RANK,
                now.kernel_boot,
                now.boot_s,
                now.is_set,
                now.wall_s,
                now.boot_s if now.kernel_boot else 0.0,
                maximum_age_s,
            ),
        ).fetchall()
        if rows:
            self.delete(rows)
        return len(rows)

    def compact_health(self, clock_s: float, keep: int) -> None:
        """Forget health that was sent and is due again, but the newest, and the oldest beyond `keep`: the newest one carries all sums."""
        rows = self._db.execute(
            "SELECT boot_id, sequence, EXISTS (SELECT 1 FROM temp.sending s WHERE s.boot_id = events.boot_id"
            " AND s.sequence = events.sequence AND s.due_s <= ?) FROM events WHERE rank = ? ORDER BY id DESC",
            (clock_s, HEALTH_RANK),
        ).fetchall()
        superseded = [(b, s) for n, (b, s, is_due) in enumerate(rows) if n and (is_due or n >= keep)]
        if superseded:
            self.delete(superseded)

    def park(self, key: EventKey, reason: str, version: str, *, at_most: int, most_bytes: int) -> int:
        """Set an event apart; the oldest parked ones go where there are too many. Returns how many went."""
        with self._transaction(is_durable=True):
            self._set_apart("boot_id = ? AND sequence = ?", key, reason, version)
            size = gone = 0
            rows = self._db.execute(
                "SELECT id, length(payload) FROM parked ORDER BY rank DESC, id DESC"
            ).fetchall()
            for n, (identifier, payload_bytes) in enumerate(rows):
                size += payload_bytes
                if n and (n >= at_most or size > most_bytes):
                    self._db.execute("DELETE FROM parked WHERE id = ?", (identifier,))
                    gone += 1
        return gone

    def park_unknown(self, version: str) -> None:
        """Set apart what a later version put here, of kinds that this one does not know."""
        reason = "this version of the agent does not know its kind"
        with self._transaction(is_durable=True):
            self._set_apart(f"NOT {_IS_KNOWN}", _KINDS, reason, version)

    def _set_apart(self, which: str, values: Sequence[object], reason: str, version: str) -> None:
        self._db.execute(
            f"INSERT OR REPLACE INTO parked ({_COLUMNS}, rank, reason, version)"
            f" SELECT {_COLUMNS}, rank, ?, ? FROM events WHERE {which}",
            (reason, version, *values),
        )
        self._db.execute(f"DELETE FROM events WHERE {which}", values)

    def parked(self) -> list[Parked]:
        """What was set apart, newest first."""
        rows = self._db.execute(
            "SELECT boot_id, sequence, kind, created_s, length(payload), reason FROM parked ORDER BY id DESC"
        )
        return [
            Parked(key=(b, s), kind=k, created_s=c, payload_bytes=n, reason=r) for b, s, k, c, n, r in rows
        ]

    def take_parked(self, *, not_of_version: str = "") -> int:
        """Put back what was parked and is of a known kind, by other versions than this one if one is given; returns how many."""
        found, values = f"FROM parked WHERE {_IS_KNOWN} AND version <> ?", (*_KINDS, not_of_version)
        with self._transaction(is_durable=True):
            self._db.execute(
                f"INSERT OR IGNORE INTO events ({_COLUMNS}, rank) SELECT {_COLUMNS}, rank {found} ORDER BY id",
                values,
            )
            return self._db.execute(f"DELETE {found}", values).rowcount

    def _write(self, statement: str, rows: Iterable[Sequence[object]], *, is_durable: bool) -> None:
        with self._transaction(is_durable=is_durable):
            self._db.executemany(statement, rows)

    @contextlib.contextmanager
    def _transaction(self, *, is_durable: bool) -> Iterator[None]:
        self._db.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # some errors (a full disk) have rolled back already
                self._db.execute("ROLLBACK")
            raise


def _row(entry: OutboxEntry) -> tuple[object, ...]:
    made = entry.made
    times = (made.wall_s, made.is_set, made.kernel_boot, made.boot_s)
    return *entry.key, entry.kind.value, *times, entry.payload


def _entry(row: Sequence[Any]) -> OutboxEntry:
    boot_id, sequence, kind, created_s, is_set, kernel_boot, boot_s, payload = row
    made = Moment(wall_s=created_s, is_set=bool(is_set), kernel_boot=kernel_boot, boot_s=boot_s)
    return OutboxEntry(boot_id=boot_id, sequence=sequence, kind=Kind(kind), made=made, payload=payload)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
