"""What a device says of an installation or a command counts where its own key sealed it, and nowhere else; on either database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fleet_world import NOW, TENANT, Machine, anomaly, arrival, enrol_directly, health
from ingest_world import count, store
from msgspec.structs import replace
from rollout_world import DEVICE_KEY, RolloutWorld
from sqlalchemy import select

from fleet.ingest.judging import RefusalReason
from fleet.ingest.replay import replay
from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.storage.access_tables import AuditEntry
from fleet.storage.base import Database
from fleet.storage.dead_letter_tables import DeadLetter
from fleet.storage.device_tables import Device
from fleet.storage.event_tables import Anomaly, InstallRecord
from protocol.messages.commands import CommandResult
from protocol.messages.envelope import Event
from protocol.messages.kinds import CommandStatus, InstallStatus, InstallStep
from protocol.messages.payloads import InstallReport
from protocol.sealed_events import seal

__all__ = ["store"]  # the fixture

OTHER = ec.generate_private_key(ec.SECP256R1())


def report(**changes: Any) -> InstallReport:
    fields: dict[str, Any] = {
        "execution": "e1",
        "release": "motor/1",
        "counter": 4,
        "step": InstallStep.COMMITTED,
        "status": InstallStatus.SUCCEEDED,
        "active_release": "motor/1",
    }
    return InstallReport(**fields | changes)


@pytest.fixture
def machine(database: Database) -> Machine:
    machine = Machine(name="press-1")
    enrol_directly(database, machine, Machine(name="press-2"))
    return machine


def letters(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(select(DeadLetter.reason).order_by(DeadLetter.id)))


FORGERIES: dict[str, Callable[[Event, Machine], Event]] = {
    "another key": lambda event, _: seal(
        replace(event, seal=None), OTHER, tenant=TENANT, device=event.source, nonce="0" * 32
    ),
    "another tenant": lambda event, machine: seal(
        replace(event, seal=None), machine.key, tenant="other", device=event.source, nonce="0" * 32
    ),
    "another status": lambda event, _: replace(event, data=replace(event.data, status=InstallStatus.FAILED)),
    "another sequence": lambda event, _: replace(event, sequence=99),
    "another boot": lambda event, _: replace(event, boot_id="boot-2"),
    "another number of the boot": lambda event, _: replace(event, boot_number=7),
}


@pytest.mark.parametrize("how", sorted(FORGERIES))
def test_a_forged_report_is_counted_and_told_to_people_and_its_device_hears_nothing(
    database: Database, store: EventStore, machine: Machine, how: str
) -> None:
    true = machine.event(report())
    result = store.store([arrival(FORGERIES[how](true, machine))])
    assert [one.reason for one in result.refusals] == [RefusalReason.FORGED]
    assert (result.acks, count(database, InstallRecord), letters(database)) == ({}, 0, [])
    with database.read() as session:
        lines = session.scalars(select(AuditEntry).where(AuditEntry.action == "message_refused")).all()
    assert [(line.subject, line.detail["reason"]) for line in lines] == [("press-1", "forged")]
    assert "not signed by whom it must come from" in lines[0].detail["message"]
    stored = store.store([arrival(true)])
    assert (stored.refusals, count(database, InstallRecord)) == ([], 1), "what it really said is taken"


def test_a_report_of_one_device_is_none_of_another(
    database: Database, store: EventStore, machine: Machine
) -> None:
    stolen = replace(machine.event(report()), source="press-2")
    result = store.store([arrival(stolen)])
    assert [one.reason for one in result.refusals] == [RefusalReason.FORGED]
    assert count(database, InstallRecord) == 0


def test_an_older_agents_report_is_kept_as_a_dead_letter_and_its_device_is_told(
    database: Database, store: EventStore, machine: Machine
) -> None:
    result_of_command = CommandResult(number=7, action="diagnose", status=CommandStatus.DONE)
    said = [machine.event(report()), machine.event(result_of_command), machine.event(anomaly())]
    result = store.store([arrival(replace(event, seal=None)) for event in said])
    assert [one.reason for one in result.refusals] == [RefusalReason.UNSIGNED] * 2
    assert letters(database) == ["unsigned", "unsigned"]
    told = result.acks["press-1"].refused
    assert [one.sequence for one in told] == [1, 2], "it keeps them no longer: they are here"
    assert (
        "is not signed; its sender is older than this version; install this fleet's version" in told[0].reason
    )
    assert (count(database, InstallRecord), count(database, Anomaly)) == (0, 1), "what needs no seal is taken"
    with database.read() as session:
        numbers = list(session.scalars(select(DeadLetter.id)))
    assert replay(database, store, numbers, actor="operator:ann", now=NOW).stored == (), (
        "nobody can sign it for it"
    )
    assert count(database, InstallRecord) == 0


def test_a_report_whose_seal_was_taken_away_on_the_way_is_not_forgotten_by_its_device(
    database: Database, store: EventStore, machine: Machine
) -> None:
    """A device with a certificate of this fleet's has an agent that seals: told that it was refused, it would not say it again."""
    with database.write() as session:
        session.get_one(Device, "press-1").certificate_serial = "1f"
    true = machine.event(report())
    result = store.store([arrival(replace(true, seal=None))])
    assert [one.reason for one in result.refusals] == [RefusalReason.FORGED]
    assert (result.acks, count(database, InstallRecord), letters(database)) == ({}, 0, [])
    assert (store.store([arrival(true)]).refusals, count(database, InstallRecord)) == ([], 1)


