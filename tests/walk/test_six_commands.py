"""README's promise, played: six commands from a folder of CSV files to four devices that watch, over TLS, on a real broker."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from databases import PostgresqlServer
from shell_people import Person
from walk_world import DEVICES, readme_commands, walked, watching

from service.plant import load_plant

pytestmark = pytest.mark.slow


def test_there_are_six_commands_and_no_file_is_edited() -> None:
    commands = readme_commands()
    programs = [command.split("&&")[-1].split()[0] for command in commands]
    assert programs == ["pip", "fedge", "fedge", "fedge", "fedge", "fedge-agent"]
    assert not [command for command in commands if "vi " in command or ">" in command]


def test_six_commands_lead_to_four_devices_that_watch_version_one(tmp_path: Path) -> None:
    with walked(tmp_path / "walk") as (person, walk):
        plant = load_plant(person.folder / "plant")
        assert shutil.which("mosquitto") is None or "broker mosquitto" in walk.printed["init"]
        assert "fits: 4 of 4 machines" in walk.printed["model"]
        assert all("watching" in walk.printed[f"join {device}"] for device in DEVICES)
        assert plant.fleet_url.startswith("https://")
        assert plant.broker_url.startswith("mqtts://")
        assert watching(person) == list(DEVICES)
        # once more: nothing is made twice, nothing is lost
        again = person.types("bash", "-c", "fedge model from-csv healthy --family valve 2>&1; echo status $?")
        assert "family 'valve' has release valve/1; --again makes valve/2 of these recordings" in again
        assert again.endswith("status 2\n")
        (rollout,) = person.asks("fedge", "rollouts", "list")
        assert (rollout["release"], rollout["state"]) == ("valve/1", "COMPLETED")

        _asks_where_it_would_hardly_see(person)


def _asks_where_it_would_hardly_see(person: Person) -> None:
    """Of machines that leap all the time little would be seen: whether that is enough only a person knows."""
    leaps = person.folder / "leaps"
    leaps.mkdir()
    for number in range(3):
        values = 10 + np.random.default_rng(number).standard_t(2, size=(400, 3))
        rows = [f"{second},{','.join(f'{value:.6g}' for value in row)}" for second, row in enumerate(values)]
        (leaps / f"m{number}.csv").write_text("\n".join(["seconds,a,b,c", *rows]) + "\n")
    words = "fedge model from-csv leaps --family other"
    said = person.types("bash", "-c", f"{words} 2>&1; echo status $?")
    assert f"if it is, go on with: {words} --accept-blind" in said, said
    assert said.endswith("status 3\n")
    assert not load_plant(person.folder / "plant").family_file("other").exists()


@pytest.mark.long
def test_the_same_on_postgresql_by_one_more_flag(tmp_path: Path) -> None:
    server = PostgresqlServer()
    try:
        server.start()
        server.run("CREATE DATABASE walk")
        flag = f"--database 'postgresql://fedge@/walk?host={server.folder}'"
        with walked(tmp_path / "walk", extra=[flag]) as (person, walk):
            assert "database postgresql" in walk.printed["init"].lower()
            assert "fits: 4 of 4 machines" in walk.printed["model"]
            assert watching(person) == list(DEVICES)
            assert not (load_plant(person.folder / "plant").fleet_data / "fleet.sqlite").exists()
    finally:
        server.remove()
