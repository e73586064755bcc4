"""A fleet that is silent: the outbox knocks with little, keeps what counts, and sends everything once it is answered."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from outbox_world import WINDOW, ack, anomaly, event, health, moment, open_outbox, refusal, send, sequences

from edge_agent.link import Fate, Outcome
from edge_agent.pace import KNOCK_BYTES

pytestmark = pytest.mark.edge


def test_a_silent_fleet_gets_knocks_and_its_return_makes_everything_due(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(i, anomaly(WINDOW)) for i in range(1, 30)] + [event(30, health())], now=moment())
    first_window = sequences(outbox)
    assert 0 < len(first_window) < 29
    quiet = [(float(s), entry) for s in range(1, 600) for entry in send(outbox, float(s))]
    knocks = [at for at, entry in quiet if len(entry.payload) <= KNOCK_BYTES]
    assert all(later - earlier >= 20 for earlier, later in pairwise(knocks))
    assert len(knocks) >= 25
    assert sum(len(entry.payload) for _, entry in quiet) < 32_768 + 600 * (48 + 80) + 40_000
    outbox.acknowledge([ack((30, 30))], 600.0)
    again: set[int] = set()
    for tenth in range(6010, 6100):
        for entry in send(outbox, tenth / 10):
            again.add(entry.sequence)
            outbox.acknowledge([ack((entry.sequence, entry.sequence))], tenth / 10)
    assert again == set(range(1, 30)), "within ten seconds, at the fleet's own pace"
    assert len(outbox) == 0


def test_after_a_long_silence_nothing_waits_for_the_pause_that_had_grown(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(1, anomaly()), event(2, health())], now=moment())
    often = sum(entry.sequence == 1 for second in range(7200) for entry in send(outbox, float(second)))
    assert 5 < often < 12, "sent again and again, after pauses that grew beyond an hour"
    outbox.acknowledge([ack((2, 2))], 7200.0)
    assert sequences(outbox, 7201.0) == [1]


def test_with_nothing_small_left_the_first_event_of_the_start_is_the_knock(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(1, health())], now=moment())
    send(outbox)
    outbox.acknowledge([ack((1, 1))], 0.1)
    outbox.put([event(i, anomaly(WINDOW)) for i in range(2, 4)], now=moment())
    assert sequences(outbox, 1.0) == [2, 3]
    assert sequences(outbox, 12.0) == [1]
    assert outbox.acknowledge([ack((1, 1))], 12.1) == 0
    assert sequences(outbox, 12.2) == [2, 3], "its confirmation ends the silence"


def test_a_refusal_is_an_answer_too(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(1, health()), event(2, anomaly(WINDOW))], now=moment())
    send(outbox)
    outbox.acknowledge([refusal(1, "unknown device")], 0.1)
    outbox.put([event(3, anomaly(WINDOW))], now=moment())
    send(outbox, 1.0)
    assert sequences(outbox, 12.0) == [1], "the knock"
    assert outbox._pace.is_silent(12.0)
    outbox.acknowledge([refusal(1, "unknown device")], 12.1)
    assert not outbox._pace.is_silent(12.2)


def test_a_new_connection_does_not_end_a_silence(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(i, anomaly(WINDOW)) for i in range(1, 20)], now=moment())
    total = 0
    for second in range(3600):
        # A broker that lets the device in, takes nothing, and hangs up; again every six seconds.
        sent = send(outbox, float(second), fates=(Fate.LEFT,))
        total += sum(len(entry.payload) for entry in sent)
        if second % 6 == 5:
            held = tuple(outbox._held)
            if held:
                outbox.hear(Outcome(fate=Fate.LOST, keys=held), float(second))
    assert total < 1_000_000


def test_an_hour_with_a_broker_and_without_a_fleet_costs_less_than_a_megabyte(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    total = number = 0
    for tick in range(3600 * 4):
        clock_s = tick / 4
        fresh = []
        if tick % 120 == 0:
            number += 1
            fresh.append(event(number, health(), made=moment(clock_s)))
        if tick % 480 == 0:
            number += 1
            fresh.append(event(number, anomaly("A" * 100_000), made=moment(clock_s)))
        if fresh:
            outbox.put(fresh, now=moment(clock_s))
        total += sum(len(entry.payload) for entry in send(outbox, clock_s))
    assert total < 1_000_000
    assert outbox.evicted == 0
    assert len(outbox) < 30 + 61, "health that nobody confirms is not piled up"


def test_of_health_that_nobody_confirms_the_newest_is_kept(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    for number in range(1, 6):
        outbox.put([event(number, health())], now=moment(30.0 * number))
        send(outbox, 30.0 * number)
    outbox.put([event(6, health())], now=moment(1000.0))
    outbox.due(1000.0)
    outbox.put([event(7, health())], now=moment(1001.0))
    assert len(outbox) <= 3
    for number in range(8, 200):
        outbox.put([event(number, health())], now=moment(1001.0 + number))
    assert len(outbox) == 60
    assert outbox.evicted == 0
