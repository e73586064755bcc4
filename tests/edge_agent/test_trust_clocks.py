"""Devices with clocks that are wrong by years, and the ends of metadata: by the earliest time that it can be."""

from __future__ import annotations

from pathlib import Path

import pytest
from trust_device import TrustDevice
from trust_repository import NOW, NOW_S, TrustRepository

from edge_agent.errors import UpdateTrustError
from edge_agent.trusted_clock import STEADY_S, TRUSTED_AFTER_S, TrustedClock
from edge_agent.version import MADE_AFTER_S

pytestmark = pytest.mark.edge

YEAR_S = 365.25 * 86_400


class Clocks:
    """The clocks of a device: `system_s` may be anything, `boot_s` only runs."""

    def __init__(self, folder: Path, system_s: float, *, is_kept: bool) -> None:
        self.file, self.offset_s, self.boot_s, self.is_kept = folder / "clock.json", system_s, 0.0, is_kept
        self.restart()

    def restart(self) -> None:
        self.clock = TrustedClock(
            self.file,
            system=lambda: self.offset_s + self.boot_s,
            boot=lambda: self.boot_s,
            is_kept=lambda: self.is_kept,
            boot_name="",
        )

    def run(self, seconds: float) -> None:
        """Time goes by, and the agent looks at the clock all the while."""
        for _ in range(int(seconds // 10)):
            self.boot_s += 10.0
            self.clock.save_if_due()


def device_with(folder: Path, clocks: Clocks, repository: TrustRepository) -> TrustDevice:
    device = TrustDevice(folder, repository)
    device.trust._earliest_s = clocks.clock.earliest_s
    return device


@pytest.mark.parametrize("years", [-50, -5, 0, 5, 20, 1000])
def test_a_clock_that_nobody_keeps_neither_ends_nor_revives_anything(tmp_path: Path, years: float) -> None:
    """Good metadata are good to it however far ahead it is; what ended before this version was made is not, however far behind."""
    clocks = Clocks(tmp_path, NOW_S + years * YEAR_S, is_kept=False)
    device = device_with(tmp_path, clocks, TrustRepository())
    device.trust.refresh()
    assert device.trust.problems() == []
    ended = TrustRepository(now=NOW.replace(year=2025))
    with pytest.raises(UpdateTrustError, match="expired by this device's clock"):
        device_with(tmp_path / "other", clocks, ended).trust.refresh()


@pytest.mark.parametrize(
    ("days", "is_good"), [(-400, True), (0, True), (0.9, True), (1.1, False), (3650, False)]
)
def test_a_clock_that_is_kept_is_believed(tmp_path: Path, days: float, is_good: bool) -> None:
    clocks = Clocks(tmp_path, max(MADE_AFTER_S + 1, NOW_S + days * 86_400) - STEADY_S, is_kept=True)
    clocks.run(STEADY_S + 10)
    device = device_with(tmp_path, clocks, TrustRepository())
    if is_good:
        device.trust.refresh()
    else:
        with pytest.raises(UpdateTrustError, match="expired by this device's clock"):
            device.trust.refresh()


def test_a_clock_that_was_set_back_does_not_revive_what_had_ended_when_it_was_kept(tmp_path: Path) -> None:
    """The last trusted time outlives the battery: frozen metadata stay ended, as far as that time says."""
    clocks = Clocks(tmp_path, NOW_S + 2 * 86_400, is_kept=True)
    clocks.run(STEADY_S + 2 * TRUSTED_AFTER_S)
    clocks.run(3700)
    clocks.is_kept, clocks.offset_s, clocks.boot_s = False, 0.0, 0.0
    clocks.restart()
    device = device_with(tmp_path, clocks, TrustRepository())
    with pytest.raises(UpdateTrustError, match="expired by this device's clock"):
        device.trust.refresh()


def test_what_is_fresh_ends_while_the_device_runs_although_nobody_keeps_its_clock(tmp_path: Path) -> None:
    clocks = Clocks(tmp_path, 0.0, is_kept=False)
    repository = TrustRepository()
    repository.timestamp.expires = NOW.fromtimestamp(MADE_AFTER_S + 3600, tz=NOW.tzinfo)
    repository.publish("timestamp")
    device = device_with(tmp_path, clocks, repository)
    device.trust.refresh()
    clocks.run(3700)
    assert "timestamp ended on 2026-01-01 01:00" in device.trust.problems()[0]
