"""What a simulation shall be: the fleet, its machines, and the times of the story. Read from TOML, checked at once.

``demo.toml`` beside this file is the scenario of ``make demo``; every key has that value as its default.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from aggregator.privacy.settings import PrivacySettings
from simulations.errors import ScenarioError

__all__ = [
    "BUILT_IN",
    "DetectionSettings",
    "MachineSettings",
    "RolloutSettings",
    "Scenario",
    "TrainingSettings",
    "at_pace",
    "load_scenario",
]

BUILT_IN: Final = Path(__file__).parent / "scenarios"

DEADLINES: Final = ("offline_after_s", "join_timeout_s", "round_deadline_s", "stage_deadline_s")
WAITS: Final = ("watch_s", "settle_s", "aftermath_s", "health_every_s")
LONGEST_STRETCH: Final = 2.0

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(gt=0, le=1)]


class MachineSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The machines and how fast their time runs.

    `speed` is machine seconds per wall second; a window is taken every `snapshot_every_s` machine seconds.
    """

    speed: Seconds = 60.0
    snapshot_every_s: Seconds = 10.0
    sample_rate_hz: Seconds = 12_800.0
    window_samples: Positive = 2048
    changed_load: Seconds = 1.5
    changed_share: Share = 0.85
    fault_kind: str = "outer_race"
    fault_severity: Share = 0.6


class DetectionSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a device learns its normal and when it alarms."""

    commissioning_windows: Positive = 120
    opens_after_windows: Positive = 2
    quantile: Share = 0.999
    margin: Seconds = 1.1


class TrainingSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The federated run; `privacy` as ``[family.privacy]`` of aggregator.toml.

    Without `baseline` the story's candidate is always the network, so that what is learned together can be compared with what is learned alone.
    """

    hidden: tuple[Positive, ...] = (16, 8, 16)
    reference_machines: Positive = 3
    rounds: Positive = 5
    epochs: Positive = 4
    batch_size: Positive = 32
    learning_rate: Seconds = 0.05
    server_optimizer: str = "fedavg"
    baseline: bool = False
    drift_share: Share = 0.5
    minimum_devices: Positive = 6
    privacy: PrivacySettings = msgspec.field(default_factory=PrivacySettings)


class RolloutSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Groups of the rollout and its health gate."""

    canary_pct: Share = 0.08
    quarter_pct: Share = 0.25
    soak_s: Seconds = 3.0
    maximum_anomaly_rate: Share = 0.3


class Scenario(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole simulation. `seed` makes machines and their noise repeatable; process timing is not.

    Seconds are those of the wall on a quiet machine; `at_pace` fits them to another.

    Attributes:
        watch_s: how long the fleet is watched before the change.
        settle_s: how long it is watched with the version it learned.
        aftermath_s: how long a fault goes on after its alarm, and how long a machine must have been calm before it.
        patience_s: longest wait without anything new.
        health_every_s: between an agent's health messages.
        offline_after_s: silence after which the fleet counts a device as offline.
        join_timeout_s: longest wait for devices at the beginning of a training run.
        round_deadline_s: longest round.
        stage_deadline_s: longest stage of a secure sum in which nobody trains.
    """

    name: str = "demo"
    title: str = "Twelve machines, one loop"
    devices: Annotated[int, Meta(ge=3, le=200)] = 12
    hardware: tuple[str, ...] = ("rpi4", "coral", "jetson")
    family: str = "rotating-machine"
    seed: int = 7
    watch_s: Seconds = 20.0
    settle_s: Seconds = 15.0
    aftermath_s: Seconds = 4.0
    patience_s: Seconds = 120.0
    health_every_s: Seconds = 2.0
    offline_after_s: Seconds = 30.0
    join_timeout_s: Seconds = 60.0
    round_deadline_s: Seconds = 30.0
    stage_deadline_s: Seconds = 10.0
    machines: MachineSettings = msgspec.field(default_factory=MachineSettings)
    detection: DetectionSettings = msgspec.field(default_factory=DetectionSettings)
    training: TrainingSettings = msgspec.field(default_factory=TrainingSettings)
    rollout: RolloutSettings = msgspec.field(default_factory=RolloutSettings)


def at_pace(scenario: Scenario, pace: float) -> Scenario:
    """The same story for a machine that is `pace` times slower than a quiet one.

    Deadlines grow with it; they cost nothing where they are not used up. Waits and machine time are stretched twofold at most:
    machines whose time passes faster than the processor can follow are watched less densely, which nothing depends on. Figures
    per hour of machine time stay what they were. `patience_s` is counted in seconds of a quiet machine anyway.
    """
    stretch = min(pace, LONGEST_STRETCH)
    seconds = {name: getattr(scenario, name) * pace for name in DEADLINES}
    seconds |= {name: getattr(scenario, name) * stretch for name in WAITS}
    machines = msgspec.structs.replace(scenario.machines, speed=scenario.machines.speed / stretch)
    rollout = msgspec.structs.replace(scenario.rollout, soak_s=scenario.rollout.soak_s * stretch)
    return msgspec.structs.replace(scenario, **seconds, machines=machines, rollout=rollout)


def load_scenario(name_or_path: str) -> Scenario:
    """Read a built-in scenario by name or a TOML file by path.

    Raises:
        ScenarioError: no such scenario, not TOML, or a key or value that is not valid; says what would be.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = BUILT_IN / f"{name_or_path}.toml"
    try:
        document = tomllib.loads(path.read_text())
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in BUILT_IN.glob("*.toml")))
        raise ScenarioError(
            f"no scenario {name_or_path!r}: give one of {known}, or the path of a .toml file"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path} is not valid TOML: {error}") from None
    _check_keys(document, Scenario, "")
    try:
        return msgspec.convert(document, Scenario)
    except msgspec.ValidationError as error:
        raise ScenarioError(f"{path}: {error}") from None


def _check_keys(table: dict[str, object], kind: type[Struct], where: str) -> None:
    fields = {f.name: f.type for f in msgspec.structs.fields(kind)}
    for key, value in table.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(sorted(fields))}"
            raise ScenarioError(f"unknown key {where + key!r} in the scenario; {hint}")
        nested = fields[key]
        if isinstance(value, dict) and isinstance(nested, type) and issubclass(nested, Struct):
            _check_keys(value, nested, f"{where}{key}.")
