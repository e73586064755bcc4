"""What devices show, from their health messages: on the release that they were given, or on what they ran before.

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
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, func, select, true
from sqlalchemy.orm import Session

from fleet.rollouts.executions import Figures
from fleet.rollouts.plans import SuccessCriteria
from fleet.rollouts.progress import Rollout
from fleet.storage.boot_tables import Position, position_columns, with_boots
from fleet.storage.device_tables import Device
from fleet.storage.event_tables import HealthRecord
from fleet.storage.rollout_tables import RolloutExecution
from protocol.messages.kinds import AgentState
from protocol.names import DeviceId

__all__ = ["read_figures", "read_recent"]

KEPT_REPORTS: Final = 20
"""Newest health messages of a device that are averaged: a few seconds of a demo, ten minutes at one in 30 s."""

HORIZON_S: Final = 86400.0
"""Older health says nothing about now."""

Devices = Collection[str] | None
"""Only these, few enough for one statement; None: all of a rollout."""


class _Row(NamedTuple):
    """The columns of a health message that figures are made of."""

    device: str
    position: Position
    anomaly_rate: float
    drift_score: float
    inference_p99_us: float
    judged: int
    state: str | None


def read_figures(
    session: Session, rollout: Rollout, commits: Mapping[DeviceId, Position], devices: Devices, now: float
) -> dict[DeviceId, Figures]:
    """What `devices` of the present group show on the release since they committed it, which is where `commits` says."""
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
    for device, rows in _read_health(session, rollout, where, devices, now).items():
        commit = commits.get(device)
        if commit is None:
            continue
        after = [row for row in rows if row.position > commit]
        if len(after) > 1:
            figures[device] = _summarise(after[:-1], rollout.plan.success)
    return figures


def read_recent(session: Session, rollout: Rollout, devices: Devices, now: float) -> dict[DeviceId, Figures]:
    """What `devices` show that were not given the release yet, on what they run."""
    where = RolloutExecution.given_at.is_(None) & (HealthRecord.release == Device.release)
    return {
        device: _summarise(rows, rollout.plan.success)
        for device, rows in _read_health(session, rollout, where, devices, now).items()
    }


def _read_health(
    session: Session, rollout: Rollout, where: ColumnElement[bool], devices: Devices, now: float
) -> dict[DeviceId, list[_Row]]:
    """Health of those of the rollout's devices for which `where` holds, newest first, no more than can matter."""
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
        .where(
            RolloutExecution.rollout == rollout.id,
            HealthRecord.received_at > now - HORIZON_S,
            where,
            true() if devices is None else HealthRecord.device.in_(devices),
        ),
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
