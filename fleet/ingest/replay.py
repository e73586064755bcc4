"""What people do with dead letters: have them judged once more, or drop them. Each is a line of the audit log.

A letter goes only when its message is on disk as what it claims to be; killed between the two, the service finds it
stored already the next time. A letter that is refused again stays, with the reason of that time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, select, true
from sqlalchemy.orm import undefer

from fleet import audit
from fleet.errors import NotFoundError
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


def select_letters(database: Database, wanted: ColumnElement[bool], most: int) -> list[int]:
    """The ids of the oldest letters for which `wanted` holds, at most so many."""
    with database.read() as session:
        return list(session.scalars(select(DeadLetter.id).where(wanted).order_by(DeadLetter.id).limit(most)))


def replay(
    database: Database, store: EventStore, letters: Sequence[int], *, actor: str, now: float
) -> Replayed:
    """Judge and store these letters as if they came again; what they say counts from when they first came.

    Raises:
        NotFoundError: there is no such letter (any more); those before it are done.
    """
    stored, refused = [], []
    for number in letters:
        with database.read() as session:
            letter = session.get(DeadLetter, number, options=[undefer(DeadLetter.payload)])
            arrival = None if letter is None else arrival_of(letter)
        if letter is None:
            raise _unknown(number)
        if arrival is None or store.store([arrival]).refusals:
            refused.append(number)
        else:
            _remove(database, number, actor=actor, action="dead_letter_replayed", now=now)
            stored.append(number)
    return Replayed(stored=tuple(stored), refused=tuple(refused))


def drop(database: Database, letters: Sequence[int], *, actor: str, now: float) -> None:
    """Drop letters for good; raises NotFoundError for one that is not there."""
    for number in letters:
        if not _remove(database, number, actor=actor, action="dead_letter_dropped", now=now):
            raise _unknown(number)


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


def _unknown(number: int) -> NotFoundError:
    return NotFoundError(f"there is no dead letter {number}; list them with GET /v1/dead-letters")
