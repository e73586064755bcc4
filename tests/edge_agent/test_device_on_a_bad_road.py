"""A real agent and a real Mosquitto with a bad road between them: every anomaly arrives once, whatever happens to any message."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from agent_broker import ListeningFleet, agents_broker
from agent_world import (
    DEVICE,
    faulty,
    health_of_status,
    healthy,
    make_bundle,
    running_agent,
    status_of,
    write_device,
)
from fault_laboratory.road import Cut, Message, Packet, Road
from mosquitto_broker import MosquittoBroker
from waiting import died, wait_until

from protocol.messages.kinds import Kind
from protocol.messages.payloads import AnomalyClosed, AnomalyEvent

pytestmark = pytest.mark.slow
MESSAGES: Final = range(1, 9)
"""Of a connection, in each direction: greetings, subscription, birth, the first events, acknowledgements."""
DELAY_S: Final = 3.0
"""For which a message is held: longer than what the devices here send again after, `resend_s`."""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MosquittoBroker]:
    with agents_broker(tmp_path) as made:
        yield made


@pytest.fixture
def road(broker: MosquittoBroker) -> Iterator[Road]:
    with Road(broker.port, dialled=lambda: broker.client_tls(broker.certificates.device(DEVICE))) as made:
        yield made


def device(folder: Path, road: Road) -> Path:
    """Faults of 10 windows in every 30, at 60 windows a second: two anomalies a second, opened and ended."""
    rows = np.concatenate([healthy(100), *([faulty(10), healthy(20, 9) * 0.5] * 6)])
    return write_device(
        folder,
        rows=rows,
        speed=60.0,
        mqtt_url=f"mqtt://127.0.0.1:{road.listen}",
        bundle=make_bundle(),
        extra="[outbox]\nresend_s = 0.5\n",
    )


def opened_on(config: Path) -> int:
    """How many anomalies the device itself says it opened."""
    count = health_of_status(config).get("anomalies", 0)
    assert isinstance(count, int)
    return count


class Fault:
    """A rule that does one thing to one message of the next connection, and then lets everything pass."""

    def __init__(self, kind: str, number: int, from_device: bool) -> None:
        self.kind, self.number, self.from_device = kind, number, from_device
        self.is_done = False
        self._held: list[bytes] = []

    def __call__(self, message: Message) -> list[bytes]:
        held, content = self._held, message.content
        if held and message.from_device is self.from_device:
            self._held = []
            return [content, *held]  # what was held back comes after its successor
        if self.is_done or (message.number, message.from_device) != (self.number, self.from_device):
            return [content]
        self.is_done = True
        match self.kind:
            case "cut":
                raise Cut
            case "truncated":
                raise Cut(content[: len(content) // 2])
            case "lost":
                return []
            case "delayed":
                threading.Event().wait(DELAY_S)
            case "doubled":
                return [content, content]
            case "reordered":
                self._held = [content]
                return []
            case "garbled":
                content = bytes(byte ^ 0xA5 for byte in content)
            case other:
                raise AssertionError(other)
        return [content]

    def __str__(self) -> str:
        return f"{self.kind} message {self.number} {'up' if self.from_device else 'down'}"


def faults(kinds: tuple[str, ...], numbers: range) -> list[Fault]:
    return [Fault(*parts) for parts in itertools.product(kinds, numbers, (True, False))]


QUICK: Final = faults(("cut", "truncated", "lost"), range(2, 9, 3))
ALL: Final = faults(("cut", "truncated", "lost", "delayed", "doubled", "reordered", "garbled"), MESSAGES)


@pytest.mark.parametrize("tried", [QUICK, pytest.param(ALL, marks=pytest.mark.long)], ids=["some", "all"])
def test_every_anomaly_arrives_once_whatever_happens_to_any_message(
    tmp_path: Path,
    broker: MosquittoBroker,
    road: Road,
    capsys: pytest.CaptureFixture[str],
    tried: list[Fault],
) -> None:
    config, fleet = device(tmp_path / "d", road), ListeningFleet(broker)
    with running_agent(config) as agent:
        for fault in tried:
            road.rule = fault
            road.cut()
            known = opened_on(config)
            wait_until(
                lambda: fault.is_done and opened_on(config) > known,  # noqa: B023 - called in this turn only
                f"the road to have {fault}",
                unless=lambda: died(agent, tmp_path / "d" / "agent.log"),
            )
        road.rule = lambda message: [message.content]
        (config.parent / "machine.json").write_text(json.dumps({"rows": [0, 100], "loop": True}))
        wait_until(
            lambda: (
                not status_of(config).get("alarm_open")
                and len(fleet.of(Kind.CLOSED)) == len(fleet.of(Kind.ANOMALY)) == opened_on(config)
            ),
            "every anomaly and its end at the fleet, and the machine to be calm",
            unless=lambda: died(agent, tmp_path / "d" / "agent.log"),
        )
    events = [event.data for event in fleet.of(Kind.ANOMALY)]
    assert all(isinstance(data, AnomalyEvent) for data in events)
    episodes = Counter(data.episode for data in events if isinstance(data, AnomalyEvent))
    assert [episode for episode, count in episodes.items() if count > 1] == []
    ends = Counter(e.data.episode for e in fleet.of(Kind.CLOSED) if isinstance(e.data, AnomalyClosed))
    assert max(ends.values()) == 1
    assert set(ends) == set(episodes)
    with capsys.disabled():
        print(
            f"\n{len(tried)} faults on the road, {road.connections} connections, {len(events)} anomalies",
            end=" ",
        )
    fleet.close()


def test_a_broker_that_greets_and_then_falls_silent_is_left(
    tmp_path: Path, broker: MosquittoBroker, road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDGE_AGENT_MQTT__KEEPALIVE_S", "2")
    road.rule = lambda message: (
        [message.content] if message.packet in {Packet.CONNECT, Packet.CONNACK} else []
    )
    config, fleet = device(tmp_path / "d", road), ListeningFleet(broker)
    with running_agent(config) as agent:
        log = tmp_path / "d" / "agent.log"
        wait_until(
            lambda: road.connections >= 3,
            "the agent to hang up and dial again",
            unless=lambda: died(agent, log),
        )
        road.rule = lambda message: [message.content]
        known = opened_on(config)
        assert known > 0, "it watched all the time"
        wait_until(
            lambda: len(fleet.of(Kind.ANOMALY)) >= known, "every anomaly", unless=lambda: died(agent, log)
        )
    fleet.close()


@pytest.mark.long
def test_a_road_that_breaks_every_moment_still_carries_everything(
    tmp_path: Path, broker: MosquittoBroker, road: Road
) -> None:
    config, fleet = device(tmp_path / "d", road), ListeningFleet(broker)
    with running_agent(config) as agent:
        log = tmp_path / "d" / "agent.log"
        wait_until(lambda: opened_on(config) > 0, "the first anomaly", unless=lambda: died(agent, log))
        flaps = itertools.count()

        def flap() -> bool:
            if next(flaps) % 20 == 0:
                road.cut()
            return road.connections > 12

        wait_until(flap, "a dozen connections", unless=lambda: died(agent, log))
        known = opened_on(config)
        wait_until(
            lambda: len(fleet.of(Kind.ANOMALY)) >= known, "every anomaly", unless=lambda: died(agent, log)
        )
    fleet.close()
