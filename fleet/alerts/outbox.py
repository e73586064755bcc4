"""The outbox: which receiver is still to hear of what, and what became of it.

::

    queue (with the place that was read) ─► waiting ─► delivered
                                              │  └───► parked: it was refused for good, and is shown until somebody tries again
                                              └─ not reached: waits, as all of this receiver does, ever longer up to `LONGEST_S`

A receiver hears things in the order in which they were queued. One message that it fails over and over while it takes others steps
back, and is parked when it fails still.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from fleet.alert_settings import AlertKind, AlertSettings, Receiver, Severity
from fleet.alerts.kinds import is_as_bad
from fleet.storage.alert_tables import AlertDelivery, AlertGroup, AlertReceiver

__all__ = [
    "Delivered",
    "Event",
    "Later",
    "Outcome",
    "Refused",
    "State",
    "next_waiting",
    "note_outcome",
    "queue",
    "receiver_row",
    "try_again",
]

FIRST_S: Final = 5.0
LONGEST_S: Final = 900.0
"""Between two attempts: a receiver that is back after hours is told within a quarter of an hour."""

LONGEST_ASKED_S: Final = 6 * 3600.0
"""A Retry-After is obeyed up to here."""

MINUTE_S: Final = 60.0
STEPS_BACK: Final = 5
"""After so many attempts others go before it."""

LOOKED_AT: Final = 1000
"""Of what waits for one receiver, at a time."""

GIVES_UP: Final = 2 * STEPS_BACK
"""After so many it is parked, if others were taken meanwhile."""


class Event(StrEnum):
    """What of a storm is told."""

    OPENED = "opened"
    REMINDER = "reminder"
    RESOLVED = "resolved"
    TEST = "test"


class State(StrEnum):
    """How far a delivery got."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    PARKED = "parked"


@dataclass(frozen=True)
class Delivered:
    """The receiver has it; `remark` is what it did not like all the same."""

    remark: str = ""


@dataclass(frozen=True)
class Later:
    """It was not reached, or asked for patience: `after_s` seconds, where it said so."""

    reason: str
    after_s: float | None = None


@dataclass(frozen=True)
class Refused:
    """The same message would be refused again. `is_of_receiver`: so would be every other one."""

    reason: str
    is_of_receiver: bool = False


Outcome = Delivered | Later | Refused


def queue(session: Session, group: AlertGroup, event: Event, settings: AlertSettings, now: float) -> None:
    """Put a line into the outbox for each receiver that is told of such a storm."""
    name = f"{event}-{group.reminders}" if event is Event.REMINDER else event.value
    told = set(
        session.scalars(
            select(AlertDelivery.receiver).where(
                AlertDelivery.group == group.id, AlertDelivery.event == Event.OPENED
            )
        )
    )
    for receiver in settings.receivers:
        if event is Event.OPENED:
            is_wanted = _is_told(receiver, group)
        else:
            is_wanted = receiver.name in told and (event is Event.REMINDER or receiver.send_resolved)
        if is_wanted:
            session.add(
                AlertDelivery(
                    group=group.id,
                    receiver=receiver.name,
                    event=name,
                    state=State.WAITING,
                    queued_at=now,
                    attempts=0,
                    error="",
                )
            )
    session.flush()


def next_waiting(session: Session, receiver: Receiver, at_once: int, now: float) -> list[AlertDelivery]:
    """What is to be sent to `receiver` now, in one message; nothing while it rests, or has had enough this minute.

    One at a time, as long as its rate allows for all that waits; otherwise up to `at_once` together.
    """
    state = session.get(AlertReceiver, receiver.name)
    if state is not None and state.next_at is not None and now < state.next_at <= now + LONGEST_ASKED_S:
        return []
    recent = [] if state is None else [at for at in state.recent if now - MINUTE_S < at <= now]
    allowed = receiver.per_minute - len(recent)
    if allowed <= 0:
        return []
    found = _in_order(session, receiver.name)
    if len(found) <= allowed or found[0].is_alone:
        return found[:1]
    return [one for one in found[:at_once] if not one.is_alone]


