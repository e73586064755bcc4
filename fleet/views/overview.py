"""What a fleet's operators look at first: how many devices are in which plight, what waits for a person, what runs where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, false, func, literal, select
from sqlalchemy.orm import Session

from fleet.rollouts.states import RolloutState
from fleet.storage.boot_tables import IdentityConflict
from fleet.storage.dead_letter_tables import DeadLetter
from fleet.storage.device_tables import Device, DeviceState
from fleet.storage.event_tables import LASTS, WAITS, Anomaly
from fleet.storage.rollout_tables import RolloutRecord
from protocol.messages.kinds import AgentState

__all__ = [
    "DEVICE_PLIGHTS",
    "MOST_COUNTED",
    "PERSON_DECIDES",
    "UNDER_WAY",
    "Overview",
    "count_lasting",
    "read_overview",
]

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

UNDER_WAY: Final = (*PERSON_DECIDES, RolloutState.RUNNING, RolloutState.ROLLING_BACK)
"""States of a rollout that is not over."""

MOST_COUNTED: Final = 10_000
"""Anomalies that are counted: whether there are ten thousand or a million, the work is the same."""


@dataclass(frozen=True, kw_only=True)
class Overview:
    """The first page.

    devices: how many are in which plight (`DEVICE_PLIGHTS`).
    unjudged: recent anomalies on which nobody has given a verdict; `MOST_COUNTED` stands for that many or more.
    rollouts: how many are in each state that is not over.
    versions: family, release (empty: none said), and how many enrolled devices run it; the families by name.
    """

    devices: dict[str, int]
    unjudged: int
    rollouts: dict[str, int]
    dead_letters: int
    identity_conflicts: int
    versions: list[tuple[str, str, int]]


def _count_devices(session: Session) -> dict[str, int]:
    """How many devices are in which plight, in one pass over them."""
    counts = [func.count().filter(condition).label(name) for name, condition in DEVICE_PLIGHTS.items()]
    return dict(session.execute(select(*counts)).one()._mapping)  # noqa: SLF001 - SQLAlchemy's name for it


def _count_waiting(session: Session) -> tuple[int, int]:
    """Dead letters that wait for somebody, and devices whose identity two devices use."""
    letters = select(func.count()).select_from(DeadLetter)
    conflicts = select(func.count()).select_from(IdentityConflict).where(IdentityConflict.since.is_not(None))
    return session.scalar(letters) or 0, session.scalar(conflicts) or 0


def read_overview(session: Session, *, since: float) -> Overview:
    """The fleet as it stands; anomalies are counted from Unix second `since` on."""
    versions = (
        select(Device.family, func.coalesce(Device.release, ""), func.count())
        .where(_ENROLLED)
        .group_by(Device.family, Device.release)
        .order_by(Device.family, func.count().desc())
    )
    rollouts = (
        select(RolloutRecord.state, func.count())
        .where(RolloutRecord.state.in_(UNDER_WAY))
        .group_by(RolloutRecord.state)
    )
    letters, conflicts = _count_waiting(session)
    return Overview(
        devices=_count_devices(session),
        unjudged=_count_waiting_anomalies(session, since),
        rollouts={row.state: row[1] for row in session.execute(rollouts)},
        dead_letters=letters,
        identity_conflicts=conflicts,
        versions=[(family, release, many) for family, release, many in session.execute(versions)],
    )


def count_lasting(session: Session, *, since: float) -> int:
    """How many anomalies from Unix second `since` on last and are not judged, among the first `MOST_COUNTED` that last."""
    lasting = select(Anomaly.received_at, Anomaly.is_judged).where(LASTS).limit(MOST_COUNTED).subquery()
    meant = (lasting.c.received_at >= since, lasting.c.is_judged == false())
    return session.scalar(select(func.count()).select_from(lasting).where(*meant)) or 0


def _count_waiting_anomalies(session: Session, since: float) -> int:
    waiting = select(literal(1)).select_from(Anomaly).where(Anomaly.received_at >= since, WAITS)
    return session.scalar(select(func.count()).select_from(waiting.limit(MOST_COUNTED).subquery())) or 0
