"""The devices that a plan means now, in the groups of its draw; and whether its releases may be rolled out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fleet.device_query import device_filter
from fleet.errors import ConflictError, UnacceptableError
from fleet.release_lists import check_listed
from fleet.releases import find_release
from fleet.rollouts.foresight import Foresight, foresee
from fleet.rollouts.kept_past import check_past_is_kept
from fleet.rollouts.plans import RolloutPlan
from fleet.rollouts.targets import Meant, assign_groups
from fleet.settings import RetentionSettings
from fleet.storage.base import Database
from fleet.storage.device_tables import Device, DeviceState
from protocol.names import DeviceId, split_release_id

__all__ = ["Targets", "check_not_withdrawn", "check_releases", "find_targets", "preview_rollout"]


_BETWEEN: Final = "\n"
"""Between names of devices, none of which holds it."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The devices a plan means: those that get the release, by group (`plan.drawn_groups`), and those that run it already, sorted."""

    groups: tuple[tuple[DeviceId, ...], ...]
    current: tuple[DeviceId, ...]


def preview_rollout(
    database: Database,
    plan: RolloutPlan,
    rollout_id: str,
    now: float,
    *,
    offline_after_s: float,
    kept: RetentionSettings | None = None,
) -> tuple[Targets, Foresight]:
    """The exact devices that `plan` would reach at Unix second `now`, and what its gates would see; nothing is changed.

    Creating the plan under the same `rollout_id` reaches the same devices in the same groups, unless devices came, went
    or changed in between.

    Raises:
        UnacceptableError, QuerySyntaxError, NotFoundError: as `create_rollout`.
    """
    check_past_is_kept(plan, kept)
    with database.read() as session:
        check_releases(session, plan)
        targets = find_targets(session, plan, rollout_id)
        foresight = foresee(session, plan, targets.groups, rollout_id, now, offline_after_s=offline_after_s)
    return targets, foresight


def check_releases(session: Session, plan: RolloutPlan) -> None:
    """The release, and the one to go back to, were published here and not withdrawn (or the plan says `force`)."""
    check_not_withdrawn(session, plan)
    for release in filter(None, (plan.release, plan.rollback_to)):
        record = find_release(session, *split_release_id(release))
        if record.withdrawn_at is not None and not plan.force:
            raise ConflictError(
                f"release {release} was withdrawn ({record.withdrawn_reason}); name another to go back to, or set force"
            )
        check_listed(record)


def check_not_withdrawn(session: Session, plan: RolloutPlan) -> None:
    """Raise ConflictError where the release of `plan` was withdrawn, and the plan does not say `force`."""
    record = find_release(session, *split_release_id(plan.release))
    if record.withdrawn_at is not None and not plan.force:
        raise ConflictError(
            f"release {plan.release} was withdrawn ({record.withdrawn_reason}); a plan must set force to roll it out all the same"
        )


def find_targets(session: Session, plan: RolloutPlan, rollout_id: str) -> Targets:
    """The enrolled devices of the family that the query selects, in groups; those on the release already apart."""
    # one row for all devices that are alike: a row for each of a hundred thousand takes a third of a second
    is_unheard = Device.last_seen.is_(None) & Device.last_health_at.is_(None)
    alike = (
        Device.hardware,
        Device.site,
        is_unheard.label("is_unheard"),
        (func.coalesce(Device.release, "") == plan.release).label("runs_it"),
    )
    query = (
        select(*alike, func.aggregate_strings(Device.id, _BETWEEN))
        .where(
            Device.family == plan.family,
            Device.state == DeviceState.ENROLLED,
            device_filter(plan.target_query, field="target_query", where="body"),
        )
        .group_by(*alike)
    )
    current: list[DeviceId] = []
    devices: list[DeviceId] = []
    places: list[tuple[str, str]] = []
    unheard: list[bool] = []
    for hardware, site, is_mute, runs_it, joined in session.execute(query):
        names = list(map(DeviceId, joined.split(_BETWEEN)))
        if runs_it:
            current += names
        else:
            devices += names
            places += [(hardware, site)] * len(names)
            unheard += [is_mute] * len(names)
    if not devices and not current and not plan.dynamic:
        raise UnacceptableError(
            f"target_query {plan.target_query!r} selects no enrolled device of family {plan.family!r}"
        )
    if not devices and not plan.dynamic:
        raise UnacceptableError(
            f"nothing to do: all {len(current)} targeted devices run {plan.release} already"
        )
    meant = Meant(devices=devices, places=places, is_unheard=np.array(unheard, dtype=np.bool_))
    held_out = plan.gates.hold_out if plan.gates is not None and plan.holds_out else 0
    groups = assign_groups(rollout_id, meant, plan.groups, held_out=held_out)
    return Targets(groups=tuple(groups), current=tuple(sorted(current)))
