"""Keeps one alert a subject and kind: said again it is the same, over and back soon it never was over.

::

    sign ─► no live alert of its key ─► a new one, not told before `due_at`
         ─► a live one ─► said again | back before `hold_s` were over ─► the same
    ending ─► a live one ─► over at `ended_at`; after `hold_s` more it is settled
                         └► a state (silent, blind, drifted) that nobody was told of: it never was

`hold_s` doubles with each alert that the same key had within a day, up to sixteen times: who flaps is told ever less often.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from fleet import audit
from fleet.alert_settings import AlertKind, AlertSettings
from fleet.alerts.kinds import TERMS
from fleet.alerts.signs import Sign
from fleet.errors import ConflictError, NotFoundError
from fleet.storage.alert_tables import Alert
from fleet.storage.device_tables import Device, DeviceState

__all__ = ["end_by_hand", "end_quiet", "hear_anybody", "note_signs", "settle"]

DAY_S: Final = 86_400.0
MOST_DOUBLINGS: Final = 4
_CHUNK: Final = 500
_K: Final = AlertKind
_QUIET: Final = [kind for kind, terms in TERMS.items() if terms.is_quiet]


def note_signs(session: Session, signs: Sequence[Sign], settings: AlertSettings, now: float) -> None:
    """Make, prolong and end alerts by `signs`, in their order.

    Args:
        session: the transaction that moves the places.
        signs: what was read.
        settings: how patient.
        now: Unix seconds.
    """
    live = _live(session, {sign.key for sign in signs})
    former = _former(session, {sign.key for sign in signs if not sign.ending and sign.key not in live}, now)
    for sign in signs:
        alert = live.get(sign.key)
        if sign.ending:
            if alert is not None and _is_end(alert, sign):
                if end_alert(session, alert, sign.ending, now):
                    live.pop(sign.key)
                if sign.kind is _K.DEAF:
                    _wait_for_each(session, settings, now)
        elif alert is None:
            live[sign.key] = alert = _new(sign, settings, former.get(sign.key, 0), now)
            session.add(alert)
        else:
            _again(alert, sign)
    session.flush()


def end_alert(session: Session, alert: Alert, ending: str, now: float) -> bool:
    """It is over; gives whether it is gone altogether, since nobody was to be told yet."""
    if alert.ended_at is not None:
        return False
    if TERMS[AlertKind(alert.kind)].is_level and alert.group is None and alert.silence is None:
        session.flush()
        session.delete(alert)
        session.flush()  # before another one of its key is made
        return True
    alert.ended_at, alert.ending = now, ending[:200]
    return False


def end_by_hand(session: Session, number: int, *, actor: str, now: float) -> None:
    """Somebody says that an alarm is over, whatever is or is not said of it.

    Raises:
        NotFoundError: there is none of this number.
        ConflictError: it is over.
    """
    alert = session.get(Alert, number)
    if alert is None:
        raise NotFoundError(f"there is no alert {number}; list them with GET /v1/alerts")
    if alert.ended_at is not None or alert.settled_at is not None:
        raise ConflictError(
            f"alert {number} is over already: {alert.ending or 'nothing more was said of it'}"
        )
    alert.ended_at, alert.ending = now, f"{actor} ended it"
    audit.record(session, at=now, actor=actor, action="alert_ended", subject=f"alert/{number}", key=alert.key)
    session.flush()


def end_quiet(session: Session, settings: AlertSettings, now: float) -> None:
    """End what never tells of its end and was not said for `quiet_after_s`."""
    is_quiet = Alert.kind.in_(_QUIET) | ((Alert.kind == _K.ANOMALY) & Alert.episode.is_(None))
    # what was said in the future was said by a clock of ours that was wrong
    is_fresh = Alert.last_at.between(now - settings.quiet_after_s, now + settings.quiet_after_s)
    wanted = select(Alert).where(is_quiet, ~is_fresh, Alert.settled_at.is_(None), Alert.ended_at.is_(None))
    for alert in session.scalars(wanted).all():
        end_alert(session, alert, "nothing more was said of it", now)


def settle(session: Session, now: float) -> None:
    """Alerts that have been over for long enough are settled: the next sign makes another one."""
    is_over = ~Alert.ended_at.between(now - Alert.hold_s, now)  # also in the future, by a wrong clock
    is_told = Alert.group.is_not(None) | (Alert.silence.is_not(None) & (Alert.ended_at < Alert.due_at))
    wanted = (Alert.settled_at.is_(None), Alert.ended_at.is_not(None), is_over, is_told)
    session.execute(
        update(Alert).where(*wanted).values(settled_at=now).execution_options(synchronize_session=False)
    )


def hear_anybody(session: Session, now: float) -> list[Sign]:
    """Whether any device is heard, as a sign; of fewer than two that ever were it says nothing."""
    enrolled = Device.state == DeviceState.ENROLLED

    def sign(*, detail: str = "", ending: str = "") -> list[Sign]:
        return [Sign(kind=_K.DEAF, subject="the fleet", at=now, detail=detail, ending=ending)]

    if session.scalar(select(Device.id).where(enrolled, Device.online.is_(True)).limit(1)) is not None:
        return sign(ending="devices are heard again")
    ever = session.scalars(select(Device.id).where(enrolled, Device.last_seen.is_not(None)).limit(2)).all()
    if len(ever) < 2:
        return sign(ending="there are no two devices to be heard")
    return sign(detail="the broker, the network or this service: look there first")


def _live(session: Session, keys: Iterable[str]) -> dict[str, Alert]:
    wanted = sorted(keys)
    found: dict[str, Alert] = {}
    for start in range(0, len(wanted), _CHUNK):
        chunk = Alert.key.in_(wanted[start : start + _CHUNK])
        for alert in session.scalars(select(Alert).where(chunk, Alert.settled_at.is_(None))):
            found[alert.key] = alert
    return found


def _former(session: Session, keys: Iterable[str], now: float) -> dict[str, int]:
    """How many alerts each key had within a day."""
    wanted = sorted(keys)
    found: dict[str, int] = {}
    for start in range(0, len(wanted), _CHUNK):
        counted = (
            select(Alert.key, func.count())
            .where(Alert.key.in_(wanted[start : start + _CHUNK]), Alert.settled_at > now - DAY_S)
            .group_by(Alert.key)
        )
        found |= dict(session.execute(counted).all())
    return found


def _new(sign: Sign, settings: AlertSettings, former: int, now: float) -> Alert:
    terms = TERMS[sign.kind]
    waits = settings.silent_after_s if sign.kind in {_K.SILENT, _K.DEAF} else 0.0
    return Alert(
        key=sign.key,
        kind=sign.kind,
        subject=sign.subject[:200],
        device=sign.device,
        family=sign.family,
        site=sign.site,
        detail=sign.detail[:500],
        episode=sign.episode,
        times=sign.times,
        opened_at=sign.at,
        last_at=sign.at,
        due_at=now + waits,
        hold_s=settings.resolve_after_s * 2 ** min(former, MOST_DOUBLINGS),
        ended_at=now if terms.is_notice else None,
        ending="",
    )


def _again(alert: Alert, sign: Sign) -> None:
    terms = TERMS[sign.kind]
    if not terms.is_notice:
        alert.ended_at, alert.ending = None, ""
    alert.detail = sign.detail[:500] or alert.detail
    alert.episode, alert.last_at = sign.episode, sign.at
    if not terms.is_level:
        alert.times += sign.times


def _is_end(alert: Alert, sign: Sign) -> bool:
    """Of an anomaly the end of the one heard last counts; one that revokes the device names none."""
    return sign.episode is None or sign.episode == alert.episode


def _wait_for_each(session: Session, settings: AlertSettings, now: float) -> None:
    """Devices are heard again: each that is not yet gets the time to be, before it is called silent."""
    untold = (Alert.kind == _K.SILENT, Alert.group.is_(None), Alert.settled_at.is_(None))
    session.execute(
        update(Alert)
        .where(*untold, Alert.due_at < now + settings.silent_after_s)
        .values(due_at=now + settings.silent_after_s)
        .execution_options(synchronize_session="fetch")
    )
