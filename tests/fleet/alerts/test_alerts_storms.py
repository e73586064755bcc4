"""What is told, and how often: storms are one message and one resolution, and nothing hides anything else."""

from __future__ import annotations

import pytest
from alerts_world import AlertsWorld
from sqlalchemy import delete

from fleet import audit
from fleet.alert_settings import AlertKind
from fleet.alerts.outbox import Event
from fleet.changes.change import ChangeKind, Marks
from fleet.changes.query import present_marks, read_changes
from fleet.erasure import erase_device
from fleet.storage.alert_tables import Alert, AlertPlace
from fleet.storage.base import Database


@pytest.fixture
def world(database: Database) -> AlertsWorld:
    return AlertsWorld(database)


def test_an_anomaly_is_told_once_and_once_that_it_is_over(world: AlertsWorld) -> None:
    world.enrol("press-1")
    world.alarm(["press-1"])
    world.pass_time(60)
    assert world.ear.titles == ["Anomaly on press-1 at hall-1 (motor)"]
    opened = world.ear.heard[0]
    assert opened.event is Event.OPENED
    assert opened.url == f"https://fleet.example/alerts?group={opened.dedup_key}"
    world.pass_time(3600)
    world.calm(["press-1"])
    world.pass_time(3600)
    assert world.ear.titles[1:] == ["Over: Anomaly on press-1 at hall-1 (motor)"]
    over = world.ear.heard[1]
    assert (over.dedup_key, over.event) == (opened.dedup_key, Event.RESOLVED)
    assert over.id != opened.id
    assert "it lasted 20 s" in " ".join(over.facts)


@pytest.mark.slow
def test_ten_thousand_anomalies_of_one_storm_are_one_message_and_one_resolution(world: AlertsWorld) -> None:
    names = [f"press-{number}" for number in range(1000)]
    world.enrol(*names)
    for number in range(10):
        world.alarm(names, episode=f"e-{number}")
        world.pass_time(20, every=10)
    world.pass_time(300)
    assert world.ear.titles == ["Anomaly on 1000 devices at hall-1 (motor)"]
    assert world.ear.heard[0].times >= 1000
    for number in range(10):
        world.calm(names, episode=f"e-{number}")
    world.pass_time(600)
    assert world.ear.titles[1:] == ["Over: Anomaly on 1000 devices at hall-1 (motor)"]
    assert world.ear.heard[1].times == 10_000
    assert len(world.groups()) == 1
    world.pass_time(7200, every=300)
    assert len(world.ear.heard) == 2


def test_an_alarm_after_a_pause_is_told_though_an_older_one_lasts(world: AlertsWorld) -> None:
    world.enrol("press-1", "press-2", "press-3")
    world.alarm(["press-1"])
    world.pass_time(1200)
    world.alarm(["press-2"])
    world.pass_time(60)
    world.alarm(["press-3"])
    world.pass_time(600)
    assert world.ear.titles == [
        "Anomaly on press-1 at hall-1 (motor)",
        "Anomaly on press-2 at hall-1 (motor)",
    ], "the third belongs to the storm of the second"
    assert [group.resolved_at for group in world.groups()] == [None, None]


def test_a_storm_that_never_pauses_is_told_anew_every_hour(world: AlertsWorld) -> None:
    names = [f"press-{number}" for number in range(31)]
    world.enrol(*names)
    for name in names:
        world.alarm([name])
        world.pass_time(240)
    assert len(world.ear.heard) == 2
    assert len(world.groups()) == 2


def test_families_and_sites_are_storms_of_their_own(world: AlertsWorld) -> None:
    world.enrol("press-1", "press-2")
    world.enrol("pump-1", family="pump")
    world.enrol("far-1", site="hall-2")
    world.alarm(world.machines)
    world.pass_time(120)
    assert sorted(world.ear.titles) == [
        "Anomaly on 2 devices at hall-1 (motor)",
        "Anomaly on far-1 at hall-2 (motor)",
        "Anomaly on pump-1 at hall-1 (pump)",
    ]