def test_a_stranger_and_a_revoked_device_get_no_further_by_a_seal(
    database: Database, store: EventStore, machine: Machine
) -> None:
    nobody = Machine(name="nobody")
    result = store.store([nobody.arrival(report())])
    assert [one.reason for one in result.refusals] == [RefusalReason.UNKNOWN_DEVICE]
    assert (result.acks, letters(database)) == ({}, [])


def test_a_report_that_is_brought_again_changes_nothing_however_late(world: RolloutWorld) -> None:
    """A broker that keeps what devices said cannot take an execution back."""
    store = EventStore(world.database, TENANT, FleetMetrics())
    rollout = world.started(groups=[{"percentage": 100}])
    kept = []
    for name in world.devices:
        machine, wanted = Machine(name=name, key=DEVICE_KEY), world.desired(name)
        assert wanted is not None
        parts = {"execution": wanted.execution, "release": wanted.release, "counter": wanted.counter}
        failed = report(
            **parts, step=InstallStep.FAILED, status=InstallStatus.FAILED, active_release="pump/1"
        )
        kept.append(machine.event(failed))
        done = machine.event(report(**parts, active_release="pump/2"))
        store.store([arrival(kept[-1]), arrival(done)])
    world.tick(1)
    assert world.view(rollout).counts == {"SUCCEEDED": 12}
    for _ in range(3):
        result = store.store([arrival(event) for event in kept])
        assert result.duplicates == len(kept)
        world.tick(1)
    assert world.view(rollout).counts == {"SUCCEEDED": 12}
    late = Machine(name=world.devices[0], key=DEVICE_KEY, boot="boot-0")
    wanted = world.desired(late.name)
    assert wanted is not None
    old = report(
        execution=wanted.execution,
        release="pump/2",
        step=InstallStep.DOWNLOADING,
        status=InstallStatus.IN_PROGRESS,
    )
    store.store([arrival(late.event(old, at=NOW - 9000.0))])
    world.tick(1)
    assert world.view(rollout).counts == {"SUCCEEDED": 12}, "nor does one that it held back until now"


def test_many_devices_in_a_batch_are_told_apart(database: Database, store: EventStore) -> None:
    machines = [Machine(name=f"d-{number}") for number in range(20)]
    enrol_directly(database, *machines)
    said = [one.arrival(data) for one in machines for data in (health(), report(), anomaly())]
    forged = [arrival(FORGERIES["another key"](one.event(report()), one)) for one in machines[::2]]
    result = store.store([*said, *forged])
    assert (len(result.refusals), count(database, InstallRecord), count(database, Anomaly)) == (10, 20, 20)
