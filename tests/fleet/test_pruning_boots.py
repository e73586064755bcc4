"""Boots and the numbers of their events: what is said again is stored once for as long as anything is kept, and then they go."""

from __future__ import annotations

from typing import Any

import pytest
from fleet_world import NOW, Machine, anomaly, closed, enrol_directly, health
from ingest_world import count, device, machine, store
from sqlalchemy import delete, select, update

from fleet.ingest.store import EventStore
from fleet.retention.health_blocks import HealthRollUp
from fleet.retention.pruning import Pruning
from fleet.settings import RetentionSettings
from fleet.storage.base import Database
from fleet.storage.boot_tables import Boot, EventRange, IdentityConflict
from fleet.storage.event_tables import Anomaly, AnomalyEnd, DriftRecord, HealthRecord
from fleet.storage.verdict_tables import Verdict, VerdictRecord
from protocol.messages.kinds import DriftState
from protocol.messages.payloads import DriftReport

__all__ = ["machine", "store"]  # the fixtures

DAY = 86_400.0
YEARS = NOW + 800 * DAY


def pruned(database: Database, now: float) -> dict[str, int]:
    HealthRollUp(database, offline_after_s=120).roll_up()
    return Pruning(database, RetentionSettings(), now=lambda: now).prune()


def test_health_that_a_boot_says_again_after_days_of_silence_is_not_stored_a_second_time(
    database: Database, store: EventStore, machine: Machine
) -> None:
    said = [health() for _ in range(4)]
    store.store([machine.arrival(one) for one in said])
    with database.write() as session:
        session.execute(update(Boot).values(closed_to=3))
    assert pruned(database, NOW + 3 * DAY) == {"health_reports": 1}, (
        "which is none that only its row tells of"
    )
    back = NOW + 3 * DAY
    again = store.store([machine.arrival(one, sequence=at, at=back) for at, one in enumerate(said, 1)])
    assert (again.stored, again.duplicates, count(database, HealthRecord)) == ({}, 4, 3)
    assert pruned(database, YEARS) == {"health_reports": 3, "health_blocks": 1}, "when all is gone, they go"


def two_boots(store: EventStore, machine: Machine) -> None:
    machine.number = 1
    store.store([machine.arrival(one) for one in (health(), health())])
    machine.restart("boot-2", 2)
    store.store([machine.arrival(health(), at=NOW + 1)])


def test_a_boot_of_which_nothing_is_left_goes_with_its_ranges_and_the_present_one_stays(
    database: Database, store: EventStore, machine: Machine
) -> None:
    two_boots(store, machine)
    assert pruned(database, NOW + 364 * DAY).keys() == {"health_reports", "health_blocks"}
    assert pruned(database, YEARS) == {"boots": 1}
    with database.read() as session:
        assert session.scalars(select(Boot.boot_id)).all() == ["boot-2"]
        assert session.scalars(select(EventRange.boot_id)).all() == ["boot-2"]
    machine.restart("boot-1", 1)
    late = store.store([machine.arrival(anomaly(), sequence=3, at=YEARS)])
    assert late.acks, "one that speaks all the same is heard"
    assert device(database).boot_id == "boot-2", "and is no later for that"


@pytest.mark.parametrize("held_by", ["a verdict", "two devices with one identity"])
def test_a_boot_of_which_something_is_needed_stays(
    database: Database, store: EventStore, machine: Machine, held_by: str
) -> None:
    machine.number = 1
    store.store([machine.arrival(anomaly())])
    two_boots(store, machine) if held_by != "a verdict" else machine.restart("boot-2", 2)
    store.store([machine.arrival(health(), at=NOW + 2)])
    with database.write() as session:
        if held_by == "a verdict":
            anomalies = session.scalars(select(Anomaly.id)).one()
            words: dict[str, Any] = {"family": "motor", "release": "motor/1", "author": "ann", "note": ""}
            session.add(
                VerdictRecord(
                    anomaly=anomalies,
                    verdict=Verdict.TRUE_ALARM,
                    given_at=NOW,
                    first_given_at=NOW,
                    **words,
                )
            )
        else:
            session.add(
                IdentityConflict(
                    device="press-1",
                    boots=["boot-1", "boot-2"],
                    speaker="boot-1",
                    signs=1,
                    seen_at=YEARS,
                    since=None,
                    is_one_number=True,
                    message="",
                )
            )
    for _ in range(2):
        assert "boots" not in pruned(database, YEARS)
    assert count(database, Boot) == 2


def test_a_number_is_given_once_also_where_the_last_row_has_gone(
    database: Database, store: EventStore
) -> None:
    one = Machine(name="press-2")
    enrol_directly(database, one)
    drift = DriftReport(
        release="motor/1", state=DriftState.RECOVERED, drift_score=2.0, observed_at_s=1.0, windows=3
    )
    tables = (Anomaly, AnomalyEnd, DriftRecord)
    numbers = []
    for turn in range(2):
        said = (anomaly(episode=f"e-{turn}"), closed(f"e-{turn}"), drift)
        store.store([one.arrival(data) for data in said])
        with database.write() as session:
            numbers.append([session.scalars(select(table.id)).one() for table in tables])
            for table in tables:
                session.execute(delete(table))
    assert all(before < after for before, after in zip(*numbers, strict=True))
