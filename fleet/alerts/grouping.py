"""Puts alerts together into storms, and says when a storm is told, reminded of, and over.

A storm is what begins close together: one kind, one family, one site, never more than `group_gap_s` after the last and never later than
`group_longest_s` after the first. It is one message when it has had `group_wait_s` to show how large it is, and one resolution
when all of it is settled. So ten thousand anomalies are two messages, and an alarm next hour is not hidden by one that lasts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Select, exists, select
from sqlalchemy.orm import Session

from fleet.alert_settings import AlertKind, AlertSettings
from fleet.alerts.kinds import TERMS
from fleet.alerts.outbox import Event, queue
from fleet.alerts.silences import covering, silenced
from fleet.storage.alert_tables import Alert, AlertGroup

__all__ = ["AT_ONCE", "group_alerts", "remind", "resolve", "tell"]

AT_ONCE: Final = 2000
_LEVELS: Final = [kind for kind, terms in TERMS.items() if terms.is_level]


def group_alerts(session: Session, settings: AlertSettings, tenant: str, now: float) -> bool:
    """Give each alert that is due its storm, unless a silence covers it; gives whether more waits."""
    alerts = session.scalars(_undecided(session, settings, now).limit(AT_ONCE)).all()
    if not alerts:
        return False
    since = min((alert.ended_at or now) for alert in alerts)
    covers = silenced(session, alerts, covering(session, min(since, now)), now)
    storms: dict[tuple[str, str, str], AlertGroup] = {}
    for alert in alerts:
        silence = covers.get(alert.id)
        alert.silence = None if silence is None else silence.id
        if silence is not None:
            # looked at again when it ends; if it is over by then, nobody is told
            alert.due_at = silence.ends_at
            continue
        about = (alert.kind, alert.family, alert.site)
        if about not in storms:
            storms[about] = _storm(session, about, settings, tenant, alert, now)
        storms[about].joined_at = now
        alert.group = storms[about].id
    session.flush()
    return len(alerts) == AT_ONCE


def tell(session: Session, settings: AlertSettings, now: float) -> None:
    """Queue the message of each storm that has had its time."""
    # one that is to be told long after it began waits for a clock that was set back
    is_due = (AlertGroup.tell_at <= now) | (AlertGroup.opened_at > now)
    untold = (AlertGroup.told_at.is_(None), AlertGroup.resolved_at.is_(None))
    for group in session.scalars(select(AlertGroup).where(*untold, is_due)).all():
        if TERMS[AlertKind(group.kind)].is_level and not _lasts(session, group):
            continue  # all well already: nobody is fetched for that
        group.told_at = group.reminded_at = now
        queue(session, group, Event.OPENED, settings, now)


def remind(session: Session, settings: AlertSettings, now: float) -> None:
    """Queue reminders of storms that are still open, where they are wanted."""
    if settings.remind_every_s is None:
        return
    is_due = (AlertGroup.reminded_at <= now - settings.remind_every_s) & AlertGroup.resolved_at.is_(None)
    for group in session.scalars(select(AlertGroup).where(is_due)).all():
        if _lasts(session, group):
            group.reminders, group.reminded_at = group.reminders + 1, now
            queue(session, group, Event.REMINDER, settings, now)


def resolve(session: Session, settings: AlertSettings, now: float) -> None:
    """Queue the resolution of each storm that has nothing unsettled left, where it was told."""
    is_live = exists().where(Alert.group == AlertGroup.id, Alert.settled_at.is_(None))
    has_had_time = AlertGroup.told_at.is_not(None) | AlertGroup.kind.in_(_LEVELS)
    wanted = select(AlertGroup).where(AlertGroup.resolved_at.is_(None), has_had_time, ~is_live)
    for group in session.scalars(wanted).all():
        group.resolved_at = now
        if group.told_at is not None and not TERMS[AlertKind(group.kind)].is_notice:
            queue(session, group, Event.RESOLVED, settings, now)


def _lasts(session: Session, group: AlertGroup) -> bool:
    lasts = select(Alert.id).where(Alert.group == group.id, Alert.ended_at.is_(None))
    return session.scalar(lasts.limit(1)) is not None


def _undecided(session: Session, settings: AlertSettings, now: float) -> Select[Alert]:
    is_free = Alert.silence.is_(None)
    # further ahead than anything waits: the clock was set back
    is_due = (Alert.due_at <= now) | (is_free & (Alert.due_at > now + settings.silent_after_s))
    wanted = select(Alert).where(Alert.group.is_(None), Alert.settled_at.is_(None), is_due)
    # over under its silence: it is settled without a word
    wanted = wanted.where(Alert.ended_at.is_(None) | is_free | (Alert.ended_at >= Alert.due_at))
    wanted = wanted.order_by(Alert.id)
    is_deaf = Alert.kind == AlertKind.DEAF, Alert.settled_at.is_(None), Alert.ended_at.is_(None)
    if session.scalar(select(Alert.id).where(*is_deaf).limit(1)) is not None:
        # no device is heard: that is what is told, and not each of them
        wanted = wanted.where(Alert.kind != AlertKind.SILENT)
    return wanted


def _storm(
    session: Session,
    about: Sequence[str],
    settings: AlertSettings,
    tenant: str,
    first: Alert,
    now: float,
) -> AlertGroup:
    """The storm that goes on, or a new one."""
    kind, family, site = about
    same = (AlertGroup.kind == kind, AlertGroup.family == family, AlertGroup.site == site)
    goes_on = (
        AlertGroup.resolved_at.is_(None),
        AlertGroup.joined_at >= now - settings.group_gap_s,
        AlertGroup.opened_at >= now - settings.group_longest_s,
    )
    latest = select(AlertGroup).where(*same, *goes_on).order_by(AlertGroup.id.desc()).limit(1)
    if (found := session.scalar(latest)) is not None:
        return found
    said = f"{tenant}\n{first.key}\n{first.id}\n{first.opened_at!r}\n{now!r}"
    group = AlertGroup(
        # never given twice, also by a database that was restored and counts on from an earlier number
        name=f"fedge-{hashlib.sha256(said.encode()).hexdigest()[:24]}",
        kind=kind,
        severity=TERMS[AlertKind(kind)].severity,
        family=family,
        site=site,
        opened_at=now,
        joined_at=now,
        tell_at=now + settings.group_wait_s,
        reminders=0,
    )
    session.add(group)
    session.flush()
    return group
