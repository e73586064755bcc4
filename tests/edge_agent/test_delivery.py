"""Delivery against a real Mosquitto: what it refuses, what it forgets, and a fleet that is away behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent_broker import ListeningFleet
from agent_world import DEVICE
from delivery_world import Delivery
from mosquitto_broker import MosquittoBroker
from outbox_world import anomaly, health

from protocol.messages.kinds import Kind

pytestmark = pytest.mark.slow
WINDOW = "A" * 30_000


@pytest.fixture
def deliver(tmp_path: Path) -> Iterator[Callable[..., Delivery]]:
    made: list[Delivery] = []

    def start(broker: MosquittoBroker, **more: object) -> Delivery:
        shown = broker.certificates.connection(DEVICE)
        made.append(Delivery(tmp_path, broker.url, broker.ca_file, certificate=shown, **more))  # type: ignore[arg-type] # as the test says
        return made[-1]

    yield start
    for delivery in made:
        delivery.close()


@pytest.mark.parametrize("setting", ["message_size_limit 20000", "max_packet_size 20000"])
def test_a_message_that_the_broker_does_not_take_blocks_no_other_and_leaves_its_window_behind(
    tmp_path: Path, deliver: Callable[..., Delivery], setting: str
) -> None:
    with MosquittoBroker(tmp_path, knows_clients=True, settings=[setting]) as broker:
        fleet = ListeningFleet(broker)
        try:
            device = deliver(broker)
            device.telemetry.post([anomaly(), anomaly(WINDOW), anomaly(), health(), anomaly(WINDOW)])
            device.turn_until(lambda: not len(device.outbox), "everything", lambda: len(fleet.events))
            assert len(fleet.of(Kind.ANOMALY)) == 4
            assert all(not e.data.window for e in fleet.of(Kind.ANOMALY))  # type: ignore[union-attr] # anomalies
            assert device.link.connections <= 8
            assert device.counters.telemetry_bytes < 400_000
            assert any("the broker takes no message of" in text for text in device.telemetry.problems())
            connections = device.link.connections
            device.telemetry.post([anomaly(WINDOW), health()])
            device.turn_until(lambda: not len(device.outbox), "the next large one")
            assert device.link.connections == connections, "what is too large is known now"
        finally:
            fleet.close()


def test_what_a_broker_forgot_is_sent_again_and_nothing_twice_that_it_delivers(
    tmp_path: Path, deliver: Callable[..., Delivery]
) -> None:
    with MosquittoBroker(tmp_path, knows_clients=True) as broker:
        device = deliver(broker, resend_s=1.5)
        device.turn_until(lambda: device.link.is_connected, "the connection")
        device.telemetry.post([anomaly() for _ in range(50)])
        # Nobody listens: the broker acknowledges and forgets.
        device.turn_until(lambda: device.outbox.silence_s(device.telemetry._clock_s) > 3.0, "a silence")
        fleet = ListeningFleet(broker)
        try:
            device.turn_until(lambda: not len(device.outbox), "everything", lambda: len(fleet.events))
            assert len(fleet.of(Kind.ANOMALY)) == 50
            assert len(fleet.deliveries) <= 51, "the knock alone may come twice"
        finally:
            fleet.close()


def test_a_connection_that_dies_with_events_under_way_costs_each_of_them_one_more_delivery_at_most(
    tmp_path: Path, deliver: Callable[..., Delivery]
) -> None:
    with MosquittoBroker(tmp_path, knows_clients=True, settings=["max_inflight_messages 1"]) as broker:
        device = deliver(broker)
        fleet = ListeningFleet(broker)
        device.turn_until(lambda: device.link.is_connected, "the connection")
        device.telemetry.post([anomaly(WINDOW) for _ in range(20)])
        device.turn_until(lambda: len(fleet.events) >= 3, "the first ones")
        broker.kill()
        fleet.close()
        early = list(fleet.deliveries)
        broker.start()
        fleet = ListeningFleet(broker)
        try:
            device.turn_until(lambda: not len(device.outbox), "the rest", lambda: len(fleet.events))
            deliveries = early + fleet.deliveries
            assert len(set(deliveries)) == 20
            assert max(deliveries.count(event) for event in set(deliveries)) <= 2
            assert device.outbox.parked == []
        finally:
            fleet.close()


def test_bytes_sent_are_those_that_left(tmp_path: Path, deliver: Callable[..., Delivery]) -> None:
    with MosquittoBroker(tmp_path, knows_clients=True, settings=["log_type all"]) as broker:
        device = deliver(broker)
        device.telemetry.post([anomaly(WINDOW) for _ in range(30)])
        for _ in range(5):
            device.telemetry.deliver(0.0)
        assert device.counters.telemetry_bytes < 1000, "nothing has left before there is a connection"
        fleet = ListeningFleet(broker)
        try:
            device.turn_until(lambda: not len(device.outbox), "everything", lambda: len(fleet.events))
            device.turn()
            assert 900_000 < device.counters.telemetry_bytes < 1_100_000
        finally:
            fleet.close()
