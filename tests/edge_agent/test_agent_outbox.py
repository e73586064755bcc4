"""The outbox: nothing leaves it before the fleet has stored it, and nothing that waits blocks another."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from outbox_world import WINDOW, ack, anomaly, event, health, moment, open_outbox, refusal, send, sequences

from edge_agent.event_store import EventStore
from edge_agent.link import Fate, Outcome
from edge_agent.outbox import Outbox
from protocol.limits import MAX_INTEGER
from protocol.messages.kinds import DeathReason, Kind
from protocol.messages.payloads import Ack, Death

pytestmark = pytest.mark.edge


def test_an_event_leaves_only_when_an_ack_names_its_boot_and_sequence(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(i, anomaly()) for i in range(1, 6)], now=moment())
    assert sequences(outbox) == [1, 2, 3, 4, 5]
    assert outbox.acknowledge([ack((1, 2), (4, 4))], 0.1) == 3
    assert outbox.acknowledge([ack((1, 100), boot="other")], 0.1) == 0
    assert len(outbox) == 2
    assert sequences(outbox, 10.5) == [3, 5]


def test_a_repeated_or_unknown_ack_changes_nothing(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(1, anomaly())], now=moment())
    send(outbox)
    assert [outbox.acknowledge([ack((1, 1))], 0.1) for _ in range(2)] == [1, 0]
    assert outbox.acknowledge([ack((5, 2)), Ack(boots=())], 0.1) == 0
    assert len(outbox) == 0


@pytest.mark.parametrize("last", [3, 1000, MAX_INTEGER, 2**62, 2**63, 2**200])
def test_an_acknowledgement_of_what_was_never_sent_drops_nothing(tmp_path: Path, last: int) -> None:
    outbox = open_outbox(tmp_path, in_flight=2)
    outbox.put([event(i, anomaly()) for i in range(1, 6)], now=moment())
    outbox.put([event(1, anomaly(), boot="before")], now=moment())
    sent = sequences(outbox)
    assert sent == [1, 2]
    everything = [ack((0, last)), ack((0, last), boot="before"), ack((-last, last), (1, last))]
    assert outbox.acknowledge(everything, 0.1) == 2
    assert len(outbox) == 4
    assert sequences(outbox, 0.2) == [3, 4]


def test_an_event_that_has_not_left_yet_is_not_believed_to_be_stored(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(1, anomaly())], now=moment())
    send(outbox, fates=())
    assert outbox.acknowledge([ack((1, MAX_INTEGER))], 0.1) == 0
    outbox.hear(Outcome(fate=Fate.LEFT, keys=(("b1", 1),)), 0.2)
    assert outbox.acknowledge([ack((1, MAX_INTEGER))], 0.3) == 1


def test_a_flood_of_wide_acknowledgements_costs_no_more_than_the_events_there_are(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(i, anomaly()) for i in range(1, 300)], now=moment())
    send(outbox)
    statements: list[str] = []
    outbox._kept._store._db.set_trace_callback(statements.append)
    flood = [ack(*((n, MAX_INTEGER) for n in range(1, 2000))) for _ in range(50)]
    assert outbox.acknowledge(flood, 0.1) == 32
    assert len(statements) < 200


def test_events_that_the_fleet_never_acknowledges_block_no_later_one(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(i, anomaly(), boot="old") for i in range(1, 46)], now=moment())
    heard: set[tuple[str, int]] = set()
    stored = 0
    for tick in range(2400):
        clock_s = tick / 4
        if tick % 20 == 0:
            outbox.put([event(tick + 1, anomaly())], now=moment(clock_s))
        for entry in send(outbox, clock_s):
            heard.add(entry.key)
            if entry.boot_id == "b1":
                stored += outbox.acknowledge([ack((entry.sequence, entry.sequence))], clock_s)
    assert stored == 120
    assert len(outbox) == 45
    assert {("old", i) for i in range(1, 46)} <= heard


def test_what_was_never_sent_goes_before_what_is_sent_again(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path, in_flight=3)
    outbox.put([event(i, anomaly()) for i in range(1, 4)], now=moment())
    assert sequences(outbox) == [1, 2, 3]
    outbox.acknowledge([ack((1, 1))], 1.0)
    outbox.put([event(7, Death(reason=DeathReason.SHUTDOWN)), event(8, anomaly())], now=moment())
    assert sequences(outbox, 10.5) == [8, 7, 2]


def test_pauses_double_per_event_up_to_an_hour(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(1, anomaly()), event(2, anomaly())], now=moment())
    send(outbox)
    at: list[float] = []
    for clock_s in range(5, 15_000, 5):
        # The fleet is there: it confirms another event every five seconds, and this one never.
        outbox.put([event(100 + clock_s, health())], now=moment(float(clock_s)))
        for entry in send(outbox, float(clock_s)):
            outbox.acknowledge([ack((entry.sequence, entry.sequence))] if entry.sequence > 2 else [], clock_s)
            if entry.sequence == 1:
                at.append(float(clock_s))
    pauses = [later - earlier for earlier, later in pairwise(at)]
    assert at[0] == 10.0
    assert pauses == [
        20.0,
        40.0,
        80.0,
        160.0,
        320.0,
        640.0,
        1280.0,
        2560.0,
        3600.0,
        3600.0,
    ]


def test_nothing_is_sent_again_over_a_connection_that_still_has_it(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(1, anomaly()), event(2, anomaly())], now=moment())
    assert [e.sequence for e in send(outbox, fates=(Fate.LEFT,))] == [1, 2]
    outbox.hear(Outcome(fate=Fate.TAKEN, keys=(("b1", 2),)), 0.1)
    outbox.acknowledge([ack((2, 2))], 0.2)
    assert all(sequences(outbox, float(second)) == [] for second in range(1, 7200))
    outbox.hear(Outcome(fate=Fate.LOST, keys=(("b1", 1),)), 7200.0)
    assert sequences(outbox, 7201.0) == [1]


def test_anomalies_are_sent_first_and_at_most_the_window_in_flight(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path, in_flight=3)
    outbox.put([event(i, health()) for i in range(1, 5)] + [event(9, anomaly())], now=moment())
    assert sequences(outbox) == [9, 1, 2]
    assert sequences(outbox) == []
    outbox.acknowledge([ack((9, 9))], 0.0)
    assert sequences(outbox) == [3]


def test_the_window_is_bounded_in_bytes_too_and_lets_a_single_event_through(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(i, anomaly("A" * 120_000)) for i in range(1, 10)], now=moment())
    assert sequences(outbox) == [1, 2, 3]


def test_a_refused_event_leaves_the_outbox_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(1, anomaly()), event(2, anomaly()), event(3, anomaly())], now=moment())
    assert outbox.acknowledge([refusal(1, "not sent yet")], 0.0) == 0
    send(outbox)
    assert outbox.acknowledge([refusal(1, "its id is of another device"), refusal(9, "unknown")], 0.1) == 1
    outbox.acknowledge([refusal(2, "its id is of another device")], 0.2)
    assert (len(outbox), outbox.refused) == (1, 2)
    assert (
        "refused 2 events of this start for good, the last one: its id is of another device"
        in outbox.problems()[0]
    )
    assert caplog.text.count("event_refused") == 1


def test_a_full_outbox_gives_up_health_before_anomalies(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path, maximum_bytes=65_536, in_flight=1000)
    outbox.put([event(1, anomaly(WINDOW))], now=moment())
    outbox.put([event(i, Death(reason=DeathReason.SHUTDOWN)) for i in range(2, 200)], now=moment())
    outbox.put([event(500, anomaly(WINDOW))], now=moment())
    kinds = [e.kind for e in send(outbox)]
    assert kinds.count(Kind.ANOMALY) == 2
    assert outbox.evicted > 100
    outbox.put([event(501, anomaly(WINDOW))], now=moment())
    outbox.due(0.1)
    assert [e.sequence for e in outbox._kept._store.entries() if e.kind is Kind.ANOMALY] == [500, 501]


def test_putting_an_event_twice_keeps_one(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(1, anomaly()), event(1, anomaly())], now=moment())
    assert len(outbox) == 1


def _aged(outbox: Outbox, at: object) -> list[int]:
    outbox.put([event(99, Death(reason=DeathReason.SHUTDOWN), made=at)], now=at)  # type: ignore[arg-type] # a moment
    return sorted(e.sequence for e in outbox._kept._store.entries() if e.sequence != 99)


def test_age_is_taken_from_the_clock_that_nobody_can_set(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path, maximum_age_s=3600.0)
    slow = moment(0.0, wall_s=1_700_000_000.0)
    outbox.put([event(1, Death(reason=DeathReason.SHUTDOWN), made=slow)], now=slow)
    # The clock steps by years right before the broker appears: the event is ten minutes old.
    assert _aged(outbox, moment(600.0)) == [1]
    assert outbox.evicted == 0
    assert _aged(outbox, moment(3700.0)) == []


def test_over_a_restart_of_the_device_the_date_counts_only_if_it_was_known(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path, maximum_age_s=3600.0)
    for number, known in ((1, True), (2, False)):
        made = moment(50.0, boot="before", wall_s=1_799_000_000.0, is_set=known)
        outbox.put([event(number, Death(reason=DeathReason.SHUTDOWN), made=made)], now=made)
    assert _aged(outbox, moment(120.0, is_set=False)) == [1, 2], (
        "a date now that nobody vouches for ages nothing"
    )
    assert _aged(outbox, moment(240.0)) == [2], "of the other only this start's age is certain"
    assert _aged(outbox, moment(3700.0)) == []


def test_an_anomaly_is_never_aged_out(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path, maximum_age_s=60.0)
    outbox.put([event(1, anomaly())], now=moment())
    assert _aged(outbox, moment(10 * 365 * 86400.0)) == [1]


def test_what_happens_now_does_not_wait_behind_a_long_backlog(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path, in_flight=4)
    outbox.put([event(n, anomaly()) for n in range(1, 21)], now=moment())
    later = moment(3600.0)
    outbox.put([event(n, anomaly(), made=later) for n in (21, 22)], now=later)
    order: list[int] = []
    while len(outbox):
        sent = sequences(outbox, 3600.0 + len(order))
        order += sent
        outbox.acknowledge([ack(*((n, n) for n in sent))], 3600.0 + len(order))
    assert order[:8] == [22, 1, 2, 3, 21, 4, 5, 6]
    assert sorted(order) == list(range(1, 23))


def test_what_another_process_puts_into_the_outbox_is_offered_at_once_and_counted(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(1, health())], now=moment())
    other = EventStore(tmp_path / "outbox.sqlite")
    other.insert([event(n, anomaly(), boot="before") for n in range(1, 6)], is_durable=True)
    other.close()
    assert len(outbox) == 6
    assert len(sequences(outbox)) == 6
    assert outbox.acknowledge([ack((1, 5), boot="before"), ack((1, 1))], 0.1) == 6
    assert len(outbox) == 0
