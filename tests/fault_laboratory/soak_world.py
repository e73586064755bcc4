"""The world of a soak: a real fleet service, Mosquitto and agents, with a bad road and a faulty machine below every device.

::

    agent ─── MQTT road ───► Mosquitto ◄─── fleet        each agent's disk and clock are in our hand (`MachineFaults`)
      └────── HTTPS road ─────────────────► fleet        each machine's rows are, too (the control file of its replay)

Everything is started as in `simulations.world`; what differs stands in each agent.toml: addresses and rows.
"""

from __future__ import annotations

import json
import random
import shutil
import ssl
import tomllib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import numpy as np
import tomli_w
from agent_world import FAMILY, NAMES, RELEASE_KEY, faulty, healthy, make_bundle
from fault_laboratory.machine_faults import MachineFaults
from fault_laboratory.recorded_disk import Snapshot, read_changes, replay, take_snapshot
from fault_laboratory.road import Road

from edge_agent.health import memory_pss_bytes
from protocol.names import release_id
from runtime.durable_files import write_quickly
from simulations.machines import SimulatedMachines
from simulations.mosquitto import BrokerChoice, choose_broker
from simulations.observer import ServiceClient
from simulations.processes import Supervisor
from simulations.scenario import load_scenario
from simulations.world import AGENT_WAVE, World

__all__ = ["HEALTH_EVERY_S", "SoakDevice", "SoakWorld"]

HEALTH_EVERY_S: Final = 30.0
"""As on a device that is told nothing else: what a silent fleet costs depends on it."""
WINDOWS_PER_S: Final = 10.0
CALM_ROWS, FAULTY_ROWS = 2000, 400
THRESHOLD: Final = 20.0
"""No calm row scores 10, each faulty one 50: what opens is what we did to the machine."""


