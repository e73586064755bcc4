"""A database of the last schema, with rows in it, is brought to this one."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from databases import Databases
from fleet_world import NOW, TENANT, Machine, anomaly, closed, health
from sqlalchemy import JSON, Boolean, Double, column, select, table, text

from fleet.device_commands import words_for
from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.migrations.upgrade import _config, open_storage
from fleet.rollouts.store import find_rollout
from fleet.storage.base import Database, open_database
from fleet.storage.command_tables import CommandRecord
from fleet.storage.device_tables import Device
from fleet.storage.event_tables import Anomaly, HealthRecord
from fleet.storage.schema import METADATA
from fleet.storage.verdict_tables import VerdictRecord
from protocol.messages.kinds import AgentState
from protocol.messages.payloads import Payload
from protocol.names import DeviceId
from runtime.errors import StorageError

ROLLOUT = {
    "id": "ro-1",
    "name": "old",
    "family": "motor",
    "release": "motor/2",
    "state": "RUNNING",
    "since": NOW,
    "created_at": NOW,
    "created_by": "operator:ann",
    "author": "ann",
    "needs_approval": False,
}


def rows_before(database: Database) -> None:
    """One row of each table that revision 0003 changes or that refers to one, written as the fleet before it did."""
    event = {"device": "press-1", "boot_id": "b", "sent_at": NOW, "received_at": NOW, "release": "motor/1"}
    inserts = {
        "devices": {
            "id": "press-1",
            "fingerprint": "f",
            "public_key": "p",
            "hardware": "rpi4",
            "family": "motor",
            "labels": {},
            "state": "enrolled",
            "enrolled_at": NOW,
            "broker_password_hash": "-",
            "online": True,
            "heard_sequence": 2,
            "heard_sent_at": NOW,
            "drifted": False,
            "last_health": {"state": "commissioning", "windows": 7},
        },
        "anomalies": event
        | {
            "sequence": 1,
            "score": 2.0,
            "threshold": 1.0,
            "window_index": 7,
            "windows_over": 1,
            "observed_at_s": 70.0,
            "contributors": [],
            "window_shape": [],
        },
        "health_reports": event
        | {
            "sequence": 2,
            "anomaly_rate": 0.5,
            "drift_score": 0.1,
            "drifted": False,
            "inference_p99_us": 20.0,
            "interval_windows": 30,
            "payload": {"state": "commissioning"},
        },
        "verdicts": {
            "anomaly": 1,
            "family": "motor",
            "release": "motor/1",
            "verdict": "true_alarm",
            "author": "ann",
            "note": "",
            "given_at": NOW,
            "first_given_at": NOW,
        },
    }
    kinds = {dict: JSON(), list: JSON(), bool: Boolean(), float: Double()}
    with database.write() as session:
        for name, values in inserts.items():
            columns = (column(key, kinds.get(type(value))) for key, value in values.items())
            session.execute(table(name, *columns).insert().values(values))


@pytest.mark.parametrize("is_emptied", [False, True], ids=["with rows", "down and up again"])
def test_the_former_schema_with_rows_in_it_becomes_this_one(databases: Databases, is_emptied: bool) -> None:
    with databases.fresh(is_migrated=False) as url:
        former = open_database(url)
        with former.write() as session:
            command.upgrade(_config(session), "0002")
        rows_before(former)
        former.close()
        database = open_storage(url)
        if is_emptied:
            with database.write() as session:
                command.downgrade(_config(session), "0002")
            database.close()
            database = open_storage(url)
        with database.engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
        with database.read() as session:
            assert session.get_one(Device, "press-1").agent_state == "commissioning"
            old = session.scalars(select(Anomaly)).one()
            assert (old.score, old.episode, old.end) == (2.0, None, None)
            health_row = session.scalars(select(HealthRecord)).one()
            assert (health_row.interval_windows, health_row.interval_judged, health_row.state) == (
                30,
                None,
                None,
            )
            assert session.scalars(select(VerdictRecord.verdict)).one() == "true_alarm"
        machine = Machine(name="press-1", boot="c")
        said: list[Payload] = [
            anomaly(episode="e"),
            closed("e"),
            health(state=AgentState.BLIND, interval_windows=30, interval_judged=0),
        ]
        result = EventStore(database, TENANT, FleetMetrics()).store([machine.arrival(one) for one in said])
        assert not result.refusals
        with database.read() as session:
            assert session.get_one(Device, "press-1").agent_state == "blind"
            (new,) = session.scalars(select(Anomaly).where(Anomaly.episode == "e"))
            assert new.end is not None
            assert new.end.windows == 9
            assert session.scalar(text("SELECT COUNT(*) FROM anomalies")) == 2
        database.close()


def test_a_plan_with_metrics_of_success_is_one_with_limits_and_no_gates(databases: Databases) -> None:
    asked = [
        {"name": "anomaly_rate", "op": "<", "value": 0.2, "vs": None, "ratio": None, "floor": None},
        {"name": "drift_score", "op": "<=", "value": None, "vs": "control", "ratio": 2.0, "floor": None},
    ]
    plan = {
        "name": "old",
        "release": "motor/2",
        "groups": [{"percentage": 100, "soak_s": 60}],
        "success": {"threshold_pct": 90, "metrics": asked},
    }
    with databases.fresh(is_migrated=False) as url:
        former = open_database(url)
        with former.write() as session:
            command.upgrade(_config(session), "0015")
            rollouts = table("rollouts", column("plan", JSON()), *map(column, ROLLOUT))
            session.execute(rollouts.insert().values(plan=plan, **ROLLOUT))
        former.close()
        database = open_storage(url)
        with database.read() as session:
            became = find_rollout(session, "ro-1")[0].plan
        assert [(one.metric, one.op, one.value) for one in became.limits] == [("anomaly_rate", "<", 0.2)]
        assert (became.gates, became.success.threshold_pct) == (None, 90)
        with database.write() as session:
            command.downgrade(_config(session), "0015")
            (back,) = session.scalars(select(rollouts.c.plan))
        assert back["success"]["metrics"] == [{"name": "anomaly_rate", "op": "<", "value": 0.2}]
        database.close()


def test_who_has_a_device_is_known_also_of_rollouts_from_before_it_was_written_down(
    databases: Databases,
) -> None:
    """An earlier rollout would else send back devices that a later one has: by a person's word, or a late failure of a return."""
    plan = {"name": "old", "release": "motor/2", "groups": [{"percentage": 100}], "success": {}}
    given = {"ro-1": NOW, "ro-2": NOW + 60, "ro-3": NOW + 120, "ro-4": None}
    execution = {"device": "press-1", "group_number": 0, "state": "SUCCEEDED", "reason": "", "since": NOW}
    execution |= {"attempt": 1, "returns": 0}
    with databases.fresh(is_migrated=False) as url:
        former = open_database(url)
        with former.write() as session:
            command.upgrade(_config(session), "0002")
        rows_before(former)
        with former.write() as session:
            command.upgrade(_config(session), "0015")
            rollouts = table("rollouts", column("plan", JSON()), *map(column, ROLLOUT))
            executions = table("rollout_executions", *map(column, [*execution, "rollout", "given_at"]))
            for name, at in given.items():
                done = ROLLOUT | {"id": name, "state": "COMPLETED"}
                session.execute(rollouts.insert().values(plan=plan, **done))
                session.execute(executions.insert().values(rollout=name, given_at=at, **execution))
        former.close()
        database = open_storage(url)
        with database.read() as session:
            has = {name: find_rollout(session, name)[0].executions[DeviceId("press-1")] for name in given}
        database.close()
    assert {name: one.superseded_by for name, one in has.items()} == {
        "ro-1": "ro-2",
        "ro-2": "ro-3",
        "ro-3": None,
        "ro-4": None,
    }


