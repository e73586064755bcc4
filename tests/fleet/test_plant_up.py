"""One command brings a plant up behind a real Mosquitto; whatever dies comes back; after `down` nothing is left."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from plant_world import ask, copy_of, ending, findings, start, wait_for_life
from waiting import wait_until

from fleet.plant.lives import find_lives, life_of
from fleet.plant.running import running_supervisor
from service.addresses import split_endpoint
from service.plant import Plant

pytestmark = pytest.mark.slow


def is_well(plant: Plant) -> bool:
    """Whether the doctor sees nothing but what no start can mend."""
    found = findings(plant)
    return {
        one["verdict"]
        for matter, one in found.items()
        if matter not in {"offline keys", "families", "backup"}
    } == {"ok"}


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def kill(plant: Plant, *services: str) -> None:
    """As the kernel does where memory runs out; returns once each is there anew, and all is well."""
    before = find_lives(plant.folder)
    for service in services:
        os.kill(before[service].pid, signal.SIGKILL)
    for service in services:
        wait_for_life(plant, service, not_pid=before[service].pid)
    wait_until(lambda: is_well(plant), f"all to be well after {services} were killed")
    after = find_lives(plant.folder)
    assert {name: life for name, life in after.items() if name not in services} == {
        name: life for name, life in before.items() if name not in services
    }


def test_a_plant_comes_up_and_stays_up_whatever_is_killed_until_it_is_taken_down(
    made_plant: Plant, tmp_path: Path
) -> None:
    with ending(copy_of(made_plant, tmp_path / "plant")) as plant:
        assert "was not up" in ask(plant, "down").stdout
        assert ask(plant, "status").returncode == 1
        done = start(plant)
        assert done.returncode == 0, done.stderr
        assert [line.split() for line in done.stdout.splitlines()[:3]] == [
            ["broker", "up"], ["fleet", "up"], ["aggregator", "up"],
        ]  # fmt: skip
        assert f"dashboard: {plant.fleet_url}" in done.stdout

        # who stands in it needs neither address nor token
        assert is_well(plant), findings(plant)
        assert findings(plant)["broker account"]["seen"] == "the fleet is logged in"
        seen = json.loads(ask(plant, "status", "--json").stdout)
        assert (seen["is_reached"], seen["counts"]["devices"], seen["problems"]) == (True, 0, [])
        assert "no problems" in ask(plant, "status").stdout
        assert ask(plant, "sign-in").stdout.startswith(f"{plant.fleet_url}/sign-in?code=")
        again = start(plant)
        assert again.returncode == 1
        assert "is up already (process" in again.stderr
        assert len(again.stderr.splitlines()) == 1

        kill(plant, "broker")
        kill(plant, "fleet", "aggregator")
        supervisor, before = running_supervisor(plant), find_lives(plant.folder)
        assert supervisor
        os.kill(supervisor, signal.SIGKILL)
        wait_until(lambda: running_supervisor(plant) not in {None, supervisor}, "another supervisor")
        wait_until(lambda: is_well(plant), "all to be well under another supervisor")
        assert find_lives(plant.folder) == before

        # whoever looks after the supervisor, and then the supervisor: the services go on, and the next `up` takes them over
        supervisor = running_supervisor(plant) or 0
        for pid in (parent_of(supervisor), supervisor):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: running_supervisor(plant) is None, "the supervisor to be gone")
        assert findings(plant)["supervisor"]["remedy"].startswith("fedge up")
        assert start(plant).stdout.count("taken over") == 3
        assert find_lives(plant.folder) == before
        kill(plant, "broker")  # of which the new one is not the parent

        # a machine that sleeps stops all of them, and lets all go on
        pids = [running_supervisor(plant) or 0, *(life.pid for life in find_lives(plant.folder).values())]
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in pids:
                os.kill(pid, number)
        wait_until(lambda: is_well(plant), "all to be well after a sleep")

        file = plant.log / "plant.log"
        log = file.read_text()
        assert re.search(r"\[info +\] broker_connected .*service=fleet", log)
        assert re.search(r"aggregator_started .*service=aggregator", log)
        assert re.search(r"^\S+ broker: mosquitto version", log, re.MULTILINE)
        assert not any(path.read_text().strip() in log for path in plant.tokens.iterdir())
        assert file.stat().st_mode & 0o077 == 0

        assert ask(plant, "down").stdout.strip() == f"{plant.folder} is down"
        assert (find_lives(plant.folder), running_supervisor(plant)) == ({}, None)
        assert [pid for pid in pids if life_of(pid) is not None] == []
        assert findings(plant)["port of the fleet"]["seen"].endswith("nobody listens")


ASLEEP_S = 75.0
"""Longer than every keepalive of a connection to the broker (20 and 30 s, and half as long again)."""


@pytest.mark.long
def test_what_slept_for_longer_than_any_connection_lives_goes_on_by_itself(
    made_plant: Plant, tmp_path: Path
) -> None:
    with ending(copy_of(made_plant, tmp_path / "plant")) as plant:
        assert start(plant).returncode == 0
        before = find_lives(plant.folder)
        pids = [running_supervisor(plant) or 0, *(life.pid for life in before.values())]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(ASLEEP_S)  # nothing happens meanwhile that could be waited for
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: is_well(plant), "all to be well after a sleep")
        assert find_lives(plant.folder) == before


def test_a_port_that_is_taken_is_named_in_one_line_before_anything_starts(
    made_plant: Plant, tmp_path: Path
) -> None:
    with ending(copy_of(made_plant, tmp_path / "plant")) as plant, socket.socket() as squatter:
        port = split_endpoint(plant.description.listen.flower).port
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        done = start(plant)
        assert done.returncode == 1
        assert f"port {port} is taken, and the flower" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert "service_started" not in (plant.log / "plant.log").read_text()


def test_in_the_foreground_the_terminal_shows_the_log_and_a_service_that_cannot_start_ends_all(
    made_plant: Plant, tmp_path: Path
) -> None:
    with ending(copy_of(made_plant, tmp_path / "plant")) as plant:
        plant.certificate("broker").write_text("nothing")
        command = [sys.executable, "-m", "fleet", "up", "--plant", str(plant.folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "service_started" in done.stdout
        (line,) = done.stderr.splitlines()
        assert line.startswith("fedge-fleet: the broker ended at its start: ")
        assert "Unable to load server certificate" in line
        assert find_lives(plant.folder) == {}
