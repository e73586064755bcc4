"""A person at a shell, in a folder of their own, who has Fedge's commands and nothing of this checkout beside them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from plant_ports import port_options
from played_pages import Block, play
from waiting import died, wait_until

from fleet.plant.running import take_down
from service.plant import load_plant

__all__ = ["AGENT", "Person", "hand_made_device", "plant_up", "programs_of"]

ROOT: Final = Path(__file__).resolve().parents[1]
_PROGRAMS: Final = {
    "fedge": "fedge",
    "fedge-agent": "edge_agent",
    "fedge-aggregator": "aggregator",
    "fedge-fleet": "fleet",
    "fedge-sim": "simulations",
}
_KEPT: Final = ("FEDGE_DATA", "LANG", "TMPDIR")

AGENT: Final = """\
state_dir = "state"
tenant = "acme"
family = "{family}"
device = "{device}"
hardware = "pc"
[trust]
root = "root.json"
[fleet]
url = "{fleet}"
ca_file = "ca.pem"
claim_token_file = "claim.token"
[mqtt]
url = "{broker}"
ca_file = "ca.pem"
reconnect_max_s = 0.5
[health]
every_s = 1.0
status_every_s = 0.2
[source]
{source}
"""
"""agent.toml as one writes it by hand: a fleet, a broker, a source, and a word every second."""


def programs_of(build: Path, folder: Path) -> dict[str, str]:
    """The variables of a shell whose commands run the code of the checkout `build`; they are made in `folder`."""
    folder.mkdir()
    for name, package in _PROGRAMS.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} -P -m {package} "$@"\n')
        (folder / name).chmod(0o755)
    (folder / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / "python").chmod(0o755)
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | {
        "PATH": f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": str(build),
        "HOME": str(folder),
        "OPENBLAS_NUM_THREADS": "1",
        "COLUMNS": "120",
    }


class Person:
    """At a shell in `folder`, with the variables `environment`."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder, self.environment = folder, environment
        folder.mkdir(exist_ok=True)

    def types(self, *words: str) -> str:
        """What a command printed; raises AssertionError where it failed."""
        done = subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def asks(self, *words: str) -> Any:
        """The same as JSON."""
        return json.loads(self.types(*words, "--json"))

    def plays(self, block: Block) -> str:
        """What a page's block printed."""
        return play(block, self.folder, self.environment)

    def sees(self, device: str) -> dict[str, Any]:
        """How the fleet shows a device."""
        (found,) = [one for one in self.asks("fedge", "devices", "list") if one["id"] == device]
        return dict(found)

    def sets(self, device: str, alarms: float) -> None:
        """Set something on a device, and wait until it has obeyed."""
        self.types(
            "fedge", "devices", "settings", device, "--set", f"detection.budget.alarms_per_1000_windows={alarms}"
        )  # fmt: skip
        wait_until(
            lambda: self.asks("fedge", "devices", "settings", device)["is_obeyed"], f"{device} to obey"
        )


@contextmanager
def plant_up(person: Person, *words: str) -> Iterator[None]:
    """The plant of a person, made on free ports and up; every plant in their folder has ended afterwards."""
    person.types("fedge", "init", "plant", "--host", "localhost", "--tenant", "acme", *port_options(), *words)
    person.types("fedge", "up", "--background")
    try:
        yield
    finally:
        for file in person.folder.rglob("plant.toml"):
            take_down(load_plant(file.parent))


@contextmanager
def hand_made_device(
    person: Person,
    device: str,
    *,
    family: str,
    source: str = 'kind = "simulated"',
    environment: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """A device whose agent.toml is written by hand, enrolled at the person's plant, online until the end.

    `environment` is of the device's own shell, where it has another build of Fedge.
    """
    home, its = person.folder / device, environment or person.environment
    home.mkdir()
    plant = load_plant(person.folder / "plant")
    for name in ("ca.pem", "root.json"):
        (home / name).write_bytes((plant.pki / name).read_bytes())
    (home / "agent.toml").write_text(
        AGENT.format(
            family=family, device=device, fleet=plant.fleet_url, broker=plant.broker_url, source=source
        )
    )
    person.types(
        "fedge-fleet", "claims", "create", "--family", family, "--unreleased", "--device", device,
        "--config", "plant/fleet/fleet.toml", "--out", f"{device}/claim.token",
    )  # fmt: skip
    Person(home, its).types("fedge-agent", "enrol", "--config", "agent.toml")
    log = home / "agent.log"
    with log.open("wb") as sink:
        child = subprocess.Popen(
            ["fedge-agent", "run", "--config", "agent.toml"], cwd=home, env=its, stdout=sink, stderr=sink
        )
    try:
        wait_until(lambda: person.sees(device)["online"], device, unless=lambda: died(child, log))
        yield
        assert child.poll() is None, log.read_text()
    finally:
        child.terminate()
        child.wait()
