"""The way of a good release: tried, committed, undone, repeated and superseded."""

from __future__ import annotations

import pytest
from installation_world import Device, ask, device, make_bundle
from msgspec.structs import replace

from edge_agent.installation.active import read_active
from protocol.messages.kinds import InstallStatus, InstallStep, RefusalCode
from runtime.errors import StorageError

__all__ = ["device"]  # the fixture
pytestmark = pytest.mark.edge


def test_a_good_release_is_fetched_probed_tried_and_committed(device: Device) -> None:
    bundle = make_bundle(1)
    [trial] = device.submit(device.fleet.offer(bundle, 1))
    assert (trial.step, trial.status, trial.active_release) == (
        InstallStep.TRIAL,
        InstallStatus.IN_PROGRESS,
        "pump/1",
    )
    assert device.probe.probed == ["pump/1"]
    active = device.installer.active()
    assert active is not None
    assert active.is_trial
    [done] = device.watch()
    assert (done.step, done.status, done.progress) == (InstallStep.COMMITTED, InstallStatus.SUCCEEDED, 1.0)
    committed = device.installer.active()
    assert committed is not None
    assert (committed.is_trial, committed.generation) == (False, active.generation)
    assert device.installer.step() is InstallStep.IDLE
    assert committed.bundle.manifest.version == 1


def test_another_process_reads_the_same_active_release(device: Device) -> None:
    def seen() -> tuple[str, bool, int] | None:
        active = read_active(device.root / "install.json", device.root / "bundles")
        return (active.release, active.is_trial, active.generation) if active else None

    assert seen() is None
    device.submit(device.fleet.offer(make_bundle(1), 1))
    assert seen() == ("pump/1", True, 0)
    device.watch()
    assert seen() == ("pump/1", False, 0), "it has swapped nothing itself"


def test_a_rollback_to_the_release_before_needs_no_download_and_no_probe(device: Device) -> None:
    device.install(1)
    device.install(2)
    requests, probed = len(device.fleet.requests), len(device.probe.probed)
    [report] = device.submit(device.fleet.offer(make_bundle(1), 1, counter=3))
    assert (report.step, report.status) == (InstallStep.COMMITTED, InstallStatus.SUCCEEDED)
    assert device.release == "pump/1"
    assert (len(device.fleet.requests), len(device.probe.probed)) == (requests, probed)


def test_a_release_that_fails_its_trial_is_undone(device: Device) -> None:
    device.install(1)
    device.submit(device.fleet.offer(make_bundle(2), 2))
    assert device.release == "pump/2"
    [report] = device.watch(1, error="the interpreter refused the window")
    assert (report.step, report.status, report.active_release) == (
        InstallStep.ROLLED_BACK,
        InstallStatus.ROLLED_BACK,
        "pump/1",
    )
    assert "the interpreter refused" in report.reason
    active = device.installer.active()
    assert active is not None
    assert (active.release, active.is_trial) == ("pump/1", False)


def test_the_first_release_ever_is_undone_to_nothing(device: Device) -> None:
    device.submit(device.fleet.offer(make_bundle(1), 1))
    [report] = device.watch(1, error="no")
    assert report.step is InstallStep.ROLLED_BACK
    assert device.release is None
    assert device.installer.step() is InstallStep.IDLE, "to have nothing is no contradiction"


def test_a_window_scored_by_the_release_before_does_not_count_for_the_trial(device: Device) -> None:
    device.install(1)
    device.installer.active()
    device.submit(device.fleet.offer(make_bundle(2), 2))
    device.installer.on_window(None, 10.0, "a fault of the old model")
    device.work()
    assert device.installer.step() is InstallStep.TRIAL


def test_two_committed_bundles_and_the_first_one_stay_on_disk(device: Device) -> None:
    for version in (1, 2, 3, 4):
        device.install(version)
    kept = {path.stem for path in (device.root / "bundles").glob("*.fedge")}
    assert kept == {ask(make_bundle(version), version).bundle_sha256 for version in (1, 3, 4)}


def test_an_older_desired_state_is_not_begun_and_the_fleet_is_told_which_was_accepted(device: Device) -> None:
    device.install(1, counter=5)
    assert device.submit(device.fleet.offer(make_bundle(2), 2, counter=4)) == []
    [told] = device.told
    assert (told.number, told.code) == (5, RefusalCode.OUTDATED)
    assert told.reason == "the word 4 is not newer than 5, which this device has obeyed"
    assert device.release == "pump/1"


@pytest.mark.parametrize("execution", ["e5", "another"])
def test_a_counter_cannot_be_used_for_another_release(device: Device, execution: str) -> None:
    device.install(1, counter=5)
    other = replace(device.fleet.offer(make_bundle(2), 2, counter=5), execution=execution)
    assert device.submit(other) == []
    assert [told.code for told in device.told] == [RefusalCode.OUTDATED]
    assert (device.release, len(device.fleet.requests)) == ("pump/1", 1), "not a byte of it was fetched"


def test_a_repeated_request_gets_the_same_answer_again(device: Device) -> None:
    desired = device.fleet.offer(make_bundle(1), 1)
    device.submit(desired)
    [first] = device.watch()
    assert device.submit(desired) == [first]
    device.install(2)
    assert device.submit(desired) == [first], (
        "also after a newer one: its outcome must not turn into a refusal"
    )
    assert device.release == "pump/2"


def test_a_newer_request_supersedes_a_trial_and_the_untried_release_stops_at_once(device: Device) -> None:
    device.install(1)
    device.submit(device.fleet.offer(make_bundle(2), 2))
    assert device.release == "pump/2"
    device.installer.submit(device.fleet.offer(make_bundle(1), 1, counter=3))
    canceled, done = device.work()
    assert (canceled.execution, canceled.status) == ("e2", InstallStatus.CANCELED)
    assert (done.execution, done.status) == ("e3", InstallStatus.SUCCEEDED)
    assert device.release == "pump/1"


def test_a_superseded_trial_does_not_go_on_while_the_next_release_fails(device: Device) -> None:
    device.install(1)
    device.submit(device.fleet.offer(make_bundle(2), 2))
    offered = device.fleet.offer(make_bundle(3), 3)
    device.listed.taken.add(offered.bundle_sha256)
    device.submit(offered)
    assert device.reports[-1].status is InstallStatus.REJECTED
    assert device.reports[-1].active_release == device.release == "pump/1"


def test_two_agents_cannot_share_a_state_directory(device: Device) -> None:
    with pytest.raises(StorageError, match="in use by another agent"):
        Device(device.root)


def test_a_repeated_request_does_not_disturb_the_installation_under_way(device: Device) -> None:
    desired = device.fleet.offer(make_bundle(1), 1)
    device.submit(desired)
    assert device.submit(desired) == []
    assert device.installer.step() is InstallStep.TRIAL
    [report] = device.watch()
    assert report.status is InstallStatus.SUCCEEDED
