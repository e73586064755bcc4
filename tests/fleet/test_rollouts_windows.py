"""Maintenance windows in device time: cron fields, clocks that are set forward and back, zones that do not exist."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollout_decisions_world import S, started

from fleet.rollouts.pacing import Schedule
from fleet.rollouts.progress import Running
from fleet.rollouts.windows import Cron, check_time_zone, opens_at
from protocol.names import DeviceId

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


def opens(cron: str, duration_s: float, now: float, zone: ZoneInfo = BERLIN) -> float:
    return opens_at([(Cron.parse(cron), duration_s)], zone, now)


def test_a_window_is_open_from_its_beginning_until_it_has_lasted() -> None:
    night = "0 2 * * *"
    assert opens(night, 7200, at("2026-01-10T01:59:59")) == at("2026-01-10T02:00")
    assert opens(night, 7200, at("2026-01-10T02:00")) == at("2026-01-10T02:00")
    assert opens(night, 7200, at("2026-01-10T03:59:59")) == at("2026-01-10T03:59:59")
    assert opens(night, 7200, at("2026-01-10T04:00")) == at("2026-01-11T02:00")


def test_a_beginning_in_the_hour_that_spring_leaves_out_comes_that_much_later_and_once() -> None:
    # 2026-03-29: 02:00 becomes 03:00 in Berlin
    assert opens("30 2 * * *", 600, at("2026-03-29T00:00")) == at("2026-03-29T03:30")
    assert opens("30 2 * * *", 600, at("2026-03-29T03:40")) == at("2026-03-30T02:30")
    # a window that spans the change lasts as long as it says, by any clock
    assert opens("0 1 * * *", 7200, at("2026-03-29T03:59:59")) == at("2026-03-29T03:59:59")
    assert opens("0 1 * * *", 7200, at("2026-03-29T04:00")) == at("2026-03-30T01:00")


def test_an_hour_that_comes_twice_begins_a_window_once() -> None:
    # 2026-10-25: 03:00 becomes 02:00 in Berlin
    first, second = at("2026-10-25T02:30"), at("2026-10-25T02:30", fold=1)
    assert second - first == 3600
    assert opens("30 2 * * *", 1800, at("2026-10-25T00:00")) == first
    assert opens("30 2 * * *", 1800, first + 1800) == at("2026-10-26T02:30")
    assert opens("30 2 * * *", 5400, second) == second, "it has lasted an hour, and has half of one left"


@pytest.mark.parametrize(
    ("cron", "now", "begins"),
    [
        ("*/20 8-9 * * *", "2026-01-10T09:41", "2026-01-11T08:00"),
        ("5,50 4 * * *", "2026-01-10T04:06", "2026-01-10T04:50"),
        ("0 3 * * sat,sun", "2026-01-12T00:00", "2026-01-17T03:00"),
        ("0 3 * * 7", "2026-01-12T00:00", "2026-01-18T03:00"),
        ("0 3 1 * *", "2026-01-12T00:00", "2026-02-01T03:00"),
        ("0 3 13 * fri", "2026-01-03T00:00", "2026-01-09T03:00"),  # both days given: either
        ("0 3 29 feb *", "2026-01-03T00:00", "2028-02-29T03:00"),
        ("0 0 * jun-aug *", "2026-01-03T00:00", "2026-06-01T00:00"),
        ("59/1 23 31 12 *", "2026-01-03T00:00", "2026-12-31T23:59"),
    ],
)
def test_five_fields_mean_what_cron_means_by_them(cron: str, now: str, begins: str) -> None:
    assert opens(cron, 60, at(now)) == at(begins)


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("0 2 * *", "has 4 fields; it needs 5"),
        ("0 2 * * * *", "has 6 fields"),
        ("60 2 * * *", "minute '60' is not understood; valid are 0 to 59"),
        ("0 -1 * * *", "hour '-1' is not understood"),
        ("0 2 0 * *", "day of month '0' is not understood; valid are 1 to 31"),
        ("0 2 * * mo", "day of week 'mo' is not understood; valid are 0 to 7, or sun to sat"),
        ("0 5-2 * * *", "hour '5-2' is not understood"),
        ("*/0 2 * * *", "minute '*/0' is not understood"),
        ("0 2,, * * *", "hour '' is not understood"),
        ("0 ² * * *", "hour '²' is not understood"),
        ("0 2 31 apr,jun *", "names a day that never comes"),
    ],
)
def test_what_is_no_time_is_refused_with_what_would_be_one(cron: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"^cron ") as refused:
        Cron.parse(cron)
    assert words in str(refused.value)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"windows": [{"cron": cron, "duration_s": 60}]}, Schedule)


def test_an_unknown_time_zone_is_refused_with_the_nearest() -> None:
    check_time_zone("Asia/Kolkata")
    for name, near in (("Europe/Berlim", "Europe/Berlin"), ("europe/berlin", "Europe/Berlin")):
        with pytest.raises(ValueError, match=f"there is no time zone '{name}'; did you mean .*{near}"):
            check_time_zone(name)
    with pytest.raises(ValueError, match=r"there is no time zone '\.\./\.\./etc/passwd'"):
        check_time_zone("../../etc/passwd")


@given(
    second=st.integers(1_704_067_200, 1_956_528_000),  # 2024 to 2031
    zone=st.sampled_from(
        ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC"]
    ),
    minute=st.integers(0, 59),
    hour=st.integers(0, 23),
    duration_s=st.sampled_from([60, 3600, 86_399, 7 * 86400]),
)
def test_what_opens_is_open_and_nothing_opened_before(
    second: int, zone: str, minute: int, hour: int, duration_s: int
) -> None:
    # the naive twin: minute by minute through absolute time, a beginning is where the local clock first shows it
    moment, local = datetime.fromtimestamp(second // 60 * 60, UTC), ZoneInfo(zone)
    found = opens(f"{minute} {hour} * * *", duration_s, moment.timestamp(), local)

    def begins(when: datetime) -> bool:
        shown = when.astimezone(local)
        return (shown.hour, shown.minute, shown.fold) == (hour, minute, 0)

    back = (moment - timedelta(minutes=n) for n in range(2 * 1440))
    begun = next((when for when in back if begins(when)), None)
    if begun is not None and (moment - begun).total_seconds() < duration_s:
        assert found == moment.timestamp()
    else:
        ahead = (moment + timedelta(minutes=n) for n in range(2 * 1440))
        expected = next(when for when in ahead if begins(when))
        gap = found < expected.timestamp()  # one that the clock never shows began shifted
        assert gap or found == expected.timestamp()
        assert found >= moment.timestamp()


def test_each_device_is_told_in_its_own_night_and_one_without_a_zone_in_that_of_the_plan() -> None:
    night = {"windows": [{"cron": "0 2 * * *", "duration_s": 3600}], "time_zone": "Asia/Tokyo"}
    world, devices = started(3, schedule=night, timeout={"queued_s": 10**6})
    berlin, tokyo, wrong = (DeviceId(device) for device in devices)
    world.now = at("2026-01-10T12:00", ZoneInfo("UTC"))
    zones = {berlin: "Europe/Berlin", tokyo: None, wrong: "Europe/Berlim"}
    for device, zone in zones.items():
        world.know({device: Running(release="pump/1", returnable="pump/1", at=0.0, time_zone=zone)})
    world.rollout = world.rollout.counted()  # as after a restart
    told = {}
    while len(told) < 3:
        world.tick(0)
        told |= {
            e.device: world.now
            for e in world.rollout.executions.values()
            if e.is_given and e.device not in told
        }
        assert world.rollout.index.due_at is not None
        world.now = world.rollout.index.due_at
    tokyo_night = at("2026-01-11T02:00", ZoneInfo("Asia/Tokyo"))
    assert told == {berlin: at("2026-01-11T02:00"), tokyo: tokyo_night, wrong: tokyo_night}


def test_going_back_never_waits_for_a_window() -> None:
    night = {"windows": [{"cron": "0 2 * * *", "duration_s": 3600}]}
    world, (first, second) = started(2, schedule=night)
    world.now = at("2026-01-10T02:30", ZoneInfo("UTC"))
    world.rollout = world.rollout.counted()
    world.tick()
    world.report(first, S.FAILED)
    world.report(second, S.FAILED)
    world.tick(12 * 3600)
    assert {world.desired[device][0] for device in (first, second)} == {"pump/1"}
