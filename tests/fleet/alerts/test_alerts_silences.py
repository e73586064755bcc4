"""Silences: who is not told, what becomes of alarms that outlast them, and of those that were told before."""

from __future__ import annotations

from typing import Any

import pytest
from alerts_world import AlertsWorld
from fleet_world import NOW

from fleet.alert_settings import AlertKind
from fleet.alerts.outbox import Event
from fleet.alerts.silences import create_silence, end_silence
from fleet.errors import ConflictError, NotFoundError, QuerySyntaxError, UnacceptableError
from fleet.storage.base import Database


@pytest.fixture
def world(database: Database) -> AlertsWorld:
    return AlertsWorld(database)


def silence(world: AlertsWorld, query: str = "site==hall-1", **changes: Any) -> int:
    asked: dict[str, Any] = {
        "query": query,
        "kinds": [],
        "comment": "",
        "starts_at": world.now,
        "ends_at": world.now + 3600,
        "actor": "operator:ann",
        "now": world.now,
    }
    with world.database.write() as session:
        return create_silence(session, **asked | changes).id


def test_what_outlasts_a_silence_is_told_when_it_ends_and_what_does_not_is_never_told(
    world: AlertsWorld,
) -> None:
    world.enrol("press-1", "press-2", "press-3")
    world.enrol("far-1", site="hall-2")
    silence(world)
    world.alarm(world.machines)
    world.pass_time(600)
    assert world.ear.titles == ["Anomaly on far-1 at hall-2 (motor)"]
    world.calm(["press-1"])
    world.pass_time(2900)
    assert len(world.ear.heard) == 1
    world.pass_time(300)
    assert world.ear.titles[1:] == ["Anomaly on 2 devices at hall-1 (motor)"]
    world.calm(["press-2", "press-3"])
    world.pass_time(900)
    assert world.ear.titles[2:] == ["Over: Anomaly on 2 devices at hall-1 (motor)"]
    told = {alert.subject: alert.group is not None for alert in world.alerts()}
    assert told == {"press-1": False, "press-2": True, "press-3": True, "far-1": True}


def test_what_was_told_before_a_silence_is_told_to_be_over_within_it(world: AlertsWorld) -> None:
    world.enrol("press-1")
    world.alarm(["press-1"])
    world.pass_time(120)
    silence(world, query="")
    world.calm(["press-1"])
    world.pass_time(900)
    assert [message.event for message in world.ear.heard] == [Event.OPENED, Event.RESOLVED]


def test_a_silence_that_is_ended_before_its_time_lets_what_lasts_be_told(world: AlertsWorld) -> None:
    world.enrol("press-1")
    number = silence(world, ends_at=world.now + 80 * 86_400)
    world.alarm(["press-1"])
    world.pass_time(300)
    assert world.alerts()[0].silence == number
    with world.database.write() as session:
        end_silence(session, number, actor="operator:ann", now=world.now)
    world.pass_time(120)
    assert world.ear.titles == ["Anomaly on press-1 at hall-1 (motor)"]
    with world.database.write() as session:
        with pytest.raises(ConflictError, match="nothing is left to be ended"):
            end_silence(session, number, actor="operator:ann", now=world.now)
        with pytest.raises(NotFoundError, match="there is no silence 99"):
            end_silence(session, 99, actor="operator:ann", now=world.now)


def test_a_silence_is_of_some_kinds_begins_later_and_overlaps_with_others(world: AlertsWorld) -> None:
    world.enrol("press-1")
    silence(world, kinds=[AlertKind.DRIFT])
    silence(world, starts_at=world.now + 600, ends_at=world.now + 1200)
    silence(world, starts_at=world.now + 1100, ends_at=world.now + 2000)
    world.alarm(["press-1"])
    world.change("press-1", drifted=True)
    world.pass_time(300)
    assert world.ear.titles == ["Anomaly on press-1 at hall-1 (motor)"], "it is no drift, and not later"
    world.pass_time(400)
    world.change("press-1", agent_state="blind")
    world.pass_time(1100)
    assert len(world.ear.heard) == 1
    world.pass_time(400)
    assert world.ear.titles[1:] == ["Blind, judging nothing: press-1 at hall-1 (motor)"]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"query": "site==="}, QuerySyntaxError),
        ({"query": "state==blind"}, QuerySyntaxError),
        ({"starts_at": NOW + 10, "ends_at": NOW + 10}, UnacceptableError),
        ({"starts_at": NOW - 20, "ends_at": NOW - 10}, UnacceptableError),
        ({"ends_at": NOW + 93 * 86_400}, UnacceptableError),
        ({"starts_at": NOW + 1e9, "ends_at": NOW + 1e9 + 1}, UnacceptableError),
    ],
)
def test_a_silence_of_nothing_or_for_ever_is_refused(
    world: AlertsWorld, changes: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        silence(world, **changes)
