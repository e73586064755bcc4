"""The view of a device is kept true: online or silent, drifted or recovered, whatever comes late or out of order."""

from __future__ import annotations

from typing import Any

from fleet_world import NOW, TENANT, Machine, Told, anomaly, enrol_directly, health
from ingest_world import count, device, machine, store
from msgspec.structs import replace

from fleet.gauges import Gauges
from fleet.housekeeping import Housekeeping
from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.storage.base import Database
from fleet.storage.device_tables import Device
from fleet.storage.event_tables import Anomaly, HealthRecord
from protocol.messages.kinds import (
    AgentState,
    DeathReason,
    DriftState,
)
from protocol.messages.payloads import (
    AnomalyEvent,
    Birth,
    Death,
    DriftReport,
    Health,
)

__all__ = ["machine", "store"]  # the fixtures


def test_a_last_will_takes_a_device_offline_each_time_it_is_true(
    database: Database, store: EventStore, machine: Machine
) -> None:
    will = machine.arrival(Death(reason=DeathReason.LOST), sequence=0)
    for _ in range(2):
        store.store([machine.arrival(health())])
        assert device(database).online
        store.store([will])
        assert not device(database).online


def test_the_will_of_an_earlier_boot_does_not_take_a_device_offline(
    database: Database, store: EventStore, machine: Machine
) -> None:
    old_will = machine.arrival(Death(reason=DeathReason.LOST), sequence=0, retained=True)
    machine.boot = "boot-2"
    store.store([machine.arrival(Birth(agent_version="0.1.0", hardware="rpi4", family="motor")), old_will])
    assert device(database).online


def test_late_events_of_an_earlier_boot_are_stored_but_do_not_turn_the_view_back(
    database: Database, store: EventStore, machine: Machine
) -> None:
    old = machine.arrival(health(release="motor/1"), sequence=1)
    machine.boot = "boot-2"
    store.store([machine.arrival(health(release="motor/2"), at=NOW + 100)])
    store.store([old])
    assert device(database).release == "motor/2"
    assert count(database, HealthRecord) == 2


def test_out_of_order_health_of_one_boot_does_not_turn_the_view_back(
    database: Database, store: EventStore, machine: Machine
) -> None:
    store.store([machine.arrival(health(release="motor/2"), sequence=8)])
    store.store([machine.arrival(health(release="motor/1"), sequence=7)])
    assert device(database).release == "motor/2"


def test_drift_since_is_when_it_began_and_is_gone_after_recovery(
    database: Database, store: EventStore, machine: Machine
) -> None:
    store.store([machine.arrival(health(drifted=True, drift_score=1.2), at=NOW)])
    store.store([machine.arrival(health(drifted=True, drift_score=1.4), at=NOW + 50)])
    assert device(database).drift_since == NOW + 1
    recovered = DriftReport(
        release="motor/1", state=DriftState.RECOVERED, drift_score=0.2, observed_at_s=1, windows=1
    )
    store.store([machine.arrival(recovered, at=NOW + 60)])
    assert (device(database).drifted, device(database).drift_since) == (False, None)


def test_a_drift_that_a_person_called_normal_is_over_and_its_machine_is_not_back(
    database: Database, store: EventStore, machine: Machine
) -> None:
    """The trigger of training counted those still in drift: each word of an operator made the fleet look at home again."""

    def report(state: DriftState) -> DriftReport:
        return DriftReport(release="motor/1", state=state, drift_score=0.2, observed_at_s=1, windows=1)

    store.store([machine.arrival(report(DriftState.DRIFTED), at=NOW)])
    store.store([machine.arrival(report(DriftState.ACCEPTED), at=NOW + 60)])
    store.store([machine.arrival(health(drift_accepted=True), at=NOW + 70)])
    assert (device(database).drifted, device(database).drift_since) == (False, NOW + 1)
    store.store([machine.arrival(report(DriftState.DRIFTED), at=NOW + 80)])
    assert (device(database).drifted, device(database).drift_since) == (True, NOW + 81)
    store.store([machine.arrival(health(drifted=True, drift_accepted=True), at=NOW + 90)])
    assert (device(database).drifted, device(database).drift_since) == (True, NOW + 81)
    store.store([machine.arrival(health(), at=NOW + 100)])  # another release was committed
    assert (device(database).drifted, device(database).drift_since) == (False, None)


def test_a_device_that_falls_silent_goes_offline(
    database: Database, store: EventStore, machine: Machine
) -> None:
    store.store([machine.arrival(health()), machine.arrival(anomaly())])
    clock = [NOW + 100]
    keeper = Housekeeping(
        database,
        offline_after_s=120,
        now=lambda: clock[0],
        publisher=Told(),
    )
    keeper.tidy()
    assert device(database).online
    clock[0] = NOW + 122
    keeper.tidy()
    assert not device(database).online


def test_how_many_devices_are_blind_is_a_metric(
    database: Database, store: EventStore, machine: Machine
) -> None:
    metrics = FleetMetrics()
    gauges = Gauges(database, metrics, lambda: NOW)
    for state, blind in ((AgentState.WATCHING, 0.0), (AgentState.BLIND, 1.0)):
        store.store([machine.arrival(health(state=state, interval_judged=0))])
        gauges.count()
        assert metrics.registry.get_sample_value("fedge_fleet_devices", {"state": "blind"}) == blind


def test_a_device_that_falls_silent_goes_offline_though_the_clock_of_the_fleet_was_ahead_for_a_while(
    database: Database,
) -> None:
    quiet, loud = Machine(name="quiet-1"), Machine(name="loud-1")
    enrol_directly(database, quiet, loud)
    store = EventStore(database, TENANT, FleetMetrics())

    def hear(machine: Machine, received_at: float) -> None:
        plain = machine.arrival(health())
        store.store([replace(plain, received_at=received_at)])

    hear(quiet, NOW + 1e7)
    hear(loud, NOW + 1e7)
    hear(loud, NOW)
    Housekeeping(
        database,
        offline_after_s=90,
        now=lambda: NOW + 1,
        publisher=Told(),
    ).tidy()
    with database.read() as session:
        assert [session.get_one(Device, one.name).online for one in (quiet, loud)] == [False, True]
        assert session.get_one(Device, "loud-1").last_seen == NOW


def test_an_anomaly_alone_writes_the_row_of_its_device_once_in_a_while_and_never_makes_it_older(
    database: Database, store: EventStore, machine: Machine
) -> None:
    machine.number = 1

    def hear(data: AnomalyEvent | Health | Death, at: float, **told: Any) -> float | None:
        store.store([replace(machine.arrival(data, **told), received_at=NOW + at)])
        return device(database).last_seen

    assert hear(health(), 0.0) == NOW
    assert hear(anomaly(), 9.0) == NOW
    assert hear(anomaly(), 11.0) == NOW + 11.0, "it is known within ten seconds"
    assert hear(health(), 12.0) == NOW + 12.0, "what says more of the device is written each time"
    hear(Death(reason=DeathReason.LOST), 13.0, sequence=0)
    assert not device(database).online
    assert hear(anomaly(), 14.0) == NOW + 14.0
    assert device(database).online, "that it is there again is known at once"
    machine.boot, machine.number, machine.sequence = "boot-2", 2, 0
    assert hear(anomaly(), 15.0) == NOW + 15.0
    assert device(database).boot_id == "boot-2", "and that it has begun anew"
    assert count(database, Anomaly) == 4
