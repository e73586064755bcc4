"""How far a rollout has come, and what a decision may know of the world.

Values only: a `Rollout` is never changed, a `Decision` (`fleet.rollouts.steps`) makes the next one from it.

**What an engine hands in.** A `Rollout` that was read is completed once by `counted`, which walks over all its executions;
after that the engine keeps `Decision.rollout` (also where the decision has no steps: its due times went on) and calls
`decide` when there is news, or when `rollout.index.due_at` has come. It reads the rollout anew when somebody else wrote it.
News are what came since the last call for which this rollout's decision was stored; more than that does no harm, and the
first call after reading hands in all that is stored:

* `reports`: by execution id, the last word of each execution (`Rollout.given_id`, `returned_id`) of which a report came. A
  device in its trial that says it is blind counts as DEFERRED, so its report is handed in again when it becomes blind or sees.
* `heard`: devices with an open return (`Execution.is_returning`) whose health came, or that came or went.
* `revoked`: devices that were shut out. `joined`: of a dynamic rollout that `takes_in`, devices that match and are not in it.
* `figures`: devices of the present group that sent health on the release since they committed it; only for plans with limits.
* `look`: the answer of the gates, when `due_look` has come.
* `records`: asked by name for what a decision turns out to need, in the same snapshot. Asked for a whole group at most when
  one starts, ends its soak, or goes back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from fleet.gates.answers import LookAnswer
from fleet.gates.looks import extension_time, look_times
from fleet.rollouts.agenda import Entry, add
from fleet.rollouts.executions import Execution, Figures, Group, Index, Mark, deadline, mark_of
from fleet.rollouts.plans import RolloutPlan
from fleet.rollouts.states import ACTIVE, OCCUPYING, OPEN, GroupState, RolloutState
from fleet.rollouts.targets import rank_device
from protocol.messages.kinds import InstallStatus
from protocol.names import DeviceId

__all__ = [
    "NOBODY",
    "Execution",
    "Figures",
    "Group",
    "KnownRecords",
    "LookTaken",
    "Observations",
    "Records",
    "Report",
    "Rollout",
    "Running",
]


@dataclass(frozen=True, kw_only=True)
class Report:
    """A device's last word on one execution; `at` is when the fleet received it, Unix seconds."""

    status: InstallStatus
    at: float
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Running:
    """What the fleet holds of one device: what it last said it runs (None: nothing), and when its last health arrived.

    `returnable` is the release that it could be told to go back to: what it runs, else what it was last told to run;
    None where the fleet does not hold such a release. `time_zone` is its assigned label of that name.
    """

    release: str | None
    returnable: str | None
    at: float
    is_online: bool = True
    is_revoked: bool = False
    time_zone: str | None = None


NOBODY = Running(release=None, returnable=None, at=0.0, is_online=False)
"""A device of which there is no record."""


class Records(Protocol):
    """What is stored, asked by name; devices of which nothing is stored are left out of an answer."""

    def running(self, devices: Collection[DeviceId]) -> Mapping[DeviceId, Running]:
        """What they run and how they are."""

    def recent(self, devices: Collection[DeviceId]) -> Mapping[DeviceId, Figures]:
        """What they show at present on what they run; needed only for plans with limits."""

    def figures(self) -> Mapping[DeviceId, Figures]:
        """What all devices of the present group show on the release since they committed it."""

    def last_words(self, executions: Collection[str]) -> Mapping[str, float]:
        """When the last report on each of these execution ids came, Unix seconds."""

    def failures(self, devices: Collection[DeviceId], since: float) -> Mapping[DeviceId, Sequence[float]]:
        """When executions of any rollout failed on them (`Execution.failed_at`), from Unix second `since` on."""

    def elsewhere(self, devices: Collection[DeviceId]) -> Mapping[DeviceId, str]:
        """Which other unfinished rollout has them, by its id."""


