"""The evidence of one look at a rollout: `fleet.gates.arms.Arms`, read from the database when a look is due.

::

    began − baseline           began                 commit + warm-up                          now
        │──── before, of all ────│                          │─ after: canaries, on the release ─│
                                                            │─ after: controls, as they are ────│

`began` is when the rollout gave the release to its first device: the past of all devices ends there, those of later groups
too, so that both arms are compared over the same hours. Canaries are all that were given the release so far, also who put it off
or could not install it (`Arms.steps_aside`: of the controls as many would have), controls those that were not yet. Of either at most `MOST` are looked at, drawn by hash: more would hardly see more, and would keep the
database busy. A canary's `after` begins where it committed in its own stream, whatever arrived when.

Asked in a reading transaction of its own: neither ingest nor the engine's writing waits for it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np
from sqlalchemy import select, true
from sqlalchemy.orm import Session

from fleet.gates.answers import LookAnswer
from fleet.gates.arms import Arms
from fleet.gates.judge import judge_look
from fleet.gates.looks import has_placebos, look_times
from fleet.gates.placebos import FEW
from fleet.gates.plan import GatePlan
from fleet.gates.strata import number_strata
from fleet.rollouts.histories import Commit, Histories
from fleet.rollouts.progress import Group, LookTaken, Rollout
from fleet.rollouts.reports import read_reports
from fleet.rollouts.spans import Span
from fleet.storage.device_tables import Device, DeviceState
from fleet.storage.event_tables import InstallRecord
from fleet.storage.rollout_tables import RolloutExecution
from protocol.messages.kinds import InstallStatus
from protocol.names import DeviceId

__all__ = ["MOST", "Drawn", "draw_arms", "look_at", "look_if_due", "read_arms"]

MOST: Final = 1000
"""Devices of either arm that are looked at."""

_AT_ONCE: Final = 500


def look_if_due(
    session: Session, rollout: Rollout, now: float, *, offline_after_s: float
) -> LookTaken | None:
    """What the gates see, where a look at `rollout` is due at Unix second `now`; seconds of reading for a large fleet."""
    group, number = rollout.present_group, rollout.due_look(now)
    if group is None or number is None:
        return None
    answer = look_at(session, rollout, number, now, offline_after_s=offline_after_s)
    return LookTaken(group=group.number, number=number, answer=answer)


def look_at(
    session: Session, rollout: Rollout, number: int, now: float, *, offline_after_s: float
) -> LookAnswer:
    """What the gates see at look `number` at the present group of `rollout`.

    Args:
        session: a snapshot.
        rollout: RUNNING, its present group SOAKING, its plan with gates.
        number: of the look at this group, from 1; it counts on after the soak.
        now: Unix seconds.
        offline_after_s: silence after which a device counts as offline, seconds.
    """
    group, plan = rollout.present_group, rollout.plan.gates
    assert group is not None, "a look is due for a group that soaks"  # noqa: S101 - a fault of ours
    assert plan is not None, "a look is due for a plan with gates"  # noqa: S101 - a fault of ours
    of = len(look_times(group.soak_s))
    arms = read_arms(
        session,
        rollout,
        group,
        now,
        offline_after_s=offline_after_s,
        asks_placebos=has_placebos(min(number, of), of),
    )
    judged = [one.number for one in rollout.groups if one.soak_s]
    return judge_look(
        arms,
        plan,
        group=judged.index(group.number),
        groups=len(judged),
        number=min(number, of),
        of=of,
        is_last=number >= of,
        extension=max(0, number - of),
    )


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Who is looked at, in the order of the lot, and in which stratum everybody is."""

    canaries: Sequence[DeviceId]
    controls: Sequence[DeviceId]
    strata: Mapping[DeviceId, int]


