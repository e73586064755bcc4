"""What a fleet does while its disk is watched: `python fleet_crashes.py ROOT` (see `fault_laboratory`).

A new database, every migration, events of a device, a rollout with its gates and its rollback. It notes ``holds DIGEST`` after
each transaction and ``acked LAST`` when a device may forget.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fault_laboratory.machine_faults import note
from fault_laboratory.sqlite_contents import contents_digest
from fleet_world import TENANT, Machine, anomaly, closed, enrol_directly, health
from rollout_world import RolloutWorld
from sqlalchemy.orm import Session

from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.migrations.upgrade import open_storage
from fleet.rollouts.states import Verb
from fleet.storage.base import Database

PRESS = "press-1"


def serve(root: Path) -> None:
    """The whole life, each transaction followed by what the database then holds."""
    path = root / "fleet.sqlite"
    open_storage(f"sqlite:///{path}").close()
    note("migrated")
    note(f"holds {contents_digest(path)}")
    unwatched = Database.write

    @contextmanager
    def watched(self: Database) -> Iterator[Session]:
        with unwatched(self) as session:
            yield session
        note(f"holds {contents_digest(path)}")

    Database.write = watched  # type: ignore[method-assign] # every transaction of the service goes through it
    world = RolloutWorld(f"sqlite:///{path}", devices=4)
    take_events(world.database)
    roll_out(world)
    world.close()


def take_events(database: Database) -> None:
    """Batches of what a device says, one with a gap."""
    machine, store = Machine(name=PRESS), EventStore(database, TENANT, FleetMetrics())
    enrol_directly(database, machine)
    for number in range(3):
        said = (health(), anomaly(episode=f"ep-{number}"), closed(f"ep-{number}"), anomaly(), health())
        arrivals = [machine.arrival(data) for data in said]
        result = store.store([one for index, one in enumerate(arrivals) if (number, index) != (1, 4)])
        note(f"acked {result.acks[PRESS].boots[0].ranges[-1][1]}")


def roll_out(world: RolloutWorld) -> None:
    """A canary, the others, and back again."""
    rollout = world.started(groups=[{"percentage": 50, "soak_s": 1}, {"percentage": 100}])
    canaries = [device for device in world.devices if world.desired(device) is not None]
    world.install(canaries)
    for _ in range(3):
        for device in canaries:
            world.health(device)
        world.tick(2.0)
    world.say(rollout, Verb.ROLLBACK)
    world.tick(1.0)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
