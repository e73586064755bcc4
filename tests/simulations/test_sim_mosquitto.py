"""Which broker a world takes, and that Mosquitto is told what it is told in production."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.plant.mosquitto import Mosquitto, write_start_file
from service.plant_description import BrokerKind
from simulations.errors import ScenarioError
from simulations.mosquitto import BrokerChoice, choose_broker


def test_the_embedded_broker_is_taken_when_it_is_asked_for() -> None:
    assert choose_broker(BrokerChoice.EMBEDDED) is BrokerKind.EMBEDDED


def test_without_mosquitto_the_embedded_broker_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.plant.mosquitto.shutil.which", lambda *_, **__: None)
    assert choose_broker(BrokerChoice.AUTO) is BrokerKind.EMBEDDED
    with pytest.raises(ScenarioError, match="apt-get install mosquitto"):
        choose_broker(BrokerChoice.MOSQUITTO)


def test_mosquitto_starts_with_the_files_that_the_fleet_writes_for_production(tmp_path: Path) -> None:
    broker = Mosquitto(program="mosquitto", plugin=Path("/usr/lib/plugin.so"))
    places = broker.places(tmp_path, "127.0.0.1:8884")
    assert (places.listen, places.folder, places.plugin) == ("8884 127.0.0.1", tmp_path, "/usr/lib/plugin.so")
    assert places.state == tmp_path / "dynamic-security.json"
    (tmp_path / "fedge.conf").write_text("listener 8884 127.0.0.1\n")
    write_start_file(tmp_path)
    assert broker.command(tmp_path) == ("mosquitto", "-c", str(tmp_path / "mosquitto.conf"))
    user, *_, listener = (tmp_path / "mosquitto.conf").read_text().splitlines()
    assert user.startswith("user ")
    assert listener == "listener 8884 127.0.0.1"
