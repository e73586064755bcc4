"""What the agent's loop has of its installer: generations, wake-ups, progress, the yardstick of a trial, an orderly end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from installation_world import (
    REQUIREMENTS,
    Device,
    FleetInMemory,
    ListOfAll,
    TrustingProbe,
    device,
    make_bundle,
)
from waiting import wait_until

from edge_agent.installation.assembly import open_installer
from edge_agent.installation.effects import InstallLimits
from edge_agent.installation.journal import Baseline
from edge_agent.installation.trial import TrialLimits
from edge_agent.remote.actions import Reactivate
from protocol.messages.commands import Command
from protocol.messages.kinds import CommandStatus, InstallStatus, InstallStep, RefusalCode

__all__ = ["device"]  # the fixture
pytestmark = pytest.mark.edge


def generation(device: Device) -> int:
    active = device.installer.active()
    assert active is not None
    return active.generation


def test_the_generation_counts_the_swaps_of_this_process(device: Device) -> None:
    assert device.installer.active() is None
    for version in (1, 2):
        device.install(version)
        assert generation(device) == version
    device.submit(device.fleet.offer(make_bundle(3), 3))
    assert generation(device) == 3
    device.watch(1, error="no")
    assert (generation(device), device.release) == (4, "pump/2"), "going back is a swap, too"
    device.restart()
    assert generation(device) == 1


def test_a_long_download_is_told_of_every_five_seconds(device: Device) -> None:
    desired = device.fleet.offer(make_bundle(1), 1)
    device.fleet.chunk_bytes = -(-desired.bundle_bytes // 12)
    told: list[list[float]] = []

    def a_second_passes() -> None:
        reports = device.installer.poll()
        assert {(report.step, report.status) for report in reports} <= {
            (InstallStep.DOWNLOADING, InstallStatus.IN_PROGRESS)
        }
        told.append([round(report.progress, 2) for report in reports])
        device.installer._inbox.wait(1.0)

    device.fleet.on_chunk = a_second_passes
    device.submit(desired)
    assert told == [[0.08], [], [], [], [], [0.5], [], [], [], [], [0.92], []]


# --- the yardstick of a trial --------------------------------------------------------------------------------------------------


def yardstick(device: Device) -> Baseline | None:
    attempt = device.journal.attempt
    assert attempt is not None
    return attempt.baseline


def test_a_release_that_is_committed_is_measured_by_its_own_windows_only(device: Device) -> None:
    device.install(1)
    device.watch(20)
    device.install(2)
    device.submit(device.fleet.offer(make_bundle(3), 3))
    assert yardstick(device) is None


def test_a_trial_that_is_undone_leaves_the_yardstick_of_the_release_before(device: Device) -> None:
    device.install(1)
    device.watch(20)
    device.submit(device.fleet.offer(make_bundle(2), 2))
    device.watch(1, error="no")
    device.submit(device.fleet.offer(make_bundle(3), 3))
    assert yardstick(device) == Baseline(windows=20, latency_us=10.0, error_share=0.0)


def test_what_runs_while_the_next_release_is_fetched_is_not_on_trial(device: Device) -> None:
    device.install(1)
    device.submit(device.fleet.offer(make_bundle(2), 2))
    trials: list[bool] = []

    def a_window_passes() -> None:
        active = device.installer.active()
        assert active is not None
        trials.append(active.is_trial)
        device.installer.on_window(0.1, 10.0)

    device.fleet.on_chunk = a_window_passes
    device.submit(device.fleet.offer(make_bundle(3), 3))
    assert len(trials) > 3
    assert not any(trials)
    assert yardstick(device) == Baseline(windows=len(trials), latency_us=10.0, error_share=0.0)


# --- a trial without windows ---------------------------------------------------------------------------------------------------


def statuses_after(device: Device, seconds: float) -> list[InstallStatus]:
    device.installer._inbox.wait(seconds)
    device.installer.poll()
    return [report.status for report in device.work()]


def test_a_trial_is_deferred_after_120_seconds_of_silence_and_that_is_written_once(device: Device) -> None:
    device.install(1)
    device.submit(device.fleet.offer(make_bundle(2), 2))
    assert statuses_after(device, 119.5) == []
    assert statuses_after(device, 0.5) == [InstallStatus.DEFERRED]
    written = device.journal
    assert statuses_after(device, 500.0) == []
    assert device.journal == written, "waiting wears out no disk"


def test_neither_a_missing_score_nor_one_with_an_error_breaks_the_silence(device: Device) -> None:
    device.install(1)
    device.watch(20, error="sensor")
    device.submit(device.fleet.offer(make_bundle(2), 2))
    device.installer._inbox.wait(60.0)
    device.installer.active()
    device.installer.on_window(None, 10.0)
    device.installer.on_window(0.1, 10.0, "sensor")
    assert statuses_after(device, 60.0) == [InstallStatus.DEFERRED]


def test_a_deferral_is_told_even_where_the_verdict_has_come_before_the_loop_asks(device: Device) -> None:
    device.submit(device.fleet.offer(make_bundle(1), 1))
    device.installer._inbox.wait(120.0)
    device.installer.poll()
    assert [report.status for report in device.watch()] == [InstallStatus.DEFERRED, InstallStatus.SUCCEEDED]


# --- what runs, activated once more ------------------------------------------------------------------------------------------------


def reactivating(device: Device) -> Reactivate:
    return Reactivate(device.installer, monotonic=lambda: 0.0)


COMMAND = Command(number=7, action="reactivate", expires_at=2e9)


def test_a_sham_swaps_the_same_bundle_in_again_and_tries_it_and_the_command_is_done_with_it(
    device: Device,
) -> None:
    action = reactivating(device)
    assert action.begin(COMMAND).code is RefusalCode.NOT_READY, "nothing runs"
    device.install(1)
    swaps = generation(device)
    assert action.begin(COMMAND).status is CommandStatus.IN_PROGRESS
    device.work()
    active = device.installer.active()
    assert active is not None
    assert (active.release, active.is_trial, active.generation) == ("pump/1", True, swaps + 1)
    assert action.look(COMMAND).status is CommandStatus.IN_PROGRESS
    [report] = device.watch()
    assert (report.execution, report.status) == ("command-7", InstallStatus.SUCCEEDED)
    assert (generation(device), device.release) == (swaps + 1, "pump/1")
    assert action.look(COMMAND).status is CommandStatus.DONE


def test_a_sham_that_fails_its_trial_swaps_in_what_was_there_and_says_so(device: Device) -> None:
    device.install(1)
    device.install(2)
    action, swaps = reactivating(device), generation(device)
    action.begin(COMMAND)
    device.work()
    [report] = device.watch(1, error="no")
    assert (report.status, device.release, generation(device)) == (
        InstallStatus.ROLLED_BACK,
        "pump/2",
        swaps + 2,
    )
    active = device.installer.active()
    assert active is not None
    assert not active.is_trial
    told = action.look(COMMAND)
    assert (told.status, told.reason) == (CommandStatus.FAILED, "ROLLED_BACK window 1: no")


@pytest.mark.parametrize("end", ["crash", "restart"])
def test_a_sham_goes_on_after_a_kill_and_a_new_release_takes_its_place(device: Device, end: str) -> None:
    device.install(1)
    action = reactivating(device)
    action.begin(COMMAND)
    device.work()
    getattr(device, end)()
    assert device.installer.step() is InstallStep.TRIAL
    device.submit(device.fleet.offer(make_bundle(2), 2))
    assert ("command-7", InstallStatus.CANCELED) in [(r.execution, r.status) for r in device.reports]
    assert device.release == "pump/2"
    assert reactivating(device).begin(COMMAND).code is RefusalCode.NOT_READY, "a release is being installed"


# --- the worker ------------------------------------------------------------------------------------------------------------------


def test_the_worker_waits_for_what_comes_and_wakes_the_loop(device: Device) -> None:
    installer, wakes = device.installer, list[None]()
    installer.start(wake=lambda: wakes.append(None))
    thread = installer._thread
    assert thread is not None

    def ended() -> str | None:
        return None if thread.is_alive() else "the worker has ended"

    try:
        installer.submit(device.fleet.offer(make_bundle(1), 1))
        wait_until(installer.active, "the trial", unless=ended)
        for _ in range(3):
            installer.on_window(0.1, 10.0)
        wait_until(lambda: (active := installer.active()) and not active.is_trial, "the commit", unless=ended)
        assert [report.status for report in installer.poll()][-1] is InstallStatus.SUCCEEDED
        assert wakes
    finally:
        installer.close()
    assert not thread.is_alive()


class Worker:
    """A thread that does nothing and is as busy as told."""

    is_busy = False
    waits: list[float]

    def __init__(self, *, target: Callable[[], None], name: str, daemon: bool) -> None:
        self.daemon = daemon
        type(self).waits = []

    def start(self) -> None:
        assert self.daemon, "the installer keeps no agent from ending"

    def join(self, timeout: float) -> None:
        self.waits.append(timeout)

    def is_alive(self) -> bool:
        return self.is_busy


@pytest.mark.parametrize("is_busy", [False, True])
def test_closing_waits_five_seconds_and_leaves_the_journal_to_a_worker_that_still_works(
    device: Device, monkeypatch: pytest.MonkeyPatch, is_busy: bool
) -> None:
    device.submit(device.fleet.offer(make_bundle(1), 1))
    monkeypatch.setattr("edge_agent.installation.installer.threading.Thread", Worker)
    monkeypatch.setattr(Worker, "is_busy", is_busy)
    device.installer.start()
    device.installer.close()
    assert Worker.waits == [5.0]
    assert device.journal.attempt is not None
    assert device.journal.attempt.starts == (1 if is_busy else 0)


def test_an_installer_is_opened_with_the_probe_and_the_limits_it_is_given(tmp_path: Path) -> None:
    fleet, probe = FleetInMemory(), TrustingProbe()
    installer = open_installer(
        journal_file=tmp_path / "install.json",
        bundles=tmp_path / "bundles",
        trust=ListOfAll(),
        requirements=REQUIREMENTS,
        source=fleet,
        limits=InstallLimits(trial=TrialLimits(windows=1)),
        probe=probe,
    )
    installer.submit(fleet.offer(make_bundle(1), 1))
    installer.run_pending()
    assert probe.probed == ["pump/1"]
    installer.active()
    installer.on_window(0.1, 10.0)
    installer.run_pending()
    assert installer.poll()[-1].status is InstallStatus.SUCCEEDED
    installer.close()


def test_a_worker_that_meets_what_nobody_expected_answers_the_next_request(
    device: Device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:

        def broken(*_: object) -> None:
            raise RecursionError("nobody thought of that")

        patch.setattr("edge_agent.installation.installer.decide", broken)
        device.submit(device.fleet.offer(make_bundle(1), 1))
    assert "installer_defect event=Asked" in caplog.text
    device.install(2)
    assert device.release == "pump/2"