@pytest.mark.parametrize(("obeyed", "status"), [(6, "WAITING"), (7, "DONE")])
def test_what_people_called_normal_before_commands_is_a_command_done_or_waiting(
    databases: Databases, obeyed: int, status: str
) -> None:
    with databases.fresh(is_migrated=False) as url:
        former = open_database(url)
        with former.write() as session:
            command.upgrade(_config(session), "0002")
        rows_before(former)
        with former.write() as session:
            command.upgrade(_config(session), "0005")
            told = f'{{"accepted": {obeyed}}}'
            session.execute(text("UPDATE devices SET last_health = :told"), {"told": told})
            session.execute(
                text("INSERT INTO normal_windows VALUES ('press-1', 7, :at, 'operator:ann', :at)"),
                {"at": NOW},
            )
        former.close()
        database = open_storage(url)
        with database.read() as session:
            (row,) = session.scalars(select(CommandRecord))
            word = words_for(session, ["press-1"])["press-1"]
        database.close()
        assert (row.number, row.action, row.arguments) == (7, "accept-as-normal", {"until_s": NOW})
        assert (row.status, row.asked_by) == (status, "operator:ann")
        assert (word.counter, [one.number for one in word.outstanding]) == (7, [7] if obeyed < 7 else [])


def test_no_command_of_this_build_changes_the_schema_below_an_older_service(databases: Databases) -> None:
    """One without a lock by which it could be seen; those since 0017 on PostgreSQL: test_replica_words.py."""
    with databases.fresh(is_migrated=False) as url, closing(open_database(url)) as former:
        with former.write() as session:
            command.upgrade(_config(session), "0015")
        with pytest.raises(
            StorageError, match=r"schema is 0015, .* another process has the database: .* stop it"
        ):
            open_storage(url)
        with former.write() as session:
            assert session.scalar(text("SELECT version_num FROM alembic_version")) == "0015"
        former.close()
        open_storage(url).close()


def test_an_upgrade_waits_for_an_older_command_that_only_asks_something(databases: Databases) -> None:
    with databases.fresh(is_migrated=False) as url, closing(open_database(url)) as former:
        with former.write() as session:
            command.upgrade(_config(session), "0015")
        end = threading.Timer(0.3, former.close)
        end.start()
        open_storage(url).close()
        end.join()