def note_outcome(
    session: Session,
    name: str,
    numbers: Sequence[int],
    outcome: Outcome,
    *,
    now: float,
    draw: Callable[[], float],
) -> None:
    """Keep what became of the deliveries `numbers` to the receiver `name`.

    Args:
        session: a write.
        name: of the receiver.
        numbers: which were sent in one message.
        outcome: of it.
        now: Unix seconds, after the attempt.
        draw: uniform in [0, 1), for the jitter.
    """
    state = receiver_row(session, name)
    state.recent = [at for at in state.recent if now - MINUTE_S < at <= now] + [now]
    rows = session.scalars(select(AlertDelivery).where(AlertDelivery.id.in_(numbers))).all()
    if isinstance(outcome, Later):
        _park_stubborn(rows, state)
    for row in rows:
        row.attempts, row.tried_at = row.attempts + 1, now
        row.error = "" if isinstance(outcome, Delivered) else outcome.reason[:300]
    if isinstance(outcome, Delivered):
        for row in rows:
            row.state, row.delivered_at, row.error = State.DELIVERED, now, outcome.remark[:300]
        state.failures, state.failing_since, state.next_at, state.error = 0, None, None, ""
        state.delivered_at = now
        return
    state.error = outcome.reason[:300]
    if isinstance(outcome, Refused) and not outcome.is_of_receiver:
        for row in rows:
            row.is_alone = True  # of several the one that is refused is found by itself
            row.state = State.PARKED if len(rows) == 1 else State.WAITING
        return
    if isinstance(outcome, Refused):
        for row in rows:
            row.state = State.PARKED
    state.failures += 1
    state.failing_since = now if state.failing_since is None else state.failing_since
    state.next_at = now + _pause(state.failures, draw(), outcome)


def try_again(session: Session, name: str, now: float) -> int:
    """Have everything that is parked for a receiver sent once more, and it asked at once; gives how much."""
    parked = (AlertDelivery.receiver == name, AlertDelivery.state == State.PARKED)
    count = session.scalar(select(func.count()).select_from(AlertDelivery).where(*parked)) or 0
    again = update(AlertDelivery).where(*parked).values(state=State.WAITING, attempts=0, queued_at=now)
    session.execute(again.execution_options(synchronize_session="fetch"))
    receiver_row(session, name).next_at = None
    return count


def receiver_row(session: Session, name: str) -> AlertReceiver:
    """How a receiver does; a new one does well."""
    state = session.get(AlertReceiver, name)
    if state is None:
        state = AlertReceiver(name=name, failures=0, error="", recent=[])
        session.add(state)
    return state


def _in_order(session: Session, name: str) -> list[AlertDelivery]:
    """The first of what waits for a receiver; a storm steps back as a whole, so nothing of it overtakes what it said before."""
    waiting = (AlertDelivery.receiver == name, AlertDelivery.state == State.WAITING)
    rows = session.scalars(
        select(AlertDelivery).where(*waiting).order_by(AlertDelivery.id).limit(LOOKED_AT)
    ).all()
    tried: dict[int, int] = {}
    for row in rows:
        tried[row.group] = max(tried.get(row.group, 0), row.attempts)
    return sorted(rows, key=lambda row: (tried[row.group] // STEPS_BACK, row.id))


def _is_told(receiver: Receiver, group: AlertGroup) -> bool:
    return (
        (not receiver.kinds or AlertKind(group.kind) in receiver.kinds)
        and (not receiver.families or not group.family or group.family in receiver.families)
        and (not receiver.sites or not group.site or group.site in receiver.sites)
        and is_as_bad(Severity(group.severity), receiver.at_least)
    )


def _park_stubborn(rows: Sequence[AlertDelivery], state: AlertReceiver) -> None:
    """Others were taken since one of these was last tried: it is the message."""
    for row in rows:
        others_at, mine_at = state.delivered_at, row.tried_at
        if row.attempts > GIVES_UP and others_at is not None and mine_at is not None and others_at > mine_at:
            row.state = State.PARKED


def _pause(failures: int, drawn: float, outcome: Later | Refused) -> float:
    pause: float = min(FIRST_S * 2.0 ** min(failures - 1, 20), LONGEST_S) * (0.5 + drawn / 2)
    asked = outcome.after_s if isinstance(outcome, Later) else None
    return pause if asked is None else max(pause, min(asked, LONGEST_ASKED_S))
