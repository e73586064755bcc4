"""Ingest: stored once, acknowledged only when stored, nonsense refused."""

from __future__ import annotations

import base64

import pytest
from fleet_world import NOW, Machine, anomaly, arrival, health
from ingest_world import count, device, machine, store
from sqlalchemy import select

from fleet.ingest.judging import Arrival, RefusalReason
from fleet.ingest.store import EventStore
from fleet.storage.access_tables import AuditEntry
from fleet.storage.base import Database
from fleet.storage.boot_tables import EventRange
from fleet.storage.device_tables import Device, DeviceState
from fleet.storage.event_tables import Anomaly, DriftRecord, HealthRecord, InstallRecord
from protocol.messages.envelope import Event, encode
from protocol.messages.kinds import (
    AgentState,
    DriftState,
    InstallStatus,
    InstallStep,
    Kind,
    ShadowOutcome,
)
from protocol.messages.payloads import (
    Ack,
    Birth,
    BootAck,
    DriftReport,
    InstallReport,
    SensorShape,
    ShadowReport,
)

__all__ = ["machine", "store"]  # the fixtures


def test_an_event_that_arrives_three_times_is_stored_once_and_acknowledged_each_time(
    database: Database, store: EventStore, machine: Machine
) -> None:
    message = machine.arrival(anomaly())
    first = store.store([message, message])
    second = store.store([message])
    assert count(database, Anomaly) == 1
    expected = {"press-1": Ack(boots=(BootAck(boot_id="boot-1", ranges=((1, 1),)),))}
    assert first.acks == second.acks == expected
    assert (first.duplicates, second.duplicates) == (1, 1)


def test_acknowledged_ranges_show_the_gap_and_close_when_it_is_filled(
    database: Database, store: EventStore, machine: Machine
) -> None:
    store.store([machine.arrival(anomaly(), sequence=n) for n in (1, 2, 5, 6)])
    late = store.store([machine.arrival(anomaly(), sequence=4)])
    assert late.acks["press-1"].boots[0].ranges == ((4, 6),)
    whole = store.store([machine.arrival(anomaly(), sequence=3)])
    assert whole.acks["press-1"].boots[0].ranges == ((1, 6),)
    assert count(database, EventRange) == 1


def test_every_kind_of_uplink_reaches_its_table_with_its_figures(
    database: Database, store: EventStore, machine: Machine
) -> None:
    window = base64.b64encode(b"\0\0\x80?" * 6).decode()
    report = InstallReport(
        execution="e1",
        release="motor/2",
        counter=3,
        step=InstallStep.COMMITTED,
        status=InstallStatus.SUCCEEDED,
        active_release="motor/2",
        shadow=ShadowReport(outcome=ShadowOutcome.PASSED, windows=30),
    )  # fmt: skip - one line of fields
    drifted = DriftReport(
        release="motor/1",
        state=DriftState.SETTLED,
        drift_score=1.7,
        observed_at_s=5.0,
        windows=9,
        severity=2.5,
        shapes=(SensorShape(sensor="rms_0", psi=0.9, psi_by_chance=0.05, ks=0.3, ks_by_chance=0.05),),
    )  # fmt: skip - as above
    result = store.store(
        [
            machine.arrival(Birth(agent_version="0.1.0", hardware="rpi5", family="motor", release="motor/1")),
            machine.arrival(anomaly(window=window, window_shape=(3, 2), contributors=("rms_0",))),
            machine.arrival(health(anomaly_rate=0.25, interval_windows=40)),
            machine.arrival(drifted),
            machine.arrival(report),
        ]
    )
    assert not result.refusals
    with database.read() as session:
        stored = session.scalars(select(Anomaly)).one()
        assert (stored.window, stored.window_shape) == (b"\0\0\x80?" * 6, [3, 2])
        assert session.scalars(select(HealthRecord)).one().anomaly_rate == 0.25
        told = session.scalars(select(DriftRecord)).one()
        assert (told.state, told.drift_score, told.severity) == ("settled", 1.7, 2.5)
        assert told.shapes is not None
        assert told.shapes[0]["psi_by_chance"] == 0.05
        installed = session.scalars(select(InstallRecord)).one()
        assert installed.status == "SUCCEEDED"
        assert installed.shadow is not None
        assert (installed.shadow["outcome"], installed.shadow["windows"]) == ("passed", 30)
    row = device(database)
    assert (row.online, row.release, row.hardware, row.drifted) == (True, "motor/2", "rpi5", True)
    assert row.drift_since == NOW + 1
    assert row.last_health is not None
    assert row.last_health["interval_windows"] == 40
    assert row.last_health["drift_score"] == 0.0  # a default that the wire may leave out


