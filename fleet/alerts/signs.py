"""Reads what has happened since the last time, as signs: something began, was said again, or is over.

::

    anomalies, their ends ─┐
    device_changes ────────┼─ after its place, `AT_ONCE` rows ─► signs, and the places after them
    rollout_timeline ──────┤
    audit_log ─────────────┘

What a device *is* (silent, blind, drifted) is read from the device and not from what it was: who was away for an hour is told
what holds now, and not what happened meanwhile. Anomalies are told one by one, also those that came and went.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, or_, select, true, tuple_
from sqlalchemy.orm import Session

from fleet.alert_places import newest, places
from fleet.alert_settings import AlertKind
from fleet.alerts.kinds import OF_DEVICES
from fleet.rollouts.states import RolloutState
from fleet.storage.access_tables import AuditEntry
from fleet.storage.alert_tables import Alert
from fleet.storage.device_tables import Device, DeviceChange, DeviceState
from fleet.storage.event_tables import Anomaly, AnomalyEnd
from fleet.storage.rollout_tables import RolloutRecord, RolloutTransition
from fleet.verdicts import precision_of_family
from models.drift.labels import PrecisionSettings
from protocol.messages.kinds import AgentState

__all__ = ["AT_ONCE", "News", "Sign", "read_news"]

AT_ONCE: Final = 250
STOPPED: Final = frozenset({RolloutState.PAUSED, RolloutState.ROLLING_BACK})
_K: Final = AlertKind
_Row = Row[*tuple[Any, ...]]
_AUDITED: Final = {
    "device_limited": _K.MESSAGES,
    "message_refused": _K.MESSAGES,
    "enrolment_refused": _K.ENROLMENT,
    "identity_conflict": _K.CONFLICT,
    "identity_conflict_ended": _K.CONFLICT,
    "precision_drifted": _K.PRECISION,
    "release_published": _K.RELEASE,
    **dict.fromkeys(("verdict_given", "verdict_taken_back")),  # an alarm about precision may be over
}


@dataclass(frozen=True, kw_only=True)
class Sign:
    """Something was said of `subject` at `at` (Unix s): that an alarm of `kind` holds, or by `ending` that it is over.

    `episode` names an anomaly; the end of another one than the last is no end. `times`: how often it was said.
    """

    kind: AlertKind
    subject: str
    at: float
    device: str | None = None
    family: str = ""
    site: str = ""
    detail: str = ""
    episode: str | None = None
    times: int = 1
    ending: str = ""

    @property
    def key(self) -> str:
        """What makes two signs those of one alarm."""
        return f"{self.kind}:{self.subject}"


@dataclass(frozen=True, kw_only=True)
class News:
    """Signs in the order in which they count; the places after them; whether more waits."""

    signs: Sequence[Sign]
    places: dict[str, int]
    has_more: bool


def read_news(session: Session, now: float) -> News:
    """Everything that is new, up to `AT_ONCE` rows a table. At the very first time: how devices are, and nothing of the past."""
    reached, last = places(session), newest(session)
    if not reached:
        return News(signs=list(_of_all_devices(session, now)), places=last, has_more=False)
    moved, signs, has_more = dict(last), [], False
    for table, columns, which, read in _READERS:
        name = table.__tablename__
        if last[name] <= (since := reached.get(name, 0)):
            continue
        wanted = select(table.id, *columns).where(table.id > since, which).order_by(table.id)
        rows = session.execute(wanted.limit(AT_ONCE)).all()
        if len(rows) == AT_ONCE:
            moved[name], has_more = rows[-1].id, True
        signs += read(session, rows, now)
    return News(signs=signs, places=moved, has_more=has_more)


def _anomalies(session: Session, rows: Sequence[_Row], now: float) -> Iterator[Sign]:
    devices = _devices(session, (row.device for row in rows))
    latest: dict[str, _Row] = {}
    times: dict[str, int] = {}
    for row in rows:
        latest[row.device] = row
        times[row.device] = times.get(row.device, 0) + 1
    for name, row in latest.items():
        where = _where(devices.get(name), name)
        detail = f"score {row.score:.3g}, threshold {row.threshold:.3g}, release {row.release}"
        yield Sign(
            kind=_K.ANOMALY,
            at=row.received_at,
            detail=detail,
            episode=row.episode,
            times=times[name],
            **where,
        )
    # whose end was stored before this look; later ones come by `_ends`
    named = [(row.device, row.episode) for row in latest.values() if row.episode]
    is_named = tuple_(AnomalyEnd.device, AnomalyEnd.episode).in_(named)
    yield from _ends(session, session.execute(select(*_OF_ENDS).where(is_named)).all(), now)


def _ends(_session: Session, rows: Sequence[_Row], _now: float) -> Iterator[Sign]:
    for row in rows:
        yield Sign(
            kind=_K.ANOMALY,
            subject=row.device,
            at=row.received_at,
            episode=row.episode,
            ending=f"it lasted {row.lasted_s:.0f} s; peak score {row.peak_score:.3g}",
        )


def _changes(session: Session, rows: Sequence[_Row], now: float) -> Iterator[Sign]:
    for device in _devices(session, (row.device for row in rows)).values():
        yield from _of_device(device, now)


def _of_all_devices(session: Session, now: float) -> Iterator[Sign]:
    is_unwell = or_(
        Device.drifted.is_(True), Device.agent_state == AgentState.BLIND, Device.online.is_(False)
    )
    for device in session.execute(select(*_OF_DEVICES).where(is_unwell)):
        yield from _of_device(device, now)


def _of_device(device: _Row, now: float) -> Iterator[Sign]:
    where = _where(device, device.id)
    if device.state != DeviceState.ENROLLED:
        for kind in OF_DEVICES:
            yield Sign(kind=kind, at=now, ending=f"the device is {device.state}", **where)
        return
    is_heard = device.online or device.last_seen is None
    held = {
        _K.DRIFT: (device.drifted, f"drift score {device.drift_score or 0:.3g}", "the drift is over"),
        _K.SILENT: (not is_heard, "", "it is heard again"),
        _K.BLIND: (device.agent_state == AgentState.BLIND, "", "it judges again"),
    }
    for kind, (holds, detail, ending) in held.items():
        yield Sign(kind=kind, at=now, detail=detail, ending="" if holds else ending, **where)


def _rollouts(session: Session, rows: Sequence[_Row], _now: float) -> Iterator[Sign]:
    wanted = select(RolloutRecord).where(RolloutRecord.id.in_({row.rollout for row in rows}))
    records = {record.id: record for record in session.scalars(wanted)}
    for row in rows:
        record = records[row.rollout]
        words = f"{record.name} of {record.release}: {row.state}, {row.reason or 'no reason was given'} ({row.actor})"
        about: dict[str, Any] = {
            "subject": row.rollout,
            "family": record.family,
            "at": row.at,
            "detail": words,
        }
        is_stopped, waits = row.state in STOPPED, row.state == RolloutState.WAITING_FOR_APPROVAL
        yield Sign(kind=_K.ROLLOUT, ending="" if is_stopped else f"the rollout is {row.state}", **about)
        yield Sign(kind=_K.APPROVAL, ending="" if waits else f"the rollout is {row.state}", **about)


def _audited(session: Session, rows: Sequence[_Row], now: float) -> Iterator[Sign]:
    devices = _devices(session, (row.subject for row in rows))
    for row in rows:
        kind = _AUDITED[row.action]
        if kind is None:
            continue
        subject, said = row.subject.removeprefix("release/"), row.detail
        words = str(said.get("message") or said.get("reason") or "")
        if kind in {_K.PRECISION, _K.RELEASE}:
            family = str(said.get("family") or subject.partition("/")[0])
            yield Sign(kind=kind, subject=subject, family=family, at=row.at, detail=words)
            continue
        ending = "only one of them speaks" if row.action == "identity_conflict_ended" else ""
        yield Sign(kind=kind, at=row.at, detail=words, ending=ending, **_where(devices.get(subject), subject))
    if any(_AUDITED[row.action] is None for row in rows):
        yield from _regained(session, now)


def _regained(session: Session, now: float) -> Iterator[Sign]:
    """Of alarms about precision those that are over: the release is precise again, or people judge another one now."""
    live = select(Alert).where(
        Alert.kind == _K.PRECISION, Alert.settled_at.is_(None), Alert.ended_at.is_(None)
    )
    for alert in session.scalars(live).all():
        found = precision_of_family(session, alert.family, PrecisionSettings())
        if not found or found[0].release != alert.subject or found[0].drifted_since is None:
            yield Sign(
                kind=_K.PRECISION, subject=alert.subject, at=now, ending="alarms are as true as before"
            )


_OF_ANOMALIES: Final = (
    *(
        Anomaly.device,
        Anomaly.received_at,
        Anomaly.score,
        Anomaly.threshold,
        Anomaly.release,
        Anomaly.episode,
    ),
)
_OF_ENDS: Final = (
    *(
        AnomalyEnd.device,
        AnomalyEnd.received_at,
        AnomalyEnd.episode,
        AnomalyEnd.lasted_s,
        AnomalyEnd.peak_score,
    ),
)
_OF_MOVES: Final = (
    *(RolloutTransition.rollout, RolloutTransition.at, RolloutTransition.state, RolloutTransition.reason),
    RolloutTransition.actor,
)
_OF_DEVICES: Final = (
    *(Device.id, Device.family, Device.site, Device.state, Device.online, Device.last_seen),
    *(Device.drifted, Device.drift_score, Device.agent_state),
)
_READERS: Final[tuple[tuple[Any, Any, Any, Any], ...]] = (
    (Anomaly, _OF_ANOMALIES, true(), _anomalies),
    (AnomalyEnd, _OF_ENDS, true(), _ends),
    (DeviceChange, (DeviceChange.device,), true(), _changes),
    (RolloutTransition, _OF_MOVES, RolloutTransition.subject == "rollout", _rollouts),
    (
        AuditEntry,
        (AuditEntry.at, AuditEntry.action, AuditEntry.subject, AuditEntry.detail),
        AuditEntry.action.in_(_AUDITED),
        _audited,
    ),
)
"""Anomalies before their ends: an end in the same look is that of one that has begun."""


def _devices(session: Session, names: Iterable[str]) -> dict[str, _Row]:
    wanted = select(*_OF_DEVICES).where(Device.id.in_(set(names)))
    return {device.id: device for device in session.execute(wanted)}


def _where(device: _Row | None, name: str) -> dict[str, Any]:
    if device is None:
        return {"subject": name, "device": name[:64]}
    return {"subject": name, "device": name, "family": device.family, "site": device.site}
