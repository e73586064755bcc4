"""What a fleet's operators look at first: how many devices are in which plight, what waits for a person, what runs where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from fleet.rollouts.states import RolloutState
from fleet.storage.boot_tables import IdentityConflict
from fleet.storage.dead_letter_tables import DeadLetter
from fleet.storage.device_tables import Device, DeviceState
from fleet.storage.event_tables import Anomaly
from fleet.storage.rollout_tables import RolloutRecord
from fleet.storage.verdict_tables import VerdictRecord
from protocol.messages.kinds import AgentState

__all__ = ["DEVICE_PLIGHTS", "PERSON_DECIDES", "Overview", "count_devices", "count_waiting", "read_overview"]

_ENROLLED: Final = Device.state == DeviceState.ENROLLED

DEVICE_PLIGHTS: Final[dict[str, ColumnElement[bool]]] = {
    "enrolled": _ENROLLED,
    "online": _ENROLLED & Device.online.is_(True),
    "silent": _ENROLLED & Device.online.is_(False),
    "drifted": _ENROLLED & Device.drifted.is_(True),
    "blind": _ENROLLED & (Device.agent_state == AgentState.BLIND),
    "waiting": Device.state == DeviceState.WAITING,
    "revoked": Device.state == DeviceState.REVOKED,
}
"""What a device can be; it may be several at once. `silent` are those that were to be heard and are not."""

PERSON_DECIDES: Final = (RolloutState.WAITING_FOR_APPROVAL, RolloutState.READY, RolloutState.PAUSED)
"""States of a rollout in which nothing goes on before a person says so."""


@dataclass(frozen=True, kw_only=True)
class Overview:
    """The first page.

    devices: how many are in which plight (`DEVICE_PLIGHTS`).
    unjudged: anomalies of the last `since_s` seconds on which nobody has given a verdict.
    open_anomalies: of those, how many last.
    rollouts: how many are in each state that is not over.
    versions: family, release (empty: none said), and how many enrolled devices run it; the families by name.
    """

    devices: dict[str, int]
    unjudged: int
    open_anomalies: int
    rollouts: dict[str, int]
    dead_letters: int
    identity_conflicts: int
    versions: list[tuple[str, str, int]]


def count_devices(session: Session) -> dict[str, int]:
    """How many devices are in which plight, in one pass over them."""
    counts = [func.count().filter(condition).label(name) for name, condition in DEVICE_PLIGHTS.items()]
    return dict(session.execute(select(*counts)).one()._mapping)  # noqa: SLF001 - SQLAlchemy's name for it


def count_waiting(session: Session) -> tuple[int, int]:
    """Dead letters that wait for somebody, and devices whose identity two devices use."""
    letters = select(func.count()).select_from(DeadLetter)
    conflicts = select(func.count()).select_from(IdentityConflict).where(IdentityConflict.since.is_not(None))
    return session.scalar(letters) or 0, session.scalar(conflicts) or 0


def read_overview(session: Session, *, since: float) -> Overview:
    """The fleet as it stands; anomalies are counted from Unix second `since` on."""
    lasts = Anomaly.episode.is_not(None) & ~Anomaly.end.has()
    recent = (
        select(func.count(), func.count().filter(lasts))
        .select_from(Anomaly)
        .outerjoin(VerdictRecord, VerdictRecord.anomaly == Anomaly.id)
        .where(Anomaly.received_at >= since, VerdictRecord.anomaly.is_(None))
    )
    unjudged, lasting = session.execute(recent).one()
    versions = (
        select(Device.family, func.coalesce(Device.release, ""), func.count())
        .where(_ENROLLED)
        .group_by(Device.family, Device.release)
        .order_by(Device.family, func.count().desc())
    )
    over = (RolloutState.COMPLETED, RolloutState.CANCELED, RolloutState.ROLLED_BACK)
    rollouts = (
        select(RolloutRecord.state, func.count())
        .where(RolloutRecord.state.not_in(over))
        .group_by(RolloutRecord.state)
    )
    letters, conflicts = count_waiting(session)
    return Overview(
        devices=count_devices(session),
        unjudged=unjudged,
        open_anomalies=lasting,
        rollouts={row.state: row[1] for row in session.execute(rollouts)},
        dead_letters=letters,
        identity_conflicts=conflicts,
        versions=[(family, release, many) for family, release, many in session.execute(versions)],
    )