def read_arms(
    session: Session,
    rollout: Rollout,
    group: Group,
    now: float,
    *,
    offline_after_s: float,
    asks_placebos: bool = True,
) -> Arms:
    """What canaries and controls showed until `now`. Arguments as `look_at`.

    `group` is the one that soaks; `asks_placebos`: whether few canaries are compared with past hours at this look.
    """
    plan = rollout.plan.gates or GatePlan()
    given = [e.given_at for e in rollout.executions.values() if e.given_at is not None]
    group_at = min(
        (e.given_at for e in rollout.of_group(group.number) if e.given_at is not None), default=group.since
    )
    began = min(given, default=group.since)
    drawn = draw_arms(session, rollout)
    commits = _read_commits(session, rollout, drawn.canaries)
    given_to = frozenset(drawn.canaries)
    aside = [device for device in drawn.canaries if device not in commits]
    spans = {
        device: Span(
            device=device,
            start=max(commits[device].at, group_at) + plan.warm_up_s,
            until=now,
            after=commits[device].position,
        )
        for device in drawn.canaries
        if device in commits
    }
    # as long as those of the canaries: they installed for a while
    start = median([span.start for span in spans.values()] or [group_at + plan.warm_up_s])
    spans |= {device: Span(device=device, start=start, until=now) for device in (*aside, *drawn.controls)}
    devices = tuple(spans)
    histories = Histories(session, rollout.plan.release, plan, offline_after_s=offline_after_s)
    before = histories.before(devices, began)
    placebos = (
        histories.placebos(devices, began, now - start) if asks_placebos and 0 < len(commits) <= FEW else None
    )
    return Arms(
        devices=devices,
        is_canary=np.array([device in given_to for device in devices], dtype=np.bool_),
        steps_aside=np.array(
            [device in given_to and device not in commits for device in devices], dtype=np.bool_
        ),
        stratum=np.array([drawn.strata[device] for device in devices], dtype=np.int64),
        before=before,
        after=histories.after(list(spans.values()), commits),
        placebos=placebos,
        hazard_events=float(before.restarts.sum()),
        hazard_hours=float(before.hours.sum()),
        ran_before=any(rollout.executions[device].previous is not None for device in commits),
    )


def _read_strata(session: Session, rollout: Rollout) -> dict[DeviceId, int]:
    """Hardware and site as one number, of the devices of the rollout that are not shut out, and were there when it began."""
    # who enrols later is drawn by nobody, has no past, and is switched off and on by who installs it
    began = min((e.given_at for e in rollout.executions.values() if e.given_at is not None), default=None)
    rows = session.execute(
        select(Device.id, Device.hardware, Device.site)
        .join(RolloutExecution, RolloutExecution.device == Device.id)
        .where(
            RolloutExecution.rollout == rollout.id,
            Device.state == DeviceState.ENROLLED,
            true() if began is None else Device.enrolled_at <= began,
        )
        .order_by(Device.id)
    ).all()
    numbers = number_strata([(row.hardware, row.site) for row in rows])
    return {DeviceId(row.id): int(number) for row, number in zip(rows, numbers, strict=True)}


def draw_arms(session: Session, rollout: Rollout) -> Drawn:
    """Canaries and controls of a rollout as it is, at most `MOST` of each; controls from each stratum as it has canaries."""
    strata = _read_strata(session, rollout)
    has_release, has_not = [], []
    for execution in rollout.executions.values():
        if execution.device not in strata or execution.superseded_by is not None:
            continue
        if execution.is_given and execution.returned_at is None:
            has_release.append(execution.device)
        elif not execution.is_given and execution.state is InstallStatus.QUEUED:
            has_not.append(execution.device)
    canaries = sorted(has_release, key=lambda device: _lot(rollout, device))[:MOST]
    places = Counter(strata[device] for device in canaries)
    most = {stratum: -(-MOST * count // len(canaries)) for stratum, count in places.items()}
    controls, taken = [], Counter[int]()
    for device in sorted(has_not, key=lambda device: _lot(rollout, device)):
        stratum = strata[device]
        if taken[stratum] < most.get(stratum, 0):
            taken[stratum] += 1
            controls.append(device)
    return Drawn(canaries=canaries, controls=controls[:MOST], strata=strata)


def _lot(rollout: Rollout, device: DeviceId) -> bytes:
    # another hash than the one that drew the groups: whoever is last in one group is not for that reason first here
    return hashlib.sha256(f"{rollout.id}\nlook\n{device}".encode()).digest()


def _read_commits(session: Session, rollout: Rollout, devices: Sequence[DeviceId]) -> dict[DeviceId, Commit]:
    """Where each device first said that it has committed its present attempt; a device speaks for itself only."""
    wanted = {rollout.given_id(rollout.executions[device]): device for device in devices}
    commits: dict[DeviceId, Commit] = {}
    for first in range(0, len(wanted), _AT_ONCE):
        names = list(wanted)[first : first + _AT_ONCE]
        query = select(InstallRecord).where(InstallRecord.execution.in_(names))
        for row, position in read_reports(session, query):
            device = wanted[row.execution]
            if row.device == device and row.status == InstallStatus.SUCCEEDED:
                commits.setdefault(device, Commit(position=position, at=row.received_at))
    return commits
