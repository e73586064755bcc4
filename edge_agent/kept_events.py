"""The outbox's events on disk, and in memory while the disk refuses: no call raises, whatever becomes of the file.

::

    put ─► unsaved (memory, bounded) ─► EventStore (disk, bounded) ─► read, mark, forget
                     ▲ disk full, read-only      │ damaged, removed, not to be made: begun anew with what can be read
                     └──────────────────────────┘

Not the one who decides what to send (`edge_agent.outbox`). One thread.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

from edge_agent.event_store import EventStore, Parked
from edge_agent.link import EventKey
from edge_agent.outbox_entry import Moment, OutboxEntry, rank_of
from edge_agent.outbox_files import aside_files, set_aside
from edge_agent.outbox_owner import SORT, Owner, claim
from edge_agent.sending_notes import NEVER_S
from edge_agent.settings import OutboxSettings
from protocol.messages.kinds import Kind

__all__ = ["KeptEvents"]

log = logging.getLogger(__name__)

T = TypeVar("T")
_UNSAVED_EVENTS: Final = 256
_UNSAVED_BYTES: Final = 2 * 1024 * 1024
"""How much waits in memory while the disk refuses; an outbox in memory has the same bound."""
_LOG_BYTES: Final = 8 * 1024 * 1024
"""A write-ahead log beyond this means that somebody keeps the file open: only what matters is written on; four times
this, and nothing is."""
_LOOK_EVERY_S: Final = 60.0
_MEND_EVERY_S: Final = 10.0
_MOST_HEALTH: Final = 60
"""Health messages that wait: half an hour by default. The newest one carries all sums."""
_MOST_PARKED: Final = 64
_PARKED_BYTES: Final = 1024 * 1024
_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_NOTES: Final = ("owner", "boot_number")


class KeptEvents:
    """The events; create with `KeptEvents.open`. `clock_s` arguments are monotonic seconds."""

    def __init__(self, store: EventStore, path: Path, settings: OutboxSettings) -> None:
        self._store = store
        self._path = path
        self._settings = settings
        self._unsaved: deque[OutboxEntry] = deque()
        self._look_s = self._mend_s = float("-inf")
        self._is_damaged = self._is_homeless = False
        self._log_bytes = 0
        self._evicted_for: Counter[str] = Counter()
        self.evicted = 0
        self.is_failing = False
        self.parked: list[Parked] = self._try(store.parked, [])
        self.of_others: list[Path] = aside_files(path, SORT)

    @classmethod
    def open(
        cls, path: Path, settings: OutboxSettings, *, now: Moment, owner: Owner | None, version: str
    ) -> KeptEvents:
        """Open or create the file of this `owner`. What another version of the agent parked is offered again.

        A damaged database is renamed to ``<name>.damaged-<time>`` and replaced. Where the disk takes nothing at all,
        events live in memory until it does, and `is_volatile` tells.
        """
        try:
            store = _opened(path, now)
            if owner is not None:
                store = claim(store, path, owner, now.wall_s)
            store.park_unknown(version)
            if returned := store.take_parked(not_of_version=version):
                log.info("outbox_offers_parked_events_again events=%d", returned)
        except sqlite3.Error as error:
            log.error(  # noqa: TRY400 - one line for a person, no traceback
                "outbox_volatile path=%s error=%s: events live in memory for now; is the directory writable and the disk not full?",
                path,
                error,
            )
            store = EventStore(None)
        return cls(store, path, settings)

    @property
    def is_volatile(self) -> bool:
        """Do events live in memory only, because the disk takes no file?"""
        return self._store.path is None

    @property
    def log_megabytes(self) -> int:
        """Size of a log that another process keeps from being emptied; 0 where it is in order."""
        return self._log_bytes // 1_000_000 if self._log_bytes > _LOG_BYTES else 0

    def __len__(self) -> int:
        """Events that wait, on disk or in memory."""
        return self._try(self._store.size, (0, 0))[0] + len(self._unsaved)

    def put(self, events: Iterable[OutboxEntry], now: Moment, clock_s: float) -> None:
        """Keep events; on return all but health survive a power cut, if the disk lets us."""
        self._unsaved.extend(events)
        self._mend(now)
        self._save(clock_s)
        if now.boot_s >= self._look_s:
            self._look_s = now.boot_s + _LOOK_EVERY_S
            self._look(now)

    def holds(self, kind: Kind, text: str) -> bool:
        """Does an event of this kind wait whose message contains `text`?"""
        wanted = text.encode()
        if any(event.kind is kind and wanted in event.payload for event in self._unsaved):
            return True
        return self._try(lambda: self._store.holds(kind, text), False)  # noqa: FBT003 - a value, not a switch

    def never_sent(self, count: int, most_bytes: int | None = None) -> Iterator[OutboxEntry]:
        """Up to `count` events that have not left yet, anomalies first; those that wait in memory before those on disk."""
        if count <= 0 or len(self) <= self._try(self._store.sending.count, 0):
            return
        in_memory = [
            event
            for event in self._unsaved
            if self.attempts(event.key) is None and (most_bytes is None or len(event.payload) <= most_bytes)
        ]
        yield from sorted(in_memory, key=lambda e: -rank_of(e.kind))[:count]
        if count > len(in_memory):
            yield from self._read(lambda: self._store.never_sent(count - len(in_memory), most_bytes))

    def newest_unsent(self) -> OutboxEntry | None:
        """The newest anomaly on disk that has not left yet."""
        return self._try(self._store.newest_unsent, None)

    def overdue(self, clock_s: float, count: int) -> Iterator[OutboxEntry]:
        """Up to `count` events that were sent and are due again, those that were sent least often first."""
        if count > 0:
            yield from self._read(lambda: self._store.overdue(clock_s, count))
            yield from (event for event in self._unsaved if self._is_due(event.key, clock_s))

    def smallest_sent(self) -> OutboxEntry | None:
        """The smallest event on disk that was sent and that no connection has."""
        return self._try(self._store.smallest_sent, None)

    def entry(self, key: EventKey) -> OutboxEntry | None:
        """The event of this identity, if it waits here."""
        in_memory = next((event for event in self._unsaved if event.key == key), None)
        return in_memory or self._try(lambda: self._store.entry(key), None)

    def attempts(self, key: EventKey) -> int | None:
        """How often this event left; None where it was not even handed over."""
        return self._try(lambda: self._store.sending.attempts(key), None)

    def taken(self, key: EventKey) -> int:
        """How often the broker has taken this event."""
        return self._try(lambda: self._store.sending.taken(key), 0)

    def hand_over(self, key: EventKey) -> None:
        """A connection has the event: it is not due until more is known."""
        self._try(lambda: self._store.sending.hand_over(key), None)

    def note_left(self, key: EventKey) -> None:
        """It has left."""
        self._try(lambda: self._store.sending.update(key, NEVER_S, left=True), None)

    def note_taken(self, key: EventKey, due_s: float) -> None:
        """The broker has it; it may be sent again from then on."""
        self._try(lambda: self._store.sending.update(key, due_s, taken=True), None)

    def note_due(self, key: EventKey, due_s: float) -> None:
        """It may be sent again from then on; one that never left is as it was before."""
        if self.attempts(key):
            self._try(lambda: self._store.sending.update(key, due_s), None)
        else:
            self._forget_sending(key)

    def make_due(self, clock_s: float) -> None:
        """Whatever was sent and is not on a connection is due now."""
        self._try(lambda: self._store.sending.make_due(clock_s), None)

    def taken_often(self, times: int) -> int:
        """How many events the broker has taken so often or more, which wait for the fleet's word."""
        return self._try(lambda: self._store.sending.taken_often(times), 0)

    def sent_within(self, boot_id: str, first: int, last: int) -> list[EventKey]:
        """Which events of this range were sent and wait."""
        return self._try(lambda: self._store.sending.sent_within(boot_id, first, last), [])

    def forget(self, keys: Sequence[EventKey]) -> int:
        """The fleet has them. Where the disk does not let them go they are not sent again, and deleted later."""
        before, gone = len(self), set(keys)
        in_memory = {event.key for event in self._unsaved} & gone
        self._unsaved = deque(event for event in self._unsaved if event.key not in gone)
        if self._log_bytes <= _LOG_BYTES and self._write(lambda: self._store.delete(keys)):
            return before - len(self)
        for key in in_memory:
            self._forget_sending(key)
        for key in gone - in_memory:
            self._note_confirmed(key)
        return len(keys)

    def replace(self, entry: OutboxEntry) -> None:
        """Keep another message for the same event."""
        self._unsaved = deque(entry if event.key == entry.key else event for event in self._unsaved)
        self._write(lambda: self._store.replace_payload(entry))

    def park(self, key: EventKey, reason: str, version: str) -> None:
        """Set an event apart, until another version of the agent or a person has it tried again."""

        def park() -> None:
            gone = self._store.park(key, reason, version, at_most=_MOST_PARKED, most_bytes=_PARKED_BYTES)
            if gone:
                self._count_evicted(gone, "too many are parked")

        self._write(park)
        self.parked = self._try(self._store.parked, self.parked)

    def retry_parked(self) -> int:
        """Offer what was parked again; returns how many events."""
        count = self._try(self._store.take_parked, 0)
        self.parked = self._try(self._store.parked, self.parked)
        return count

    def note(self, name: str, value: str) -> bool:
        """Note something beside the events, durably; False where the disk refuses."""
        return self._write(lambda: self._store.note(name, value)) and not self.is_volatile

    def about(self, name: str) -> str:
        """What was noted under `name`; empty where nothing was."""
        return self._try(lambda: self._store.about(name), "")

    def close(self) -> None:
        """Save what is still in memory if the disk lets us, and close."""
        self._save(float("-inf"))
        self._tell_evicted()
        self._store.close()

    def _save(self, clock_s: float) -> None:
        batch = list(self._unsaved)
        if self._log_bytes > 4 * _LOG_BYTES:
            batch = []
        elif self._log_bytes > _LOG_BYTES:
            batch = [event for event in batch if event.kind is not Kind.HEALTH]
        if batch:
            is_durable = any(event.kind is not Kind.HEALTH for event in batch)
            if self._write(lambda: self._store.insert(batch, is_durable=is_durable)):
                saved = {event.key for event in batch}
                self._unsaved = deque(event for event in self._unsaved if event.key not in saved)
                if any(event.kind is Kind.HEALTH for event in batch):
                    self._write(lambda: self._store.compact_health(clock_s, _MOST_HEALTH))
                self._evict_beyond_bound()
        while len(self._unsaved) > _UNSAVED_EVENTS or (
            len(self._unsaved) > 1 and sum(len(event.payload) for event in self._unsaved) > _UNSAVED_BYTES
        ):
            victim = min(self._unsaved, key=lambda event: rank_of(event.kind))
            self._unsaved.remove(victim)
            self._forget_sending(victim.key)
            self._count_evicted(1, "disk refuses")

    def _is_due(self, key: EventKey, clock_s: float) -> bool:
        return self._try(lambda: self._store.sending.is_due(key, clock_s), False)  # noqa: FBT003 - a value, not a switch

    def _note_confirmed(self, key: EventKey) -> None:
        self._try(lambda: self._store.sending.confirm(key), None)

    def _forget_sending(self, key: EventKey) -> None:
        self._try(lambda: self._store.offer_again(key), None)

    def _evict_beyond_bound(self) -> None:
        """After the new events are in: the least important go, whether they are old or new."""
        maximum = self._settings.maximum_bytes
        maximum = min(maximum, _UNSAVED_BYTES) if self.is_volatile else maximum
        while (size := self._try(self._store.size, (0, 0)))[0] and size[1] > maximum:
            count = self._evict(size[1] - maximum)
            if not count:
                return

    def _evict(self, excess: int) -> int:
        count = self._try(lambda: self._store.evict(excess), 0)
        if count:
            self._count_evicted(count, "full")
        return count

    def _look(self, now: Moment) -> None:
        """Once a minute: what is too old, what the disk would not let go before, and how large the log is."""
        self._tell_evicted()
        self.of_others = aside_files(self._path, SORT)
        self._log_bytes = self._store.log_bytes()
        if self._log_bytes > _LOG_BYTES:
            return
        self._try(self._store.delete_confirmed, None)
        self.parked = self._try(self._store.parked, self.parked)
        aged = self._try(lambda: self._store.evict_aged(now, self._settings.maximum_age_s), 0)
        if aged:
            self._count_evicted(aged, "too old")

    def _mend(self, now: Moment) -> None:
        """Begin a new file where the present one is damaged, was removed, or could not be made before."""
        reason = "damaged" if self._is_damaged else "volatile" if self.is_volatile else ""
        if not reason and not self._store.is_in_place():
            reason = "removed"
        if not reason or now.boot_s < self._mend_s:
            return
        self._mend_s = now.boot_s + _MEND_EVERY_S
        old = self._store
        try:
            if self._is_damaged:
                set_aside(self._path, f"damaged-{int(now.wall_s)}")
            store = _opened(self._path, now)
            for entry in old.entries():
                store.insert([entry], is_durable=False)
            store.sending.copy(old.sending)
            for name in _NOTES:
                if value := self.about(name):
                    store.note(name, value)
        except sqlite3.Error as error:
            self._failed(error)
            self._is_homeless = reason == "removed"
            if self._is_damaged:
                self._store, self._is_damaged = EventStore(None), False
            return
        log.error("outbox_begun_anew reason=%s events=%d", reason, store.size()[0])
        old.close()
        self._store, self._is_damaged, self._is_homeless, self.is_failing = store, False, False, False
        self.parked = self._try(store.parked, [])

    def _read(self, source: Callable[[], Iterator[OutboxEntry]]) -> Iterator[OutboxEntry]:
        try:
            with contextlib.closing(source()) as entries:  # type: ignore[type-var] # a generator, which has close()
                yield from entries
        except sqlite3.Error as error:
            self._failed(error)

    def _try(self, call: Callable[[], T], otherwise: T) -> T:
        try:
            return call()
        except sqlite3.Error as error:
            self._failed(error)
            return otherwise

    def _write(self, write: Callable[[], None]) -> bool:
        """Write to the file; True where that worked, which also ends a failure."""
        try:
            write()
        except sqlite3.Error as error:
            self._failed(error)
            return False
        if self._is_homeless:
            return True  # into a file that the next start will not find: nothing has recovered
        if self.is_failing:
            log.warning("outbox_recovered events=%d", len(self))
        self.is_failing = False
        return True

    def _failed(self, error: sqlite3.Error) -> None:
        self._is_damaged |= getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE
        if not self.is_failing:
            log.error(
                "outbox_failing error=%s: events wait in memory (at most %d) until the disk accepts writes; free space or replace it",
                error,
                _UNSAVED_EVENTS,
            )
        self.is_failing = True

    def _count_evicted(self, count: int, reason: str) -> None:
        self.evicted += count
        self._evicted_for[reason] += count

    def _tell_evicted(self) -> None:
        for reason, count in self._evicted_for.items():
            log.warning("outbox_evicted events=%d reason=%s", count, reason)
        self._evicted_for.clear()


def _opened(path: Path, now: Moment) -> EventStore:
    """The file, or a new one in the place of a damaged one; raises sqlite3.Error where the disk refuses."""
    try:
        return EventStore(path)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        aside = set_aside(path, f"damaged-{int(now.wall_s)}")
        log.error(  # noqa: TRY400 - one line for a person, no traceback
            "outbox_damaged path=%s error=%s: set aside as %s, starting an empty one", path, error, aside.name
        )
        return EventStore(path)
