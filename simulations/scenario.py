"""What a simulation shall be: the fleet, its machines, and the times of the story. Read from TOML, checked at once.

A scenario says only what the story adds. How a device detects and how the family learns are the tables of agent.toml and
aggregator.toml themselves, read into the structs that the agent and the aggregator read them into::

    [detection], [privacy]       edge_agent.settings.DetectionSettings, PrivacySettings
    [family], [family.rounds] …  aggregator.rounds.family.FamilySettings
    [machines], [rollout]        here

``demo.toml`` beside this file is the scenario of ``make demo``; every key has that value as its default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from aggregator.rounds.cohorts import CohortSettings
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.gate import GateSettings
from aggregator.rounds.round_settings import RoundSettings
from aggregator.triggers import TriggerSettings
from edge_agent.settings import DetectionSettings, PrivacySettings
from protocol.training import TrainingSettings
from runtime.errors import SettingsError
from runtime.settings import read_settings
from simulations.errors import ScenarioError

__all__ = ["BUILT_IN", "MachineSettings", "RolloutSettings", "Scenario", "at_pace", "load_scenario"]

BUILT_IN: Final = Path(__file__).parent / "scenarios"
WAITS: Final = ("watch_s", "settle_s", "aftermath_s", "health_every_s")
LONGEST_STRETCH: Final = 2.0

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(gt=0, le=1)]

FAMILY: Final = FamilySettings(
    name="rotating-machine",
    training=TrainingSettings(epochs=4),
    rounds=RoundSettings(minimum_windows=64, deadline_s=30.0, join_timeout_s=60.0),
    cohort=CohortSettings(minimum_devices=6),
    gate=GateSettings(maximum_alarm_rate=0.05, maximum_int8_error=0.5),
    trigger=TriggerSettings(drift_share=0.5, within_s=600.0),
)
"""The demo's family: five rounds of its network, and a prior made anew."""


IMPATIENT: Final = PrivacySettings(
    snapshot_windows=1,
    snapshot_every_s=1.0,
    attempts_per_reveal=10,
    answers_per_day=1000,
    fixed_companions=False,
    fewest_exchanged=1,
)
"""A fleet whose weeks pass in minutes, and whose devices are killed on purpose: its invented machines have no secrets. The figures of
agent.toml's own ``[privacy]`` are those for real ones."""


class MachineSettings(Struct, frozen=True, kw_only=True):
    """The machines and how fast their time runs.

    Attributes:
        speed: machine seconds per wall second.
        snapshot_every_s: machine seconds between two windows.
        sample_rate_hz: of the vibration.
        window_samples: samples of a window.
        changed_load: the new but healthy load, over the nominal one.
        changed_share: of the machines that run differently from chapter c on.
        fault_kind: a bearing's defect (`edge_agent.sources.rotating_machine`).
        fault_severity: of it; 1 is a bearing that falls apart.
    """

    speed: Seconds = 60.0
    snapshot_every_s: Seconds = 10.0
    sample_rate_hz: Seconds = 12_800.0
    window_samples: Positive = 2048
    changed_load: Seconds = 1.5
    changed_share: Share = 0.85
    fault_kind: str = "outer_race"
    fault_severity: Share = 0.6


class RolloutSettings(Struct, frozen=True, kw_only=True):
    """Groups of the rollouts and their health gate.

    Attributes:
        canary_pct: share of the fleet that gets a version first.
        quarter_pct: share that follows.
        soak_s: how long a group is watched before the next.
        maximum_anomaly_rate: share of windows over threshold at which a version is harmful.
    """

    canary_pct: Share = 0.08
    quarter_pct: Share = 0.25
    soak_s: Seconds = 3.0
    maximum_anomaly_rate: Share = 0.3


