"""Where a release went and what became of it: its rollouts, the devices that run it, and what people said of its alarms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fleet.storage.device_tables import Device, DeviceState
from fleet.storage.release_tables import Release
from fleet.storage.rollout_tables import RolloutRecord
from fleet.verdicts import ReleasePrecision, precision_of_family
from models.drift.labels import PrecisionSettings

__all__ = ["Lineage", "RolloutOfRelease", "read_lineage"]

MOST_ROLLOUTS: Final = 50


@dataclass(frozen=True, kw_only=True)
class RolloutOfRelease:
    """A rollout that gave out the release."""

    id: str
    name: str
    state: str
    since: float


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What followed from a release.

    running: enrolled devices that last said that they run it. online: of these, how many are heard.
    rollouts: the newest first. children: releases that were learnt from it. verdicts: None where nobody gave one.
    """

    running: int
    online: int
    rollouts: list[RolloutOfRelease]
    children: list[str]
    verdicts: ReleasePrecision | None


def read_lineage(session: Session, family: str, version: int) -> Lineage:
    """What is known now; of a release that is not there, nothing."""
    release = f"{family}/{version}"
    running, online = session.execute(
        select(func.count(), func.count().filter(Device.online.is_(True))).where(
            Device.family == family, Device.state == DeviceState.ENROLLED, Device.release == release
        )
    ).one()
    rollouts = session.execute(
        select(RolloutRecord.id, RolloutRecord.name, RolloutRecord.state, RolloutRecord.since)
        .where(RolloutRecord.family == family, RolloutRecord.release == release)
        .order_by(RolloutRecord.created_at.desc(), RolloutRecord.id)
        .limit(MOST_ROLLOUTS)
    )
    # a family has tens of releases: their manifests are read, and asked in Python what no index knows
    later = session.execute(
        select(Release.version, Release.manifest)
        .where(Release.family == family, Release.version > version)
        .order_by(Release.version)
        .limit(1000)
    )
    precision = precision_of_family(session, family, PrecisionSettings())
    return Lineage(
        running=running,
        online=online,
        rollouts=[
            RolloutOfRelease(id=id_, name=name, state=state, since=since)
            for id_, name, state, since in rollouts
        ],
        children=[
            f"{family}/{number}"
            for number, manifest in later
            if manifest.get("provenance", {}).get("parent") == release
        ],
        verdicts=next((one for one in precision if one.release == release), None),
    )
