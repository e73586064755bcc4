"""A rollout whose commands are carried out in memory, and the devices that report to it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from fleet.rollouts.decisions import decide
from fleet.rollouts.plans import RolloutPlan
from fleet.rollouts.progress import (
    Execution,
    Figures,
    Group,
    KnownRecords,
    Observations,
    Report,
    Rollout,
    Running,
)
from fleet.rollouts.states import RolloutState, Verb
from fleet.rollouts.steps import Command, Decision, GiveBack, GiveRelease, MoveExecution
from fleet.rollouts.targets import Meant, assign_groups
from fleet.rollouts.verbs import carry_out
from protocol.messages.kinds import InstallStatus
from protocol.names import DeviceId


def make_rollout(devices: int = 4, **changes: Any) -> Rollout:
    body: dict[str, Any] = {
        "name": "r",
        "release": "pump/2",
        "groups": [{"percentage": 25, "soak_s": 10}, {"percentage": 100}],
        "gates": None,
    }
    plan = msgspec.convert(body | changes, RolloutPlan)
    names = [DeviceId(f"d{number}") for number in range(devices)]
    drawn = assign_groups("ro-1", Meant.alike(names), plan.groups)
    return Rollout(
        id="ro-1",
        plan=plan,
        state=RolloutState.READY,
        since=0.0,
        groups=tuple(
            Group(number=number, name=group.name, soak_s=group.soak_s)
            for number, group in enumerate(plan.groups)
        ),
        executions={
            device: Execution(device=device, group=number)
            for number, group in enumerate(drawn)
            for device in group
        },
    ).counted()


@dataclass
class World:
    """A rollout whose commands are carried out, and the desired state that each device would hold."""

    rollout: Rollout
    now: float = 0.0
    observations: Observations = field(default_factory=Observations)
    desired: dict[str, tuple[str | None, int]] = field(default_factory=dict)
    log: list[Command] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.know(
            dict.fromkeys(self.rollout.executions, Running(release="pump/1", returnable="pump/1", at=0.0))
        )

    @property
    def records(self) -> KnownRecords:
        """What a decision may ask for."""
        records = self.observations.records
        assert isinstance(records, KnownRecords)
        return records

    def keep(self, **changes: Any) -> None:
        """Change what is stored of the devices, without any news of it."""
        self.observations = replace(self.observations, records=replace(self.records, **changes))

    def know(self, devices: dict[DeviceId, Running]) -> None:
        """Something is heard of these devices."""
        self.keep(devices={**self.records.devices, **devices})
        self.observations = replace(self.observations, heard={**self.observations.heard, **devices})

    def show(self, device: str, figures: Figures) -> None:
        """A device in the present group sends health."""
        self.keep(shown={**self.records.shown, DeviceId(device): figures})
        self.observations = replace(
            self.observations, figures={**self.observations.figures, DeviceId(device): figures}
        )

    def revoke(self, *devices: str) -> None:
        """Shut devices out."""
        gone = {
            DeviceId(device): replace(self.records.devices[DeviceId(device)], is_revoked=True)
            for device in devices
        }
        self.keep(devices={**self.records.devices, **gone})
        self.observations = replace(self.observations, revoked={*self.observations.revoked, *gone})

    def take(self, decision: Decision) -> list[Command]:
        seen = Decision(self.rollout, self.now)
        for command in decision.commands:
            state = seen.rollout.state
            seen.do(command)
            match command:
                case GiveRelease():
                    assert state in {RolloutState.RUNNING, RolloutState.COMPLETED}, (
                        "given the release outside RUNNING"
                    )
                    self._want(command.device, self.rollout.plan.release)
                case GiveBack():
                    self._want(command.device, command.release)
                case _:
                    pass
        assert seen.rollout == decision.rollout, "what the decision believes is not what its commands make"
        assert seen.steps == decision.steps
        assert decision.rollout.counted().index == decision.rollout.index, (
            "what was counted on is not what is there"
        )
        self.rollout = decision.rollout
        self.log.extend(decision.commands)
        return decision.commands

    def _want(self, device: str, release: str | None) -> None:
        _, counter = self.desired.get(device, (None, 0))
        self.desired[device] = (release, counter + 1)

    def tick(self, seconds: float = 0.0) -> list[Command]:
        self.now += seconds
        return self.take(decide(self.rollout, self.observations, self.now))

    def say(self, verb: Verb) -> None:
        self.take(carry_out(self.rollout, verb, actor="bob", observations=self.observations, now=self.now))

    def report(self, device: str, status: InstallStatus) -> None:
        execution = self.rollout.executions[DeviceId(device)]
        key = self.rollout.given_id(execution)
        if execution.returned_at is not None:
            key = self.rollout.returned_id(execution)
        reports = {**self.observations.reports, key: Report(status=status, at=self.now)}
        self.observations = replace(self.observations, reports=reports)
        self.keep(words={**self.records.words, key: self.now})


S = InstallStatus
LIMITS = {"queued_s": 100, "in_progress_s": 60, "step_s": 30, "health_s": 20, "rollback_s": 40}


def started(devices: int = 4, **changes: Any) -> tuple[World, list[str]]:
    """A rollout under way in one group, and its devices."""
    world = World(make_rollout(devices, **{"groups": [{"percentage": 100}], "timeout": LIMITS} | changes))
    world.say(Verb.START)
    return world, sorted(world.rollout.executions)


def moves(commands: list[Command]) -> list[tuple[str, InstallStatus, str]]:
    return [(c.device, c.state, c.reason) for c in commands if isinstance(c, MoveExecution)]
