"""What happened to one device: its alarms, what it ran, where its world left its reference, rollouts it was in, what it could not say.

Each list is the latest few of a span and is found by an index of its device, however much the others have told.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session, defer

from fleet.storage.dead_letter_tables import DeadLetter
from fleet.storage.device_tables import Device
from fleet.storage.event_tables import LASTS, Anomaly, DriftRecord, InstallRecord
from fleet.storage.rollout_tables import RolloutExecution, RolloutRecord
from fleet.storage.verdict_tables import Verdict, VerdictRecord

__all__ = [
    "Alarm",
    "ReleaseChange",
    "count_verdicts",
    "read_alarms",
    "read_drifts",
    "read_executions",
    "read_letters",
    "read_release_changes",
]

ALARMS: Final = 300
"""On one chart: more are a band of their own colour."""

CHANGES: Final = 100
DRIFTS: Final = 100


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """An anomaly without its window, and what people said of it."""

    anomaly: Anomaly
    verdict: Verdict | None

    @property
    def ended_at(self) -> float | None:
        """When its end arrived, Unix s; None while it lasts, and where the agent is one that tells of no end."""
        return None if self.anomaly.end is None else self.anomaly.end.received_at


@dataclass(frozen=True, kw_only=True)
class ReleaseChange:
    """From `at` on (Unix s, when it was heard) the device ran `release`."""

    at: float
    release: str


def read_alarms(session: Session, device: str, *, start: float, until: float) -> list[Alarm]:
    """The latest anomalies of a device that came in [start, until], newest first, and those that began before and last."""
    query = (
        select(Anomaly, VerdictRecord.verdict)
        .outerjoin(VerdictRecord, VerdictRecord.anomaly == Anomaly.id)
        .options(defer(Anomaly.window))
        .where(Anomaly.device == device)
    )
    within = query.where(Anomaly.received_at.between(start, until))
    lasting = query.where(LASTS, Anomaly.received_at < start)
    found = [
        *session.execute(within.order_by(Anomaly.received_at.desc()).limit(ALARMS)),
        *session.execute(lasting.order_by(Anomaly.received_at.desc()).limit(ALARMS)),
    ]
    return [Alarm(anomaly=anomaly, verdict=verdict) for anomaly, verdict in found]


def read_release_changes(session: Session, device: str, *, start: float, until: float) -> list[ReleaseChange]:
    """When a device began to run another release, oldest first: as its installations tell, and its own last word."""
    told = (
        select(InstallRecord.received_at, InstallRecord.active_release)
        .where(InstallRecord.device == device, InstallRecord.active_release.is_not(None))
        .where(InstallRecord.received_at <= until)
        .order_by(InstallRecord.received_at.desc())
        .limit(CHANGES * 10)
    )
    rows = [(at, release or "") for at, release in session.execute(told)][::-1]
    changes = [
        ReleaseChange(at=at, release=release)
        for (_, before), (at, release) in pairwise([(0.0, ""), *rows])
        if release != before and at >= start
    ]
    last = session.execute(select(Device.release_since, Device.release).where(Device.id == device)).first()
    at, release = last or (None, None)
    if at is not None and release and start <= at <= until:
        is_known = any(change.release == release and change.at >= at - 60 for change in changes)
        changes += [] if is_known else [ReleaseChange(at=at, release=release)]
    return changes[-CHANGES:]


def read_drifts(session: Session, device: str, *, start: float, until: float) -> list[DriftRecord]:
    """The latest drift reports, newest first."""
    query = (
        select(DriftRecord)
        .where(DriftRecord.device == device, DriftRecord.received_at.between(start, until))
        .order_by(DriftRecord.received_at.desc())
    )
    return list(session.scalars(query.limit(DRIFTS)))


def read_executions(session: Session, device: str, limit: int) -> list[tuple[RolloutExecution, str, str]]:
    """The latest rollouts that a device was in, newest first: its part, the rollout's name, and its release."""
    query = (
        select(RolloutExecution, RolloutRecord.name, RolloutRecord.release)
        .join(RolloutRecord, RolloutRecord.id == RolloutExecution.rollout)
        .where(RolloutExecution.device == device)
        .order_by(RolloutRecord.created_at.desc())
    )
    return [(execution, name, release) for execution, name, release in session.execute(query.limit(limit))]


def read_letters(session: Session, device: str, limit: int) -> tuple[int, list[DeadLetter]]:
    """How many messages of a device could not be taken, and the latest of them."""
    mine = DeadLetter.device == device
    many = session.scalar(select(func.count()).select_from(DeadLetter).where(mine)) or 0
    query = select(DeadLetter).where(mine).order_by(DeadLetter.id.desc())
    return many, list(session.scalars(query.limit(limit)))


def count_verdicts(session: Session, device: str) -> dict[str, int]:
    """How many of a device's anomalies people called what."""
    query = (
        select(VerdictRecord.verdict, func.count())
        .join(Anomaly, Anomaly.id == VerdictRecord.anomaly)
        .where(Anomaly.device == device)
        .group_by(VerdictRecord.verdict)
    )
    return {str(verdict): many for verdict, many in session.execute(query)}
