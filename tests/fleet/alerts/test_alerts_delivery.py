"""The outbox: nothing is lost while a receiver is away, nobody is drowned when it is back, and what is refused is shown."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from alerts_world import AlertsWorld
from told_servers import Authority

from fleet.alert_settings import AlertKind, Severity, SlackReceiver, WebhookReceiver
from fleet.alerts.digest import digest_lines
from fleet.alerts.messages import Message
from fleet.alerts.outbox import Delivered, Event, Later, Outcome, Refused, State, try_again
from fleet.gauges import Gauges
from fleet.metrics import FleetMetrics
from fleet.storage.base import Database

__all__ = ["Authority"]


def down(_messages: Sequence[Message]) -> Outcome:
    return Later("not reached")


def crowd(world: AlertsWorld, count: int) -> list[str]:
    """Devices of as many sites, so that each is a storm of its own."""
    names = [f"press-{number}" for number in range(count)]
    for name in names:
        world.enrol(name, site=f"hall-{name}")
    return names


def test_an_hours_outage_loses_nothing_and_ends_in_a_few_messages(database: Database) -> None:
    world = AlertsWorld(database, WebhookReceiver(name="programs", url="https://a/", per_minute=6))
    names = crowd(world, 60)
    world.ear.answer = down
    for name in names:
        world.alarm([name])
        world.pass_time(60)
    world.calm(names[:30])
    world.pass_time(400)
    assert not world.ear.heard
    assert world.ear.tried < 20, "it was asked ever less often"
    world.ear.answer = lambda _messages: Delivered()
    world.pass_time(1000)
    assert len(world.ear.heard) == len({message.id for message in world.ear.heard}) == 90
    assert len(world.ear.parcels) <= 3
    for name in names[:30]:
        events = [m.event for m in world.ear.heard if m.site == f"hall-{name}"]
        assert events == [Event.OPENED, Event.RESOLVED], "in the order in which they happened"
    assert {row.state for row in world.deliveries()} == {State.DELIVERED}


def test_each_receiver_is_told_what_it_wants_and_waits_for_no_other(database: Database) -> None:
    world = AlertsWorld(
        database,
        WebhookReceiver(name="all", url="https://a/"),
        WebhookReceiver(name="drifts", url="https://b/", kinds=(AlertKind.DRIFT,), send_resolved=False),
        WebhookReceiver(name="worst", url="https://c/", at_least=Severity.CRITICAL),
        WebhookReceiver(name="pumps", url="https://d/", families=("pump",), sites=("hall-9",)),
    )
    world.enrol("press-1")
    world.enrol("pump-1", family="pump", site="hall-9")
    world.ears["all"].answer = down
    world.alarm(["press-1", "pump-1"])
    world.change("press-1", drifted=True)
    world.pass_time(120)
    world.change("press-1", drifted=False)
    world.pass_time(600)
    assert world.ears["drifts"].titles == ["Drift on press-1 at hall-1 (motor)"]
    assert world.ears["pumps"].titles == ["Anomaly on pump-1 at hall-9 (pump)"]
    assert not world.ears["worst"].heard
    assert not world.ears["all"].heard


def test_what_is_refused_is_parked_shown_and_sent_again_when_somebody_says_so(database: Database) -> None:
    world = AlertsWorld(database)
    world.enrol("press-1", "press-2")
    world.ear.answer = lambda _messages: Refused("it answered 422")
    world.alarm(["press-1"])
    world.pass_time(300)
    assert (world.ear.tried, [row.state for row in world.deliveries()]) == (1, [State.PARKED])
    metrics = FleetMetrics()
    Gauges(database, metrics, lambda: world.now, world.settings.receivers).count()
    value = metrics.registry.get_sample_value
    assert value("fedge_fleet_alert_deliveries_parked", {"receiver": "programs"}) == 1
    assert value("fedge_fleet_alerts_open", {"kind": "anomaly"}) == 1
    world.ear.answer = lambda _messages: Delivered()
    with database.write() as session:
        assert try_again(session, "programs", world.now) == 1
    world.pass_time(60)
    assert world.ear.titles == ["Anomaly on press-1 at hall-1 (motor)"]


def test_one_message_that_fails_while_others_pass_holds_nobody_up_and_is_parked(database: Database) -> None:
    world = AlertsWorld(database, WebhookReceiver(name="programs", url="https://a/", per_minute=60))
    names = crowd(world, 12)

    def poisoned(messages: Sequence[Message]) -> Outcome:
        return Later("it answered 500") if any(m.site == "hall-press-0" for m in messages) else Delivered()

    world.ear.answer = poisoned
    for name in names:
        world.alarm([name])
        world.pass_time(900, every=60)
    assert {m.site for m in world.ear.heard} == {f"hall-{name}" for name in names[1:]}
    states = {row.state for row in world.deliveries() if row.event == Event.OPENED}
    assert states == {State.DELIVERED, State.PARKED}
    assert min(row.attempts for row in world.deliveries() if row.state == State.PARKED) > 10, (
        "not given up soon"
    )


def test_of_many_in_one_message_the_one_that_is_refused_is_found(database: Database) -> None:
    world = AlertsWorld(database, WebhookReceiver(name="programs", url="https://a/", per_minute=3))
    names = crowd(world, 10)

    def picky(messages: Sequence[Message]) -> Outcome:
        return Refused("it answered 400") if any(m.site == "hall-press-4" for m in messages) else Delivered()

    world.ear.answer = picky
    world.alarm(names)
    world.pass_time(900, every=30)
    assert {m.site for m in world.ear.heard} == {f"hall-{name}" for name in names} - {"hall-press-4"}
    assert [row.state for row in world.deliveries()].count(State.PARKED) == 1


def test_patience_that_is_asked_for_is_given(database: Database) -> None:
    world = AlertsWorld(database)
    world.enrol("press-1")
    world.ear.answer = lambda _messages: Later("it answered 429", 5000.0)
    world.alarm(["press-1"])
    world.pass_time(4800)
    assert world.ear.tried == 1
    world.pass_time(600)
    assert world.ear.tried == 2
    metrics = FleetMetrics()
    Gauges(database, metrics, lambda: world.now, world.settings.receivers).count()
    age = metrics.registry.get_sample_value("fedge_fleet_alert_undelivered_seconds", {"receiver": "programs"})
    assert age == pytest.approx(5400, abs=300)


def test_a_digest_says_what_is_open_first_and_what_is_over_once(
    database: Database, tmp_path_factory: pytest.TempPathFactory
) -> None:
    url_file = tmp_path_factory.mktemp("slack") / "url"
    world = AlertsWorld(database, SlackReceiver(name="channel", url_file=url_file))
    names = crowd(world, 8)
    world.ear.answer = down
    world.alarm(names)
    world.pass_time(300)
    world.calm(names[:6])
    world.pass_time(900)
    world.ear.answer = lambda _messages: Delivered()
    world.pass_time(1000)
    assert len(world.ear.parcels) == 1
    lines = digest_lines(world.ear.parcels[0])
    assert len(lines) == 8
    assert [line.startswith("error: Over: ") for line in lines] == [False] * 2 + [True] * 6
