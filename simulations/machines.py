"""The machines of a world and what the world can do to them: change the load, break one, mend it.

`Machines` is the port; `SimulatedMachines` are rotating machines whose vibration is computed, `RecordedBearings` are
real run-to-failure bearings (PRONOSTIA) that are replayed. Both only write the control files that the agents' own
sources watch, and the reference recordings that version 1 is trained on: the physics and the replay live in
`edge_agent.sources`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.sources.rotating_machine import PROFILES, MachineCondition, RotatingMachine
from models.errors import RecordingError
from models.features import make_extractor, passthrough_spec, vibration_spec
from models.recordings.reading import read_machines
from protocol.manifest import FeatureSpec
from runtime.durable_files import write_quickly
from simulations.errors import ScenarioError
from simulations.scenario import MachineSettings

__all__ = ["Machines", "RecordedBearings", "SimulatedMachines", "write_control"]

REFERENCE_WINDOWS: Final = 400
"""Windows recorded from each reference machine for version 1: about an hour of machine time."""


class Machines(Protocol):
    """The machines behind the devices, in device order."""

    feature_spec: FeatureSpec

    def name(self, index: int) -> str:
        """What the machine behind device `index` is called."""

    def source_table(self, index: int, control_file: Path) -> dict[str, object]:
        """The ``[source]`` table of that device's agent.toml."""

    def reference_recordings(self) -> dict[str, NDArray[np.float32]]:
        """Feature rows (n, features) of a few machines that are NOT in the fleet, to train version 1 on."""

    def start(self, control_file: Path, index: int) -> None:
        """Healthy, at the load it was commissioned under."""

    def change(self, control_file: Path, index: int) -> None:
        """A new but healthy operating condition."""

    def settle(self, control_file: Path, index: int) -> None:
        """The same new condition, as it is after the learned version has arrived."""

    def break_down(self, control_file: Path, index: int) -> str:
        """A real fault; returns what it is called."""


def write_control(path: Path, content: dict[str, object]) -> None:
    """Replace a control file in one step, so that an agent never reads half of it."""
    write_quickly(path, json.dumps(content).encode())


class SimulatedMachines:
    """Rotating machines with bearings, three profiles in turn; individual differences come from the seed."""

    def __init__(self, settings: MachineSettings, count: int, reference: int, seed: int) -> None:
        self._settings = settings
        self._seed = seed
        self._count = count
        self._reference = reference
        self._profiles = sorted(PROFILES)
        self.feature_spec = vibration_spec(settings.sample_rate_hz, settings.window_samples)

    def name(self, index: int) -> str:
        """Profile and number."""
        return f"{self._profile(index)} #{index + 1}"

    def source_table(self, index: int, control_file: Path) -> dict[str, object]:
        """A ``simulated`` source."""
        s = self._settings
        return {
            "kind": "simulated",
            "seed": self._seed * 1000 + index,
            "profile": self._profile(index),
            "speed": s.speed,
            "snapshot_every_s": s.snapshot_every_s,
            "sample_rate_hz": s.sample_rate_hz,
            "window_samples": s.window_samples,
            "control_file": str(control_file),
        }

    def reference_recordings(self) -> dict[str, NDArray[np.float32]]:
        """Nominal load only: version 1 has never seen another."""
        extract = make_extractor(self.feature_spec).extract
        recordings = {}
        for number in range(self._reference):
            machine = RotatingMachine(
                PROFILES[self._profile(number)],
                seed=self._seed * 1000 + 900 + number,
                sample_rate_hz=self._settings.sample_rate_hz,
                window_samples=self._settings.window_samples,
            )
            recordings[f"reference-{number + 1}"] = np.stack(
                [
                    extract(machine.window(MachineCondition(), w * self._settings.snapshot_every_s))
                    for w in range(REFERENCE_WINDOWS)
                ]
            )
        return recordings

    def start(self, control_file: Path, index: int) -> None:  # noqa: ARG002 - the port names the machine
        """Nominal load."""
        write_control(control_file, {"load": 1.0})

    def change(self, control_file: Path, index: int) -> None:  # noqa: ARG002 - the port names the machine
        """The changed load."""
        write_control(control_file, {"load": self._settings.changed_load})

    def settle(self, control_file: Path, index: int) -> None:
        """A simulated machine stays under its changed load."""

    def break_down(self, control_file: Path, index: int) -> str:  # noqa: ARG002 - the port names the machine
        """A bearing defect under the changed load."""
        s = self._settings
        write_control(
            control_file,
            {"load": s.changed_load, "fault": {"kind": s.fault_kind, "severity": s.fault_severity}},
        )
        return f"{s.fault_kind.replace('_', ' ')} defect, severity {s.fault_severity:g}"

    def _profile(self, index: int) -> str:
        return self._profiles[index % len(self._profiles)]


