"""How often each event of an outbox was sent, and from when on it may be sent again: in memory, beside the file.

A table of the file's own connection (SQLite's temporary schema), so that a query can join it with tens of thousands of
events, at 50 bytes an event. A row belongs to an event that a connection took; a trigger of `EventStore` deletes it with its event.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final

from edge_agent.link import EventKey
from protocol.limits import MAX_INTEGER

__all__ = ["NEVER_S", "SendingNotes", "merged_ranges"]

NEVER_S: Final = 9e18
"""Due at: never. For what the connection still has, and what the fleet has though the disk does not let us delete it."""
_SCHEMA: Final = """
CREATE TEMP TABLE sending (
    boot_id TEXT NOT NULL, sequence INTEGER NOT NULL, attempts INTEGER NOT NULL, taken INTEGER NOT NULL,
    due_s REAL NOT NULL, PRIMARY KEY (boot_id, sequence)
) WITHOUT ROWID;
CREATE INDEX temp.by_due ON sending (due_s);
"""


class SendingNotes:
    """The notes; every method may raise `sqlite3.Error`. `clock_s` and `due_s` are monotonic seconds."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._db.executescript(_SCHEMA)

    def attempts(self, key: EventKey) -> int | None:
        """How often this event left; None where no connection ever had it, negative where the fleet has it."""
        found = self._db.execute(
            "SELECT attempts FROM temp.sending WHERE boot_id = ? AND sequence = ?", key
        ).fetchone()
        return int(found[0]) if found else None

    def is_due(self, key: EventKey, clock_s: float) -> bool:
        """May this event, which was sent, be sent again?"""
        found = self._db.execute(
            "SELECT 1 FROM temp.sending WHERE boot_id = ? AND sequence = ? AND due_s <= ?", (*key, clock_s)
        ).fetchone()
        return found is not None

    def count(self) -> int:
        """Events that a connection took and that wait for the fleet's word."""
        return int(self._db.execute("SELECT count(*) FROM temp.sending WHERE attempts >= 0").fetchone()[0])

    def taken(self, key: EventKey) -> int:
        """How often the broker has taken this event."""
        found = self._db.execute(
            "SELECT taken FROM temp.sending WHERE boot_id = ? AND sequence = ?", key
        ).fetchone()
        return int(found[0]) if found else 0

    def hand_over(self, key: EventKey) -> None:
        """A connection has the event."""
        self._db.execute(
            "INSERT INTO temp.sending VALUES (?, ?, 0, 0, ?) ON CONFLICT DO UPDATE SET due_s = excluded.due_s",
            (*key, NEVER_S),
        )

    def confirm(self, key: EventKey) -> None:
        """The fleet has the event, though it cannot be deleted here yet."""
        self._db.execute(
            "INSERT INTO temp.sending VALUES (?, ?, -1, 0, ?) ON CONFLICT DO UPDATE SET attempts = -1, due_s = excluded.due_s",
            (*key, NEVER_S),
        )

    def update(self, key: EventKey, due_s: float, *, left: bool = False, taken: bool = False) -> None:
        """When an event that was handed over may be sent again; does nothing for one that is gone.

        `left` and `taken` count that it left, or that the broker has taken it.
        """
        self._db.execute(
            "UPDATE temp.sending SET due_s = ?, attempts = attempts + ?, taken = taken + ? WHERE boot_id = ? AND sequence = ?"
            " AND attempts >= 0",
            (due_s, int(left), int(taken), *key),
        )

    def copy(self, older: SendingNotes) -> None:
        """Take over what is known about sending from the file before, as far as its events are here."""
        rows = older._db.execute("SELECT boot_id, sequence, attempts, taken, due_s FROM temp.sending")
        self._db.executemany("INSERT OR IGNORE INTO temp.sending VALUES (?, ?, ?, ?, ?)", rows)
        self._db.execute(
            "DELETE FROM temp.sending WHERE NOT EXISTS (SELECT 1 FROM main.events e"
            " WHERE e.boot_id = sending.boot_id AND e.sequence = sending.sequence)"
        )

    def forget(self, key: EventKey) -> None:
        """The event has not left after all."""
        self._db.execute("DELETE FROM temp.sending WHERE boot_id = ? AND sequence = ?", key)

    def make_due(self, clock_s: float) -> None:
        """Whatever was sent and is not on a connection is due now, as if it had been sent once: nobody was there to hear it."""
        self._db.execute(
            "UPDATE temp.sending SET due_s = min(due_s, ?), taken = min(taken, 1) WHERE due_s < ?",
            (clock_s, NEVER_S),
        )

    def taken_often(self, times: int) -> int:
        """How many events the broker has taken so often or more, which wait for the fleet's word."""
        found = self._db.execute("SELECT count(*) FROM temp.sending WHERE taken >= ?", (times,)).fetchone()
        return int(found[0])

    def sent_within(self, boot_id: str, first: int, last: int) -> list[EventKey]:
        """Which events of this range were sent."""
        rows = self._db.execute(
            "SELECT boot_id, sequence FROM temp.sending WHERE boot_id = ? AND sequence BETWEEN ? AND ? AND attempts > 0",
            (boot_id, first, last),
        )
        return [(str(b), int(s)) for b, s in rows]


def merged_ranges(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same sequences, as far as events can have them, in ranges that do not overlap: each event is looked at once."""
    merged: list[tuple[int, int]] = []
    possible = ((max(1, first), min(last, MAX_INTEGER)) for first, last in ranges)
    for first, last in sorted(r for r in possible if r[0] <= r[1]):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged
