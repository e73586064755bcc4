"""The evidence of one look at a rollout: `fleet.gates.arms.Arms`, read from the database when a look is due.

::

    began − baseline           began                 commit + warm-up                          now
        │──── before, of all ────│                          │─ after: canaries, on the release ─│
                                                            │─ after: controls, as they are ────│

`began` is when the rollout gave the release to its first device: the past of all devices ends there, those of later groups
too, so that both arms are compared over the same hours. Canaries are all that were given the release so far, controls those
that were not yet. Of either at most `MOST` are looked at, drawn by hash: more would hardly see more, and would keep the
database busy. A canary's `after` begins where it committed in its own stream, whatever arrived when.

Asked in a reading transaction of its own: neither ingest nor the engine's writing waits for it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np
from msgspec.structs import replace
from sqlalchemy import select
from sqlalchemy.orm import Session

from fleet.gates.answers import Finding, LookAnswer
from fleet.gates.arms import Arms, Placebos, Shown
from fleet.gates.judge import judge_look
from fleet.gates.looks import look_times
from fleet.gates.plan import GatePlan
from fleet.gates.strata import number_strata
from fleet.rollouts.progress import Execution, Group, Rollout
from fleet.rollouts.reports import read_reports
from fleet.rollouts.showing import Told, as_shown
from fleet.rollouts.spans import (
    Span,
    Sums,
    read_blocks,
    read_last_heard,
    read_messages,
    read_starts,
    read_verdicts,
)
from fleet.storage.block_tables import BLOCK_S
from fleet.storage.boot_tables import Position
from fleet.storage.device_tables import Device, DeviceState
from fleet.storage.event_tables import InstallRecord
from fleet.storage.rollout_tables import RolloutExecution
from protocol.messages.kinds import InstallStatus
from protocol.names import DeviceId

__all__ = ["MOST", "look_at", "read_arms"]

MOST: Final = 1000
"""Devices of either arm that are looked at."""

SHORT_S: Final = 3600.0
"""A baseline below this is read from messages: blocks of ten minutes would cut off too much of it."""

FEW: Final = 2
"""Up to so many canaries are compared with pretended ones of the past."""

PLACEBO_ROWS, PLACEBO_SPANS = 4000, 48
"""Pretended canaries that are enough, and how many spans of the past are read for them at most."""

_AT_ONCE: Final = 500


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
    arms = read_arms(session, rollout, group, now, offline_after_s=offline_after_s)
    of = len(look_times(group.soak_s))
    judged = [one.number for one in rollout.groups if one.soak_s]
    answer = judge_look(
        arms,
        plan,
        group=judged.index(group.number),
        groups=len(judged),
        number=min(number, of),
        of=of,
        is_last=number >= of,
        extension=max(0, number - of),
    )
    heard = int((arms.after.hours[arms.is_canary] > 0).sum())
    if answer.is_last and answer.finding is Finding.NOT_SEEN and not heard:
        # whatever the plan says of what is not seen: of devices that died nothing can be seen
        answer = replace(
            answer,
            finding=Finding.PAUSE,
            reason=f"no evidence: none of {int(arms.is_canary.sum())} devices is heard any more; {answer.reason}",
        )
    return replace(answer, number=number)


@dataclass(frozen=True, kw_only=True)
class _Commit:
    """Where in its stream a device committed the release, and when that was heard, Unix seconds."""

    position: Position
    at: float


def read_arms(
    session: Session, rollout: Rollout, group: Group, now: float, *, offline_after_s: float
) -> Arms:
    """What canaries and controls showed until `now`. Arguments as `look_at`; `group` is the one that soaks."""
    plan = rollout.plan.gates or GatePlan()
    given = [e.given_at for e in rollout.executions.values() if e.given_at is not None]
    group_at = min(
        (e.given_at for e in rollout.of_group(group.number) if e.given_at is not None), default=group.since
    )
    began = min(given, default=group.since)
    strata = _read_strata(session, rollout)
    present = [e for e in rollout.executions.values() if e.device in strata]
    canaries, controls = _draw(rollout, present, strata)
    commits = _read_commits(session, rollout, canaries)
    spans = {
        device: Span(
            device=device,
            start=max(commits[device].at, group_at) + plan.warm_up_s,
            until=now,
            after=commits[device].position,
        )
        for device in canaries
        if device in commits
    }
    # as long as those of the canaries: they installed for a while
    start = median([span.start for span in spans.values()] or [group_at + plan.warm_up_s])
    spans |= {device: Span(device=device, start=start, until=now) for device in controls}
    devices = tuple(spans)
    reader = _Reader(session, rollout, plan, offline_after_s)
    before = reader.before(devices, began)
    placebos = (
        reader.placebos(devices, began, now - start)
        if 0 < len(spans.keys() & commits.keys()) <= FEW
        else None
    )
    return Arms(
        devices=devices,
        is_canary=np.array([device in commits for device in devices], dtype=np.bool_),
        stratum=np.array([strata[device] for device in devices], dtype=np.int64),
        before=before,
        after=reader.after(list(spans.values()), commits),
        placebos=placebos,
        hazard_events=float(before.restarts.sum()),
        hazard_hours=float(before.hours.sum()),
    )


def _read_strata(session: Session, rollout: Rollout) -> dict[DeviceId, int]:
    """Hardware and site as one number, of the devices of the rollout that are not shut out."""
    rows = session.execute(
        select(Device.id, Device.hardware, Device.site)
        .join(RolloutExecution, RolloutExecution.device == Device.id)
        .where(RolloutExecution.rollout == rollout.id, Device.state == DeviceState.ENROLLED)
        .order_by(Device.id)
    ).all()
    numbers = number_strata([row.hardware for row in rows], [row.site for row in rows])
    return {DeviceId(row.id): int(number) for row, number in zip(rows, numbers, strict=True)}


def _draw(
    rollout: Rollout, present: Iterable[Execution], strata: Mapping[DeviceId, int]
) -> tuple[list[DeviceId], list[DeviceId]]:
    """Canaries and controls, at most `MOST` of each; controls from each stratum as it has canaries."""
    has_release, has_not = [], []
    for execution in present:
        if execution.state is InstallStatus.SUCCEEDED and execution.returned_at is None:
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
    return canaries, controls[:MOST]


def _lot(rollout: Rollout, device: DeviceId) -> bytes:
    # another hash than the one that drew the groups: whoever is last in one group is not for that reason first here
    return hashlib.sha256(f"{rollout.id}\nlook\n{device}".encode()).digest()


def _read_commits(session: Session, rollout: Rollout, devices: Sequence[DeviceId]) -> dict[DeviceId, _Commit]:
    """Where each device first said that it has committed its present attempt; a device speaks for itself only."""
    wanted = {rollout.given_id(rollout.executions[device]): device for device in devices}
    commits: dict[DeviceId, _Commit] = {}
    for first in range(0, len(wanted), _AT_ONCE):
        names = list(wanted)[first : first + _AT_ONCE]
        query = select(InstallRecord).where(InstallRecord.execution.in_(names))
        for row, position in read_reports(session, query):
            device = wanted[row.execution]
            if row.device == device and row.status == InstallStatus.SUCCEEDED:
                commits.setdefault(device, _Commit(position=position, at=row.received_at))
    return commits


class _Reader:
    """Reads what devices showed, of one rollout."""

    def __init__(self, session: Session, rollout: Rollout, plan: GatePlan, offline_after_s: float) -> None:
        self._session = session
        self._release, self._family = rollout.plan.release, rollout.plan.family
        self._plan = plan
        self._offline_after_s = offline_after_s

    def before(self, devices: Sequence[DeviceId], began: float) -> Shown:
        """Over the plan's baseline before `began`."""
        until = began if self._plan.baseline_s < SHORT_S else began // BLOCK_S * BLOCK_S
        return self._past(devices, until)

    def after(self, spans: Sequence[Span], commits: Mapping[DeviceId, _Commit]) -> Shown:
        """Each in its own span; those with a commit on the release."""
        canaries = [span for span in spans if span.device in commits]
        controls = [span for span in spans if span.device not in commits]
        sums = {
            **self._messages(canaries, is_on=True),
            **self._messages(controls, is_on=False),
        }
        # from when on silence counts: a commit is a sign of life, and a control must have been there when its warm-up began
        since = {
            span.device: commits[span.device].at
            if span.device in commits
            else span.start - self._plan.warm_up_s
            for span in spans
        }
        heard_before = read_last_heard(
            self._session,
            [
                Span(device=s.device, start=since[s.device] - self._offline_after_s, until=s.start)
                for s in spans
            ],
        )
        for device, commit in commits.items():
            heard_before[device] = max(heard_before.get(device, 0.0), commit.at)
        told = Told(
            sums=sums,
            heard_before=heard_before,
            heard=read_last_heard(self._session, spans),
            starts=read_starts(self._session, spans),
            verdicts=read_verdicts(self._session, spans, self._family),
        )
        return as_shown(spans, told, self._offline_after_s)

    def placebos(self, devices: Sequence[DeviceId], began: float, lasted_s: float) -> Placebos | None:
        """Spans of the past as long as the look's (in whole blocks, rather shorter), each with its own past before it."""
        length = lasted_s // BLOCK_S * BLOCK_S
        if not length or self._plan.baseline_s < SHORT_S:
            return None
        last = began // BLOCK_S * BLOCK_S
        count = min(PLACEBO_SPANS, max(4, -(-PLACEBO_ROWS // max(1, len(devices)))))
        befores, afters, blocks = [], [], []
        for number in range(count):
            start = last - (number + 1) * length
            after = self._past(devices, start + length, length)
            if not (after.hours > 0).any():
                break
            befores.append(self._past(devices, start))
            afters.append(after)
            blocks += [number] * len(devices)
        if not blocks:
            return None
        return Placebos(block=np.array(blocks, dtype=np.int64), before=_join(befores), after=_join(afters))

    def _past(self, devices: Sequence[DeviceId], until: float, lasted_s: float | None = None) -> Shown:
        lasted_s = self._plan.baseline_s if lasted_s is None else lasted_s
        is_short = self._plan.baseline_s < SHORT_S
        spans = [Span(device=device, start=until - lasted_s, until=until) for device in devices]
        sums = (
            self._messages(spans, is_on=False)
            if is_short
            else read_blocks(
                self._session, spans, release=self._release, offline_after_s=self._offline_after_s
            )
        )
        starts, verdicts = (
            read_starts(self._session, spans),
            read_verdicts(self._session, spans, self._family),
        )
        return as_shown(spans, Told(sums=sums, starts=starts, verdicts=verdicts), self._offline_after_s)

    def _messages(self, spans: Sequence[Span], *, is_on: bool) -> dict[DeviceId, Sums]:
        return read_messages(
            self._session,
            spans,
            release=self._release,
            is_on=is_on,
            offline_after_s=self._offline_after_s,
        )


def _join(parts: Sequence[Shown]) -> Shown:
    names = Shown.__dataclass_fields__
    return Shown(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})
