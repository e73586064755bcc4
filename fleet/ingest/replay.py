"""What people do with dead letters: have them judged once more, or drop them. Each is a line of the audit log.

A letter goes only when its message is on disk as what it claims to be; killed between the two, the service finds it
stored already the next time. A letter that is refused again stays, with the reason of that time. One that is gone when its
turn comes, because it made room or somebody else was faster, is passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, select, true
from sqlalchemy.orm import undefer

from fleet import audit
from fleet.ingest.dead_letters import arrival_of
from fleet.ingest.store import EventStore
from fleet.storage.base import Database
from fleet.storage.dead_letter_tables import DeadLetter

__all__ = ["Replayed", "drop", "replay", "select_letters", "which"]


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """Ids of letters: of the `stored` ones the message is on disk now, and the letter gone; `refused` ones stay."""

    stored: tuple[int, ...]
    refused: tuple[int, ...]


def which(device: str | None, reason: str | None) -> ColumnElement[bool]:
    """Letters of a device, with a reason; None is any."""
    return and_(
        true() if device is None else DeadLetter.device == device,
        true() if reason is None else DeadLetter.reason == reason,
    )


def select_letters(database: Database, wanted: ColumnElement[bool], after: int, most: int) -> list[int]:
    """The ids of the oldest letters for which `wanted` holds, greater than `after`, at most so many."""
    chosen = select(DeadLetter.id).where(wanted, DeadLetter.id > after).order_by(DeadLetter.id).limit(most)
    with database.read() as session:
        return list(session.scalars(chosen))


def replay(
    database: Database, store: EventStore, letters: Sequence[int], *, actor: str, now: float
) -> Replayed:
    """Judge and store these letters as if they came again; what they say counts from when they first came."""
    stored, refused = [], []
    for number in letters:
        with database.read() as session:
            letter = session.get(DeadLetter, number, options=[undefer(DeadLetter.payload)])
            arrival = None if letter is None else arrival_of(letter)
        if letter is None:
            continue
        if arrival is None or store.store([arrival]).refusals:
            refused.append(number)
        else:
            _remove(database, number, actor=actor, action="dead_letter_replayed", now=now)
            stored.append(number)
    return Replayed(stored=tuple(stored), refused=tuple(refused))


def drop(database: Database, letters: Sequence[int], *, actor: str, now: float) -> list[int]:
    """Drop letters for good; returns those that were there."""
    return [
        number
        for number in letters
        if _remove(database, number, actor=actor, action="dead_letter_dropped", now=now)
    ]


def _remove(database: Database, number: int, *, actor: str, action: str, now: float) -> bool:
    with database.write() as session:
        letter = session.get(DeadLetter, number)
        if letter is None:
            return False
        audit.record(
            session,
            at=now,
            actor=actor,
            action=action,
            subject=letter.device,
            letter=number,
            topic=letter.topic,
            boot_id=letter.boot_id,
            sequence=letter.sequence,
            reason=letter.reason,
        )
        session.delete(letter)
    return True
