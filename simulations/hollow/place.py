"""Where a crowd of hollow devices belongs: a fleet, its broker, and what a device must know before it may join."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from edge_agent.settings import load_agent_settings
from runtime.errors import SettingsError
from simulations.errors import ScenarioError

__all__ = ["Place", "place_of_agent"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A fleet as its devices know it.

    fleet_url, fleet_ca: its HTTPS, and PEM of the one CA that is trusted there.
    broker_host, broker_port, broker_ca: the same of its broker.
    root: the first root.json of its signed repository.
    tenant, family, hardware: what each device is.
    """

    fleet_url: str
    fleet_ca: Path
    broker_host: str
    broker_port: int
    broker_ca: Path
    root: Path
    tenant: str
    family: str
    hardware: str = "hollow"


def place_of_agent(file: Path) -> Place:
    """The place that an agent.toml names, so that hollow devices join where that agent would; raises ScenarioError."""
    try:
        settings = load_agent_settings(file)
    except SettingsError as error:
        raise ScenarioError(str(error)) from None
    if settings.fleet is None or settings.mqtt is None or settings.mqtt.ca_file is None:
        raise ScenarioError(
            f"{file} has no [fleet], or no [mqtt] with an mqtts url and a ca_file: hollow devices need both"
        )
    parts = urlsplit(settings.mqtt.url)
    return Place(
        fleet_url=settings.fleet.url,
        fleet_ca=settings.fleet.ca_file,
        broker_host=parts.hostname or "",
        broker_port=parts.port or 8883,
        broker_ca=settings.mqtt.ca_file,
        root=settings.trust.root,
        tenant=settings.tenant,
        family=settings.family,
        hardware=settings.hardware,
    )
