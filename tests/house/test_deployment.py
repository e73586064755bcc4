"""The steps of deploy/README.md, done on a machine of its own with the files of deploy/ as they are; each is needed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from debian_machine import PROGRAMS, ROOT, DebianMachine, StepFailed, read_unit
from mosquitto_broker import installed_program
from waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.long]

README = (ROOT / "deploy/README.md").read_text()
UNITS = sorted((ROOT / "deploy/systemd").glob("*"))
BROKER_LOG = "/var/log/mosquitto/mosquitto.log"
PLANT = "/srv/fedge/plant"
BROUGHT = {
    "ca.pem": f"{PLANT}/pki/ca.pem",
    "root.json": f"{PLANT}/pki/root.json",
    "aggregator.pub.pem": f"{PLANT}/pki/aggregator.pub.pem",
    "claim.token": "/srv/fedge/claim.token",
}


def blocks(heading: str) -> list[list[str]]:
    """The steps of each shell block under a heading: what bash takes as one command."""
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
        steps, open_lines = [], ""
        for line in block.splitlines():
            open_lines += f"{line}\n"
            whole = subprocess.run(
                ["bash", "-n"], input=open_lines, capture_output=True, text=True, check=False
            )
            if open_lines.strip() and not line.endswith("\\") and not whole.returncode:
                steps.append(open_lines.strip())
                open_lines = ""
        found.append(steps)
    return found


SERVER, FAMILY = blocks("A server")
MADE_KEYS, HANDED_OVER = blocks("Several people")
TYPED = "export FEDGE_TRUST_PASSPHRASE_FILE=/srv/checkout/passphrase"
DEVICE, (SHOWN,) = blocks("A device")
SERVICES = ("fedge-fleet.service", "fedge-aggregator.service")


def start_mosquitto(machine: DebianMachine) -> None:
    """Returns once it listens."""
    machine.stop_service("mosquitto.service")
    machine.path(BROKER_LOG).unlink(missing_ok=True)
    machine.start_service("mosquitto.service")
    machine.wait_for("mosquitto.service", " running", in_file=BROKER_LOG)


def do_step(machine: DebianMachine, step: str) -> None:
    """One step, and what whoever types it waits for; raises StepFailed."""
    machine.run(step)
    if step.startswith("systemctl"):
        for unit in SERVICES if "fedge-fleet" in step else step.split()[-1:]:
            see_it_work(machine, unit)


def come_up(machine: DebianMachine, steps: list[str], *units: str) -> None:
    """Do the steps; raises StepFailed where one fails, or where not all the units work in the end."""
    for step in steps:
        do_step(machine, step)
    for unit in units:
        see_it_work(machine, unit)


def see_it_work(machine: DebianMachine, unit: str) -> None:
    said = "broker_door_compared" if unit == "fedge-fleet.service" else "broker_connected"
    machine.wait_for(unit, said, unless="broker_unreachable")


@dataclass
class Installed:
    """A machine that came up, and its files as they were before each step."""

    machine: DebianMachine
    before: list[Path]

    def follow(self, steps: list[str], folder: Path) -> None:
        """Do all steps, and keep what the machine looked like before each."""
        for number, step in enumerate(steps):
            self.before.append(self.machine.save(folder / f"before-{number}"))
            do_step(self.machine, step)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    installed_program("mosquitto")
    folder = tmp_path_factory.mktemp("server")
    with DebianMachine(folder / "machine") as machine:
        start_mosquitto(machine)  # as Debian's package does when it is installed
        server = Installed(machine, [])
        server.follow(SERVER, folder)
        passphrase = machine.path("/srv/checkout/passphrase")
        passphrase.write_text("what everybody here types\n")
        passphrase.chmod(0o600)
        for step in FAMILY:
            machine.run(step)
        for steps in (MADE_KEYS, HANDED_OVER):
            machine.run("\n".join([TYPED, *steps]))
        yield server


@pytest.fixture(scope="module")
def device(server: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    folder = tmp_path_factory.mktemp("device")
    with DebianMachine(folder / "machine", beside=server.machine) as machine:
        for name, there in BROUGHT.items():
            shutil.copy(server.machine.path(there), machine.path(f"/srv/checkout/{name}"))
        device = Installed(machine, [])
        device.follow(DEVICE, folder)
        yield device


def test_whoever_follows_the_steps_has_a_fleet_with_a_device_over_tls(
    server: Installed, device: Installed
) -> None:
    shown = SHOWN.replace("devices list", "devices list --json")

    def online() -> bool:
        return [(d["id"], d["online"]) for d in json.loads(server.machine.run(shown))] == [("press-7", True)]

    wait_until(online, "the fleet to see press-7")
    said = device.machine.journal("fedge-agent.service").read_text()
    assert "broker_connected url=mqtts://plant.example.com:8883" in said
    state = server.machine.path(f"{PLANT}/broker/dynamic-security.json")
    assert state.stat().st_mode & 0o077 == 0
    complaints = [
        line
        for line in server.machine.journal("fedge-broker.service").read_text().splitlines()
        if re.search(r"error|warning|denied", line, re.IGNORECASE)
        and "does not contain '%c' or '%u'" not in line
    ]
    assert complaints == []
    assert list(server.machine.path(f"{PLANT}/pki/offline").glob("*.key")) == [
        server.machine.path(f"{PLANT}/pki/offline/ca.key")
    ]


@pytest.mark.parametrize("left_out", range(len(SERVER)), ids=lambda n: f"{n} {SERVER[n][:40]}")
def test_without_any_one_step_the_server_does_not_come_up(
    server: Installed, left_out: int, tmp_path: Path
) -> None:
    with DebianMachine(tmp_path / "machine", snapshot=server.before[left_out]) as machine:
        start_mosquitto(machine)
        with pytest.raises(StepFailed) as failed:
            come_up(machine, SERVER[left_out + 1 :], *SERVICES)
        print(failed.value)


@pytest.mark.parametrize("left_out", range(len(DEVICE)), ids=lambda n: f"{n} {DEVICE[n][:40]}")
def test_without_any_one_step_the_device_does_not_come_up(
    server: Installed, device: Installed, left_out: int, tmp_path: Path
) -> None:
    before = device.before[left_out]
    with DebianMachine(tmp_path / "machine", snapshot=before, beside=server.machine) as machine:
        with pytest.raises(StepFailed) as failed:
            come_up(machine, DEVICE[left_out + 1 :], "fedge-agent.service")
        print(failed.value)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_a_program_that_exists_as_the_user_and_on_the_files_of_the_steps(path: Path) -> None:
    unit = read_unit(path)
    program, command, option, config = unit["ExecStart"][0].split()
    assert program in {f"/opt/fedge/bin/{name}" for name in PROGRAMS}
    assert program.rpartition("/")[2] == path.stem
    assert (command, option) == ("run", "--config")
    assert (ROOT / "deploy/examples" / Path(config).name).exists()
    assert unit["User"] == ["fedge"]
    folders = {f"/var/lib/{name}" for name in unit["StateDirectory"]}
    settings = tomllib.loads((ROOT / "deploy/examples" / Path(config).name).read_text())
    assert {settings["state_dir"]} == folders
    assert all(any(folder in step for step in DEVICE) for folder in folders)


def test_systemd_finds_nothing_wrong_with_the_units(server: Installed) -> None:
    if shutil.which("systemd-analyze") is None:
        return  # a machine without systemd; what we rely on is tested above
    complaints = server.machine.run(
        "for unit in /srv/checkout/deploy/systemd/*.service /srv/fedge/plant/systemd/*.service;"
        " do systemd-analyze verify $unit 2>&1; done"
    )
    assert complaints == ""
