"""What time it is: a clock that nobody can set for ages, and a date that is believed only where it is known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from edge_agent.trusted_clock import (
    LATEST_S,
    TAKEN_BACK_AFTER_S,
    TrustedClock,
    boot_clock_s,
    is_kept_by_a_time_service,
)
from edge_agent.version import MADE_AFTER_S

pytestmark = pytest.mark.edge
NOW_S = MADE_AFTER_S + 3 * 365 * 86400.0
YEAR_S = 365.25 * 86400.0


class Device:
    """A device with its own two clocks; `is_kept` is what its kernel says."""

    def __init__(
        self, file: Path, *, boot_name: str = "k1", is_kept: bool = True, offset_s: float = NOW_S
    ) -> None:
        self.now_s, self.offset_s, self.is_kept = 100.0, offset_s, is_kept
        self.clock = TrustedClock(
            file,
            system=lambda: self.offset_s + self.now_s,
            boot=lambda: self.now_s,
            is_kept=lambda: self.is_kept,
            boot_name=boot_name,
        )

    def run(self, seconds: float, look_every_s: float = 1.0) -> None:
        for _ in range(int(seconds / look_every_s)):
            self.now_s += look_every_s
            self.clock.save_if_due()

    def step(self, by_s: float) -> None:
        """As `date -s`: the kernel says from then on that nobody keeps the clock."""
        self.offset_s += by_s
        self.is_kept = False


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "clock.json"


def test_a_clock_that_a_time_service_keeps_is_known_to_be_set(file: Path) -> None:
    device = Device(file)
    assert device.clock.is_set
    assert device.clock.wall_s() == NOW_S + 100


def test_a_clock_that_nobody_keeps_is_taken_as_it_is_but_not_known(file: Path) -> None:
    device = Device(file, is_kept=False)
    assert not device.clock.is_set
    assert device.clock.wall_s() == NOW_S + 100


@pytest.mark.parametrize("by_s", [-20 * 86400.0, 20 * 86400.0, -60 * YEAR_S, 8000 * YEAR_S, 20 * YEAR_S])
def test_a_step_of_a_known_clock_changes_no_date_until_the_time_service_keeps_it_again(
    file: Path, by_s: float
) -> None:
    device = Device(file)
    device.run(5)
    device.step(by_s)
    device.run(100)
    assert device.clock.is_set
    assert device.clock.wall_s() == pytest.approx(NOW_S + 205)
    assert (device.clock.steps, device.clock.last_step_s) == (1, pytest.approx(by_s))
    device.offset_s, device.is_kept = NOW_S + 3, True
    device.run(100)
    assert device.clock.wall_s() == pytest.approx(NOW_S + 308)


def test_a_clock_that_jumps_while_it_is_said_to_be_kept_is_believed_once_it_stands(file: Path) -> None:
    device = Device(file)
    device.run(5)
    device.offset_s += 86400
    device.run(30)
    assert device.clock.wall_s() == pytest.approx(NOW_S + 135)
    device.run(60)
    assert device.clock.wall_s() == pytest.approx(NOW_S + 86400 + 195)


@pytest.mark.parametrize(
    "offset_s", [-1e9, 0.0, MADE_AFTER_S - YEAR_S, LATEST_S + YEAR_S, 3e11, math.inf, math.nan]
)
@pytest.mark.parametrize("is_kept", [True, False])
def test_a_clock_before_this_version_or_after_all_use_of_it_is_never_shown_and_never_known(
    file: Path, offset_s: float, is_kept: bool
) -> None:
    device = Device(file, is_kept=is_kept, offset_s=offset_s)
    device.run(100)
    assert not device.clock.is_set
    assert MADE_AFTER_S <= device.clock.wall_s() <= LATEST_S


def test_a_device_without_a_battery_starts_no_earlier_than_it_was_trusted_last(file: Path) -> None:
    first = Device(file)
    first.run(3 * 3600, look_every_s=10)
    again = Device(file, boot_name="k2", is_kept=False, offset_s=0.0)
    assert not again.clock.is_set
    assert NOW_S + 2 * 3600 - 120 <= again.clock.wall_s() <= NOW_S + 3 * 3600 + 200
    again.run(100)
    assert again.clock.wall_s() >= NOW_S + 2 * 3600 - 20, "it goes on from there"


def test_an_agent_that_restarts_in_the_same_start_of_the_device_still_knows_the_time(file: Path) -> None:
    first = Device(file)
    first.run(10)
    again = Device(file, is_kept=False, offset_s=NOW_S - 30 * YEAR_S)
    assert again.clock.is_set
    assert again.clock.wall_s() == pytest.approx(NOW_S + 100)
    assert not Device(file, boot_name="k2", is_kept=False).clock.is_set
    assert not Device(file, boot_name="", is_kept=False).clock.is_set


def test_a_date_that_was_wrong_for_a_moment_does_not_stay(file: Path) -> None:
    device = Device(file, offset_s=NOW_S + 10 * YEAR_S)
    device.run(300)
    device.offset_s = NOW_S
    device.run(100)
    assert device.clock.wall_s() == pytest.approx(NOW_S + 500)


def test_a_floor_that_was_wrong_yields_to_a_clock_that_is_kept_below_it_for_long(file: Path) -> None:
    device = Device(file, offset_s=NOW_S + 10 * YEAR_S)
    device.run(7200, look_every_s=10)
    again = Device(file, boot_name="k2")
    again.run(TAKEN_BACK_AFTER_S / 2, look_every_s=10)
    assert not again.clock.is_set
    again.run(TAKEN_BACK_AFTER_S, look_every_s=10)
    assert again.clock.is_set
    assert again.clock.wall_s() == pytest.approx(again.offset_s + again.now_s)


def test_a_date_that_is_told_is_held_until_another_is_and_no_impossible_one_is_believed(file: Path) -> None:
    device = Device(file, is_kept=False, offset_s=0.0)
    for impossible in (math.nan, math.inf, -1e300, LATEST_S + 1, MADE_AFTER_S - 1):
        device.clock.hear(impossible)
    assert device.clock.wall_s() == MADE_AFTER_S
    device.clock.hear(NOW_S)
    assert device.clock.wall_s() == device.clock.earliest_s() == NOW_S
    device.run(10)
    assert device.clock.wall_s() == NOW_S + 10
    again = Device(file, is_kept=False, offset_s=0.0, boot_name="k2")
    assert again.clock.wall_s() == pytest.approx(NOW_S, abs=20), "it goes on from there"
    assert not device.clock.is_set


def test_a_fleet_whose_clock_was_wrong_for_a_day_is_not_believed_for_years(file: Path) -> None:
    """What has an end is judged by the earliest time: a date years ahead would end every word, acknowledgement and release."""
    device = Device(file, is_kept=False, offset_s=0.0)
    device.clock.hear(NOW_S + 20 * YEAR_S)
    device.run(86_400, look_every_s=60)
    again = Device(file, is_kept=False, offset_s=0.0, boot_name="k2")
    again.clock.hear(NOW_S)
    assert again.clock.earliest_s() == again.clock.wall_s() == NOW_S
    again.run(10)
    assert Device(file, is_kept=False, offset_s=0.0).clock.earliest_s() == pytest.approx(NOW_S, abs=20)


def test_what_is_told_never_goes_back_behind_a_clock_that_was_kept(file: Path) -> None:
    first = Device(file)
    first.run(3 * 3600, look_every_s=10)
    again = Device(file, boot_name="k2", is_kept=False, offset_s=0.0)
    again.clock.hear(NOW_S - YEAR_S)
    assert again.clock.earliest_s() >= NOW_S + 2 * 3600 - 120


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"trusted_s": 1e308}',
        b'{"trusted_s": "x"}',
        b'{"trusted_s": 0, "boot": "k1", "offset_s": 1e300}',
        b'{"trusted_s": -1e300, "boot": "k1", "offset_s": -1e300}',
        b"[" * 10_000,
    ],
)
def test_a_damaged_file_is_no_reason_not_to_know_the_time(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert Device(file).clock.wall_s() <= LATEST_S
    assert Device(file, is_kept=False, offset_s=0).clock.wall_s() == MADE_AFTER_S


def test_a_disk_that_refuses_is_told_once_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device = Device(tmp_path / "no" / "clock.json")
    device.run(4 * 3600, look_every_s=10)
    assert device.clock.is_set
    assert caplog.text.count("trusted_time_not_saved") == 1


def test_the_kernel_of_this_machine_answers(tmp_path: Path) -> None:
    assert is_kept_by_a_time_service(tmp_path / "none") in {True, False}
    earlier = boot_clock_s()
    clock = TrustedClock(tmp_path / "clock.json")
    assert clock.boot_s() >= earlier
    assert MADE_AFTER_S <= clock.wall_s() <= LATEST_S
