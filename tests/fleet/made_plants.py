"""A plant as `fedge init plant` makes it, in a second: for tests of what is done to one."""

from __future__ import annotations

from pathlib import Path

from fleet.plant.making import make_plant, without_password
from service.plant import Plant
from service.plant_description import BrokerKind, Description, Listen

LISTEN = Listen(
    fleet="127.0.0.1:8443", aggregator="127.0.0.1:8444", flower="127.0.0.1:9092", broker="127.0.0.1:8883"
)


def plant_in(folder: Path, database_url: str | None = None, listen: Listen = LISTEN) -> Plant:
    """Tenant acme on this machine, with the embedded broker; on SQLite unless a URL is given."""
    shown = without_password(database_url)[0] if database_url else None
    description = Description(
        tenant="acme", host="localhost", broker=BrokerKind.EMBEDDED, database=shown, listen=listen
    )
    return make_plant(folder, description, database_url=database_url)[0]
