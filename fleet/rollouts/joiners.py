"""Which devices are to join a dynamic rollout: they enrolled, or began to match its query, after it was created.

Read only. Of several rollouts the latest has a device: one that a later rollout holds is not taken by an earlier one, so
rollouts are to be asked newest first.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from fleet.device_query import device_filter
from fleet.rollouts.progress import Rollout
from fleet.rollouts.states import OCCUPYING
from fleet.storage.device_tables import Device, DeviceState
from fleet.storage.release_tables import Release
from fleet.storage.rollout_tables import RolloutExecution, RolloutRecord
from protocol.names import DeviceId, split_release_id

__all__ = ["MAXIMUM_JOINERS", "find_joiners"]

MAXIMUM_JOINERS: Final = 500
"""At a time: who enrols ten thousand devices sees them join in twenty turns."""


def find_joiners(session: Session, rollout: Rollout) -> list[DeviceId]:
    """Devices that `rollout` is to take in, at most `MAXIMUM_JOINERS`; none where it takes in nobody, or its release was withdrawn."""
    if not rollout.takes_in:
        return []
    family, version = split_release_id(rollout.plan.release)
    release = session.get(Release, (family, version))
    if release is None or (release.withdrawn_at is not None and not rollout.plan.force):
        return []
    mine, other = RolloutExecution, aliased(RolloutRecord)
    this = select(RolloutRecord.created_at).where(RolloutRecord.id == rollout.id).scalar_subquery()
    is_in_it = select(mine.device).where(mine.device == Device.id, mine.rollout == rollout.id).exists()
    has_another = (
        select(mine.device)
        .join(other, other.id == mine.rollout)
        .where(
            mine.device == Device.id,
            other.id != rollout.id,
            other.state.in_(list(OCCUPYING)) | ((other.created_at > this) & mine.given_at.is_not(None)),
        )
        .exists()
    )
    found = session.scalars(
        select(Device.id)
        .where(
            Device.family == family,
            Device.state == DeviceState.ENROLLED,
            Device.release.is_distinct_from(rollout.plan.release),
            device_filter(rollout.plan.target_query),
            ~is_in_it,
            ~has_another,
        )
        .order_by(Device.id)
        .limit(MAXIMUM_JOINERS)
    )
    return [DeviceId(device) for device in found]