def test_who_flaps_is_told_ever_less_often(world: AlertsWorld) -> None:
    world.enrol("press-1")
    for number in range(12):  # each lasts a minute, and ten minutes later comes the next
        world.alarm(["press-1"], episode=f"e-{number}")
        world.pass_time(60)
        world.calm(["press-1"], episode=f"e-{number}")
        world.pass_time(600)
    assert len(world.ear.heard) == 3
    assert {alert.hold_s for alert in world.alerts()} == {300.0, 600.0}
    world.pass_time(900)
    assert world.ear.heard[-1].event is Event.RESOLVED
    assert sum(alert.times for alert in world.alerts()) == 12


def test_an_anomaly_that_began_and_ended_while_nobody_looked_is_told_all_the_same(world: AlertsWorld) -> None:
    world.enrol("press-1")
    world.turn()
    world.calm(["press-1"])
    world.alarm(["press-1"])
    world.now += 7200
    world.pass_time(600)
    assert [message.event for message in world.ear.heard] == [Event.OPENED, Event.RESOLVED]


def test_an_agent_that_tells_no_ends_is_calm_after_an_hour_of_quiet(world: AlertsWorld) -> None:
    world.enrol("press-1")
    world.alarm(["press-1"], episode=None)
    world.pass_time(1800)
    world.alarm(["press-1"], episode=None)
    world.pass_time(3000)
    assert len(world.ear.heard) == 1
    world.pass_time(1200)
    assert world.ear.heard[-1].event is Event.RESOLVED


def test_a_device_that_is_away_drifts_or_is_blind_is_told_when_it_lasts(world: AlertsWorld) -> None:
    world.enrol("press-1", "press-2")
    world.change("press-1", online=False)
    world.pass_time(200)
    world.change("press-1", online=True)
    world.pass_time(600)
    assert not world.ear.heard, "it was away for less than silent_after_s"
    world.change("press-1", online=False)
    world.pass_time(700)
    world.change("press-2", drifted=True, drift_score=2.5)
    world.pass_time(200)
    world.change("press-2", agent_state="blind")
    world.pass_time(200)
    assert world.ear.titles == [
        "Nothing heard from press-1 at hall-1 (motor)",
        "Drift on press-2 at hall-1 (motor)",
        "Blind, judging nothing: press-2 at hall-1 (motor)",
    ]
    world.change("press-1", online=True)
    world.change("press-2", drifted=False, state="revoked")
    world.pass_time(900)
    assert [title.partition(": ")[0] for title in world.ear.titles[3:]] == ["Over"] * 3


def test_when_no_device_is_heard_that_is_told_and_not_each_of_them(world: AlertsWorld) -> None:
    names = [f"press-{number}" for number in range(8)]
    world.enrol(*names)
    for name in names:
        world.change(name, online=False)
    world.pass_time(3600)
    assert world.ear.titles == ["No device at all is heard by the fleet"]
    for name in names[:7]:
        world.change(name, online=True)
        world.pass_time(2, every=2)
    world.pass_time(200)
    assert len(world.ear.heard) == 1
    world.pass_time(600)
    assert sorted(world.ear.titles[1:]) == [
        "Nothing heard from press-7 at hall-1 (motor)",
        "Over: No device at all is heard by the fleet",
    ]


def test_a_clock_that_was_set_back_holds_nothing_up(world: AlertsWorld) -> None:
    world.enrol("press-1", "press-2")
    world.pass_time(60)
    world.alarm(["press-1"])
    world.change("press-2", online=False)
    world.turn()
    world.now -= 86_400
    world.pass_time(1200)
    assert sorted(world.ear.titles) == [
        "Anomaly on press-1 at hall-1 (motor)",
        "Nothing heard from press-2 at hall-1 (motor)",
    ]
    assert {alert.kind for alert in world.alerts()} == {AlertKind.ANOMALY, AlertKind.SILENT}


