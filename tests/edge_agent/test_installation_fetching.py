"""How a release comes onto the disk: over a road that breaks, when the device may fetch, and when there is no room."""

from __future__ import annotations

import re

import pytest
from installation_world import Device, device, make_bundle

from edge_agent.fetch_conditions import FetchConditions
from edge_agent.readiness import Conditions
from edge_agent.settings import InstallationSettings
from protocol.messages.kinds import InstallStatus, InstallStep

__all__ = ["device"]  # the fixture
pytestmark = pytest.mark.edge


def test_a_broken_connection_is_resumed_where_it_broke(device: Device) -> None:
    bundle = make_bundle(1)
    device.fleet.break_after = [8192, 4096]
    device.submit(device.fleet.offer(bundle, 1))
    assert [offset for _, offset in device.fleet.requests] == [0, 8192, 12288]
    assert device.release == "pump/1"


def test_a_road_that_breaks_at_every_chunk_brings_each_byte_once(device: Device) -> None:
    desired = device.fleet.offer(make_bundle(1), 1)
    device.fleet.chunk_bytes = 1000
    device.fleet.break_after = [1000] * 200
    device.submit(desired)
    offsets = [offset for _, offset in device.fleet.requests]
    assert offsets == list(range(0, desired.bundle_bytes, 1000))
    assert device.release == "pump/1"


def test_a_server_that_ignores_ranges_takes_nothing_away_that_was_fetched(device: Device) -> None:
    desired = device.fleet.offer(make_bundle(1), 1)
    device.fleet.ignores_ranges = True
    device.fleet.chunk_bytes = 1000
    device.fleet.break_after = [3000, 1000, 2000, 5000, 1000, 4000]
    shares: list[float] = []
    device.fleet.on_chunk = lambda: shares.append(
        device.installer._tools.store.part_bytes(desired.bundle_sha256) / desired.bundle_bytes
    )
    device.submit(desired)
    assert shares == sorted(shares), "it only grows"
    assert device.release == "pump/1"


@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_content_that_changed_while_the_road_was_broken_is_fetched_from_the_start(
    device: Device, ignores_ranges: bool
) -> None:
    desired = device.fleet.offer(make_bundle(1), 1)
    content = device.fleet.bundles[desired.bundle_path]
    device.fleet.ignores_ranges = ignores_ranges
    device.fleet.bundles[desired.bundle_path] = b"\x00" * len(content)
    device.fleet.break_after = [8192]
    device.fleet.on_chunk = lambda: device.fleet.bundles.update({desired.bundle_path: content})
    device.submit(desired)
    assert device.fleet.requests[-1][1] == 0
    assert device.release == "pump/1"


def test_a_device_that_is_hot_waits_says_so_once_and_goes_on_by_itself(device: Device) -> None:
    device.install(1)
    device.install(2)
    desired = device.fleet.offer(make_bundle(3), 3)
    device.hindrance = "it is 91 °C hot, the limit is 85 °C"
    device.installer.submit(desired)
    inbox, asked = device.installer._inbox, len(device.fleet.requests)
    waits = list[float]()

    def wait(seconds: float) -> None:
        waits.append(seconds)
        inbox.time_s += seconds
        if len(waits) == 5:
            device.hindrance = ""

    inbox.wait = wait  # type: ignore[method-assign]  # the device cools down
    device.installer.run_pending()
    [waiting, _] = device.work()[:2]
    assert (waiting.step, waiting.status, waiting.reason) == (
        InstallStep.DOWNLOADING,
        InstallStatus.DEFERRED,
        "it is 91 °C hot, the limit is 85 °C",
    )
    assert waits == [60.0] * 5
    assert len(device.fleet.requests) == asked + 1
    device.watch()
    assert device.release == "pump/3"


def test_a_device_that_waits_is_interrupted_by_a_release_that_lies_on_it(device: Device) -> None:
    device.install(1)
    device.install(2)
    device.hindrance = "it runs on battery"
    device.installer.submit(device.fleet.offer(make_bundle(3), 3))
    inbox = device.installer._inbox
    back = device.fleet.offer(make_bundle(1), 1, counter=4)
    inbox.wait = lambda seconds: device.installer.submit(back)  # type: ignore[method-assign]  # a newer word comes
    reports = device.work()
    assert [r.status for r in reports if r.execution == "e3"] == [
        InstallStatus.DEFERRED,
        InstallStatus.CANCELED,
    ]
    assert device.release == "pump/1"


