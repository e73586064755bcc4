"""Ingest: stored once, acknowledged only when stored, nonsense refused, the view of a device kept true."""

from __future__ import annotations

import base64
from dataclasses import replace
from itertools import pairwise

import pytest
from fleet_world import NOW, TENANT, Machine, Told, anomaly, arrival, enrol_directly, health
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select

from fleet.housekeeping import Housekeeping
from fleet.ingest.judging import Arrival, RefusalReason
from fleet.ingest.sequences import containing, contains, gap_count, merge
from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.storage.access_tables import AuditEntry
from fleet.storage.base import Database
from fleet.storage.boot_tables import EventRange
from fleet.storage.device_tables import Device, DeviceState
from fleet.storage.event_tables import Anomaly, DriftRecord, HealthRecord, InstallRecord
from protocol.messages.envelope import Event, encode
from protocol.messages.kinds import (
    AgentState,
    DeathReason,
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
    Death,
    DriftReport,
    InstallReport,
    SensorShape,
    ShadowReport,
)


@pytest.fixture
def store(database: Database) -> EventStore:
    return EventStore(database, TENANT, FleetMetrics())


@pytest.fixture
def machine(database: Database) -> Machine:
    machine = Machine(name="press-1")
    enrol_directly(database, machine)
    return machine


def count(database: Database, table: type) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def device(database: Database, name: str = "press-1") -> Device:
    with database.read() as session:
        row = session.get(Device, name)
        assert row is not None
        return row


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


def test_a_device_that_falls_silent_goes_offline_and_old_health_goes_away(
    database: Database, store: EventStore, machine: Machine
) -> None:
    store.store([machine.arrival(health()), machine.arrival(anomaly())])
    clock = [NOW + 100]
    keeper = Housekeeping(
        database,
        FleetMetrics(),
        offline_after_s=120,
        health_history_s=1000,
        now=lambda: clock[0],
        publisher=Told(),
    )
    keeper.tidy()
    assert device(database).online
    clock[0] = NOW + 122
    keeper.tidy()
    assert not device(database).online
    clock[0] = NOW + 1002
    keeper.tidy()
    assert (count(database, HealthRecord), count(database, Anomaly)) == (0, 1)


def test_how_many_devices_are_blind_is_a_metric(
    database: Database, store: EventStore, machine: Machine
) -> None:
    metrics = FleetMetrics()
    keeper = Housekeeping(
        database,
        metrics,
        offline_after_s=120,
        health_history_s=1000,
        now=lambda: NOW,
        publisher=Told(),
    )
    for state, blind in ((AgentState.WATCHING, 0.0), (AgentState.BLIND, 1.0)):
        store.store([machine.arrival(health(state=state, interval_judged=0))])
        keeper.tidy()
        assert metrics.registry.get_sample_value("fedge_fleet_devices", {"state": "blind"}) == blind


@given(st.lists(st.lists(st.integers(1, 60), max_size=12), max_size=8))
def test_merged_ranges_hold_exactly_the_sequences_given_and_never_touch(batches: list[list[int]]) -> None:
    ranges: tuple[tuple[int, int], ...] = ()
    naive: set[int] = set()
    for batch in batches:
        ranges = merge(ranges, batch)
        naive |= set(batch)
    assert {n for first, last in ranges for n in range(first, last + 1)} == naive
    assert all(a[1] + 1 < b[0] for a, b in pairwise(ranges))
    assert all(contains(ranges, n) == (n in naive) for n in range(62))
    assert gap_count(ranges) == (max(naive) - min(naive) + 1 - len(naive) if naive else 0)


@given(st.sets(st.integers(1, 60)), st.lists(st.integers(0, 62), max_size=10))
def test_the_ranges_that_hold_sequences_are_those_a_plain_search_finds(
    stored: set[int], asked: list[int]
) -> None:
    ranges = merge([], stored)
    plain = [r for r in ranges if any(r[0] <= s <= r[1] for s in asked)]
    assert containing(ranges, asked) == plain
    assert [contains(ranges, s) for s in asked] == [s in stored for s in asked]


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
        FleetMetrics(),
        offline_after_s=90,
        health_history_s=1e6,
        now=lambda: NOW + 1,
        publisher=Told(),
    ).tidy()
    with database.read() as session:
        assert [session.get_one(Device, one.name).online for one in (quiet, loud)] == [False, True]
        assert session.get_one(Device, "loud-1").last_seen == NOW
