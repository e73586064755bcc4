"""Counters of what a device is told: a fleet that is behind its device overtakes it, and no other lifts one."""

from __future__ import annotations

from fleet_api_world import Fleet, fleet, machine
from fleet_commands_world import answer, device, give, show, word
from fleet_world import NOW, TENANT, Machine, arrival, health
from msgspec.structs import replace

from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.storage.device_tables import Desired
from fleet.storage.rollout_tables import DesiredCounter
from protocol.limits import MAX_INTEGER
from protocol.messages.commands import Commands, outdated
from protocol.messages.kinds import Kind

__all__ = ["device", "fleet", "machine"]  # the fixtures


def test_a_fleet_whose_counter_is_behind_its_device_overtakes_it(fleet: Fleet, device: Machine) -> None:
    number = give(fleet, device.name).json()["number"]
    obeyed = 10**12
    store = EventStore(fleet.database, TENANT, FleetMetrics())
    said = device.arrival(outdated(Kind.COMMANDS, number, obeyed))
    for _ in range(2):
        result = store.store([said])
        assert word(fleet, device.name).counter == obeyed + 1, "and hearing it again lifts nothing"
    assert (result.commanded, show(fleet, device.name, number)["status"]) == (frozenset(), "WAITING")
    answer(fleet, device, number, "REFUSED", code="stale")
    assert give(fleet, device.name).json()["number"] == obeyed + 2


def test_a_fleet_that_lost_its_rows_learns_the_counter_from_its_device(fleet: Fleet, device: Machine) -> None:
    store = EventStore(fleet.database, TENANT, FleetMetrics())
    result = store.store([device.arrival(outdated(Kind.COMMANDS, 7, 10**12))])
    assert result.commanded == {device.name}
    assert word(fleet, device.name) == Commands(counter=10**12 + 1)


def test_a_counter_is_lifted_by_what_a_device_sealed_alone(fleet: Fleet, device: Machine) -> None:
    number = give(fleet, device.name).json()["number"]
    store = EventStore(fleet.database, TENANT, FleetMetrics())
    claimed = replace(device.event(outdated(Kind.COMMANDS, 7, 10**12)), seal=None)
    result = store.store([device.arrival(health(obeyed=10**12)), arrival(claimed)])
    assert (result.commanded, word(fleet, device.name).counter) == (frozenset(), number)


def test_what_a_device_shall_run_is_said_anew_beyond_the_counter_that_it_has_obeyed(
    fleet: Fleet, device: Machine
) -> None:
    with fleet.database.write() as session:
        session.add(
            Desired(
                device=device.name,
                execution="e1",
                release="motor/1",
                counter=4,
                set_at=NOW,
                bundle_path="/v1/releases/motor/1/bundle",
                bundle_sha256="0" * 64,
                bundle_bytes=10,
            )
        )  # fmt: skip - one row
        session.add(DesiredCounter(device=device.name, counter=4))
    store = EventStore(fleet.database, TENANT, FleetMetrics())
    for obeyed, is_lifted in ((4, False), (1 << 40, True), (1 << 40, False), (MAX_INTEGER, True)):
        result = store.store([device.arrival(outdated(Kind.DESIRED, 3, obeyed))])
        assert result.desiring == ({device.name} if is_lifted else set())
    with fleet.database.read() as session:
        counters = [session.get_one(table, device.name).counter for table in (Desired, DesiredCounter)]
    assert counters == [MAX_INTEGER, MAX_INTEGER]
