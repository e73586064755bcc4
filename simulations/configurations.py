"""What the programs of a world are told: aggregator.toml and agent.toml as plain tables (fleet.toml: `simulations.fleet_site`).

The same keys a person writes (docs/fleet.md, docs/aggregator.md and docs/agent.md explain them), paths relative to each
file; `simulations.world` draws where those files lie. Pure: writes nothing.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from fleet.plant.tables import Table, aggregator_table
from service.addresses import split_endpoint
from service.plant import Plant
from simulations.addresses import Addresses
from simulations.orders import rollout_body, rollout_groups
from simulations.scenario import Scenario

__all__ = ["agent_table", "aggregator_settings"]

TENANT: Final = "demo"


def aggregator_settings(scenario: Scenario, plant: Plant) -> Table:
    """aggregator.toml of a plant with the scenario's one family, which trains as soon as enough of the fleet has drifted."""
    family = msgspec.structs.replace(
        scenario.family, rollout=rollout_body(scenario, rollout_groups(scenario))
    )
    table = aggregator_table(plant)
    del table["families_dir"]
    return {**table, "watch_every_s": 1.0, "family": [_as_toml(family)]}


def agent_table(
    scenario: Scenario, addresses: Addresses, *, device: str, hardware: str, machine: str, source: Table
) -> Table:
    """agent.toml of one device, which watches `machine` through `source` (its ``[source]`` table)."""
    return {
        "state_dir": "state",
        "tenant": TENANT,
        "family": scenario.family.name,
        "device": device,
        "hardware": hardware,
        "labels": {"machine": machine},
        "trust": {"root": "../../pki/root.json"},
        "fleet": {
            "url": f"https://{addresses.fleet}",
            "ca_file": "../../pki/ca.pem",
            "claim_token_file": "claim.token",
        },
        "mqtt": {"url": addresses.broker_url, "ca_file": "../../pki/ca.pem"},
        "flower": {
            "ca_file": "../../pki/ca.pem",
            "aggregator_key": "../../pki/aggregator.pub.pem",
            "host": split_endpoint(addresses.flower).host,
        },
        "source": source,
        "detection": _as_toml(scenario.detection),
        "privacy": _as_toml(scenario.privacy),
        "health": {"every_s": scenario.health_every_s},
        "debug": {"score_log": True},
    }


def _as_toml(settings: Struct) -> Table:
    """A program's own settings as the table that they are read from."""
    table: Table = msgspec.to_builtins(settings)
    return _without_none(table)


def _without_none(table: Table) -> Table:
    """TOML knows no null: what is not set is left out."""
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if value is not None
    }
