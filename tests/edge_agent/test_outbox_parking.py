"""An event that ends connections is found, goes without its window, and is parked if that does not help; nothing else is."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from outbox_world import WINDOW, ack, anomaly, event, health, moment, open_outbox, send, sequences

from edge_agent.kept_events import KeptEvents
from edge_agent.link import Fate, Outcome
from edge_agent.outbox import Outbox
from edge_agent.settings import OutboxSettings
from edge_agent.size_limit import SizeLimit
from protocol.messages.envelope import decode
from protocol.messages.kinds import DeathReason
from protocol.messages.payloads import AnomalyEvent, Death

pytestmark = pytest.mark.edge


def _hear_lost(outbox: Outbox, clock_s: float) -> None:
    outbox.hear(Outcome(fate=Fate.LOST, keys=tuple(sorted(outbox._held))), clock_s)


def _broker_that_ends_with(outbox: Outbox, limit: int, turns: int = 60) -> list[tuple[int, int]]:
    """A broker that hangs up on what is larger than `limit`, and the fleet behind it; what it took, (sequence, bytes)."""
    taken = []
    for turn in range(turns):
        entries = send(outbox, float(turn), fates=(Fate.LEFT,))
        for entry in entries:
            if len(entry.payload) > limit:
                _hear_lost(outbox, float(turn))
                break
            outbox.hear(Outcome(fate=Fate.TAKEN, keys=(entry.key,)), float(turn))
            outbox.acknowledge([ack((entry.sequence, entry.sequence))], float(turn))
            taken.append((entry.sequence, len(entry.payload)))
    return taken


def test_an_event_that_ends_connections_is_found_and_goes_without_its_window(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put(
        [
            event(1, anomaly()),
            event(2, anomaly(WINDOW)),
            event(3, anomaly()),
            event(4, health()),
            event(5, anomaly(WINDOW)),
        ],
        now=moment(),
    )
    taken = _broker_that_ends_with(outbox, 20_000)
    assert sorted(number for number, _ in taken) == [1, 2, 3, 4, 5]
    assert max(size for _, size in taken) < 1000
    assert caplog.text.count("event_lightened") == 1, "the second one is known to be too large"
    assert "no message of" in outbox.problems()[0]
    outbox.put([event(6, anomaly(WINDOW))], now=moment(70.0))
    (light,) = send(outbox, 70.0)
    assert isinstance(data := decode(light.payload).data, AnomalyEvent)
    assert (data.window, data.window_shape, data.score) == ("", (), 2.0)


def test_no_limit_is_believed_below_what_the_fleet_has_confirmed_nor_for_ever() -> None:
    limit = SizeLimit()
    limit.suspect(506, 0.0)
    assert limit.forbids(506, 3599.0)
    assert not limit.forbids(505, 0.0)
    assert not limit.forbids(506, 3600.0), "it is tried anew"
    limit.suspect(506, 3700.0)
    assert limit.present(3700.0 + 7199.0) == 506, "told again it is believed for longer"
    limit.confirm(600, 4000.0)
    assert limit.present(4000.0) == 0, "one of that size was stored: it was the road"
    limit.suspect(506, 4100.0)
    assert limit.present(4100.0) == 0
    limit.suspect(601, 4200.0)
    assert limit.present(4200.0) == 601
    limit.suspect(506, 7700.0)
    assert limit.present(7700.0) == 506, "a broker may have been given a lower one since"


def test_a_bad_road_is_not_taken_for_a_brokers_limit_once_a_larger_event_is_stored(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(1, anomaly(WINDOW)), event(2, anomaly())], now=moment())
    _broker_that_ends_with(outbox, 20_000)
    assert "no message of" in outbox.problems()[0]
    outbox.put([event(3, anomaly(episode="e" * 60, window=WINDOW))], now=moment(3700.0))
    (heavy,) = send(outbox, 3700.0)
    assert len(heavy.payload) > 20_000, "tried anew"
    outbox.acknowledge([ack((3, 3))], 3701.0)
    assert outbox.problems() == ()


def test_an_event_that_ends_connections_whatever_is_left_out_is_parked_and_said(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    long_name = event(2, anomaly(WINDOW, episode="e" * 60))
    outbox.put([event(1, anomaly()), long_name, event(3, anomaly()), event(4, health())], now=moment())
    limit = len(event(3, anomaly()).payload) + 20
    taken = _broker_that_ends_with(outbox, limit)
    assert sorted(number for number, _ in taken) == [1, 3, 4]
    assert outbox.parked == [], "nothing else got through meanwhile: it may be the network"
    outbox.put([event(5, health())], now=moment(61.0))
    assert [number for number, _ in _broker_that_ends_with(outbox, limit)] == [5]
    (parked,) = outbox.parked
    assert parked.key == ("b1", 2)
    assert (
        "1 events are parked (anomaly: 3 connections ended while it alone was under way"
        in outbox.problems()[0]
    )
    outbox.close()
    assert len(open_outbox(tmp_path).parked) == 1, "it outlives a restart"
    settings = OutboxSettings()
    updated = Outbox.open(tmp_path / "outbox.sqlite", settings, now=moment(), version="9.9")
    assert updated.parked == []
    assert sequences(updated) == [2], "another version tries it again"


def test_a_person_has_parked_events_offered_again(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(1, health()), event(2, anomaly(episode="e" * 60))], now=moment())
    _broker_that_ends_with(outbox, len(event(1, health()).payload))
    outbox.put([event(3, health())], now=moment(61.0))
    _broker_that_ends_with(outbox, len(event(1, health()).payload))
    assert len(outbox.parked) == 1
    assert outbox.retry_parked() == 1
    assert outbox.parked == []
    assert 2 in [e.sequence for e in outbox._kept._store.entries()]


def test_a_network_that_ends_every_connection_makes_no_event_guilty(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(i, anomaly(WINDOW)) for i in range(1, 4)], now=moment())
    assert _broker_that_ends_with(outbox, 0, turns=100) == []
    assert outbox.parked == []
    assert [len(e.payload) > 30_000 for e in outbox._kept._store.entries()] == [True] * 3


def test_a_suspect_that_is_gone_slows_nobody_down(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(1, health()), event(2, health())], now=moment())
    send(outbox, 0.0, fates=(Fate.LEFT,))
    _hear_lost(outbox, 0.0)
    outbox._kept.forget([("b1", 1), ("b1", 2)])  # as a bound does
    outbox.put([event(i, anomaly()) for i in range(3, 9)], now=moment())
    assert len(sequences(outbox, 0.1)) == 1
    assert len(sequences(outbox, 0.2)) == 5


def test_parked_events_are_bounded_and_the_anomalies_among_them_stay_longest(tmp_path: Path) -> None:
    store = open_outbox(tmp_path)._kept
    for number in range(1, 101):
        data = anomaly() if number <= 10 else Death(reason=DeathReason.SHUTDOWN)
        store.put([event(number, data)], moment(), 0.0)
        store.park(("b1", number), "why", "1")
    kept = {parked.key[1] for parked in store.parked}
    assert len(kept) == 64
    assert set(range(1, 11)) <= kept


def test_an_event_of_a_kind_that_this_version_does_not_know_is_parked_until_one_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    outbox = open_outbox(tmp_path)
    outbox.put([event(1, anomaly()), event(2, anomaly())], now=moment())
    outbox._kept._store._db.execute("UPDATE events SET kind = 'telepathy' WHERE sequence = 2")
    outbox.close()
    older = open_outbox(tmp_path)
    assert sequences(older) == [1]
    assert [p.kind for p in older.parked] == ["telepathy"]
    assert older.retry_parked() == 0, "a person's word does not make it known"
    assert [p.kind for p in older.parked] == ["telepathy"]
    older.put([event(3, anomaly())], now=moment())
    assert sequences(older, 0.1) == [3]


def test_an_anomaly_that_a_connection_took_and_never_sent_is_offered_again_at_once(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(i, anomaly()) for i in (1, 2)], now=moment())
    send(outbox, fates=())
    outbox.put([event(3, anomaly())], now=moment(1.0))
    send(outbox, 1.0, fates=())  # those before are on a connection
    outbox.hear(Outcome(fate=Fate.UNSENT, keys=(("b1", 1), ("b1", 2), ("b1", 3))), 2.0)
    assert sequences(outbox, 2.0) == [1, 2, 3]


def test_parked_events_that_make_room_for_others_are_counted_as_given_up(tmp_path: Path) -> None:
    kept = KeptEvents.open(
        tmp_path / "outbox.sqlite", OutboxSettings(), now=moment(), owner=None, version="1"
    )
    kept.put([event(n, anomaly()) for n in range(1, 71)], moment(), 0.0)
    for n in range(1, 71):
        kept.park(("b1", n), "it ends connections", "1")
    assert (len(kept.parked), kept.evicted) == (64, 6)
    kept.close()
