"""The way of a good release, and of every kind of bad one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from installation_world import (
    ARCHITECTURE,
    FEATURES,
    KEYS,
    MODELS,
    OTHER_KEY,
    Device,
    ask,
    golden_of,
    make_bundle,
)
from msgspec.structs import replace

from edge_agent.fetch_conditions import FetchConditions
from edge_agent.installation.active import read_active
from edge_agent.installation.probe import ChildProbe, ProbeLimits
from edge_agent.readiness import Conditions
from edge_agent.settings import InstallationSettings
from models.bundles import make_golden_vectors
from models.int8_model import Int8Model
from protocol.manifest import FeatureSpec
from protocol.messages.kinds import InstallStatus, InstallStep
from runtime.errors import StorageError

pytestmark = pytest.mark.edge


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


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
        active = read_active(device.root / "install.json", device.root / "bundles", KEYS)
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


def test_an_older_desired_state_is_refused_and_said_so(device: Device) -> None:
    device.install(1, counter=5)
    [report] = device.submit(device.fleet.offer(make_bundle(2), 2, counter=4))
    assert (report.status, report.execution) == (InstallStatus.REJECTED, "e4")
    assert report.reason == "desired state 4 (pump/2) is not newer than 5, which this device has accepted"
    assert device.release == "pump/1"


@pytest.mark.parametrize("execution", ["e5", "another"])
def test_a_counter_cannot_be_used_for_another_release(device: Device, execution: str) -> None:
    device.install(1, counter=5)
    other = replace(device.fleet.offer(make_bundle(2), 2, counter=5), execution=execution)
    [report] = device.submit(other)
    assert (report.status, report.release) == (InstallStatus.REJECTED, "pump/2")
    assert device.release == "pump/1"


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
    device.submit(device.fleet.offer(make_bundle(3, key=OTHER_KEY), 3))
    assert device.reports[-1].status is InstallStatus.REJECTED
    assert device.reports[-1].active_release == device.release == "pump/1"


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


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.3, 0.6, 0.9, 0.9999])
def test_a_flipped_byte_anywhere_is_refused(device: Device, share: float) -> None:
    device.install(1)
    good = make_bundle(2)
    bad = bytearray(good)
    bad[int(share * len(bad))] ^= 0x01
    promised = device.fleet.offer(good, 2)
    device.fleet.bundles[promised.bundle_path] = bytes(bad)
    [report] = device.submit(promised)
    assert report.status is InstallStatus.REJECTED
    assert "do not have the SHA-256" in report.reason
    # A fleet that lies about the hash as well gets no further: the signature covers every byte.
    [report] = device.submit(device.fleet.offer(bytes(bad), 2, counter=3))
    assert report.status is InstallStatus.REJECTED
    assert "\n" not in report.reason
    assert device.release == "pump/1"


def _hidden_width(width: int) -> bytes:
    return make_bundle(2, architecture=type(ARCHITECTURE)(kind="dense-autoencoder", layers=(4, width, 4)))


BAD_RELEASES = {
    "another key": (
        lambda: make_bundle(2, key=OTHER_KEY),
        r"signed by release key \w+…, which is not trusted here",
    ),
    "another layout": (lambda: _hidden_width(2), r"pump/2 has a wrong layout"),
    "other feature names": (
        lambda: make_bundle(
            2, features=FeatureSpec(kind="passthrough", names=("a", "b", "c", "z"), channels=4)
        ),
        r"pump/2 was made for other features than this device's source gives: 'z' is missing here, 'd' is new here",
    ),
    "features in another order": (
        lambda: make_bundle(
            2, features=FeatureSpec(kind="passthrough", names=("b", "a", "c", "d"), channels=4)
        ),
        r"'b', 'a' have moved",
    ),
    "another window": (
        lambda: make_bundle(2, features=replace(FEATURES, window_samples=64)),
        r"this device's source gives: window_samples 64 there, 1 here",
    ),
    "another version": (lambda: make_bundle(7), r"the bundle holds release pump/7, but pump/2 was asked for"),
    "no bundle": (lambda: b"GIF89a" * 100, r"not a Fedge model bundle"),
    "cut short": (lambda: make_bundle(2)[:-100], r"bundle ends inside"),
    "bytes left over": (lambda: make_bundle(2) + b"x", r"1 bytes follow the last file"),
}


@pytest.mark.parametrize("what", BAD_RELEASES)
def test_a_bad_release_is_rejected_in_one_clear_line(device: Device, what: str) -> None:
    device.install(1)
    make, expected = BAD_RELEASES[what]
    [report] = device.submit(device.fleet.offer(make(), 2))
    assert (report.step, report.status) == (InstallStep.REJECTED, InstallStatus.REJECTED)
    assert re.search(expected, report.reason)
    assert "\n" not in report.reason
    assert device.release == "pump/1"
    assert not list((device.root / "bundles").glob("*.part")), "nothing of it stays on disk"


def test_a_release_of_another_family_costs_no_download(device: Device) -> None:
    [report] = device.submit(ask(make_bundle(2), 2, family="fan"))
    assert report.reason == "release fan/2 is of family 'fan'; this device runs family 'pump'"
    assert device.fleet.requests == []


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


def test_two_agents_cannot_share_a_state_directory(device: Device) -> None:
    with pytest.raises(StorageError, match="in use by another agent"):
        Device(device.root)


PROBES = {
    "golden mismatch": (
        lambda: make_bundle(
            2,
            golden=replace(
                golden_of(MODELS.joinpath("healthy.int8.tflite").read_bytes()),
                outputs=((100, 100, 100, 100),) * 8,
            ),
        ),
        InstallStatus.FAILED,
        r"pump/2 failed the probe: golden vector 0, output \d: expected int8 100 ± 2, this machine computes -?\d+",
    ),
    "a model that never ends": (
        lambda: make_bundle(2, int8_model=MODELS.joinpath("endless.tflite").read_bytes()),
        InstallStatus.TIMED_OUT,
        r"no result within 4 s of probing|used up its 4 s",
    ),
    "a model that eats memory": (
        lambda: make_bundle(2, int8_model=MODELS.joinpath("greedy.tflite").read_bytes()),
        InstallStatus.FAILED,
        r"memory",
    ),
    "no model at all": (
        lambda: make_bundle(2, int8_model=b"\x00\x00\x00\x00TFL3" + bytes(np.arange(200, dtype=np.uint8))),
        InstallStatus.FAILED,
        r"pump/2 (failed|crashed) the probe",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", PROBES)
def test_a_harmful_model_ends_its_probe_and_not_the_agent(tmp_path: Path, what: str) -> None:
    device = Device(tmp_path, probe=ChildProbe(KEYS, ProbeLimits(wall_s=4.0)))
    make, status, expected = PROBES[what]
    [report] = device.submit(device.fleet.offer(make(), 2))
    assert report.status is status, report.reason
    assert re.search(expected, report.reason), report.reason
    assert device.release is None


def test_a_bundle_larger_than_a_pipe_holds_is_probed_like_any_other() -> None:
    healthy = MODELS.joinpath("healthy.int8.tflite").read_bytes()
    large = make_bundle(1, golden=make_golden_vectors(Int8Model(healthy), 4, count=4000))
    assert len(large) > 3 * 65_536
    assert ChildProbe(KEYS, ProbeLimits(wall_s=20.0)).run("pump/1", large, lambda: False) is not None


def test_a_good_model_passes_the_real_probe(tmp_path: Path) -> None:
    result = ChildProbe(KEYS).run("pump/1", make_bundle(1), lambda: False)
    assert result is not None
    assert 0 < result.latency_p50_us <= result.latency_p99_us
    assert result.worst_steps == 0


def test_a_probe_gives_way_to_a_newer_request() -> None:
    endless = make_bundle(1, int8_model=MODELS.joinpath("endless.tflite").read_bytes())
    assert ChildProbe(KEYS).run("pump/1", endless, lambda: True) is None


def test_a_model_that_is_too_slow_for_the_device_is_refused() -> None:
    from edge_agent.errors import InstallFailedError

    with pytest.raises(InstallFailedError, match="too slow for this device"):
        ChildProbe(KEYS, ProbeLimits(maximum_latency_us=0.001)).run("pump/1", make_bundle(1), lambda: False)


def test_a_repeated_request_does_not_disturb_the_installation_under_way(device: Device) -> None:
    desired = device.fleet.offer(make_bundle(1), 1)
    device.submit(desired)
    assert device.submit(desired) == []
    assert device.installer.step() is InstallStep.TRIAL
    [report] = device.watch()
    assert report.status is InstallStatus.SUCCEEDED
