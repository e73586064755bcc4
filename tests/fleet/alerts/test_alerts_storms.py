"""What is told, and how often: storms are one message and one resolution, and nothing hides anything else."""

from __future__ import annotations

import pytest
from alerts_world import AlertsWorld

from fleet.alerts.outbox import Event
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
