"""What a decision is told of a rollout's devices: everything, after the rollout was read, or what is new since.

Both are read by the same queries, of all devices or of those with news: so a rollout that was held in memory comes to what
one that is read anew comes to. How the figures of a device are made stands in `fleet.rollouts.figures`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from fleet.rollouts.executions import Execution
from fleet.rollouts.joiners import find_joiners
from fleet.rollouts.progress import Observations, Rollout
from fleet.rollouts.records import StoredRecords
from fleet.rollouts.reports import read_words
from fleet.rollouts.states import RolloutState
from fleet.storage.device_tables import Device, DeviceState
from fleet.storage.rollout_tables import RolloutExecution
from protocol.messages.kinds import InstallStatus
from protocol.names import DeviceId

__all__ = ["RolloutNews", "observe", "observe_news", "wants_health"]

_MAY_BE_BLIND = frozenset({InstallStatus.IN_PROGRESS, InstallStatus.DEFERRED})
"""A device in its trial is in one of these: which, says its health."""


@dataclass(frozen=True, kw_only=True)
class RolloutNews:
    """What came since the last decision: ids of executions that a report named, devices whose health came, that were shut out.

    `asks_joiners`: whether it is time to look who matches a dynamic rollout now.
    """

    executions: Collection[str] = ()
    healthy: Collection[str] = ()
    revoked: Collection[str] = ()
    asks_joiners: bool = False


def observe(session: Session, rollout: Rollout, now: float) -> Observations:
    """All that is stored of `rollout` at Unix second `now`, as `decisions.decide` is told it the first time, but what its gates see. Reads only.

    Args:
        session: a snapshot, or the transaction that will store the decision.
        rollout: names the devices, the release and the present group.
        now: Unix seconds.
    """
    records = StoredRecords(session, rollout, now)
    revoked = (
        select(Device.id)
        .join(RolloutExecution, RolloutExecution.device == Device.id)
        .where(RolloutExecution.rollout == rollout.id, Device.state == DeviceState.REVOKED)
    )
    index = rollout.index
    returning = index.awaited + index.late
    return Observations(
        reports=read_words(session, rollout, None).reports,
        heard=records.running([e.device for e in rollout.executions.values() if e.is_returning])
        if returning
        else {},
        revoked=frozenset(map(DeviceId, session.scalars(revoked))),
        joined=find_joiners(session, rollout),
        figures=records.figures() if _judges(rollout) else {},
        records=records,
    )


def observe_news(session: Session, rollout: Rollout, news: RolloutNews, now: float) -> Observations:
    """What is new of `rollout`, and whom to ask for more; the arguments are those of `observe`."""
    records = StoredRecords(session, rollout, now)
    executions, returning = set(news.executions), []
    for execution in _known(rollout, map(DeviceId, news.healthy)):
        if execution.is_returning:
            returning.append(execution.device)
        elif execution.state in _MAY_BE_BLIND:
            executions.add(rollout.given_id(execution))
    return Observations(
        reports=read_words(session, rollout, executions).reports if executions else {},
        heard=records.running(returning),
        revoked=frozenset(DeviceId(device) for device in news.revoked if device in rollout.executions),
        joined=find_joiners(session, rollout) if news.asks_joiners else (),
        figures=records.figures_of(_judged(rollout, news)) if _judges(rollout) else {},
        records=records,
    )


def _known(rollout: Rollout, devices: Iterable[DeviceId]) -> Iterator[Execution]:
    return (execution for device in devices if (execution := rollout.executions.get(device)) is not None)


def _judged(rollout: Rollout, news: RolloutNews) -> list[DeviceId]:
    """Devices of the present group that may show something new: their health came, or that they committed the release."""
    group = rollout.present_group
    reported = (rollout.execution_of(name) for name in news.executions)
    devices = {DeviceId(device) for device in news.healthy} | {one.device for one in reported if one}
    return [
        one.device for one in _known(rollout, devices) if group and one.group == group.number and one.is_given
    ]


def wants_health(rollout: Rollout) -> bool:
    """Whether the health of a device may move `rollout` before anything is due; most of the time it may not."""
    index = rollout.index
    return bool(index.awaited + index.late or index.number(states=_MAY_BE_BLIND) or _judges(rollout))


def _judges(rollout: Rollout) -> bool:
    """Whether limits are judged now: ten thousand devices send a lot of health, which is not looked at without need."""
    return (
        rollout.state in {RolloutState.READY, RolloutState.RUNNING}
        and bool(rollout.plan.limits)
        and rollout.present_group is not None
    )