class Scenario(Struct, frozen=True, kw_only=True):
    """A whole simulation. `seed` makes machines and their noise repeatable; process timing is not.

    Seconds are those of the wall on a quiet machine; `at_pace` fits them to another.

    Attributes:
        name: of the report's files.
        title: above the screen.
        devices: how many.
        hardware: the kinds of device, dealt in turn.
        seed: of machines and training.
        reference_machines: how many machines, none of the fleet's, version 1 is trained on.
        hidden: hidden layers of the network.
        watch_s: how long the fleet is watched before the change.
        settle_s: how long it is watched with the version it learned.
        aftermath_s: how long a fault goes on after its alarm, and how long a machine must have been calm before it.
        health_every_s: between an agent's health messages.
        offline_after_s: silence after which the fleet counts a device as offline.
        patience_s: longest wait without anything new.
        detection: as in agent.toml.
        privacy: as in agent.toml; here impatient, unlike a real device's.
        family: as a ``[[family]]`` of aggregator.toml; its rollout is the story's.
    """

    name: str = "demo"
    title: str = "Twelve machines, one loop"
    devices: Annotated[int, Meta(ge=3, le=200)] = 12
    hardware: Annotated[tuple[str, ...], Meta(min_length=1)] = ("rpi4", "coral", "jetson")
    seed: int = 7
    reference_machines: Positive = 3
    hidden: tuple[Positive, ...] = (16, 8, 16)
    watch_s: Seconds = 20.0
    settle_s: Seconds = 15.0
    aftermath_s: Seconds = 4.0
    health_every_s: Seconds = 2.0
    offline_after_s: Seconds = 30.0
    patience_s: Seconds = 120.0
    machines: MachineSettings = MachineSettings()
    detection: DetectionSettings = DetectionSettings()
    privacy: PrivacySettings = IMPATIENT
    family: FamilySettings = FAMILY
    rollout: RolloutSettings = RolloutSettings()

    def __post_init__(self) -> None:
        """Refuse a family that could never learn."""
        if self.family.cohort.minimum_devices > self.devices:
            raise ValueError(
                f"family.cohort.minimum_devices = {self.family.cohort.minimum_devices} is more than devices = {self.devices}"
            )
        if self.family.rollout is not None:
            raise ValueError("family.rollout is the story's own: set the table [rollout]")


def at_pace(scenario: Scenario, pace: float) -> Scenario:
    """The same story for a machine that is `pace` times slower than a quiet one.

    Deadlines grow with it; they cost nothing where they are not used up. Waits and machine time are stretched twofold at most:
    machines whose time passes faster than the processor can follow are watched less densely, which nothing depends on. Figures
    per hour of machine time stay what they were. `patience_s` is counted in seconds of a quiet machine anyway.
    """
    replace, stretch = msgspec.structs.replace, min(pace, LONGEST_STRETCH)
    family, rounds, stages = scenario.family, scenario.family.rounds, scenario.family.secure_sum
    return replace(
        scenario,
        **{name: getattr(scenario, name) * stretch for name in WAITS},
        offline_after_s=scenario.offline_after_s * pace,
        machines=replace(scenario.machines, speed=scenario.machines.speed / stretch),
        rollout=replace(scenario.rollout, soak_s=scenario.rollout.soak_s * stretch),
        family=replace(
            family,
            rounds=replace(
                rounds, deadline_s=rounds.deadline_s * pace, join_timeout_s=rounds.join_timeout_s * pace
            ),
            secure_sum=replace(
                stages,
                stage_deadline_s=stages.stage_deadline_s * pace,
                grace_s=stages.grace_s * pace,
            ),
        ),
    )


def load_scenario(name_or_path: str) -> Scenario:
    """Read a built-in scenario by name or a TOML file by path.

    Raises:
        ScenarioError: no such scenario, not TOML, or a key or value that is not valid; says what would be.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = BUILT_IN / f"{name_or_path}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in BUILT_IN.glob("*.toml")))
        raise ScenarioError(f"no scenario {name_or_path!r}: give one of {known}, or the path of a .toml file")
    try:
        return read_settings(path, Scenario)
    except SettingsError as error:
        raise ScenarioError(str(error)) from None
