"""What a world writes is what its programs read: each file with the real loader, for both brokers and every scenario."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from aggregator.settings import load_aggregator_settings
from edge_agent.aggregator_trust import AggregatorTrust
from edge_agent.settings import load_agent_settings
from fleet.settings import load_fleet_settings
from service.plant_description import BrokerKind
from simulations.machines import SimulatedMachines
from simulations.processes import Supervisor
from simulations.scenario import BUILT_IN, Scenario, load_scenario
from simulations.world import World

SCENARIOS = sorted(path.stem for path in BUILT_IN.glob("*.toml"))


def prepared(directory: Path, scenario: Scenario, broker: BrokerKind = BrokerKind.EMBEDDED) -> World:
    machines = SimulatedMachines(scenario.machines, scenario.devices, 1, scenario.seed)
    world = World(directory, scenario, machines, Supervisor(directory / "logs"), broker=broker)
    world.prepare()
    return world


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_aggregator_reads_the_very_family_that_the_scenario_holds(tmp_path: Path, name: str) -> None:
    scenario = load_scenario(name)
    prepared(tmp_path, scenario)
    (family,) = load_aggregator_settings(tmp_path / "aggregator" / "aggregator.toml", {}).family
    assert family.rollout is not None
    assert msgspec.structs.replace(family, rollout=None) == scenario.family


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_agent_reads_the_very_detection_and_privacy_that_the_scenario_holds(
    tmp_path: Path, name: str
) -> None:
    scenario = load_scenario(name)
    world = prepared(tmp_path, scenario)
    for index, device in enumerate(world.devices):
        settings = load_agent_settings(world.device_directory(device) / "agent.toml", {})
        assert settings.detection == scenario.detection
        assert settings.privacy == scenario.privacy
        assert (settings.device, settings.hardware) == (
            device,
            scenario.hardware[index % len(scenario.hardware)],
        )
        assert settings.mqtt is not None
        assert settings.mqtt.url == world.addresses.broker_url
        assert settings.mqtt.tls
        AggregatorTrust(settings)


def test_the_dashboard_shows_the_training_runs_of_the_worlds_aggregator(tmp_path: Path) -> None:
    world = prepared(tmp_path, Scenario())
    settings = load_fleet_settings(tmp_path / "fleet" / "fleet.toml", {}).aggregator
    assert settings is not None
    assert settings.url == f"https://{world.addresses.aggregator}"
    assert settings.token_file.resolve() == tmp_path / "tokens" / "viewer.token"


@pytest.mark.parametrize(
    ("broker", "kept"), [(BrokerKind.MOSQUITTO, "dynamic-security"), (BrokerKind.EMBEDDED, "file")]
)
def test_the_fleet_tells_the_broker_that_the_world_has_who_is_shut_out(
    tmp_path: Path, broker: BrokerKind, kept: str
) -> None:
    prepared(tmp_path, Scenario(), broker)
    mqtt = load_fleet_settings(tmp_path / "fleet" / "fleet.toml", {}).mqtt
    assert mqtt is not None
    assert mqtt.shut_out == kept
    assert mqtt.url.startswith("mqtts://127.0.0.1:")
    assert mqtt.tls_cert == tmp_path / "fleet" / ".." / "pki" / "fleet.pem"
