"""Which anomalies are one matter: storms, one device again and again, and each alone; on lists of when they came."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import exists, insert, select

from fleet.device_query import device_filter
from fleet.lookups.inbox import (
    AGAIN,
    AGAIN_WITHIN_S,
    STORM_DEVICES,
    STORM_LASTS_S,
    STORM_PAUSE_S,
    Line,
    LineKind,
    Narrowed,
    count_waiting,
    find_scope,
    narrow_waiting,
    read_lines,
)
from fleet.migrations.upgrade import open_storage
from fleet.storage.base import Database
from fleet.storage.device_tables import Device
from fleet.storage.event_tables import Anomaly

BEGAN = 1_767_225_600.0


def fill(database: Database, came: list[tuple[str, float]], family: str = "motor") -> None:
    """Anomalies of devices, in the order in which they came."""
    names = sorted({device for device, _ in came})
    devices: list[dict[str, Any]] = [
        {
            "id": name,
            "fingerprint": name,
            "public_key": "",
            "hardware": "rpi4",
            "family": family,
            "labels": {},
            "enrolled_at": BEGAN,
        }
        for name in names
    ]
    rows: list[dict[str, Any]] = [
        {
            "device": device,
            "boot_id": family,
            "sequence": number,
            "sent_at": at,
            "received_at": at,
            "release": "motor/1",
            "score": 2.0,
            "threshold": 1.0,
            "window_index": 1,
            "windows_over": 1,
            "observed_at_s": 1.0,
            "contributors": [],
            "window_shape": [],
            "episode": None,
        }
        for number, (device, at) in enumerate(came)
    ]
    with database.write() as session:
        session.execute(insert(Device), devices)
        session.execute(insert(Anomaly), rows)


def lines(database: Database, *, limit: int = 1000, after: int = 0) -> tuple[list[Line], int | None]:
    with database.read() as session:
        return read_lines(session, Narrowed(), after=after, limit=limit)


def kinds(database: Database) -> list[tuple[str, int]]:
    return [(line.kind.value, len(line.anomalies)) for line in lines(database)[0]]


def crowd(count: int, *, at: float = BEGAN, apart_s: float = 1.0, name: str = "p") -> list[tuple[str, float]]:
    return [(f"{name}{number}", at + apart_s * number) for number in range(count)]


def test_a_storm_begins_with_enough_devices_and_not_before(database: Database) -> None:
    fill(database, crowd(STORM_DEVICES - 1))
    assert kinds(database) == [("one", 1)] * (STORM_DEVICES - 1)
    fill(database, crowd(STORM_DEVICES, at=BEGAN + 9000, name="q"), family="pump")
    assert kinds(database)[-1] == ("storm", STORM_DEVICES)


def test_a_storm_ends_when_it_is_quiet_or_has_lasted_long_enough(database: Database) -> None:
    first = crowd(30)
    later = [("late", first[-1][1] + STORM_PAUSE_S + 1)]
    fill(database, [*first, *later])
    assert kinds(database) == [("storm", 30), ("one", 1)]
    endless = crowd(int(STORM_LASTS_S / 10) + 40, at=BEGAN + 9000, apart_s=10.0, name="q")
    fill(database, endless, family="pump")
    shown = [line for line in lines(database)[0] if line.family == "pump"]
    assert [line.kind for line in shown] == [LineKind.STORM] * 2, (
        "what goes on for ever is not one line for ever"
    )
    assert all(line.ended - line.began <= STORM_LASTS_S for line in shown)


def test_a_trickle_of_a_large_fleet_is_no_storm(database: Database) -> None:
    fill(database, crowd(200, apart_s=15.0))
    assert set(kinds(database)) == {("one", 1)}


def test_families_have_storms_of_their_own(database: Database) -> None:
    fill(database, crowd(STORM_DEVICES - 1))
    fill(database, crowd(STORM_DEVICES - 1, name="q"), family="pump")
    assert set(kinds(database)) == {("one", 1)}


def test_one_device_again_and_again_is_one_line_until_it_rests(database: Database) -> None:
    rests = AGAIN_WITHIN_S + 60
    times = [0.0, 60.0, 120.0, 120.0 + rests, 180.0 + rests]
    fill(database, [("p1", BEGAN + at) for at in times])
    assert kinds(database) == [("again", AGAIN), ("one", 1), ("one", 1)]


def test_a_scope_finds_again_what_its_line_showed_and_nothing_else(database: Database) -> None:
    """However anomalies are mixed: each is in one line, and a line's name means exactly those that it showed."""
    draw = random.Random(4)
    at, came = BEGAN, []
    for _ in range(600):
        at += draw.choice([0.5, 2.0, 20.0, 400.0])
        came.append((f"p{draw.randrange(12)}", at))
    fill(database, came)
    found, more = lines(database)
    assert more is None
    assert sorted(one for line in found for one in line.anomalies) == list(range(1, 601))
    assert {line.kind for line in found} == set(LineKind)
    with database.read() as session:
        for line in found:
            if line.kind is not LineKind.ONE:
                assert find_scope(session, Narrowed(scope=line.scope), 1000) == list(line.anomalies)


def test_pages_hold_every_anomaly_once(database: Database) -> None:
    draw = random.Random(5)
    came = sorted(
        ((f"p{draw.randrange(40)}", BEGAN + draw.random() * 40_000) for _ in range(300)),
        key=lambda one: one[1],
    )
    fill(database, came)
    shown: list[int] = []
    after: int | None = 0
    while after is not None:
        page, after = lines(database, limit=7, after=after)
        shown += [one for line in page for one in line.anomalies]
    assert sorted(shown) == list(range(1, 301))
    with database.read() as session:
        assert count_waiting(session, Narrowed()) == 300
        assert count_waiting(session, Narrowed(), most=10) == 11, "that there are more, and not how many"


def test_what_lasts_and_what_waits_is_found_by_its_own_index_and_not_among_all_that_ever_was(
    tmp_path: Path,
) -> None:
    """On SQLite, which takes an index for its words; PostgreSQL takes it for what it means."""
    asked = {
        "ix_anomalies_open": device_filter("in_alarm==true"),
        "ix_anomalies_unjudged": exists(narrow_waiting(select(Anomaly.id), Narrowed())),
    }
    with closing(open_storage(f"sqlite:///{tmp_path}/fleet.sqlite")) as database, database.read() as session:
        for index, condition in asked.items():
            statement = select(Device.id).where(condition).compile(database.engine)
            plan = session.connection().exec_driver_sql(
                f"EXPLAIN QUERY PLAN {statement}", tuple(statement.params.values())
            )
            assert index in " ".join(str(row) for row in plan)