def test_a_days_share_of_a_metered_link_is_kept_but_for_a_release_that_is_larger(device: Device) -> None:
    now, fetched = [0.0], [500]
    link = FetchConditions(
        InstallationSettings(bytes_per_day=1000, require_power=True, maximum_temperature_c=80.0),
        lambda: fetched[0],
        lambda: now[0],
        lambda: Conditions(temperature_c=70.0, on_mains=True),
    )
    assert link.hindrance(5000) == "", "or it would never come"
    fetched[0] += 700
    assert link.hindrance(300) == ""
    assert link.hindrance(301) == "700 of today's 1000 bytes for releases are used, and 301 are missing"
    now[0] += 86_400.0
    assert link.hindrance(301) == ""
    for conditions, words in (
        (Conditions(temperature_c=80.5), "it is 80.5 °C hot, the limit is 80 °C"),
        (Conditions(on_mains=False), "it runs on battery (installation.require_power = true)"),
        (Conditions(), ""),
    ):
        settings = InstallationSettings(maximum_temperature_c=80.0, require_power=True)
        told = FetchConditions(settings, lambda: 0, lambda: 0.0, lambda found=conditions: found)  # type: ignore[misc]  # bound now
        assert told.hindrance(1) == words


def test_a_download_that_never_ends_times_out(device: Device) -> None:
    desired = device.fleet.offer(make_bundle(1), 1)
    device.fleet.bundles[desired.bundle_path] = make_bundle(1)[:5000]
    [report] = device.submit(desired)
    assert (report.step, report.status) == (InstallStep.TIMED_OUT, InstallStatus.TIMED_OUT)
    assert re.fullmatch(
        rf"pump/1 was not fetched in 60 s: 5000 of {desired.bundle_bytes} bytes; last trouble: the connection ended early",
        report.reason,
    )


def test_a_bundle_that_drips_in_is_given_up_at_the_deadline_although_the_connection_never_breaks(
    device: Device,
) -> None:
    offered = device.fleet.offer(make_bundle(1), 1)
    device.fleet.chunk_bytes = 10
    inbox = device.installer._inbox
    device.fleet.on_chunk = lambda: inbox.wait(9.0)
    [report] = device.submit(offered)
    assert (report.status, "was not fetched in 60 s" in report.reason) == (InstallStatus.TIMED_OUT, True)
    assert len(device.fleet.requests) == 1


def test_a_fleet_that_sends_too_much_is_stopped(device: Device) -> None:
    desired = device.fleet.offer(make_bundle(1), 1)
    device.fleet.bundles[desired.bundle_path] += b"more"
    [report] = device.submit(desired)
    assert report.status is InstallStatus.REJECTED
    assert f"more than the {desired.bundle_bytes} bytes it promised" in report.reason


def test_a_full_disk_is_seen_before_a_byte_is_fetched(device: Device) -> None:
    device.free_bytes = 20_000
    [report] = device.submit(device.fleet.offer(make_bundle(1), 1))
    assert report.status is InstallStatus.FAILED
    assert "not enough disk space" in report.reason
    assert "20000 are free" in report.reason
    assert device.fleet.requests == []


def test_a_disk_that_fills_while_fetching_fails_the_release_only(device: Device) -> None:
    device.install(1)
    desired = device.fleet.offer(make_bundle(2), 2)
    (device.root / "bundles" / f"{desired.bundle_sha256}.part").symlink_to("/dev/full")
    [report] = device.submit(desired)
    assert report.status is InstallStatus.FAILED
    assert "cannot write" in report.reason
    assert device.release == "pump/1"


def test_a_bundle_that_the_disk_damaged_is_fetched_again(device: Device) -> None:
    device.install(1)
    device.install(2)
    desired = device.fleet.offer(make_bundle(1), 1, counter=3)
    path = device.root / "bundles" / f"{desired.bundle_sha256}.fedge"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    requests = len(device.fleet.requests)
    [report] = device.submit(desired)
    assert report.status is InstallStatus.SUCCEEDED
    assert len(device.fleet.requests) == requests + 1


def test_a_part_from_before_that_does_not_fit_is_fetched_from_the_start(device: Device) -> None:
    desired = device.fleet.offer(make_bundle(1), 1)
    (device.root / "bundles" / f"{desired.bundle_sha256}.part").write_bytes(b"\x00" * 5000)
    device.submit(desired)
    assert [offset for _, offset in device.fleet.requests] == [5000, 0]
    assert device.release == "pump/1"
