"""What the services of a plant are told: fleet.toml and aggregator.toml as plain tables, out of the plant's description.

The same keys that a person writes (docs/fleet.md, docs/aggregator.md), paths relative to each file. Pure: writes nothing. The
aggregator's is a table and no settings of ours: fleet and aggregator do not know each other's.
"""

from __future__ import annotations

import os
from pathlib import Path

from service.plant import Plant
from service.plant_description import BrokerKind

__all__ = ["SHUT_OUT", "Table", "aggregator_table", "fleet_table"]

Table = dict[str, object]

SHUT_OUT = "shut-out"
"""The embedded broker's file of who is shut out, in the broker's folder."""


def fleet_table(plant: Plant, *, database_url: str | None = None) -> Table:
    """fleet.toml. database_url: with its password, where it is not SQLite."""
    here = plant.fleet_config.parent
    embedded: Table = {"shut_out": "file", "shut_out_file": _from(here, plant.broker / SHUT_OUT)}
    return {
        "listen": plant.description.listen.fleet,
        **_shown(plant, "fleet", here),
        "data_dir": _from(here, plant.fleet_data),
        "tenant": plant.tenant,
        **({"database_url": database_url} if database_url else {}),
        "mqtt": {
            **_broker_account(plant, "fleet", here),
            **(embedded if plant.description.broker is BrokerKind.EMBEDDED else {}),
        },
        "dashboard": {"public_url": plant.fleet_url},
        "aggregator": {
            "url": plant.local_aggregator_url,
            "ca_file": _from(here, plant.ca),
            "token_file": _from(here, plant.viewer_token),
        },
    }


def aggregator_table(plant: Plant) -> Table:
    """aggregator.toml. Its families are files of their own, in the plant's folder of families."""
    here = plant.aggregator_config.parent
    return {
        "listen": plant.description.listen.aggregator,
        "flower_listen": plant.description.listen.flower,
        "flower_public_address": plant.flower_address,
        **_shown(plant, "aggregator", here),
        "data_dir": _from(here, plant.aggregator_data),
        "tenant": plant.tenant,
        "signing_key": _from(here, plant.release_key),
        "families_dir": _from(here, plant.families),
        "fleet": {
            "url": plant.local_fleet_url,
            "ca_file": _from(here, plant.ca),
            "token_file": _from(here, plant.publisher_token),
        },
        "mqtt": _broker_account(plant, "aggregator", here),
    }


def _shown(plant: Plant, service: str, here: Path) -> Table:
    """What a service shows whom it meets."""
    return {
        "tls_cert": _from(here, plant.certificate(service)),
        "tls_key": _from(here, plant.key(service)),
    }


def _broker_account(plant: Plant, service: str, here: Path) -> Table:
    return {
        "url": plant.local_broker_url,
        "ca_file": _from(here, plant.ca),
        "tls_cert": _from(here, plant.client_files(service)[0]),
        "tls_key": _from(here, plant.client_files(service)[1]),
    }


def _from(folder: Path, path: Path) -> str:
    return os.path.relpath(path, folder)
