"""A plant is found where a person stands, and says in one line where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import SettingsError
from service.plant import FILE, find_plant, load_plant

WRITTEN = """\
tenant = "acme"
host = "plant.example.com"
database = "postgresql://fedge@db/fedge"

[listen]
fleet = "0.0.0.0:8443"
aggregator = "127.0.0.1:8444"
flower = "0.0.0.0:9092"
broker = "[::]:8883"
"""


def make(folder: Path, text: str = WRITTEN) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(text)
    return folder


def test_what_devices_dial_is_the_host_and_what_this_machine_dials_is_where_it_listens(
    tmp_path: Path,
) -> None:
    plant = load_plant(make(tmp_path))
    assert (plant.fleet_url, plant.local_fleet_url) == (
        "https://plant.example.com:8443",
        "https://127.0.0.1:8443",
    )
    assert (plant.broker_url, plant.local_broker_url) == (
        "mqtts://plant.example.com:8883",
        "mqtts://[::1]:8883",
    )
    assert (plant.flower_address, plant.local_aggregator_url) == (
        "plant.example.com:9092",
        "https://127.0.0.1:8444",
    )


def test_the_given_folder_goes_before_the_variable_which_goes_before_where_one_stands(tmp_path: Path) -> None:
    given, named, here = (make(tmp_path / name) for name in ("given", "named", "here"))
    environment = {"FEDGE_PLANT": str(named)}
    assert find_plant(given, environment=environment, here=here).folder == given
    assert find_plant(None, environment=environment, here=here).folder == named
    assert find_plant(None, environment={}, here=here).folder == here


def test_the_only_plant_below_is_found_and_of_two_one_is_asked_for(tmp_path: Path) -> None:
    make(tmp_path / "north")
    assert find_plant(None, environment={}, here=tmp_path).folder == tmp_path / "north"
    make(tmp_path / "south")
    with pytest.raises(SettingsError, match="holds north, south: give --plant DIR"):
        find_plant(None, environment={}, here=tmp_path)


def test_where_there_is_no_plant_the_command_that_makes_one_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="fedge init plant --host NAME"):
        find_plant(None, environment={}, here=tmp_path)
    with pytest.raises(SettingsError, match="is no plant: it holds no"):
        find_plant(tmp_path, environment={})


@pytest.mark.parametrize(
    ("there", "instead", "said"),
    [
        ("fedge@db", "fedge:hunter2@db", "database holds a password"),
        ("plant.example.com", "plant.example.com:8443", "is not what devices dial"),
        ("acme", "a/b", "tenant"),
        ("0.0.0.0:9092", "9092", "flower: '9092' is not host:port"),
    ],
)
def test_a_description_that_cannot_be_is_refused(tmp_path: Path, there: str, instead: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as refused:
        load_plant(make(tmp_path, WRITTEN.replace(there, instead)))
    assert "hunter2" not in str(refused.value)
