"""What is stored of a rollout's devices, asked by name (`fleet.rollouts.progress.Records`): a query for some hundred of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

from sqlalchemy import select
from sqlalchemy.orm import Session

from fleet.device_commands import batched
from fleet.rollouts.executions import Figures
from fleet.rollouts.figures import read_figures, read_recent
from fleet.rollouts.others import occupied_devices
from fleet.rollouts.progress import Rollout, Running
from fleet.rollouts.reports import read_words
from fleet.rollouts.windows import TIME_ZONE
from fleet.storage.device_tables import Desired, Device, DeviceState
from fleet.storage.release_tables import Release
from fleet.storage.rollout_tables import RolloutExecution
from protocol.names import DeviceId

__all__ = ["StoredRecords"]


class StoredRecords:
    """`Records` of one snapshot.

    Args:
        session: the snapshot, or the transaction that will store the decision.
        rollout: names the release, its family and the present group.
        now: Unix seconds; older health than a day is left out.
    """

    def __init__(self, session: Session, rollout: Rollout, now: float) -> None:
        self._session, self._rollout, self._now = session, rollout, now

    def running(self, devices: Collection[DeviceId]) -> Mapping[DeviceId, Running]:
        """See `Records`."""
        columns = (Device.state, Device.release, Device.last_health_at, Device.online, Device.labels)
        found: dict[DeviceId, Running] = {}
        for some in batched(list(devices)):
            rows = self._session.execute(
                select(Device.id, *columns, Desired.release)
                .outerjoin(Desired, Desired.device == Device.id)
                .where(Device.id.in_(some))
            )
            for device, state, release, health_at, is_online, labels, desired in rows:
                found[DeviceId(device)] = Running(
                    release=release,
                    returnable=next((known for known in (release, desired) if known in self._stored), None),
                    at=health_at or 0.0,
                    is_online=is_online,
                    is_revoked=state == DeviceState.REVOKED,
                    time_zone=labels.get(TIME_ZONE),
                )
        return found

    def recent(self, devices: Collection[DeviceId]) -> Mapping[DeviceId, Figures]:
        """See `Records`."""
        found: dict[DeviceId, Figures] = {}
        for some in batched(list(devices)):
            found |= read_recent(self._session, self._rollout, some, self._now)
        return found

    def figures(self) -> Mapping[DeviceId, Figures]:
        """See `Records`."""
        commits = read_words(self._session, self._rollout, None).commits
        return read_figures(self._session, self._rollout, commits, None, self._now)

    def figures_of(self, devices: Collection[DeviceId]) -> Mapping[DeviceId, Figures]:
        """What these devices of the present group show on the release since they committed it."""
        rollout, found = self._rollout, dict[DeviceId, Figures]()
        for some in batched(list(devices)):
            names = [rollout.given_id(rollout.executions[DeviceId(device)]) for device in some]
            commits = read_words(self._session, rollout, names).commits
            found |= read_figures(self._session, rollout, commits, some, self._now)
        return found

    def last_words(self, executions: Collection[str]) -> Mapping[str, float]:
        """See `Records`."""
        words = read_words(self._session, self._rollout, executions)
        return {execution: report.at for execution, report in words.reports.items()}

    def failures(self, devices: Collection[DeviceId], since: float) -> Mapping[DeviceId, Sequence[float]]:
        """See `Records`."""
        found: dict[DeviceId, list[float]] = defaultdict(list)
        for some in batched(list(devices)):
            rows = self._session.execute(
                select(RolloutExecution.device, RolloutExecution.failed_at).where(
                    RolloutExecution.device.in_(some), RolloutExecution.failed_at >= since
                )
            )
            for device, at in rows:
                found[DeviceId(device)].append(at or 0.0)
        return found

    def elsewhere(self, devices: Collection[DeviceId]) -> Mapping[DeviceId, str]:
        """See `Records`."""
        return occupied_devices(self._session, self._rollout.id, devices)

    @cached_property
    def _stored(self) -> frozenset[str]:
        # a device says itself what it runs: it is never sent back to a release that is not of its family
        family = self._rollout.plan.family
        versions = self._session.scalars(select(Release.version).where(Release.family == family))
        return frozenset(f"{family}/{version}" for version in versions)
