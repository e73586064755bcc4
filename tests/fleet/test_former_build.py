"""Agents of commit 7caccb76 with today's fleet, and today's agents with its fleet: the real code of both, out of the repository."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from played_pages import ROOT
from shell_people import Person, hand_made_device, plant_up, programs_of
from waiting import died, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.long]

FORMER = "7caccb76"
"""main when issue 17 began."""


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That commit's packages."""
    packages = [
        "edge_agent",
        "fleet",
        "aggregator",
        "fedge",
        "runtime",
        "protocol",
        "models",
        "service",
        "simulations",
    ]
    packed = subprocess.run(
        ["git", "archive", FORMER, "pyproject.toml", *packages], cwd=ROOT, capture_output=True, check=False
    )
    if packed.returncode:
        pytest.fail(f"the history of this clone does not reach {FORMER}: git fetch --unshallow")
    folder = tmp_path_factory.mktemp("former") / "build"
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def test_an_agent_of_7caccb76_enrols_obeys_and_is_heard_by_todays_fleet(former: Path, tmp_path: Path) -> None:
    person = Person(tmp_path / "home", programs_of(ROOT, tmp_path / "today"))
    its = programs_of(former, tmp_path / "its")
    with plant_up(person), hand_made_device(person, "old-1", family="valve", environment=its):
        person.sets("old-1", 3.0)
        person.types("fedge", "fleet", "devices", "diagnose", "old-1")
        assert person.sees("old-1")["agent_version"] == "0.1.0"


@contextmanager
def process(log: Path, *command: str, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as sink:
        child = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink)
    try:
        yield child
    finally:
        child.terminate()
        child.wait()


def test_todays_agent_enrols_obeys_and_is_heard_by_the_fleet_of_7caccb76(
    former: Path, tmp_path: Path
) -> None:
    """Its service runs on the settings that `init plant` writes today, beside the plant's broker."""
    person = Person(tmp_path / "home", programs_of(ROOT, tmp_path / "today"))
    its, home = programs_of(former, tmp_path / "its"), person.folder / "plant"
    with plant_up(person):
        person.types("fedge", "down")
        broker = ("mosquitto", "-c", str(home / "broker/mosquitto.conf"))
        fleet = ("fedge-fleet", "serve", "--config", str(home / "fleet/fleet.toml"))
        log = tmp_path / "fleet.log"
        with (
            process(tmp_path / "broker.log", *broker, environment=its),
            process(log, *fleet, environment=its) as child,
        ):
            wait_until(
                lambda: "Uvicorn running" in log.read_text() or "listening" in log.read_text(),
                "the former fleet",
                unless=lambda: died(child, log),
            )
            with hand_made_device(person, "new-1", family="valve"):
                person.sets("new-1", 3.0)
                person.types("fedge", "fleet", "devices", "diagnose", "new-1")
