"""Crashes, restarts and full disks around an installation; kills at every write are in test_device_crashes."""

from __future__ import annotations

from pathlib import Path

import pytest
from installation_world import TRIAL_WINDOWS, Device, ask, make_bundle

from edge_agent.installation.journal import Journal
from edge_agent.installation.journal_file import JournalFile
from protocol.messages.kinds import InstallStatus, InstallStep
from runtime.errors import StorageError

pytestmark = [pytest.mark.slow, pytest.mark.edge]


def test_a_release_that_takes_the_agent_down_is_started_three_times_and_then_undone(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.install(1)
    device.submit(device.fleet.offer(make_bundle(2), 2))
    for _ in range(2):
        device.crash()
        assert device.release == "pump/2"
    device.crash()
    assert device.release == "pump/1"
    [report] = device.work()
    assert report.status is InstallStatus.ROLLED_BACK
    assert report.reason == "the agent ended 3 times during TRIAL of pump/2"


def test_an_agent_that_is_stopped_in_good_order_does_not_count_against_the_release(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.submit(device.fleet.offer(make_bundle(1), 1))
    for _ in range(6):
        device.restart()
    assert device.installer.step() is InstallStep.TRIAL
    assert device.release == "pump/1"


def wait_without_windows(device: Device, seconds: float) -> list[InstallStatus]:
    device.installer._inbox.wait(seconds)
    device.installer.poll()
    return [report.status for report in device.work()]


def test_a_trial_that_gets_no_windows_is_deferred_and_ends_when_they_come(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.install(1)
    device.submit(device.fleet.offer(make_bundle(2), 2))
    assert wait_without_windows(device, 119.0) == []
    assert wait_without_windows(device, 2.0) == [InstallStatus.DEFERRED]
    assert wait_without_windows(device, 86_400.0) == [], (
        "it neither fails nor passes by waiting, and is said once"
    )
    assert (device.release, device.installer.step()) == ("pump/2", InstallStep.TRIAL)
    [report] = device.watch()
    assert (report.status, report.release) == (InstallStatus.SUCCEEDED, "pump/2")


def test_a_trial_whose_windows_cease_is_deferred_too(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.install(1)
    device.submit(device.fleet.offer(make_bundle(2), 2))
    assert wait_without_windows(device, 100.0) == []
    device.watch(TRIAL_WINDOWS - 1)
    assert wait_without_windows(device, 100.0) == []
    assert wait_without_windows(device, 100.0) == [InstallStatus.DEFERRED]
    [report] = device.watch(1)
    assert report.status is InstallStatus.SUCCEEDED


def test_faults_that_were_there_before_are_no_windows_for_a_trial(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.install(1)
    device.watch(20, error="sensor")
    device.submit(device.fleet.offer(make_bundle(2), 2))
    device.installer._inbox.wait(121.0)
    assert device.watch(5, error="sensor") == []
    assert wait_without_windows(device, 0.0) == [InstallStatus.DEFERRED]


@pytest.mark.parametrize("end", ["crash", "restart"])
def test_a_deferred_trial_survives_kills_and_restarts_without_a_verdict(tmp_path: Path, end: str) -> None:
    device = Device(tmp_path)
    device.install(1)
    device.submit(device.fleet.offer(make_bundle(2), 2))
    wait_without_windows(device, 121.0)
    for _ in range(5):
        getattr(device, end)()
        assert [report.status for report in device.work()] == [InstallStatus.DEFERRED]
        assert wait_without_windows(device, 121.0) == []
        assert (device.release, device.installer.step()) == ("pump/2", InstallStep.TRIAL)
    [report] = device.watch()
    assert report.status is InstallStatus.SUCCEEDED


def test_a_deferred_trial_that_then_ends_the_agent_is_still_undone(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.install(1)
    device.submit(device.fleet.offer(make_bundle(2), 2))
    wait_without_windows(device, 121.0)
    for _ in range(4):
        device.crash()
    assert device.release == "pump/1"
    [report] = device.work()
    assert report.status is InstallStatus.ROLLED_BACK


def test_a_restart_in_a_trial_begins_it_again_with_the_same_yardstick(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.install(1)
    device.watch(20, latency_us=10.0)
    device.submit(device.fleet.offer(make_bundle(2), 2))
    device.restart()
    [report] = device.watch(latency_us=100_000.0)
    assert report.status is InstallStatus.ROLLED_BACK
    assert "median inference time 100000 µs, 10 µs before it" in report.reason


def test_the_last_word_is_repeated_after_a_restart(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.install(1)
    last = device.reports[-1]
    device.restart()
    assert device.work() == [last]


def test_a_damaged_active_bundle_is_replaced_by_the_one_before(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.install(1)
    device.install(2)
    path = tmp_path / "bundles" / f"{ask(make_bundle(2), 2).bundle_sha256}.fedge"
    path.write_bytes(b"worn out")
    device.restart()
    assert device.release == "pump/1"
    assert device.journal.active is not None
    assert device.journal.active.release == "pump/1"
    # The fleet's retained wish brings the release back: it succeeded, but no longer runs.
    device.submit(device.fleet.offer(make_bundle(2), 2))
    device.watch()
    assert device.release == "pump/2"


def test_a_trial_whose_fallbacks_are_all_damaged_is_reported_as_inconsistent(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.install(1)
    device.submit(device.fleet.offer(make_bundle(2), 2))
    path = tmp_path / "bundles" / f"{ask(make_bundle(1), 1).bundle_sha256}.fedge"
    path.write_bytes(b"worn out")
    [report] = device.watch(1, error="no")
    assert (report.step, report.status, report.active_release) == (
        InstallStep.INCONSISTENT,
        InstallStatus.FAILED,
        None,
    )
    assert "nothing on this device could be run instead" in report.reason
    assert device.release is None
    assert device.installer.step() is InstallStep.INCONSISTENT
    device.install(3)
    assert device.release == "pump/3", "a newer release mends it"


def test_a_damaged_journal_is_set_aside_and_the_newest_bundle_runs(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.install(1)
    device.install(2)
    (tmp_path / "install.json").write_bytes(b'{"format":1,"highest')
    device.restart()
    assert device.release == "pump/2"
    assert (tmp_path / "install.json.damaged").exists()


def test_a_factory_bundle_runs_before_the_fleet_ever_spoke(tmp_path: Path) -> None:
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "factory.fedge").write_bytes(make_bundle(1))
    device = Device(tmp_path)
    assert device.release == "pump/1"
    for version in (2, 3, 4):
        device.install(version)
    assert (
        device.submit(device.fleet.offer(make_bundle(1), 1, counter=9))[-1].status is InstallStatus.SUCCEEDED
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"GIF89a", make_bundle(1)[:-1], make_bundle(1, family="fan")],
    ids=["empty", "other file", "cut short", "other family"],
)
def test_a_factory_bundle_that_is_none_leaves_the_device_waiting(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "factory.fedge").write_bytes(content)
    assert Device(tmp_path).release is None


class FullDisk(JournalFile):
    """A journal whose disk fills when told."""

    is_full = False

    def save(self, journal: Journal) -> None:
        if self.is_full:
            raise StorageError("cannot write install.json: No space left on device")
        super().save(journal)


def test_a_journal_that_cannot_be_written_fails_the_release_and_not_the_agent(tmp_path: Path) -> None:
    file = FullDisk(tmp_path / "install.json")
    device = Device(tmp_path, journal_file=file)
    device.install(1)
    file.is_full = True
    [report] = device.submit(device.fleet.offer(make_bundle(2), 2))
    assert report.status is InstallStatus.FAILED
    assert "No space left" in report.reason
    assert device.release == "pump/1"
    file.is_full = False
    device.install(2)
    assert device.release == "pump/2", "the same request is taken up again"


def test_a_rollback_happens_even_when_it_cannot_be_written(tmp_path: Path) -> None:
    file = FullDisk(tmp_path / "install.json")
    device = Device(tmp_path, journal_file=file)
    device.install(1)
    device.submit(device.fleet.offer(make_bundle(2), 2))
    file.is_full = True
    device.watch(1, error="no")
    assert device.release == "pump/1"


def test_a_commit_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    file = FullDisk(tmp_path / "install.json")
    device = Device(tmp_path, journal_file=file)
    device.submit(device.fleet.offer(make_bundle(1), 1))
    file.is_full = True
    assert device.watch() == []
    file.is_full = False
    [report] = device.watch()
    assert report.status is InstallStatus.SUCCEEDED
