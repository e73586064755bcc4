"""Silences: for a time, alerts of some devices are not told. Made and ended by people, each with a line in the audit log.

What counts is the last moment in which an alert was open. One that was over before its silence ended is never told; one that is
still open then is told like a new one, with others of its kind as one storm. What was told before a silence began is told to be
over, silence or not: nobody is left with an incident that has long ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from fleet import audit
from fleet.alert_settings import AlertKind
from fleet.device_query import device_filter
from fleet.errors import ConflictError, NotFoundError, UnacceptableError
from fleet.storage.alert_tables import Alert, AlertSilence
from fleet.storage.device_tables import Device

__all__ = ["covering", "create_silence", "end_silence", "silenced"]

LONGEST_S: Final = 92 * 86_400.0
"""A quarter of a year: who wants it for longer should not be told at all, and say so in the receiver's settings."""

MOST: Final = 1000
"""Silences that have not ended: each is a query asked of the devices that have alerts."""


def create_silence(
    session: Session,
    *,
    query: str,
    kinds: Sequence[AlertKind],
    comment: str,
    starts_at: float,
    ends_at: float,
    actor: str,
    now: float,
) -> AlertSilence:
    """Have alerts of the devices that `query` selects not told from `starts_at` to `ends_at`, Unix s.

    Raises:
        QuerySyntaxError: `query` does not parse.
        UnacceptableError: it ends before it starts, or in the past, or lasts longer than a quarter of a year.
        ConflictError: there are a thousand already.
    """
    device_filter(query, where="body")
    if not now < ends_at > starts_at:
        raise UnacceptableError(
            f"a silence from {starts_at:.0f} to {ends_at:.0f} silences nothing: it must end after it starts, and after now ({now:.0f})"
        )
    if ends_at - max(starts_at, now) > LONGEST_S or starts_at > now + LONGEST_S:
        raise UnacceptableError(
            f"a silence until {ends_at:.0f} is longer, or further ahead, than {LONGEST_S:.0f} s; make a shorter one, or leave"
            " the kind out of the receiver's settings"
        )
    open_ones = session.scalars(select(AlertSilence.id).where(AlertSilence.ends_at > now).limit(MOST)).all()
    if len(open_ones) >= MOST:
        raise ConflictError(f"there are {MOST} silences that have not ended; end some first")
    silence = AlertSilence(
        query=query,
        kinds=[kind.value for kind in dict.fromkeys(kinds)],
        comment=comment,
        starts_at=starts_at,
        ends_at=ends_at,
        created_at=now,
        created_by=actor,
    )
    session.add(silence)
    session.flush()
    audit.record(
        session,
        at=now,
        actor=actor,
        action="silence_created",
        subject=f"silence/{silence.id}",
        query=query,
        kinds=silence.kinds,
        starts_at=starts_at,
        ends_at=ends_at,
        comment=comment,
    )
    return silence


def end_silence(session: Session, number: int, *, actor: str, now: float) -> AlertSilence:
    """End a silence now, or before it has begun; what it covers and is still open is told.

    Raises:
        NotFoundError: there is none of this number.
        ConflictError: it has ended.
    """
    silence = session.get(AlertSilence, number)
    if silence is None:
        raise NotFoundError(f"there is no silence {number}; list them with GET /v1/alert-silences")
    if silence.ends_at <= now:
        raise ConflictError(f"silence {number} ended at {silence.ends_at:.0f}; nothing is left to be ended")
    silence.ends_at, silence.ended_by = now, actor
    covered = (Alert.silence == number, Alert.ended_at.is_(None), Alert.settled_at.is_(None))
    session.execute(
        update(Alert)
        .where(*covered)
        .values(due_at=now, silence=None)
        .execution_options(synchronize_session="fetch")
    )
    audit.record(session, at=now, actor=actor, action="silence_ended", subject=f"silence/{number}")
    return silence


def covering(session: Session, since: float) -> Sequence[AlertSilence]:
    """Silences that have begun, and ended not before `since`."""
    return session.scalars(select(AlertSilence).where(AlertSilence.ends_at > since)).all()


def silenced(
    session: Session, alerts: Sequence[Alert], silences: Sequence[AlertSilence], now: float
) -> dict[int, AlertSilence]:
    """Which of `alerts` are covered, by which silence: of several the one that ends last."""
    found: dict[int, AlertSilence] = {}
    for silence in sorted(silences, key=lambda one: one.ends_at):
        meant = [alert for alert in alerts if _is_meant(alert, silence, now)]
        selected = _selected(session, silence.query, {alert.device for alert in meant if alert.device})
        for alert in meant:
            if alert.device in selected or not silence.query.strip():
                found[alert.id] = silence
    return found


def _is_meant(alert: Alert, silence: AlertSilence, now: float) -> bool:
    moment = now if alert.ended_at is None else min(alert.ended_at, now)
    return silence.starts_at <= moment < silence.ends_at and (
        not silence.kinds or alert.kind in silence.kinds
    )


def _selected(session: Session, query: str, names: set[str]) -> set[str]:
    wanted, found, matches = sorted(names), set(), device_filter(query)
    for start in range(0, len(wanted), 500):
        some = Device.id.in_(wanted[start : start + 500])
        found |= set(session.scalars(select(Device.id).where(some, matches)))
    return found
