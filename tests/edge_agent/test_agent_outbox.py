"""The outbox: nothing leaves it before the fleet has stored it, and nothing that waits blocks another."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path

import pytest
from outbox_world import ack, anomaly, event, health, moment, open_outbox, refusal, send, sequences

from edge_agent.event_store import EventStore
from edge_agent.kept_events import KeptEvents
from edge_agent.link import Fate, Outcome
from edge_agent.outbox import Outbox
from edge_agent.pace import KNOCK_BYTES
from edge_agent.settings import OutboxSettings
from edge_agent.size_limit import SizeLimit
from protocol.limits import MAX_INTEGER
from protocol.messages.envelope import decode
from protocol.messages.kinds import DeathReason, Kind
from protocol.messages.payloads import Ack, AnomalyEvent, Death

pytestmark = pytest.mark.edge
WINDOW = "A" * 30_000


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
    assert all(len(e.payload) > 30_000 for e in outbox._kept._store.entries())


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
