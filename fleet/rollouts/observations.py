"""What is known of a rollout's devices, read from what they reported.

Only health that says something about the release is taken:

* from a device whose last report on the present attempt is SUCCEEDED, naming the release itself;
* sent after that report: later in the stream of its device, (boot, sequence). No clock is asked: a device's may jump, and
  what lay in its outbox arrives late;
* without the first such message, whose interval began before the device committed.

Of those, the newest count: enough for the plan's `min_reports` and `min_windows`, and at least `KEPT_REPORTS`, so that
a release that turns bad late is not hidden by hours of good figures. Windows are those that got a score: an agent that
does not tell them apart is believed to have judged all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from statistics import fmean
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, String, cast, func, literal, select
from sqlalchemy.orm import Session

from fleet.rollouts.executions import Figures
from fleet.rollouts.gate_evidence import look_at
from fleet.rollouts.joiners import find_joiners
from fleet.rollouts.plans import SuccessCriteria
from fleet.rollouts.progress import KnownRecords, Observations, Report, Rollout, Running
from fleet.rollouts.reports import read_reports
from fleet.rollouts.states import RolloutState
from fleet.rollouts.windows import TIME_ZONE
from fleet.storage.boot_tables import Position, position_columns, with_boots
from fleet.storage.device_tables import Desired, Device, DeviceState
from fleet.storage.event_tables import HealthRecord, InstallRecord
from fleet.storage.release_tables import Release
from fleet.storage.rollout_tables import RolloutExecution
from protocol.messages.kinds import AgentState, InstallStatus, InstallStep
from protocol.names import DeviceId

__all__ = ["observe"]

KEPT_REPORTS: Final = 20
"""Newest health messages of a device that are averaged: a few seconds of a demo, ten minutes at one in 30 s."""

OFFLINE_AFTER_S: Final = 120.0
"""Silence after which a device counts as offline to the gates."""

HORIZON_S: Final = 86400.0
"""Older health says nothing about now."""


class _Row(NamedTuple):
    """The columns of a health message that figures are made of."""

    device: str
    position: Position
    anomaly_rate: float
    drift_score: float
    inference_p99_us: float
    judged: int
    state: str | None


def observe(session: Session, rollout: Rollout, now: float) -> Observations:
    """Everything `decisions.decide` may know of `rollout` at Unix second `now`.

    Reads only. Health is looked at while the rollout may judge by it, and not for plans without limits: ten thousand
    devices send a lot of it.

    Args:
        session: a snapshot, or the transaction that will store the decision.
        rollout: names the devices, the release and the present group.
        now: Unix seconds; health older than `HORIZON_S` is left out.
    """
    devices = session.execute(
        select(
            Device.id,
            Device.state,
            Device.agent_state,
            Device.release,
            Device.last_health_at,
            Device.online,
            Device.labels,
            Desired.release,
        )
        .join(RolloutExecution, RolloutExecution.device == Device.id)
        .outerjoin(Desired, Desired.device == Device.id)
        .where(RolloutExecution.rollout == rollout.id)
    ).all()
    family = rollout.plan.family
    # a device says itself what it runs: it is never sent back to a release that is not of its family
    versions = session.scalars(select(Release.version).where(Release.family == family))
    stored = {f"{family}/{version}" for version in versions}
    running: dict[DeviceId, Running] = {}
    revoked: set[DeviceId] = set()
    blind: set[str] = set()
    for device, state, agent_state, release, health_at, is_online, labels, desired in devices:
        if state == DeviceState.REVOKED:
            revoked.add(DeviceId(device))
        if agent_state == AgentState.BLIND:
            blind.add(device)
        returnable = next((known for known in (release, desired) if known in stored), None)
        running[DeviceId(device)] = Running(
            release=release,
            returnable=returnable,
            at=health_at or 0.0,
            is_online=is_online,
            is_revoked=state == DeviceState.REVOKED,
            time_zone=labels.get(TIME_ZONE),
        )
    reports, commits = _read_reports(session, rollout, blind)
    judges = rollout.state in {RolloutState.READY, RolloutState.RUNNING} and bool(rollout.plan.limits)
    figures = _read_figures(session, rollout, commits, now) if judges else {}
    group, look_at_ = rollout.present_group, rollout.next_look_at
    is_due = group is not None and look_at_ is not None and look_at_ <= now
    return Observations(
        look=look_at(session, rollout, group.looks + 1, now, offline_after_s=OFFLINE_AFTER_S)
        if group is not None and is_due
        else None,
        reports=reports,
        heard=running,
        revoked=frozenset(revoked),
        joined=find_joiners(session, rollout),
        figures=figures,
        records=KnownRecords(
            devices=running,
            recently=_read_recent(session, rollout, now) if judges else {},
            shown=figures,
            words={execution: report.at for execution, report in reports.items()},
            failed=_read_failures(session, rollout, now),
        ),
    )


def _read_failures(session: Session, rollout: Rollout, now: float) -> dict[DeviceId, list[float]]:
    """When executions of any rollout failed on the devices of this one, as far back as its plan counts them."""
    quarantine = rollout.plan.quarantine
    if quarantine is None:
        return {}
    mine = select(RolloutExecution.device).where(RolloutExecution.rollout == rollout.id)
    rows = session.execute(
        select(RolloutExecution.device, RolloutExecution.failed_at).where(
            RolloutExecution.device.in_(mine), RolloutExecution.failed_at > now - quarantine.penalty_s
        )
    )
    failures: dict[DeviceId, list[float]] = defaultdict(list)
    for device, at in rows:
        failures[DeviceId(device)].append(at or 0.0)
    return failures


def _read_reports(
    session: Session, rollout: Rollout, blind: Collection[str]
) -> tuple[dict[str, Report], dict[DeviceId, Position]]:
    """Each execution's last word, and where in its device's stream the release was committed.

    A device in its trial has nothing more to say until it has judged some windows. Where it is blind, the trial is put
    off: neither the clock of an installation nor the group waits for it.
    """
    reports: dict[str, Report] = {}
    commits: dict[DeviceId, Position] = {}
    given = literal(f"{rollout.id}:") + RolloutExecution.device + ":" + cast(RolloutExecution.attempt, String)
    returned = (
        literal(f"{rollout.id}:") + RolloutExecution.device + ":back" + cast(RolloutExecution.returns, String)
    )
    for row, position in _read_installs(session, rollout, given):
        status = InstallStatus(row.status)
        reason = row.reason
        if status is InstallStatus.IN_PROGRESS and row.step == InstallStep.TRIAL and row.device in blind:
            status, reason = InstallStatus.DEFERRED, "in trial, but it can judge no window"
        reports[row.execution] = Report(status=status, at=row.received_at, reason=reason)
        if status is InstallStatus.SUCCEEDED:
            # devices repeat their last word after a restart: the first time is when it happened
            commits.setdefault(DeviceId(row.device), position)
        else:
            commits.pop(DeviceId(row.device), None)
    for row, _ in _read_installs(session, rollout, returned):
        reports[row.execution] = Report(
            status=InstallStatus(row.status), at=row.received_at, reason=row.reason
        )
    return reports, commits


def _read_installs(
    session: Session, rollout: Rollout, execution: ColumnElement[str]
) -> Iterator[tuple[InstallRecord, Position]]:
    """Reports on `execution` ids that count. A device speaks for itself only, whatever id it names."""
    return read_reports(
        session,
        select(InstallRecord)
        .join(
            RolloutExecution,
            (InstallRecord.execution == execution) & (InstallRecord.device == RolloutExecution.device),
        )
        .where(RolloutExecution.rollout == rollout.id, RolloutExecution.given_at.is_not(None)),
    )


def _read_figures(
    session: Session, rollout: Rollout, commits: dict[DeviceId, Position], now: float
) -> dict[DeviceId, Figures]:
    """What the present group's devices show on the release, since they committed it; see the module's text."""
    present = rollout.present_group
    if present is None:
        return {}
    where = (
        (RolloutExecution.group == present.number)
        & RolloutExecution.returned_at.is_(None)
        & (HealthRecord.received_at >= RolloutExecution.given_at)
        & (HealthRecord.release == rollout.plan.release)
    )
    figures: dict[DeviceId, Figures] = {}
    for device, rows in _read_health(session, rollout, where, now).items():
        commit = commits.get(device)
        if commit is None:
            continue
        after = [row for row in rows if row.position > commit]
        if len(after) > 1:
            figures[device] = _summarise(after[:-1], rollout.plan.success)
    return figures


def _read_recent(session: Session, rollout: Rollout, now: float) -> dict[DeviceId, Figures]:
    """What the devices show that were not given the release yet, on what they run: the control of a comparison."""
    where = RolloutExecution.given_at.is_(None) & (HealthRecord.release == Device.release)
    return {
        device: _summarise(rows, rollout.plan.success)
        for device, rows in _read_health(session, rollout, where, now).items()
    }


def _read_health(
    session: Session, rollout: Rollout, where: ColumnElement[bool], now: float
) -> dict[DeviceId, list[_Row]]:
    """Health of the rollout's devices for which `where` holds, newest first, no more than can matter."""
    position = position_columns(HealthRecord)
    newest = func.row_number().over(
        partition_by=HealthRecord.device, order_by=[column.desc() for column in position]
    )
    ranked = with_boots(
        select(
            HealthRecord.device,
            *(column.label(name) for name, column in zip(Position._fields, position, strict=True)),
            HealthRecord.anomaly_rate,
            HealthRecord.drift_score,
            HealthRecord.inference_p99_us,
            func.coalesce(HealthRecord.interval_judged, HealthRecord.interval_windows).label("judged"),
            HealthRecord.state,
            newest.label("place"),
        )
        .join(RolloutExecution, RolloutExecution.device == HealthRecord.device)
        .join(Device, Device.id == HealthRecord.device)
        .where(RolloutExecution.rollout == rollout.id, HealthRecord.received_at > now - HORIZON_S, where),
        HealthRecord,
    ).subquery()
    criteria = rollout.plan.success
    # one more than is kept: the first message after a commit is left out
    most = max(KEPT_REPORTS, criteria.min_reports, criteria.min_windows) + 1
    query = select(*[column for column in ranked.c if column.name != "place"])
    rows: Iterable[Any] = session.execute(
        query.where(ranked.c.place <= most).order_by(ranked.c.device, ranked.c.place)
    )
    found: dict[DeviceId, list[_Row]] = defaultdict(list)
    for device, era, counted, turn, sequence, *figures in rows:
        row = _Row(device, Position(era, counted, turn, sequence), *figures)
        found[DeviceId(row.device)].append(row)
    return found


def _summarise(newest_first: Sequence[_Row], criteria: SuccessCriteria) -> Figures:
    """Figures of as many of the newest messages as the plan asks for, and at least `KEPT_REPORTS` where there are."""
    kept: list[_Row] = []
    windows = 0
    for row in newest_first:
        if len(kept) >= max(KEPT_REPORTS, criteria.min_reports) and windows >= criteria.min_windows:
            break
        kept.append(row)
        windows += row.judged
    return Figures(
        reports=len(kept),
        windows=windows,
        windows_over=sum(row.anomaly_rate * row.judged for row in kept),
        # a message without a judged window has measured no inference
        inference_p99_us=fmean([row.inference_p99_us for row in kept if row.judged] or [0.0]),
        drift_score=kept[0].drift_score,
        is_blind=kept[0].state == AgentState.BLIND,
    )
