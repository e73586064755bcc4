"""What the fleet must hear, on disk until the fleet has said that it stored it.

An event leaves the outbox only when an `Ack` names its boot and sequence (a broker's PUBACK is not enough: brokers
acknowledge from memory), or when a bound evicts it: health first, anomalies last. It knows no network: `due` says
what to send now, the caller sends it, `acknowledge` forgets it.

::

    put ─► SQLite (WAL, synchronous=FULL for all but health) ─► due ─► MQTT ─► fleet stores ─► Ack ─► acknowledge

A disk that refuses does not stop the agent: events then wait in a bounded memory queue and go to disk once it accepts
again; `is_failing` and `evicted` tell. A database that is damaged is set aside and a fresh one begun. One thread only.

Source: SQLite WAL durability, https://www.sqlite.org/wal.html and https://www.sqlite.org/pragma.html#pragma_synchronous.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_agent.settings import OutboxSettings
from protocol.messages.kinds import Kind
from protocol.messages.payloads import Ack

__all__ = ["Outbox", "OutboxEntry"]

log = logging.getLogger(__name__)

_RANK: Final = {
    Kind.HEALTH: 0,
    Kind.BIRTH: 1,
    Kind.DEATH: 1,
    Kind.DRIFT: 2,
    Kind.RESULT: 2,
    Kind.REPORT: 3,
    Kind.ANOMALY: 4,
    Kind.CLOSED: 4,
}
"""Evicted in ascending order: metrics can be measured again, an anomaly happens once."""
_OLDEST_BELIEVABLE_S: Final = 1_700_000_000.0
"""Before this (2023) a clock was not set: such an event has no known age, so only the byte bound evicts it."""
_UNSAVED_EVENTS: Final = 256
"""How many events wait in memory while the disk refuses."""
_AGE_CHECK_S: Final = 60.0
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    boot_id TEXT NOT NULL, sequence INTEGER NOT NULL,
    kind TEXT NOT NULL, rank INTEGER NOT NULL, created_s REAL NOT NULL, payload BLOB NOT NULL,
    UNIQUE (boot_id, sequence)
);
CREATE INDEX IF NOT EXISTS eviction ON events (rank, id);
"""


@dataclass(frozen=True, kw_only=True)
class OutboxEntry:
    """One event ready to send. `payload` is the encoded message; (boot_id, sequence) is its identity; made at Unix seconds."""

    boot_id: str
    sequence: int
    kind: Kind
    created_s: float
    payload: bytes

    @property
    def key(self) -> tuple[str, int]:
        """What an acknowledgement names."""
        return self.boot_id, self.sequence


