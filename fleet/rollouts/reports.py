"""What devices said about their installations, in the order in which they said it, whenever it arrived.

What a fleet did not acknowledge, because it died, and what lay in an outbox over a restart, comes after what was said
later. The order of a report is where it stands in the stream of its device: (boot, sequence).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Select, String, cast, literal, select
from sqlalchemy.orm import Session

from fleet.device_commands import batched
from fleet.rollouts.progress import Report, Rollout
from fleet.rollouts.states import OPEN
from fleet.storage.boot_tables import Position, position_columns, with_boots
from fleet.storage.device_tables import Device
from fleet.storage.event_tables import InstallRecord
from fleet.storage.rollout_tables import RolloutExecution
from protocol.messages.kinds import AgentState, InstallStatus, InstallStep
from protocol.names import DeviceId

__all__ = ["Words", "read_reports", "read_words"]


@dataclass(frozen=True, kw_only=True)
class Words:
    """The last word on each execution, by its id, and where in its device's stream the release was committed."""

    reports: dict[str, Report] = field(default_factory=dict)
    commits: dict[DeviceId, Position] = field(default_factory=dict)


def read_words(session: Session, rollout: Rollout, executions: Collection[str] | None) -> Words:
    """What devices last said of `executions`, ids that they use (None: of all), as far as these are their present ones.

    A device in its trial has nothing more to say until it has judged some windows. Where it is blind, the trial is put
    off: neither the clock of an installation nor the group waits for it. A device speaks for itself only, whatever id it names.
    """
    words = Words()
    in_trial: dict[str, str] = {}
    for wanted in _queries(rollout, executions):
        for row, position in read_reports(session, wanted):
            execution = rollout.execution_of(row.execution)
            if execution is None or execution.device != row.device:
                continue
            status, is_given = InstallStatus(row.status), row.execution == rollout.given_id(execution)
            if not (execution.is_given and (is_given or row.execution == rollout.returned_id(execution))):
                continue
            words.reports[row.execution] = Report(status=status, at=row.received_at, reason=row.reason)
            in_trial.pop(row.device, None)
            if not is_given:
                continue
            if status is InstallStatus.IN_PROGRESS and row.step == InstallStep.TRIAL:
                in_trial[row.device] = row.execution
            if status is InstallStatus.SUCCEEDED:
                # devices repeat their last word after a restart: the first time is when it happened
                words.commits.setdefault(execution.device, position)
            else:
                words.commits.pop(execution.device, None)
    for devices in batched(sorted(in_trial)):
        blind = select(Device.id).where(Device.id.in_(devices), Device.agent_state == AgentState.BLIND)
        for device in session.scalars(blind):
            words.reports[in_trial[device]] = replace(
                words.reports[in_trial[device]],
                status=InstallStatus.DEFERRED,
                reason="in trial, but it can judge no window",
            )
    return words


def _queries(rollout: Rollout, executions: Collection[str] | None) -> Iterator[Select[Any]]:
    """Selects of reports on `executions`; on what the rollout told its devices last, one by one query, where that is None."""
    if executions is not None:
        for some in batched(sorted(executions)):
            yield select(InstallRecord).where(InstallRecord.execution.in_(some))
        return
    for turn in (
        literal(":") + cast(RolloutExecution.attempt, String),
        literal(":back") + cast(RolloutExecution.returns, String),
    ):
        yield (
            select(InstallRecord)
            .join(
                RolloutExecution,
                (InstallRecord.execution == literal(f"{rollout.id}:") + RolloutExecution.device + turn)
                & (InstallRecord.device == RolloutExecution.device),
            )
            .where(RolloutExecution.rollout == rollout.id, RolloutExecution.given_at.is_not(None))
        )


def read_reports(session: Session, wanted: Select[Any]) -> Iterator[tuple[InstallRecord, Position]]:
    """The words that count among `wanted`, a query of reports; the last one of an execution is its last word.

    An execution that has ended is not under way again, and a desired state that came again and was refused is not what
    became of it: neither unsays how it ended. Only a later ending does.

    Args:
        session: the transaction.
        wanted: selects from `InstallRecord`.

    Yields:
        A report and where it stands in the stream of its device, in that order.
    """
    position = position_columns(InstallRecord)
    told = session.execute(with_boots(wanted, InstallRecord).add_columns(*position).order_by(*position))
    ended: set[tuple[str, str]] = set()
    for report, *place in told:
        status, execution = InstallStatus(report.status), (report.device, report.execution)
        if execution in ended and status in OPEN | {InstallStatus.REJECTED}:
            continue
        if status not in OPEN:
            ended.add(execution)
        yield report, Position(*place)
