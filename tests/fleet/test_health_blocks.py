"""Health in blocks says what the messages said, each exactly once, whatever is late, killed or set back."""

from __future__ import annotations

import random
from dataclasses import astuple, replace
from typing import Any

import pytest
from fleet_world import Machine, enrol_directly
from sqlalchemy import delete, insert, select

from fleet.erasure import erase_device
from fleet.retention.health_blocks import HealthRollUp
from fleet.retention.pruning import Pruning
from fleet.rollouts.spans import Span, Sums, read_blocks, read_messages
from fleet.settings import RetentionSettings
from fleet.storage.base import Database
from fleet.storage.block_tables import BLOCK_S, HealthBlock
from fleet.storage.event_tables import HealthRecord
from protocol.names import DeviceId

OFFLINE_S = 120.0
BEGAN = 1_000_200.0  # a whole number of blocks
HOUR_S = 3600.0


class Speakers:
    """Devices that tell their health to a database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._sequence = 0

    def say(self, *messages: tuple[str, float], **figures: Any) -> None:
        """One message for each (device, when it arrives)."""
        with self.database.write() as session:
            session.execute(insert(HealthRecord), [self._row(*one) | figures for one in messages])

    def _row(self, device: str, at: float) -> dict[str, Any]:
        self._sequence += 1
        return {
            "device": device,
            "boot_id": "b",
            "sequence": self._sequence,
            "sent_at": at,
            "received_at": at,
            "release": "pump/1",
            "anomaly_rate": 0.1,
            "drift_score": 0.3,
            "drifted": False,
            "inference_p99_us": 900.0,
            "interval_windows": 20,
            "interval_judged": 18,
            "interval_s": 2.0,
            "memory_pss_bytes": 50_000_000,
            "sight": 0.9,
            "state": "watching",
            "payload": {},
        }

    def messages(self, *devices: str, until: float = BEGAN + 10 * HOUR_S) -> dict[DeviceId, Sums]:
        with self.database.read() as session:
            return read_messages(
                session,
                spans(*devices, until=until),
                release="pump/2",
                is_on=False,
                offline_after_s=OFFLINE_S,
            )

    def blocks(self, *devices: str, until: float = BEGAN + 10 * HOUR_S) -> dict[DeviceId, Sums]:
        with self.database.read() as session:
            return read_blocks(
                session,
                spans(*devices, until=until),
                release="pump/2",
                is_on=False,
                offline_after_s=OFFLINE_S,
            )


def spans(*devices: str, until: float) -> list[Span]:
    return [Span(device=DeviceId(one), start=BEGAN, until=until) for one in devices]


@pytest.fixture
def speakers(database: Database) -> Speakers:
    return Speakers(database)


def roll_all(database: Database, at_once: int = 7) -> None:
    rolling = HealthRollUp(database, offline_after_s=OFFLINE_S, at_once=at_once)
    while rolling.roll_up():
        pass


def same(blocks: Sums, messages: Sums) -> None:
    blocks, messages = (replace(one, silence_at=one.silence_at or 0.0) for one in (blocks, messages))
    assert list(astuple(blocks)) == pytest.approx(list(astuple(messages)), rel=1e-9, abs=1e-6)


def test_blocks_say_what_the_messages_said(speakers: Speakers) -> None:
    draw = random.Random(1)
    for _ in range(12):
        said = [(f"d{draw.randrange(4)}", BEGAN + draw.random() * HOUR_S) for _ in range(15)]
        speakers.say(
            *sorted(said, key=lambda one: one[1]),
            anomaly_rate=draw.random(),
            inference_p99_us=draw.choice([0.0, 900.0 * draw.random()]),
            interval_judged=draw.choice([None, 0, 7]),
            memory_pss_bytes=draw.choice([None, 0, draw.randrange(10**7, 10**8)]),
            sight=draw.choice([None, draw.random()]),
            drift_score=draw.random(),
        )
        roll_all(speakers.database)  # between them, so that many blocks are added to
    names = ("d0", "d1", "d2", "d3", "nobody")
    blocks, messages = speakers.blocks(*names), speakers.messages(*names)
    assert blocks.keys() == messages.keys() == {"d0", "d1", "d2", "d3"}
    for device in messages:
        # which of two silences is seen inside a block that is added to out of order is not told; all else is
        told = messages[device]
        same(replace(blocks[device], silences=told.silences, silence_at=told.silence_at), told)


def test_silences_are_seen_inside_a_block_between_blocks_and_between_two_roll_ups(speakers: Speakers) -> None:
    at = BEGAN + 10.0
    for wait in (30, 150, 30, 500, 30, 700, 119):
        speakers.say(("d0", at))
        if wait == 500:
            roll_all(speakers.database)
        at += wait
    roll_all(speakers.database)
    (shown,) = speakers.blocks("d0").values()
    assert (shown.silences, shown.silence_at) == (3, BEGAN + 10 + 30 + OFFLINE_S)
    same(shown, speakers.messages("d0")[DeviceId("d0")])


def test_a_message_that_comes_late_is_in_the_block_of_its_arrival_and_counts_once(speakers: Speakers) -> None:
    speakers.say(("d0", BEGAN + 5), ("d0", BEGAN + 35))
    roll_all(speakers.database)
    speakers.say(*[("d0", BEGAN + HOUR_S)] * 40, sent_at=BEGAN + 60)
    roll_all(speakers.database)
    roll_all(speakers.database)
    with speakers.database.read() as session:
        found = session.execute(select(HealthBlock.start, HealthBlock.reports).order_by(HealthBlock.start))
        assert [tuple(row) for row in found] == [(int(BEGAN), 2), (int(BEGAN + HOUR_S), 40)]
    same(speakers.blocks("d0")[DeviceId("d0")], speakers.messages("d0")[DeviceId("d0")])


def test_a_clock_that_is_set_back_neither_loses_nor_doubles(speakers: Speakers) -> None:
    for at in (5.0, 35.0, 86_400.0, 65.0, 95.0, 86_430.0):  # a day ahead, back, and there at last
        speakers.say(("d0", BEGAN + at))
        roll_all(speakers.database, at_once=1)
    with speakers.database.read() as session:
        found = session.execute(
            select(
                HealthBlock.reports, HealthBlock.first_at, HealthBlock.last_at, HealthBlock.silences
            ).order_by(HealthBlock.start)
        )
        assert [tuple(row) for row in found] == [
            (4, BEGAN + 5, BEGAN + 95, 0),
            (2, BEGAN + 86_400, BEGAN + 86_430, 0),
        ]
    assert speakers.blocks("d0", until=BEGAN + HOUR_S)[DeviceId("d0")].reports == 4


def test_two_that_roll_up_at_once_and_one_that_is_killed_count_no_message_twice(
    speakers: Speakers, monkeypatch: pytest.MonkeyPatch
) -> None:
    speakers.say(*[("d0", BEGAN + 5 + 30.0 * n) for n in range(10)])
    one, other = (HealthRollUp(speakers.database, offline_after_s=OFFLINE_S, at_once=4) for _ in range(2))
    write = speakers.database.write

    def overtaken() -> Any:
        monkeypatch.setattr(speakers.database, "write", write)
        other.roll_up()  # between the other's reading and its writing
        return write()

    monkeypatch.setattr(speakers.database, "write", overtaken)
    assert one.roll_up()
    assert speakers.blocks("d0")[DeviceId("d0")].reports == 4

    class KilledError(Exception):
        pass

    def killed() -> Any:
        raise KilledError

    monkeypatch.setattr(speakers.database, "write", killed)
    with pytest.raises(KilledError):
        one.roll_up()
    monkeypatch.setattr(speakers.database, "write", write)
    roll_all(speakers.database, at_once=4)
    same(speakers.blocks("d0")[DeviceId("d0")], speakers.messages("d0")[DeviceId("d0")])


def test_what_is_erased_while_it_is_rolled_up_does_not_come_back(
    speakers: Speakers, monkeypatch: pytest.MonkeyPatch
) -> None:
    speakers.say(*[(f"d{n % 2}", BEGAN + 5 + 30.0 * n) for n in range(10)])
    write = speakers.database.write

    def overtaken() -> Any:
        monkeypatch.setattr(speakers.database, "write", write)
        with write() as session:
            session.execute(delete(HealthRecord).where(HealthRecord.device == "d0"))
        return write()

    monkeypatch.setattr(speakers.database, "write", overtaken)
    roll_all(speakers.database)
    assert speakers.blocks("d0", "d1").keys() == {"d1"}


def test_what_comes_after_an_erasure_or_a_quiet_weekend_is_rolled_up_whatever_number_it_gets(
    speakers: Speakers,
) -> None:
    database = speakers.database
    enrol_directly(database, Machine(name="d1"))
    speakers.say(("d0", BEGAN + 5), *[("d1", BEGAN + 10 + 30.0 * n) for n in range(5)])
    roll_all(database)
    with database.write() as session:
        erase_device(session, "d1", actor="operator:ann", now=BEGAN + 200)
    speakers.say(("d0", BEGAN + 300))
    roll_all(database)
    assert speakers.blocks("d0")[DeviceId("d0")].reports == 2
    Pruning(database, RetentionSettings(), now=lambda: BEGAN + 60 * HOUR_S).prune()
    speakers.say(("d0", BEGAN + 60 * HOUR_S))
    roll_all(database)
    found = speakers.blocks("d0", until=BEGAN + 61 * HOUR_S)
    assert found[DeviceId("d0")].reports == 3


def test_a_message_that_says_nonsense_stops_no_roll_up(speakers: Speakers) -> None:
    speakers.say(
        *[("d0", BEGAN + 3 + n) for n in range(5)],
        interval_windows=2**53,
        interval_judged=2**53,
        anomaly_rate=1e300,
        inference_p99_us=1e300,
        drift_score=-5.0,
        interval_s=-1e300,
        memory_pss_bytes=2**53,
        release=None,
    )
    speakers.say(("d1", BEGAN + 9), interval_s=None, memory_pss_bytes=None, sight=None, interval_judged=None)
    roll_all(speakers.database)
    with speakers.database.read() as session:
        rows = {row.device: row for row in session.scalars(select(HealthBlock))}
    assert rows["d0"].judged == rows["d0"].over == 5 * 10_000_000
    assert (rows["d0"].release, rows["d0"].seconds) == ("", 0)
    assert (rows["d1"].judged, rows["d1"].memory_count, rows["d1"].sight_count) == (20, 0, 0)
    assert speakers.messages("d0", "d1").keys() == {"d1"}, "who ran nothing shows nothing"


def test_a_block_begins_at_ten_minutes_and_mixes_no_releases(speakers: Speakers) -> None:
    speakers.say(("d0", BEGAN + BLOCK_S - 0.001), ("d0", BEGAN + BLOCK_S))
    speakers.say(("d0", BEGAN + BLOCK_S + 1), release="pump/2")
    roll_all(speakers.database)
    with speakers.database.read() as session:
        keys = session.execute(
            select(HealthBlock.start, HealthBlock.release).order_by(HealthBlock.start, HealthBlock.release)
        ).all()
    later = int(BEGAN) + BLOCK_S
    assert [tuple(key) for key in keys] == [(int(BEGAN), "pump/1"), (later, "pump/1"), (later, "pump/2")]
    assert speakers.blocks("d0")[DeviceId("d0")].reports == 2
