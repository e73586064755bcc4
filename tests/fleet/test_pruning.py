"""What was kept for long enough goes, a little at a time; what somebody still needs stays."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from fleet_world import NOW, TENANT, Machine, anomaly, closed, enrol_directly, health
from rollout_world import RolloutWorld
from sqlalchemy import func, insert, select, update

from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.retention.health_blocks import HealthRollUp
from fleet.retention.hour_blocks import HourBlocks, join_blocks
from fleet.retention.pruning import HELD_S, Pruning
from fleet.rollouts.states import Verb
from fleet.settings import RetentionSettings
from fleet.storage.base import Database
from fleet.storage.block_tables import HealthBlock, RollUp
from fleet.storage.boot_tables import Boot
from fleet.storage.device_tables import Desired
from fleet.storage.event_tables import Anomaly, HealthRecord, InstallRecord
from fleet.storage.rollout_tables import RolloutExecution, RolloutGroup, RolloutRecord, RolloutTransition
from fleet.storage.verdict_tables import Verdict, VerdictRecord

DAY = 86_400.0
YEARS = NOW + 800 * DAY


def count(database: Database, table: type[Any]) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def pruned(database: Database, now: float, at_once: int = 1000) -> dict[str, int]:
    return Pruning(database, RetentionSettings(), now=lambda: now, at_once=at_once).prune()


@pytest.fixture
def machine(database: Database) -> Machine:
    made = Machine(name="press-1", number=1)
    enrol_directly(database, made)
    return made


@pytest.fixture
def store(database: Database) -> EventStore:
    return EventStore(database, TENANT, FleetMetrics())


def test_health_goes_after_a_day_but_not_before_it_is_in_a_block(
    database: Database, store: EventStore, machine: Machine
) -> None:
    store.store([machine.arrival(health()) for _ in range(5)])
    assert pruned(database, NOW + 2 * DAY) == {}, "it is in no block yet"
    HealthRollUp(database, offline_after_s=120).roll_up()
    assert pruned(database, NOW + 0.9 * DAY) == {}
    assert pruned(database, NOW + 2 * DAY, at_once=3) == {"health_reports": 3}
    assert pruned(database, NOW + 2 * DAY, at_once=3) == {"health_reports": 2}
    assert count(database, HealthBlock) == 1
    assert pruned(database, NOW + 91 * DAY) == {"health_blocks": 1}


def test_an_anomaly_goes_after_a_year_unless_it_lasts_or_a_person_has_judged_it(
    database: Database, store: EventStore, machine: Machine
) -> None:
    store.store(
        [
            machine.arrival(one)
            for one in (
                anomaly(),
                anomaly(episode="lasts"),
                anomaly(episode="over"),
                closed("over"),
                anomaly(),
            )
        ]
    )
    with database.write() as session:
        judged = session.scalars(select(Anomaly.id).order_by(Anomaly.id.desc()).limit(1)).one()
        words = {"family": "motor", "release": "motor/1", "author": "ann", "note": ""}
        said = VerdictRecord(
            anomaly=judged, verdict=Verdict.TRUE_ALARM, given_at=NOW, first_given_at=NOW, **words
        )
        session.add(said)
    assert pruned(database, NOW + 364 * DAY) == {}
    assert pruned(database, YEARS) == {"anomalies": 2, "anomaly_ends": 1}
    with database.read() as session:
        left = session.execute(select(Anomaly.id, Anomaly.episode).order_by(Anomaly.id)).all()
    assert [episode for _, episode in left] == ["lasts", None]
    assert left[1][0] == judged


def test_rows_that_alone_tell_what_of_a_boot_has_come_stay_while_it_speaks(
    database: Database, store: EventStore, machine: Machine
) -> None:
    store.store([machine.arrival(anomaly()) for _ in range(4)])
    with database.write() as session:
        session.execute(update(Boot).values(closed_to=2, last_received=YEARS))
    assert pruned(database, YEARS) == {"anomalies": 2}
    again = machine.arrival(anomaly(), sequence=1)
    store.store([again])
    assert count(database, Anomaly) == 2, "what was stored before is not stored a second time"
    with database.write() as session:
        session.execute(update(Boot).values(last_received=NOW))
    assert pruned(database, YEARS) == {"anomalies": 2}


def test_an_open_rollout_holds_what_it_compares_and_a_finished_one_goes_as_a_whole(
    database: Database, world: RolloutWorld
) -> None:
    world.now = NOW
    rollout = world.started(groups=[{"percentage": 100, "soak_s": 3600}])
    world.tick()
    world.install(world.devices)
    world.health(world.devices[0])
    with database.write() as session:
        session.merge(RollUp(table_name="health_reports", done_to=10**9))
    # this world's devices began long ago, and said nothing before they began again
    assert pruned(database, NOW + 3 * DAY).keys() == {"boots"}, "its health, its reports and its lines stay"
    assert pruned(database, NOW + HELD_S + 2 * DAY) == {"health_reports": 1}, "but not for ever"
    assert count(database, InstallRecord) == len(world.devices)
    world.say(rollout, Verb.CANCEL)
    world.tick()
    gone = pruned(database, NOW + 100 * DAY)
    assert gone.keys() - {"boots"} == {"install_reports", "rollout_timeline"}
    assert pruned(database, YEARS).keys() <= {"boots"}, "its release is what devices shall run"
    with database.write() as session:
        session.execute(Desired.__table__.delete())
    for _ in range(2):
        pruned(database, YEARS)
    for table in (RolloutRecord, RolloutGroup, RolloutExecution, RolloutTransition):
        assert count(database, table) == 0


def test_a_rollout_that_is_begun_while_old_health_goes_keeps_what_it_needs(
    world: RolloutWorld, database: Database
) -> None:
    world.now = NOW
    world.health(world.devices[0])
    with database.write() as session:
        session.merge(RollUp(table_name="health_reports", done_to=10**9))
    pruning = Pruning(database, RetentionSettings(), now=lambda: NOW + 2 * DAY)
    read = database.read

    def read_and_then_begin() -> Any:
        database.read = read  # type: ignore[method-assign] # once
        found = read()
        world.started(groups=[{"percentage": 100, "soak_s": 3600}])
        world.tick()
        return found

    database.read = read_and_then_begin  # type: ignore[method-assign]
    pruning.prune()
    assert count(database, HealthRecord) == 1


def block(start: int, **sums: float) -> HealthBlock:
    zero = dict.fromkeys((column.key for column in HealthBlock.__table__.columns), 0)
    made = zero | {"device": "press-1", "start": start, "release": "motor/1", "silence_at": None}
    return HealthBlock(**made | {"first_at": start + 1.0, "last_at": start + 590.0} | sums)


def test_blocks_of_ten_minutes_become_one_of_an_hour_with_the_same_sums_and_the_same_slope() -> None:
    # y = 2 + 3 t, t in hours from the hour's start, at six moments
    moments = [(start, 0.05) for start in range(0, 3600, 600)]
    parts = [
        block(start, reports=1, memory_count=1, memory_t=t, memory_tt=t * t, memory_y=y, memory_ty=t * y)
        for start, t in moments
        for y in [2 + 3 * (start / 3600 + t)]
    ]
    one = join_blocks(parts, offline_after_s=120)
    n, t, tt, y, ty = (one[f"memory_{name}"] for name in ("count", "t", "tt", "y", "ty"))
    assert (n * ty - t * y) / (n * tt - t * t) == pytest.approx(3.0)
    assert (one["start"], one["reports"], one["first_at"], one["last_at"]) == (0, 6, 1.0, 3590.0)
    assert one["silences"] == 0
    quiet = join_blocks([parts[0], parts[3]], offline_after_s=120)
    assert (quiet["silences"], quiet["silence_at"]) == (1, 710.0)


def test_a_week_old_blocks_are_joined_hour_by_hour_and_going_on_after_a_kill_changes_nothing(
    database: Database,
) -> None:
    first = int(NOW) // 3600 * 3600
    rows = [
        {column.key: getattr(one, column.key) for column in HealthBlock.__table__.columns}
        | {"device": f"press-{number}"}
        for number in range(60)
        for one in (block(first + start, reports=2) for start in range(0, 7200, 600))
    ]
    with database.write() as session:
        session.execute(insert(HealthBlock), rows)

    def joining() -> HourBlocks:
        after = first + 8 * DAY - DAY + 3600
        return HourBlocks(database, fine_blocks_s=7 * DAY, offline_after_s=120, now=lambda: after)

    turns = 0
    while joining().join():  # each time anew, as after a kill
        turns += 1
    assert turns == 3, "two crowds of devices, and the end of the hour"
    with database.read() as session:
        starts = dict(
            session.execute(select(HealthBlock.start, func.count()).group_by(HealthBlock.start)).all()
        )
        assert session.scalar(select(func.sum(HealthBlock.reports))) == 60 * 12 * 2
    assert starts.pop(first) == 60
    assert set(starts) == set(range(first + 3600, first + 7200, 600)), "the hour after it is not due yet"


def test_pruning_holds_up_a_writer_for_no_longer_than_its_share(database: Database) -> None:
    rows: list[dict[str, Any]] = [
        {
            "device": f"d{n % 100}",
            "boot_id": "b",
            "sequence": n,
            "sent_at": NOW,
            "received_at": NOW,
            "anomaly_rate": 0.0,
            "drift_score": 0.0,
            "drifted": False,
            "inference_p99_us": 1.0,
            "interval_windows": 1,
            "payload": {},
        }
        for n in range(6000)
    ]
    with database.write() as session:
        session.execute(insert(HealthRecord), rows)
        session.merge(RollUp(table_name="health_reports", done_to=10**9))
    removed = threading.Thread(target=lambda: [pruned(database, NOW + 2 * DAY) for _ in range(12)])
    removed.start()
    waited = []
    while removed.is_alive():
        began = time.monotonic()
        with database.write():
            waited.append(time.monotonic() - began)
    removed.join()
    assert count(database, HealthRecord) == 0
    assert len(waited) >= 6, "between two transactions others come to write"