class RecordedBearings:
    """Twelve of the seventeen PRONOSTIA bearings as devices; reference recordings come from the other five.

    Life is cut into: healthy (the first 120 snapshots, what the device is commissioned on), changed (15-25 %), settled
    (25-50 %, unseen by any training), broken (last 5 %). A part that is played again and again holds nothing out from a detector
    that has learnt it, which then promises too much: what a device learns here depends on how often its parts were played. Where the cut between changed and settled lies matters: the
    more of its own life a device has trained on, the less the others add (`benchmarks/detection_recipe.py`). Source: Nectoux et al., PRONOSTIA, IEEE PHM 2012. The file is the user's; nothing of it is copied.
    """

    HEALTHY, CHANGED, SETTLED, BROKEN = (0.0, 0.15), (0.15, 0.25), (0.25, 0.50), (0.95, 1.0)
    COMMISSIONING_ROWS = 120
    SNAPSHOT_BYTES = 2 * 2560 * 4
    """Two accelerometers, 2560 float32 samples each: what one row of features was computed from."""

    def __init__(self, settings: MachineSettings, count: int, reference: int, directory: Path) -> None:
        self._settings = settings
        path = directory / "pronostia_features.npz" if directory.is_dir() else directory
        if not path.is_file():
            raise ScenarioError(
                f"no PRONOSTIA features at {path}: give the folder that holds pronostia_features.npz"
            )
        self._path = path.absolute()
        try:
            reading = read_machines([path], answers={"sample_rate": f"{1 / settings.snapshot_every_s:.10g}"})
        except RecordingError as error:
            raise ScenarioError(str(error)) from None
        self._rows = {machine.name: machine.rows for machine in reading.machines}
        if len(self._rows) < count + 1:
            raise ScenarioError(
                f"{path} holds {len(self._rows)} bearings; {count} devices and a reference need {count + 1}"
            )
        self._devices, self._references = _split_bearings(self._rows, count, reference)
        self.feature_spec = passthrough_spec(reading.sensors)

    def name(self, index: int) -> str:
        """The bearing's name in the data set."""
        return self._devices[index]

    def rows(self, index: int, part: tuple[float, float]) -> NDArray[np.float32]:
        """The feature rows of one part of a bearing's life."""
        first, last = self._bounds(index, part)
        return np.asarray(self._rows[self._devices[index]][first:last], np.float32)

    def source_table(self, index: int, control_file: Path) -> dict[str, object]:
        """A ``replay`` source over the healthy part."""
        return {
            "kind": "replay",
            "path": str(self._path),
            "key": self._devices[index],
            "rows": list(self._bounds(index, self.HEALTHY)),
            "row_every_s": self._settings.snapshot_every_s,
            "raw_bytes_per_row": self.SNAPSHOT_BYTES,
            "speed": self._settings.speed,
            "loop": True,
            "control_file": str(control_file),
        }

    def reference_recordings(self) -> dict[str, NDArray[np.float32]]:
        """The healthy part of the reference bearings."""
        return {
            name: np.asarray(self._rows[name][: max(int(0.15 * len(self._rows[name])), 20)], np.float32)
            for name in self._references
        }

    def start(self, control_file: Path, index: int) -> None:
        """The healthy part."""
        self._play(control_file, index, self.HEALTHY)

    def change(self, control_file: Path, index: int) -> None:
        """Life goes on: the bearing is still good, but it is no longer what it was."""
        self._play(control_file, index, self.CHANGED)

    def settle(self, control_file: Path, index: int) -> None:
        """Rows that no training has seen."""
        self._play(control_file, index, self.SETTLED)

    def break_down(self, control_file: Path, index: int) -> str:
        """The last rows before failure."""
        self._play(control_file, index, self.BROKEN)
        return "end of life of a real bearing"

    def _play(self, control_file: Path, index: int, part: tuple[float, float]) -> None:
        write_control(control_file, {"rows": list(self._bounds(index, part)), "loop": True})

    def _bounds(self, index: int, part: tuple[float, float]) -> tuple[int, int]:
        length = len(self._rows[self._devices[index]])
        if part == self.HEALTHY:
            return 0, min(self.COMMISSIONING_ROWS, int(part[1] * length))
        last = max(int(part[1] * length), 10)
        return min(int(part[0] * length), last - 10), last


def _split_bearings(
    rows: dict[str, NDArray[np.float32]], count: int, reference: int
) -> tuple[Sequence[str], Sequence[str]]:
    """Devices are the longest-lived `count`, ordered by name; references the longest of the first condition left."""
    by_length = sorted(rows, key=lambda name: (-len(rows[name]), name))
    devices = sorted(by_length[:count])
    left = [name for name in by_length if name not in devices]
    return devices, left[:reference]
