"""What a device's figures were over time: from messages and from blocks, in as many buckets as a chart shows."""

from __future__ import annotations

import math
from typing import Any

import pytest
from sqlalchemy import insert

from fleet.lookups.series import BUCKETS, SPANS, Series, read_series
from fleet.retention.health_blocks import HealthRollUp
from fleet.retention.hour_blocks import HourBlocks
from fleet.storage.base import Database
from fleet.storage.event_tables import HealthRecord

END = 1_767_225_600.0
OFFLINE_S = 120.0
DAY_S = 86_400.0


def tell(database: Database, rows: list[dict[str, Any]]) -> None:
    usual: dict[str, Any] = {
        "device": "press-1",
        "boot_id": "b",
        "release": "motor/1",
        "anomaly_rate": 0.1,
        "drift_score": 0.3,
        "drifted": False,
        "inference_p99_us": 900.0,
        "interval_windows": 20,
        "interval_judged": 15,
        "interval_s": 30.0,
        "memory_pss_bytes": 50_000_000,
        "sight": 0.9,
        "state": "watching",
        "score_mean": 0.5,
        "score_max": 0.8,
        "threshold": 1.0,
        "payload": {},
    }
    with database.write() as session:
        told = [
            usual | {"sequence": number, "sent_at": row["received_at"]} | row
            for number, row in enumerate(rows)
        ]
        for first in range(0, len(told), 5000):
            session.execute(insert(HealthRecord), told[first : first + 5000])


def over(database: Database, span: str) -> Series:
    with database.read() as session:
        return read_series(session, "press-1", start=END - SPANS[span], until=END, offline_after_s=OFFLINE_S)


def test_each_bucket_keeps_its_lowest_and_its_highest(database: Database) -> None:
    tell(
        database,
        [
            {
                "received_at": END - DAY_S + 10 * number,
                "score_mean": 0.2 + 0.01 * (number % 20),
                "score_max": 7.5 if number == 4321 else 0.8,
                "inference_p99_us": 100.0 if number == 1234 else 900.0,
            }
            for number in range(8640)
        ]
        + [{"received_at": END - 5, "device": "press-2", "score_max": 99.0}],
    )
    series = over(database, "1d")
    score = series.figures["score"]
    assert len(score) == BUCKETS
    assert min(one.low for one in score) == pytest.approx(0.2)
    assert max(one.high for one in score) == 7.5, "one window of a day is not lost among the others"
    assert min(one.low for one in series.figures["latency_us"]) == 100.0
    (spike,) = [one for one in score if one.high == 7.5]
    assert abs(spike.at - (END - DAY_S + 43_210)) <= DAY_S / BUCKETS
    assert (series.windows, series.unjudged) == (8640 * 20, 8640 * 5)
    assert {one.high for one in series.figures["threshold"]} == {1.0}


def test_what_was_not_told_is_not_drawn(database: Database) -> None:
    silent = {"score_mean": None, "score_max": None, "threshold": None, "sight": None, "memory_pss_bytes": 0}
    tell(database, [silent | {"received_at": END - 60, "inference_p99_us": 0.0}])
    assert over(database, "1h").figures.keys() == {"drift", "unjudged_share", "over_share"}
    assert over(database, "90d").figures == {}, "and nothing is in a block yet"


def test_an_interval_in_which_nothing_was_judged_has_no_score(database: Database) -> None:
    blind = {"interval_judged": 0, "score_mean": 0.0, "score_max": 0.0, "received_at": END - 60}
    tell(database, [blind, {"received_at": END - 30}])
    assert [(one.low, one.high) for one in over(database, "1h").figures["score"]] == [(0.5, 0.8)]


@pytest.mark.parametrize("is_joined", [False, True])
def test_a_quarter_of_a_year_is_read_from_blocks(database: Database, is_joined: bool) -> None:
    tell(
        database,
        [
            {"received_at": END - 20 * DAY_S + 600 * number, "score_max": 3.0 if number == 700 else 0.8}
            for number in range(20 * 144)
        ],
    )
    rolling = HealthRollUp(database, offline_after_s=OFFLINE_S)
    while rolling.roll_up():
        pass
    if is_joined:
        joining = HourBlocks(database, fine_blocks_s=19 * DAY_S, offline_after_s=OFFLINE_S, now=lambda: END)
        while joining.join():
            pass
    series = over(database, "90d")
    assert max(one.high for one in series.figures["score"]) == 3.0
    assert series.figures["memory_bytes"][0].high == pytest.approx(50_000_000)
    assert series.figures["latency_us"][0].high == pytest.approx(900.0)
    assert series.figures["drift"][0].low == pytest.approx(0.3)
    assert series.figures["sight"][0].low == pytest.approx(0.9)
    assert len(series.figures["score"]) <= BUCKETS + 1
    assert series.windows == 20 * 144 * 20


def test_whatever_a_device_says_its_page_can_be_drawn(database: Database) -> None:
    wild = {
        "drift_score": 1e308,
        "inference_p99_us": 1e308,
        "score_max": 1e308,
        "score_mean": -1e308,
        "threshold": -1e308,
        "memory_pss_bytes": 2**53,
        "interval_windows": 2**53,
        "interval_judged": 2**53,
        "anomaly_rate": 1e308,
    }
    tell(database, [wild | {"received_at": END - 3 * DAY_S + 60 * number} for number in range(100)])
    tell_later = [wild | {"received_at": END - 60 * number, "boot_id": "c"} for number in range(1, 30)]
    tell(database, tell_later)
    rolling = HealthRollUp(database, offline_after_s=OFFLINE_S)
    while rolling.roll_up():
        pass
    for span in SPANS:
        for readings in over(database, span).figures.values():
            assert all(math.isfinite(value) for reading in readings for value in reading)


def test_a_device_that_talks_without_end_is_read_from_its_blocks_and_from_what_is_in_none_yet(
    database: Database,
) -> None:
    def told(first: int, last: int, **changed: float) -> None:
        rows = [
            {"received_at": END - 10 * (3000 - number), "boot_id": f"b{first}"}
            | (changed if number == (first + last) // 2 else {})
            for number in range(first, last)
        ]
        tell(database, rows)

    told(0, 2900, score_max=7.5)
    while HealthRollUp(database, offline_after_s=OFFLINE_S).roll_up():
        pass
    told(2900, 3000, score_max=8.5)
    with database.read() as session:
        span: dict[str, Any] = {"start": END - DAY_S, "until": END, "offline_after_s": OFFLINE_S}
        whole = read_series(session, "press-1", **span)
        rolled = read_series(session, "press-1", **span, most_messages=2999)
        exact = read_series(session, "press-1", **span, most_messages=3000)
    assert exact == whole
    assert (rolled.windows, rolled.unjudged) == (whole.windows, whole.unjudged), "each message counts once"
    assert sorted(one.high for one in rolled.figures["score"])[-2:] == [7.5, 8.5], (
        "none is lost among the others"
    )
    times = [one.at for one in rolled.figures["score"]]
    assert times == sorted(times)
    assert END - times[-1] < 300
    assert len(times) < 80