def test_what_an_agent_cannot_know_is_stored_as_not_told_and_not_as_zero(
    database: Database, store: EventStore, machine: Machine
) -> None:
    store.store([machine.arrival(health(interval_windows=40))])
    old = device(database)
    assert old.last_health is not None
    untold = ("unjudged_windows", "restarts", "crashes", "missing", "sight", "set_aside_windows", "problems")
    unpromised = ("promised_per_1000", "realised_alarms", "realised_windows", "time_in_alarm_share")
    assert [old.last_health[name] for name in untold] == [None] * len(untold)
    assert [old.last_health[name] for name in unpromised] == [None] * 4
    assert (old.last_health["interval_windows"], old.agent_state) == (40, "watching")
    said = health(
        state=AgentState.BLIND,
        interval_windows=40,
        interval_judged=0,
        unjudged_windows=40,
        missing=("rms_h",),
        promised_per_1000=1.0,
        realised_windows=40,
    )
    store.store([machine.arrival(said)])
    new = device(database)
    assert new.last_health is not None
    assert [new.last_health[name] for name in untold] == [40, 0, 0, ["rms_h"], None, 0, []]
    assert [new.last_health[name] for name in unpromised] == [1.0, 0, 40, 0.0]
    assert new.agent_state == "blind"
    with database.read() as session:
        rows = session.scalars(select(HealthRecord).order_by(HealthRecord.sequence))
        assert [(row.interval_judged, row.state) for row in rows] == [(None, "watching"), (0, "blind")]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (encode(Machine(name="press-1").event(anomaly()))[:-20], RefusalReason.MALFORMED),
        (b"", RefusalReason.MALFORMED),
        (b"\xff\xfe", RefusalReason.MALFORMED),
        (b"[" * 1000, RefusalReason.TOO_LARGE),
        (b" " * 200_000, RefusalReason.TOO_LARGE),
        (
            encode(Machine(name="press-1").event(anomaly())).replace(b"anomaly.v1", b"anomaly.v9"),
            RefusalReason.VERSION,
        ),
        (encode(Machine(name="other").event(anomaly())), RefusalReason.WRONG_SOURCE),
        (encode(Machine(name="press-1").event(anomaly(), sequence=0)), RefusalReason.MALFORMED),
        (encode(Machine(name="press-1").event(anomaly(), sequence=2**63)), RefusalReason.MALFORMED),
        (encode(Machine(name="press-1").event(anomaly(window="?"))), RefusalReason.MALFORMED),
        (
            encode(Machine(name="press-1").event(anomaly(window="AAAA", window_shape=(2,)))),
            RefusalReason.MALFORMED,
        ),
        (  # a product of more digits than Python writes out
            encode(Machine(name="press-1").event(anomaly(window="AAAA", window_shape=(2**62,) * 300))),
            RefusalReason.MALFORMED,
        ),
    ],
)
def test_a_bad_message_is_dropped_audited_in_one_line_and_does_not_disturb_its_neighbours(
    database: Database, store: EventStore, machine: Machine, payload: bytes, reason: RefusalReason
) -> None:
    good = machine.arrival(anomaly())
    bad = Arrival(topic=good.topic, payload=payload, retained=False, received_at=NOW)
    result = store.store([bad, good, bad])
    assert [refusal.reason for refusal in result.refusals] == [reason, reason]
    assert result.acks["press-1"].boots[0].ranges == ((1, 1),)
    with database.read() as session:
        line = session.scalars(select(AuditEntry).where(AuditEntry.action == "message_refused")).one()
    assert line.subject == "press-1"
    assert line.detail["reason"] == reason


def test_a_number_that_no_column_holds_loses_its_own_message_only(
    database: Database, store: EventStore, machine: Machine
) -> None:
    poison = machine.arrival(anomaly(window_index=2**63))
    result = store.store(
        [machine.arrival(anomaly()), poison, machine.arrival(anomaly()), machine.arrival(health())]
    )
    assert [refusal.device for refusal in result.refusals] == ["press-1"]
    assert result.acks["press-1"].boots[-1].ranges[-1][-1] == 4
    assert (count(database, Anomaly), count(database, HealthRecord)) == (2, 1)


@pytest.mark.parametrize(
    "topic", ["fedge/v1/other/press-1/anomaly", "fedge/v1/demo/press-1/desired", "a/b", "x" * 500]
)
def test_a_message_on_a_foreign_topic_is_refused(store: EventStore, machine: Machine, topic: str) -> None:
    payload = machine.arrival(anomaly()).payload
    result = store.store([Arrival(topic=topic, payload=payload, retained=False, received_at=NOW)])
    assert [refusal.reason for refusal in result.refusals] == [RefusalReason.TOPIC]
    assert not result.acks


def test_messages_of_unknown_and_of_revoked_devices_are_neither_stored_nor_acknowledged(
    database: Database, store: EventStore, machine: Machine
) -> None:
    with database.write() as session:
        row = session.get(Device, "press-1")
        assert row is not None
        row.state = DeviceState.REVOKED
    result = store.store([machine.arrival(anomaly()), Machine(name="stranger").arrival(anomaly())])
    assert not result.acks
    assert count(database, Anomaly) == 0
    assert {refusal.reason for refusal in result.refusals} == {RefusalReason.UNKNOWN_DEVICE}


def test_an_event_with_the_topic_of_another_kind_is_refused(store: EventStore, machine: Machine) -> None:
    event: Event = machine.event(health())
    message = arrival(event)
    wrong = Arrival(
        topic=message.topic.replace(Kind.HEALTH.value, Kind.BIRTH.value),
        payload=message.payload,
        retained=False,
        received_at=NOW,
    )  # fmt: skip - one line of fields
    assert [r.reason for r in store.store([wrong]).refusals] == [RefusalReason.MALFORMED]
