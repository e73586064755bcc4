"""A plant as a person makes it by `fedge init plant`, made once for all tests of a process, and copies of it to break."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from command_line import run_command
from plant_ports import port_options
from waiting import wait_until

from fleet.plant.lives import find_lives
from fleet.plant.running import take_down
from service.plant import Plant, load_plant

__all__ = ["ask", "copy_of", "ending", "findings", "init_plant", "port_options", "start", "wait_for_life"]


def init_plant(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """``fedge init plant`` on a folder."""
    return run_command("fleet", "init", "plant", "--plant", str(folder), *options)


def copy_of(plant: Plant, folder: Path) -> Plant:
    """The same plant elsewhere: what names its folder is written anew when it is started."""
    shutil.copytree(plant.folder, folder)
    return load_plant(folder)


def ask(plant: Plant, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of ``fedge-fleet`` on this plant."""
    return run_command("fleet", *words, "--plant", str(plant.folder))


def findings(plant: Plant) -> dict[str, dict[str, Any]]:
    """What `fedge doctor` finds, by matter."""
    return {one["matter"]: one for one in json.loads(ask(plant, "doctor", "--json").stdout)["findings"]}


def start(plant: Plant) -> subprocess.CompletedProcess[str]:
    """``fedge up --background``; what it starts is a process of its own."""
    return ask(plant, "up", "--background")


@contextmanager
def ending(plant: Plant) -> Iterator[Plant]:
    """Whatever becomes of the test, nothing of the plant runs afterwards."""
    try:
        yield plant
    finally:
        take_down(plant)
        assert find_lives(plant.folder) == {}


def wait_for_life(plant: Plant, service: str, *, not_pid: int) -> int:
    """The process id of a service that was started anew, once it is there."""

    def another() -> int:
        life = find_lives(plant.folder).get(service)
        return life.pid if life is not None and life.pid != not_pid else 0

    return wait_until(another, f"another {service}")
