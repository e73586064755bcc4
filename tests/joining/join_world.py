"""A plant with a real broker and a real fleet, one family with a release, and devices that join it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import agent_world
import msgspec
import numpy as np
from command_line import run_command
from plant_world import init_plant, port_options
from trust_world import next_list
from waiting import died, wait_until

from edge_agent.fleet_client import FleetEndpoint
from fleet.plant.keys import admit_family
from fleet.plant.services import plant_services
from fleet.trust.key_files import load_private_key
from fleet.trust.repository import TrustRepository
from service.plant import Plant, load_plant

FAMILY = agent_world.FAMILY


class JoinSite:
    """The plant in `folder`, whose broker and fleet run; its only family has one release, and no rollout."""

    def __init__(self, folder: Path) -> None:
        made = init_plant(folder, "--host", "localhost", "--tenant", "acme", *port_options())
        assert made.returncode == 0, made.stderr
        self.plant: Plant = load_plant(folder)
        self._is_rolled_out = False
        self._endpoint = FleetEndpoint(url=self.plant.local_fleet_url, ca_file=self.plant.ca)

    def call(self, token: Path, method: str, path: str, body: bytes = b"") -> Any:
        headers = {"Authorization": f"Bearer {token.read_text().strip()}", "Content-Type": "application/json"}
        answer = self._endpoint.exchange(
            method, path, headers=headers, body=body if method == "POST" else None
        )
        return msgspec.json.decode(answer.body or b"{}")

    def publish(self) -> None:
        key = load_private_key(self.plant.release_key, None)
        bundle = agent_world.signed_anew(key)
        admit_family(self.plant, FAMILY)
        publisher = self.plant.publisher_token
        self.call(publisher, "POST", "/v1/releases", bundle)
        repository = TrustRepository(self.plant.fleet_data / "trust")
        role, _, listed = next_list(repository, {f"{FAMILY}/1": bundle}, key)
        self.call(publisher, "POST", f"/v1/trust/roles/{role}", listed)

    def roll_out(self) -> None:
        """Give the release to every device of the family that is there, and to those that come; once is enough."""
        if self._is_rolled_out:
            return
        self._is_rolled_out = True
        plan = {"name": "first", "release": f"{FAMILY}/1", "groups": [{"percentage": 100}], "dynamic": True}
        rollout = self.call(self.plant.admin_token, "POST", "/v1/rollouts", msgspec.json.encode(plan))["id"]
        self.call(self.plant.admin_token, "POST", f"/v1/rollouts/{rollout}:start")

    def add(self, *words: str) -> subprocess.CompletedProcess[str]:
        """``fedge device add``."""
        return run_command("fleet", "device", "add", *words, "--plant", str(self.plant.folder))

    def claims_of(self, device: str) -> list[dict[str, Any]]:
        import json

        listed = run_command("fleet", "claims", "list", "--json", "--config", str(self.plant.fleet_config))
        return [claim for claim in json.loads(listed.stdout) if claim["for_device"] == device]


@contextmanager
def join_site(folder: Path) -> Iterator[JoinSite]:
    """Broker and fleet, until the block ends."""
    site = JoinSite(folder)
    prepared = run_command("fleet", "init", "broker", "--plant", str(folder))
    assert prepared.returncode == 0, prepared.stderr
    with ExitStack() as stack:
        for service in plant_services(site.plant)[:2]:
            log = folder / f"{service.name}.log"
            with log.open("wb") as file:
                child = subprocess.Popen(
                    service.command,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                    env={**os.environ, **service.environment},
                )
            stack.callback(end, child)
            wait_until(service.answers, f"{service.name} to answer", unless=lambda c=child, f=log: died(c, f))
        site.publish()
        yield site


def end(child: subprocess.Popen[bytes]) -> None:
    """End a process group that a test began."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def write_recording(path: Path, rows: int = 400, names: tuple[str, ...] = agent_world.NAMES) -> Path:
    """A healthy machine's rows, one a second, as a logger writes them."""
    values = np.random.default_rng(5).normal(size=(rows, len(names)))
    lines = ["time," + ",".join(names)]
    for second, row in enumerate(values):
        cells = ",".join(f"{value:.4f}" for value in row)
        lines.append(f"2026-01-02T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z,{cells}")
    path.write_text("\n".join(lines) + "\n")
    return path


class Joining:
    """``fedge-agent join`` as a process of its own group; what it says lies in a file."""

    def __init__(self, log: Path, *words: str, stdin: int | None = subprocess.DEVNULL) -> None:
        self.log = log
        command = [sys.executable, "-m", "edge_agent", "join", *words]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command, stdin=stdin, stdout=file, stderr=file, start_new_session=True
            )

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def says(self, words: str) -> str:
        """Wait until it says so; returns all that it has said."""
        wait_until(lambda: words in self.said, f"{words!r}", unless=lambda: died(self.process, self.log))
        return self.said

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        end(self.process)