@dataclass(frozen=True, kw_only=True)
class KnownRecords:
    """`Records` that were read already, for whoever has them all."""

    devices: Mapping[DeviceId, Running] = field(default_factory=dict)
    recently: Mapping[DeviceId, Figures] = field(default_factory=dict)
    shown: Mapping[DeviceId, Figures] = field(default_factory=dict)
    words: Mapping[str, float] = field(default_factory=dict)
    failed: Mapping[DeviceId, Sequence[float]] = field(default_factory=dict)
    others: Mapping[DeviceId, str] = field(default_factory=dict)

    def running(self, devices: Collection[DeviceId]) -> Mapping[DeviceId, Running]:
        """See `Records`."""
        return {device: self.devices[device] for device in devices if device in self.devices}

    def recent(self, devices: Collection[DeviceId]) -> Mapping[DeviceId, Figures]:
        """See `Records`."""
        return {device: self.recently[device] for device in devices if device in self.recently}

    def figures(self) -> Mapping[DeviceId, Figures]:
        """See `Records`."""
        return self.shown

    def last_words(self, executions: Collection[str]) -> Mapping[str, float]:
        """See `Records`."""
        return {execution: self.words[execution] for execution in executions if execution in self.words}

    def failures(self, devices: Collection[DeviceId], since: float) -> Mapping[DeviceId, Sequence[float]]:
        """See `Records`."""
        return {
            device: [at for at in self.failed[device] if at >= since]
            for device in devices
            if device in self.failed
        }

    def elsewhere(self, devices: Collection[DeviceId]) -> Mapping[DeviceId, str]:
        """See `Records`."""
        return {device: self.others[device] for device in devices if device in self.others}


@dataclass(frozen=True, kw_only=True)
class LookTaken:
    """What the gates said at look `number` (from 1; it counts on after the soak) at group `group`."""

    group: int
    number: int
    answer: LookAnswer


