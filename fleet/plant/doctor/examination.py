"""All of `fedge doctor`, in the order in which a person mends things: what is underneath first."""

from __future__ import annotations

import time
from collections.abc import Iterator

from fleet.plant.doctor.findings import Finding
from fleet.plant.doctor.keys import examine_certificates, examine_repository, examine_secrets
from fleet.plant.doctor.roads import examine_broker, examine_fleet, examine_services
from fleet.plant.doctor.surroundings import (
    examine_backup,
    examine_database,
    examine_disk,
    examine_families,
    examine_programs,
)
from service.plant import Plant

__all__ = ["examine"]


def examine(plant: Plant) -> Iterator[Finding]:
    """Every finding, as it comes."""
    now = time.time()
    yield from examine_programs(plant)
    yield from examine_disk(plant)
    yield from examine_secrets(plant)
    yield from examine_certificates(plant, now)
    yield from examine_repository(plant, now)
    yield from examine_database(plant)
    yield from examine_services(plant)
    yield from examine_broker(plant)
    yield from examine_fleet(plant)
    yield from examine_families(plant)
    yield from examine_backup(plant, now)
