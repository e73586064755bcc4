"""Alerts, storms, silences and receivers, as the API, the pages and the metrics show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from fleet.alert_settings import AlertKind, AlertSettings, Severity
from fleet.alerts.messages import Facts, facts_of, message_of
from fleet.alerts.outbox import Event, State
from fleet.storage.alert_tables import Alert, AlertDelivery, AlertGroup, AlertReceiver
from fleet.views.observations import RowView

__all__ = [
    "AlertView",
    "DeliveryView",
    "GroupView",
    "GroupWithDeliveries",
    "ReceiverView",
    "RetryView",
    "SilenceView",
    "TestView",
    "count_open",
    "count_undelivered",
    "deliveries_of",
    "show_alerts",
    "show_groups",
    "show_receivers",
]


class AlertView(RowView):
    """One alarm of one subject. It lasts while `ended_at` is null, and is the same one if it comes back before `settled_at` is set.

    `silence` covers it; `group` is null until it is told, or where it ended under a silence. Times are Unix s.
    """

    kind: AlertKind
    subject: str
    device: str | None
    family: str
    site: str
    detail: str
    times: int
    opened_at: float
    last_at: float
    ended_at: float | None
    ending: str
    settled_at: float | None
    silence: int | None
    group: str | None


class DeliveryView(BaseModel):
    """What became of telling one receiver one event of a storm: waiting, delivered, or parked since it was refused."""

    model_config = ConfigDict(from_attributes=True)
    receiver: str
    event: str
    state: State
    queued_at: float
    attempts: int
    tried_at: float | None
    delivered_at: float | None
    error: str


class GroupView(RowView):
    """One storm: `alerts` of one kind, family and site, of which `lasting` have not ended. `name` is its dedup key everywhere."""

    name: str
    title: str
    kind: AlertKind
    severity: Severity
    family: str
    site: str
    alerts: int
    lasting: int
    times: int
    first: list[str]
    opened_at: float
    told_at: float | None
    resolved_at: float | None


class GroupWithDeliveries(GroupView):
    """The same, with who was told."""

    deliveries: list[DeliveryView]


class SilenceView(RowView):
    """A time in which alerts of the devices that `query` selects are not told; no `kinds`: of every kind. Times are Unix s."""

    query: str
    kinds: list[AlertKind]
    comment: str
    starts_at: float
    ends_at: float
    created_at: float
    created_by: str
    ended_by: str | None


class ReceiverView(BaseModel):
    """Who is told, as set, and how it does. A receiver that is no longer set and has messages left is `is_set` false."""

    name: str
    type: str
    is_set: bool
    kinds: list[AlertKind]
    families: list[str]
    sites: list[str]
    at_least: Severity | None
    waiting: int
    oldest_waiting_at: float | None
    parked: int
    failing_since: float | None
    next_at: float | None
    error: str
    delivered_at: float | None


class TestView(BaseModel):
    """What became of a message that was sent to see whether it arrives."""

    __test__ = False  # not of pytest
    outcome: str
    reason: str


class RetryView(BaseModel):
    """How many messages that were parked wait again."""

    again: int


@dataclass
class Undelivered:
    """What a receiver has not got."""

    waiting: int = 0
    oldest_at: float | None = None
    parked: int = 0


def count_open(session: Session) -> dict[AlertKind, int]:
    """How many alerts of each kind last."""
    lasting = select(Alert.kind, func.count()).where(Alert.settled_at.is_(None), Alert.ended_at.is_(None))
    counts = dict(session.execute(lasting.group_by(Alert.kind)).all())
    return {kind: counts.get(kind.value, 0) for kind in AlertKind}


def count_undelivered(session: Session) -> dict[str, Undelivered]:
    """What each receiver has not got; one that has everything is not among them."""
    by_state = (
        select(AlertDelivery.receiver, AlertDelivery.state, func.count(), func.min(AlertDelivery.queued_at))
        .where(AlertDelivery.state.in_((State.WAITING, State.PARKED)))
        .group_by(AlertDelivery.receiver, AlertDelivery.state)
    )
    found: dict[str, Undelivered] = {}
    for name, state, count, oldest_at in session.execute(by_state):
        one = found.setdefault(name, Undelivered())
        if state == State.WAITING:
            one.waiting, one.oldest_at = count, oldest_at
        else:
            one.parked = count
    return found


def show_groups(session: Session, groups: Select[AlertGroup], tenant: str) -> list[GroupView]:
    """Storms, each with how large it is, in the order of the statement."""
    rows = session.scalars(groups).all()
    facts = facts_of(session, [row.id for row in rows])
    return [_group_view(row, facts.get(row.id, Facts()), tenant) for row in rows]


def deliveries_of(session: Session, group: int) -> list[DeliveryView]:
    """Who was told of a storm, in order."""
    rows = select(AlertDelivery).where(AlertDelivery.group == group).order_by(AlertDelivery.id)
    return [DeliveryView.model_validate(row) for row in session.scalars(rows)]


def show_receivers(session: Session, settings: AlertSettings) -> list[ReceiverView]:
    """Everybody who is told, and those who have messages left and are set no longer."""
    undelivered = count_undelivered(session)
    states = {state.name: state for state in session.scalars(select(AlertReceiver))}
    known = {receiver.name: receiver for receiver in settings.receivers}
    views = []
    for name in [*known, *sorted(undelivered.keys() - known.keys())]:
        receiver, state = known.get(name), states.get(name)
        waits = undelivered.get(name, Undelivered())
        views.append(
            ReceiverView(
                name=name,
                type="" if receiver is None else str(receiver.__struct_config__.tag),
                is_set=receiver is not None,
                kinds=[] if receiver is None else list(receiver.kinds),
                families=[] if receiver is None else list(receiver.families),
                sites=[] if receiver is None else list(receiver.sites),
                at_least=None if receiver is None else receiver.at_least,
                waiting=waits.waiting,
                oldest_waiting_at=waits.oldest_at,
                parked=waits.parked,
                failing_since=None if state is None else state.failing_since,
                next_at=None if state is None else state.next_at,
                error="" if state is None else state.error,
                delivered_at=None if state is None else state.delivered_at,
            )
        )
    return views


def _names_of(session: Session, alerts: Sequence[Alert]) -> dict[int, str]:
    """The names of the storms of alerts, by their numbers."""
    wanted = select(AlertGroup.id, AlertGroup.name).where(AlertGroup.id.in_({a.group for a in alerts}))
    return dict(session.execute(wanted).all())


def show_alerts(session: Session, alerts: Select[Alert]) -> list[AlertView]:
    """Alerts with the names of their storms, in the order of the statement."""
    rows = session.scalars(alerts).all()
    names = _names_of(session, rows)
    fields = AlertView.model_fields.keys() - {"group"}
    return [
        AlertView(**{name: getattr(row, name) for name in fields}, group=names.get(row.group or 0))
        for row in rows
    ]


def _group_view(row: AlertGroup, facts: Facts, tenant: str) -> GroupView:
    event = Event.OPENED if row.resolved_at is None else Event.RESOLVED
    message = message_of(row, facts, event, tenant=tenant, public_url="")
    return GroupView(
        id=row.id,
        name=row.name,
        title=message.title,
        kind=AlertKind(row.kind),
        severity=message.severity,
        family=row.family,
        site=row.site,
        alerts=facts.alerts,
        lasting=facts.lasting,
        times=facts.times,
        first=[one.subject for one in message.first],
        opened_at=row.opened_at,
        told_at=row.told_at,
        resolved_at=row.resolved_at,
    )