@dataclass(frozen=True, kw_only=True)
class Observations:
    """News, and whom to ask for more; the module's text says what is in each."""

    reports: Mapping[str, Report] = field(default_factory=dict)
    heard: Mapping[DeviceId, Running] = field(default_factory=dict)
    revoked: Collection[DeviceId] = frozenset()
    joined: Collection[DeviceId] = ()
    figures: Mapping[DeviceId, Figures] = field(default_factory=dict)
    look: LookTaken | None = None
    records: Records = field(default_factory=KnownRecords)


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """A plan and how far it has come. `rollback_to` is the release that a person named when they rolled it back.

    `is_unsent`: it goes back or was canceled, and some of its devices are still to be told so.
    """

    id: str
    plan: RolloutPlan
    state: RolloutState
    since: float
    groups: tuple[Group, ...]
    executions: Mapping[DeviceId, Execution]
    rollback_to: str | None = None
    is_unsent: bool = False
    index: Index = field(default_factory=Index)

    def counted(self) -> Rollout:
        """This rollout with an index of its executions. What was told within the last minute stays as it is in the index."""
        index = Index(gifts=self.index.gifts)
        open_ones: list[tuple[float, DeviceId]] = []
        for execution in self.executions.values():
            index.count(self.plan, execution, 1)
            if (at := deadline(self.plan, execution)) is not None:
                open_ones.append((at, execution.device))
        index.schedule(open_ones)
        for group in self.groups:
            if group.state is not GroupState.SCHEDULED:
                index.queue = add(index.queue, self.queue_entries(self.of_group(group.number)))
        return replace(self, index=index)

    def queue_entries(self, executions: Collection[Execution], at: float = 0.0) -> list[Entry]:
        """Those of `executions` that wait for the release, in the order of the draw, from Unix second `at` on."""
        return [
            Entry(at, rank_device(self.id, execution.device), execution.device)
            for execution in executions
            if mark_of(self.plan, execution) in {Mark.WAITS, Mark.HELD}
        ]

    @property
    def present_group(self) -> Group | None:
        """The group that runs or soaks; None before the first, after the last, and in between."""
        return next((group for group in self.groups if group.state in ACTIVE), None)

    @property
    def next_look_at(self) -> float | None:
        """When the gates of the present group are asked next, Unix seconds; None where they are not.

        At `look_times` of its soak, after the warm-up; then at twice the soak, four times it and so on, until they say something.
        """
        gates, group = self.plan.gates, self.present_group
        if self.state is not RolloutState.RUNNING or group is None or group.state is not GroupState.SOAKING:
            return None
        if gates is None or not gates.metrics or not group.soak_s or group.is_cleared:
            return None
        return self.look_at(group, group.looks + 1)

    def look_at(self, group: Group, number: int) -> float:
        """When look `number` (from 1) at a group that is SOAKING is due, Unix seconds."""
        times = look_times(group.soak_s)
        extension = number - len(times)
        after_s = times[number - 1] if extension < 1 else extension_time(group.soak_s, extension)
        warm_up_s = self.plan.gates.warm_up_s if self.plan.gates is not None else 0.0
        return group.since + warm_up_s + after_s

    def due_look(self, now: float) -> int | None:
        """The number of the look at the present group to take at Unix second `now`; None: none is due.

        Of several that are due (the rollout was paused, nobody looked) only the latest tells anything new. But the one at the
        end of the soak is never passed over: it is the one after which a person is asked.
        """
        at, group = self.next_look_at, self.present_group
        if at is None or group is None or at > now:
            return None
        number, last = group.looks + 1, len(look_times(group.soak_s))
        while number != last and self.look_at(group, number + 1) <= now:
            number += 1
        return number

    def soaked_at(self, group: Group) -> float:
        """When the soak of a group that is SOAKING is over, Unix seconds: where gates judge it, their warm-up comes before it."""
        is_judged = self.plan.gates is not None and self.plan.gates.metrics and group.soak_s
        warm_up_s = self.plan.gates.warm_up_s if self.plan.gates is not None and is_judged else 0.0
        return group.since + warm_up_s + group.soak_s

    @property
    def takes_in(self) -> bool:
        """Whether devices that match its query only now are to join: it is dynamic, under way, and not overtaken.

        Overtaken is a completed rollout of which half of the devices, or more, have been given to later ones.
        """
        if not self.plan.dynamic:
            return False
        if self.state is RolloutState.COMPLETED:
            return 2 * self.index.superseded < max(1, len(self.executions))
        return self.state is RolloutState.RUNNING

    @property
    def is_over(self) -> bool:
        """Whether nothing can follow any more, but by a person's word."""
        if self.state in OCCUPYING or self.is_unsent:
            return False
        match self.state:
            case RolloutState.COMPLETED:
                expects = self.index.number(states=OPEN) + self.index.number(marks={Mark.WAITS})
                return not (expects or self.takes_in)
            case RolloutState.ROLLED_BACK | RolloutState.CANCELED:
                return self.index.awaited + self.index.late == 0
            case _:
                return True

    def execution_of(self, execution_id: str) -> Execution | None:
        """The execution that a device names by `execution_id`, whichever attempt it means; None where it is none of these."""
        rollout_id, _, rest = execution_id.partition(":")
        device, _, _ = rest.rpartition(":")
        return self.executions.get(DeviceId(device)) if rollout_id == self.id else None

    def of_group(self, number: int) -> list[Execution]:
        """The executions of one group, by device; walks over all of them."""
        return [execution for execution in self.executions.values() if execution.group == number]

    def given_id(self, execution: Execution) -> str:
        """What the device calls the present attempt in its reports."""
        return f"{self.id}:{execution.device}:{execution.attempt}"

    def returned_id(self, execution: Execution) -> str:
        """What the device calls the return to its previous release in its reports."""
        return f"{self.id}:{execution.device}:back{execution.returns}"

    def back_to(self, execution: Execution) -> str | None:
        """The release a device goes back to; None: it ran nothing before and keeps what it has."""
        return self.rollback_to or self.plan.rollback_to or execution.previous
