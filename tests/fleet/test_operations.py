"""Back up, upgrade, restore, uninstall: played by the words of docs/operations.md, with the published wheel and a device that watches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from installed_wheel import install_wheel
from plant_ports import port_options
from played_pages import ROOT, play, read_blocks
from published import Published, publish
from waiting import died, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.long]

PAGE = ROOT / "docs" / "operations.md"
BLOCKS = {block.heading: block for block in read_blocks(PAGE)}
DEVICE = "valve-1"
AGENT = """\
state_dir = "state"
tenant = "acme"
family = "valve"
device = "valve-1"
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
[source]
kind = "simulated"
[health]
every_s = 1.0
status_every_s = 0.2
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("published"))


class Person:
    """At a shell with nothing but the wheel, in a folder of their own."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder, self.environment = folder, environment

    def types(self, *words: str) -> str:
        done = subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def asks(self, *words: str) -> Any:
        return json.loads(self.types(*words, "--json"))

    def plays(self, heading: str) -> str:
        return play(BLOCKS[heading], self.folder, self.environment)

    def shown(self) -> dict[str, Any]:
        (found,) = [one for one in self.asks("fedge", "devices", "list") if one["id"] == DEVICE]
        return dict(found)

    def sets(self, alarms: float) -> None:
        """Set something on the device, and wait until it has obeyed."""
        self.types(
            "fedge",
            "devices",
            "settings",
            DEVICE,
            "--set",
            f"detection.budget.alarms_per_1000_windows={alarms}",
        )
        wait_until(
            lambda: self.asks("fedge", "devices", "settings", DEVICE)["is_obeyed"], f"{DEVICE} to obey"
        )


@contextmanager
def device(person: Person) -> Iterator[None]:
    """valve-1, enrolled at the plant in the person's folder, watching until the end."""
    home = person.folder / DEVICE
    home.mkdir()
    plant = json.loads(
        person.types("python", "-c", "import json; from service.plant import find_plant; p = find_plant(None);"
                     " print(json.dumps([p.fleet_url, p.broker_url]))")
    )  # fmt: skip
    (home / "ca.pem").write_bytes((person.folder / "plant/pki/ca.pem").read_bytes())
    (home / "root.json").write_bytes((person.folder / "plant/pki/root.json").read_bytes())
    (home / "agent.toml").write_text(AGENT.format(fleet=plant[0], broker=plant[1]))
    person.types(
        "fedge-fleet", "claims", "create", "--family", "valve", "--unreleased", "--device", DEVICE,
        "--config", "plant/fleet/fleet.toml", "--out", f"{DEVICE}/claim.token",
    )  # fmt: skip
    person.types("fedge-agent", "enrol", "--config", f"{DEVICE}/agent.toml")
    log = home / "agent.log"
    with log.open("wb") as sink:
        child = subprocess.Popen(
            ["fedge-agent", "run", "--config", f"{DEVICE}/agent.toml"],
            cwd=person.folder, env=person.environment, stdout=sink, stderr=sink,
        )  # fmt: skip
    try:
        wait_until(lambda: person.shown()["online"], "the device", unless=lambda: died(child, log))
        yield
        assert child.poll() is None, log.read_text()
    finally:
        child.terminate()
        child.wait()


@pytest.fixture
def person(published: Published, tmp_path: Path) -> Iterator[Person]:
    environment = install_wheel(published, tmp_path / "environment")
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / published.wheel.name).write_bytes(published.wheel.read_bytes())
    made = Person(folder, environment)
    made.types("fedge", "init", "plant", "--host", "localhost", "--tenant", "acme", *port_options())
    made.types("fedge", "up", "--background")
    try:
        yield made
    finally:
        for lock in folder.rglob("run/up.lock"):
            _end(int(lock.read_text().strip() or 0))


def _end(supervisor: int) -> None:
    """Where a test broke off; it takes its services with it."""
    if supervisor and Path(f"/proc/{supervisor}").exists():
        os.kill(supervisor, signal.SIGTERM)
        wait_until(lambda: not Path(f"/proc/{supervisor}").exists(), "the plant to end")


def test_a_plant_is_backed_up_upgraded_restored_and_uninstalled_and_its_device_obeys_throughout(
    person: Person,
) -> None:
    with device(person):
        assert "sealed" in person.plays("Back up")
        assert (person.folder / "plant.backup").stat().st_mode & 0o777 == 0o600
        person.sets(2.0)  # the backup does not know of it
        counter = person.shown()["commands_counter"]

        told = person.plays("Upgrade")
        assert told.count("schema") >= 4
        assert "AGAINST" not in told
        wait_until(lambda: person.shown()["online"], "the device to be back after the upgrade")
        person.sets(3.0)

        told = person.plays("Restore")
        assert "devices that were revoked since are let in again" in told
        assert "1 device," in told
        wait_until(lambda: person.shown()["online"], "the device to be back after the restore")
        person.sets(4.0)
        assert person.shown()["commands_counter"] > counter, "nothing went back"
        audit = person.asks("fedge-fleet", "audit", "list")
        assert "backup_restored" in {line["action"] for line in audit}
    person.plays("Uninstall")
    assert sorted(path.name for path in person.folder.iterdir() if path.is_dir()) == ["former", DEVICE]
    assert not (Path(person.environment["HOME"]) / "bin" / "fedge").exists()
    assert person.types("python", "-c", "import importlib.util as i; print(i.find_spec('fleet'))") == "None\n"