def test_the_first_look_tells_what_lasts_and_nothing_of_the_past(database: Database) -> None:
    before = AlertsWorld(database)
    before.enrol("press-1", "press-2")
    before.alarm(["press-1"])
    before.change("press-2", drifted=True)
    with database.write() as session:
        for table in (Alert, AlertPlace):
            session.execute(delete(table))
    world = AlertsWorld(database)
    world.pass_time(120)
    assert world.ear.titles == ["Drift on press-2 at hall-1 (motor)"]


def test_what_was_erased_is_named_nowhere_and_what_comes_after_it_is_told(world: AlertsWorld) -> None:
    world.enrol("press-1", "press-2")
    world.alarm(["press-1", "press-2"])
    world.turn()
    with world.database.write() as session:
        erase_device(session, "press-2", actor="admin:ann", now=world.now)
        erase_device(session, "press-1", actor="admin:ann", now=world.now)
    assert not world.alerts()
    world.alarm(["press-1"], episode="two")
    world.pass_time(120)
    assert world.alerts()[0].episode == "two", "SQLite has given the number of the erased one again"
    assert not any(
        "press-2" in line for message in world.ear.heard for line in [message.title, *message.facts]
    )


def test_reminders_are_sent_where_they_are_wanted(database: Database) -> None:
    world = AlertsWorld(database, remind_every_s=3600.0)
    world.enrol("press-1")
    world.alarm(["press-1"])
    world.pass_time(2 * 3600 + 300)
    assert [message.event for message in world.ear.heard] == [Event.OPENED, Event.REMINDER, Event.REMINDER]
    assert len({message.id for message in world.ear.heard}) == 3


def test_rollouts_and_what_the_audit_log_says_are_told(world: AlertsWorld) -> None:
    world.enrol("press-1")
    with world.database.write() as session:
        for action, subject in (
            ("release_published", "motor/2"),
            ("message_refused", "press-1"),
            ("enrolment_refused", "press-9"),
            ("identity_conflict", "press-1"),
        ):
            audit.record(session, at=world.now, actor="fleet", action=action, subject=subject, reason="why")
    world.pass_time(120)
    assert sorted(world.ear.titles) == [
        "Enrolment refused: press-9",
        "Messages not taken from press-1 at hall-1 (motor)",
        "Release published: motor/2 (motor)",
        "Two devices use the identity of press-1 at hall-1 (motor)",
    ]
    with world.database.write() as session:
        audit.record(
            session, at=world.now, actor="fleet", action="identity_conflict_ended", subject="press-1"
        )
    world.pass_time(3600 + 900)
    over = [title for title in world.ear.titles if title.startswith("Over")]
    assert len(over) == 3, "a release that was published is never over"


def test_who_listens_hears_when_a_storm_is_told_and_when_it_is_over_and_nothing_in_between(
    world: AlertsWorld,
) -> None:
    def heard_since(place: Marks) -> tuple[list[ChangeKind], Marks]:
        with world.database.read() as session:
            batch = read_changes(session, place)
        return [change.kind for _, change in batch.changes if change.kind is ChangeKind.ALERT], batch.marks

    world.enrol("press-1")
    with world.database.read() as session:
        place = present_marks(session)
    world.alarm(["press-1"])
    told, place = heard_since(place)
    assert told == [], "nobody has been told yet"
    world.pass_time(60)
    told, place = heard_since(place)
    assert told == [ChangeKind.ALERT]
    assert Marks.parse(str(place)) == place
    world.pass_time(600)
    told, place = heard_since(place)
    assert told == []
    world.calm(["press-1"])
    world.pass_time(3600)
    told, place = heard_since(place)
    assert told == [ChangeKind.ALERT]
    assert heard_since(place) == ([], place)
    before_alerts_were_told = str(place).rpartition(".")[0]
    assert heard_since(Marks.parse(before_alerts_were_told))[0] == [ChangeKind.ALERT]