@dataclass
class SoakDevice:
    """One device, what is below it, and what is known of it without asking the fleet."""

    name: str
    directory: Path
    faults: MachineFaults
    mqtt: Road
    https: Road
    is_clock_wrong: bool = False
    is_disk_bad: bool = False
    kills: int = 0
    largest_pss: int = 0
    start: Snapshot = ()

    @property
    def process(self) -> str:
        """What the supervisor calls its agent."""
        return f"agent-{self.name}"

    def begin_record(self) -> None:
        """What is on the disk now counts as written down; changes are recorded from here on."""
        self.start = take_snapshot(self.faults.root)
        self.faults.trace.write_bytes(b"")

    def lose_power(self, model: str, draw: random.Random) -> None:
        """Leave of the state what a power cut leaves (`RecordedDisk`); the agent must have ended."""
        files, folders = replay(read_changes(self.faults), self.start).seen(model, draw)
        for path in self.faults.root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif not path.is_symlink():
                path.unlink()
        for name in folders:
            (self.faults.root / name).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (self.faults.root / name).write_bytes(content)
            (self.faults.root / name).chmod(0o600)
        self.begin_record()

    def be_faulty(self, is_faulty: bool) -> None:
        """Turn the machine that it watches."""
        rows = [CALM_ROWS, CALM_ROWS + FAULTY_ROWS] if is_faulty else [0, CALM_ROWS]
        write_quickly(self.directory / "machine.json", json.dumps({"rows": rows, "loop": True}).encode())

    def opened(self) -> list[str]:
        """The episodes that the device opened, in order, as its own score log says; that lies outside the disk that refuses."""
        rows = (line.split(",") for line in (self.directory / "scores.csv").read_text().splitlines()[1:])
        return [row[6] for row in rows if len(row) == 7 and row[6]]

    def status(self) -> dict[str, Any]:
        """status.json, or nothing where it cannot be read just now."""
        try:
            found: dict[str, Any] = json.loads((self.directory / "state" / "status.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return found


class SoakWorld:
    """Starts and stops all of it; a context manager.

    Args:
        directory: absolute and empty.
        count: how many devices.
    """

    def __init__(self, directory: Path, count: int) -> None:
        scenario = load_scenario("quick")
        scenario = msgspec.structs.replace(
            scenario,
            devices=count,
            family=msgspec.structs.replace(scenario.family, name=FAMILY),
            health_every_s=HEALTH_EVERY_S,
            offline_after_s=4 * HEALTH_EVERY_S,
        )
        machines = SimulatedMachines(scenario.machines, count, 1, scenario.seed)
        self._stack = ExitStack()
        self.supervisor = self._stack.enter_context(
            Supervisor(directory / "logs", maximum_restarts=1_000_000)
        )
        self.world = World(
            directory, scenario, machines, self.supervisor, broker=choose_broker(BrokerChoice.MOSQUITTO)
        )
        self.devices: list[SoakDevice] = []
        self.rollout = ""
        self.fleet = ServiceClient(
            self.world.addresses.fleet, self.world.plant.ca, self.world.plant.admin_token
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.fleet.close()
        self._stack.close()

    def start(self, progress: Callable[[str], None]) -> None:
        """Everything up, every device commissioned on version 1."""
        world = self.world
        progress("certificates, keys and tokens")
        world.prepare(RELEASE_KEY, FAMILY)
        rows = np.concatenate([healthy(CALM_ROWS, 5), faulty(FAULTY_ROWS, 6)])
        np.savez(world.directory / "rows.npz", rows=rows, feature_names=np.array(NAMES))
        for name in world.devices:
            self.devices.append(self._prepare(name))
        world.issue_tokens()
        progress("the broker and the fleet")
        world.start_services(fleet_is_up=self.fleet.is_up)
        self.publish(1)
        for at in range(0, len(self.devices), AGENT_WAVE):
            for device in self.devices[at : at + AGENT_WAVE]:
                self._start(device)
            self.supervisor.wait_until(
                lambda wave=self.devices[at : at + AGENT_WAVE]: all(d.status() for d in wave),  # type: ignore[misc] # mypy infers no default's type
                "the agents to come up",
            )
            progress(f"{min(at + AGENT_WAVE, len(self.devices))} of {len(self.devices)} devices are up")
        self.roll_out(1)
        self.supervisor.wait_until(
            lambda: all(d.status().get("health", {}).get("state") == "watching" for d in self.devices),
            "every device to watch with version 1",
            patience_s=180.0,
        )

    def publish(self, version: int, *, tries: int = 20) -> None:
        """Publish a good version; each has other bytes. Publishing it twice is no error."""
        content = make_bundle(version, threshold=THRESHOLD + version / 1000)
        self.fleet.post("/v1/releases", content=content, tries=tries)
        self.world.publish_release(content)

    def roll_out(self, version: int, *, tries: int = 20) -> None:
        """Give a version to every device, in two groups."""
        release = release_id(FAMILY, version)
        groups = [
            {"name": "half", "percentage": 50, "soak_s": 1},
            {"name": "all", "percentage": 100, "soak_s": 0},
        ]
        body = {"name": release, "release": release, "target_query": f"family=={FAMILY}", "groups": groups}
        body |= {"success": {"threshold_pct": 100}, "gates": None}
        made = self.fleet.post("/v1/rollouts", body=body, tries=tries)
        self.rollout = str(made["id"])
        self.fleet.post(f"/v1/rollouts/{self.rollout}:start", tries=tries)

    def is_rollout_over(self) -> bool:
        """Whether the last one is at its end; False while the fleet does not say."""
        view = self.fleet.get(f"/v1/rollouts/{self.rollout}") or {}
        return view.get("state") in {"COMPLETED", "CANCELED", "ROLLED_BACK", "READY", "DRAFT"}

    def seen(self, device: SoakDevice) -> dict[str, Any]:
        """The device as the fleet shows it; nothing while the fleet is away."""
        return self.fleet.get(f"/v1/devices/{device.name}") or {}

    def sample_memory(self) -> int:
        """The largest proportional set size of an agent just now, bytes; also kept with each device."""
        for device in self.devices:
            pid = self.supervisor.processes[device.process].pid
            if pid is not None:
                device.largest_pss = max(
                    device.largest_pss, memory_pss_bytes(Path(f"/proc/{pid}/smaps_rollup"))
                )
        return max(device.largest_pss for device in self.devices)

    def _prepare(self, name: str) -> SoakDevice:
        world, directory = self.world, self.world.device_directory(name)
        files = world.plant
        served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        served.load_cert_chain(files.certificate("broker"), files.key("broker"))

        def dialled() -> ssl.SSLContext:
            context = ssl.create_default_context(cafile=str(files.ca))
            context.load_cert_chain(directory / "state" / "connection.pem")  # the device's own, as it is now
            return context

        device = SoakDevice(
            name=name,
            directory=directory,
            faults=MachineFaults(directory, root=directory / "state"),
            mqtt=self._stack.enter_context(
                Road(_port(world.addresses.broker), served=served, dialled=dialled)
            ),
            https=self._stack.enter_context(Road(_port(world.addresses.fleet), is_mqtt=False)),
        )
        config = directory / "agent.toml"
        table = tomllib.loads(config.read_text())
        table["family"] = FAMILY
        table["mqtt"]["url"] = f"mqtts://127.0.0.1:{device.mqtt.listen}"
        table["fleet"]["url"] = f"https://127.0.0.1:{device.https.listen}"
        table["detection"] = {
            "commissioning_windows": 60,
            "reference_windows": 60,
            "personal_threshold": False,
        }
        table["debug"] = {"score_log": True}
        table["source"] = {
            "kind": "replay",
            "path": str(world.directory / "rows.npz"),
            "key": "rows",
            "row_every_s": 1.0,
            "speed": WINDOWS_PER_S,
            "rows": [0, CALM_ROWS],
            "control_file": str(directory / "machine.json"),
        }
        config.write_bytes(tomli_w.dumps(table).encode())
        device.be_faulty(False)
        (directory / "scores.csv").touch()
        (directory / "state" / "scores.csv").symlink_to(directory / "scores.csv")
        return device

    def _start(self, device: SoakDevice) -> None:
        config = str(device.directory / "agent.toml")
        self.supervisor.run(device.process, "edge_agent", "enrol", "--config", config)
        device.begin_record()
        environment = {
            **device.faults.environment(is_recorded=True),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        self.supervisor.start(
            device.process, "edge_agent", "run", "--config", config, environment=environment
        )


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