class Outbox:
    """The queue. Create with `Outbox.open`; `now_s` arguments are Unix seconds, `clock_s` ones monotonic seconds."""

    def __init__(self, connection: sqlite3.Connection, settings: OutboxSettings) -> None:
        self._db = connection
        self._settings = settings
        self._sent_at: dict[tuple[str, int], float] = {}
        self._unsaved: deque[OutboxEntry] = deque()
        self._next_age_check_s = 0.0
        self.evicted = 0
        self.is_failing = False
        self.is_volatile = False
        self._count, self._bytes = _size(connection)

    @classmethod
    def open(cls, path: Path, settings: OutboxSettings, *, now_s: float) -> Outbox:
        """Open or create the outbox; never fails, because watching must not depend on it.

        A damaged database is renamed to ``<name>.damaged-<time>`` and replaced. Where the disk takes nothing at all,
        the events of this boot live in memory with the same bounds, and `is_volatile` tells.
        """
        try:
            return cls(_connect(path), settings)
        except sqlite3.OperationalError as error:
            reason: sqlite3.Error = error
        except sqlite3.DatabaseError as error:
            _set_aside(path, error, now_s)
            try:
                return cls(_connect(path), settings)
            except sqlite3.Error as still:
                reason = still
        log.error(
            "outbox_volatile path=%s error=%s: events live in memory until the next start; is the directory writable and the disk not full?",
            path,
            reason,
        )
        volatile = cls(_prepared(sqlite3.connect(":memory:", isolation_level="IMMEDIATE")), settings)
        volatile.is_volatile = True
        return volatile

    def __len__(self) -> int:
        """Events that wait, on disk or in memory."""
        return self._count + len(self._unsaved)

    def put(self, events: Iterable[OutboxEntry], *, now_s: float) -> None:
        """Keep events until they are acknowledged. On return all but health survive a power cut.

        Never raises for a failing disk: the events wait in memory (see `is_failing`).
        """
        self._unsaved.extend(events)
        self._save()
        if now_s >= self._next_age_check_s:
            self._next_age_check_s = now_s + _AGE_CHECK_S
            self._evict_aged(now_s)

    def holds(self, kind: Kind, text: str) -> bool:
        """Does an event of this kind wait whose message contains `text`?"""
        wanted = text.encode()
        if any(event.kind is kind and wanted in event.payload for event in self._unsaved):
            return True
        try:
            found = self._db.execute(
                "SELECT 1 FROM events WHERE kind = ? AND instr(payload, ?) LIMIT 1", (kind.value, wanted)
            ).fetchone()
        except sqlite3.Error:
            return False
        return found is not None

    def due(self, clock_s: float) -> list[OutboxEntry]:
        """What to send now, anomalies first, then oldest first: not sent yet, or not acknowledged for `resend_s`.

        At most `in_flight` events are under way at once. What is returned counts as sent at `clock_s`.
        """
        overdue = clock_s - self._settings.resend_s
        waiting = {key for key, sent in self._sent_at.items() if sent > overdue}
        room = self._settings.in_flight - len(waiting)
        if room <= 0 or not len(self):
            return []
        chosen = [e for e in self._unsaved if e.key not in waiting][:room]
        chosen += self._stored(room - len(chosen), waiting)
        self._sent_at = {key: self._sent_at[key] for key in waiting} | {e.key: clock_s for e in chosen}
        return chosen

    def unsend(self, entry: OutboxEntry) -> None:
        """The link did not take `entry`: it is due again at once."""
        self._sent_at.pop(entry.key, None)

    def reconnected(self) -> None:
        """The connection is new: everything unacknowledged is due again."""
        self._sent_at.clear()

    def acknowledge(self, acks: Iterable[Ack]) -> int:
        """Forget what the fleet has stored; unknown and repeated ranges change nothing.

        Returns:
            How many events left the outbox.
        """
        ranges = [
            (boot.boot_id, first, last) for ack in acks for boot in ack.boots for first, last in boot.ranges
        ]
        if not ranges:
            return 0
        before = len(self)
        for boot_id, first, last in ranges:
            kept = [e for e in self._unsaved if not (e.boot_id == boot_id and first <= e.sequence <= last)]
            self._unsaved = deque(kept)
            for key in [k for k in self._sent_at if k[0] == boot_id and first <= k[1] <= last]:
                del self._sent_at[key]
        # A lost deletion only means that an event is sent again, so it need not wait for the disk.
        self._write(
            "DELETE FROM events WHERE boot_id = ? AND sequence BETWEEN ? AND ?", ranges, durable=False
        )
        return before - len(self)

    def close(self) -> None:
        """Save what is still in memory if the disk lets us, and close."""
        self._save()
        self._db.close()

    def _stored(self, count: int, waiting: set[tuple[str, int]]) -> list[OutboxEntry]:
        if count <= 0:
            return []
        try:
            rows = self._db.execute(
                # A few more than wanted, because those under way are skipped below.
                "SELECT boot_id, sequence, kind, created_s, payload FROM events ORDER BY rank = ? DESC, id LIMIT ?",
                (_RANK[Kind.ANOMALY], count + len(waiting)),
            ).fetchall()
        except sqlite3.Error as error:
            self._failed(error)
            return []
        entries = (
            OutboxEntry(boot_id=b, sequence=s, kind=Kind(k), created_s=c, payload=p) for b, s, k, c, p in rows
        )
        return [e for e in entries if e.key not in waiting][:count]

    def _save(self) -> None:
        batch = list(self._unsaved)
        if not batch:
            return
        self._make_room(sum(len(e.payload) for e in batch))
        saved = self._write(
            "INSERT OR IGNORE INTO events (boot_id, sequence, kind, rank, created_s, payload) VALUES (?, ?, ?, ?, ?, ?)",
            [(e.boot_id, e.sequence, e.kind.value, _RANK[e.kind], e.created_s, e.payload) for e in batch],
            durable=any(e.kind is not Kind.HEALTH for e in batch),
        )
        if saved:
            self._unsaved.clear()
        while len(self._unsaved) > _UNSAVED_EVENTS:
            self._unsaved.remove(min(self._unsaved, key=lambda e: _RANK[e.kind]))
            self.evicted += 1

    def _write(self, statement: str, rows: Sequence[tuple[object, ...]], *, durable: bool) -> bool:
        try:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            with self._db:
                self._db.executemany(statement, rows)
            self._count, self._bytes = _size(self._db)
        except sqlite3.Error as error:
            self._failed(error)
            return False
        if self.is_failing:
            log.warning("outbox_recovered events=%d", self._count)
        self.is_failing = False
        return True

    def _failed(self, error: sqlite3.Error) -> None:
        if not self.is_failing:
            log.error(
                "outbox_failing error=%s: events wait in memory (at most %d) until the disk accepts writes; free space or replace it",
                error,
                _UNSAVED_EVENTS,
            )
        self.is_failing = True

    def _make_room(self, needed: int) -> None:
        while self._count and self._bytes + needed > self._settings.maximum_bytes:
            excess = self._bytes + needed - self._settings.maximum_bytes
            victims: list[tuple[object, ...]] = []
            try:
                for identifier, size in self._db.execute(
                    "SELECT id, length(payload) FROM events ORDER BY rank, id LIMIT 1000"
                ):
                    if excess <= 0:
                        break
                    victims.append((identifier,))
                    excess -= size
            except sqlite3.Error as error:
                self._failed(error)
                return
            if not self._write("DELETE FROM events WHERE id = ?", victims, durable=False):
                return
            self._count_evicted(len(victims), "full")

    def _evict_aged(self, now_s: float) -> None:
        before = self._count
        bounds: list[tuple[object, ...]] = [(_OLDEST_BELIEVABLE_S, now_s - self._settings.maximum_age_s)]
        if self._write("DELETE FROM events WHERE created_s BETWEEN ? AND ?", bounds, durable=False):
            self._count_evicted(before - self._count, "too old")

    def _count_evicted(self, count: int, reason: str) -> None:
        if count:
            self.evicted += count
            log.warning("outbox_evicted events=%d reason=%s", count, reason)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level="IMMEDIATE", timeout=2.0)
    try:
        _prepared(connection)
        path.chmod(0o600)
    except (sqlite3.Error, OSError) as error:
        connection.close()
        if isinstance(error, sqlite3.Error):
            raise
        raise sqlite3.OperationalError(f"cannot protect the file: {error.strerror}") from None
    return connection


def _prepared(connection: sqlite3.Connection) -> sqlite3.Connection:
    # A small page cache: the resident agent counts every megabyte.
    connection.execute("PRAGMA cache_size = -256")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA journal_size_limit = 1048576")
    connection.execute("PRAGMA synchronous = FULL")
    connection.executescript(_SCHEMA)
    if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise sqlite3.DatabaseError("the integrity check found damage")
    return connection


def _set_aside(path: Path, error: sqlite3.Error, now_s: float) -> None:
    aside = path.with_name(f"{path.name}.damaged-{int(now_s)}")
    log.error(
        "outbox_damaged path=%s error=%s: set aside as %s, starting an empty one", path, error, aside.name
    )
    with contextlib.suppress(OSError):  # a disk that refuses this refuses the next step too, which tells
        path.rename(aside)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def _size(connection: sqlite3.Connection) -> tuple[int, int]:
    count, size = connection.execute(
        "SELECT count(*), coalesce(sum(length(payload)), 0) FROM events"
    ).fetchone()
    return int(count), int(size)
