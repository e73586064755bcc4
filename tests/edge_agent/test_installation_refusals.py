"""Every kind of bad release: refused in one clear line, and a harmful model ends its probe only."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from installation_world import (
    ARCHITECTURE,
    FEATURES,
    MODELS,
    Device,
    ask,
    device,
    golden_of,
    make_bundle,
)
from msgspec.structs import replace

from edge_agent.installation.probe import ChildProbe, ProbeLimits
from models.bundles import make_golden_vectors
from models.int8_model import Int8Model
from protocol.manifest import FeatureSpec
from protocol.messages.kinds import InstallStatus, InstallStep

__all__ = ["device"]  # the fixture
pytestmark = pytest.mark.edge


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
    # A fleet that lies about the hash as well gets no further: the list is not its own.
    lied = device.fleet.offer(bytes(bad), 2, counter=3)
    device.listed.taken.add(lied.bundle_sha256)
    [report] = device.submit(lied)
    assert report.status is InstallStatus.REJECTED
    assert "\n" not in report.reason
    assert device.release == "pump/1"


def _hidden_width(width: int) -> bytes:
    return make_bundle(2, architecture=type(ARCHITECTURE)(kind="dense-autoencoder", layers=(4, width, 4)))


BAD_RELEASES = {
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


@pytest.mark.parametrize("is_restarted", [False, True])
def test_what_is_taken_off_its_list_while_it_judges_beside_the_one_that_runs_is_not_activated(
    device: Device, is_restarted: bool
) -> None:
    device.install(1)
    passed, device.beside = device.beside, None
    wanted = device.fleet.offer(make_bundle(2), 2)
    device.submit(wanted)
    assert device.installer.step() is InstallStep.SHADOWING
    device.listed.taken.add(wanted.bundle_sha256)
    if is_restarted:
        device.restart()
        device.work()
    device.beside = passed
    report = device.work()[-1]
    assert (report.status, device.release) == (InstallStatus.REJECTED, "pump/1")
    assert "pump/2 (SHA-256" in report.reason
    assert "is not listed in the signed repository as this device knows it" in report.reason


def test_a_release_of_another_family_costs_no_download(device: Device) -> None:
    [report] = device.submit(ask(make_bundle(2), 2, family="fan"))
    assert report.reason == "release fan/2 is of family 'fan'; this device runs family 'pump'"
    assert device.fleet.requests == []


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
    device = Device(tmp_path, probe=ChildProbe(ProbeLimits(wall_s=4.0)))
    make, status, expected = PROBES[what]
    [report] = device.submit(device.fleet.offer(make(), 2))
    assert report.status is status, report.reason
    assert re.search(expected, report.reason), report.reason
    assert device.release is None


def test_a_bundle_larger_than_a_pipe_holds_is_probed_like_any_other() -> None:
    healthy = MODELS.joinpath("healthy.int8.tflite").read_bytes()
    large = make_bundle(1, golden=make_golden_vectors(Int8Model(healthy), 4, count=4000))
    assert len(large) > 3 * 65_536
    assert ChildProbe(ProbeLimits(wall_s=20.0)).run("pump/1", large, lambda: False) is not None


def test_a_good_model_passes_the_real_probe(tmp_path: Path) -> None:
    result = ChildProbe().run("pump/1", make_bundle(1), lambda: False)
    assert result is not None
    assert 0 < result.latency_p50_us <= result.latency_p99_us
    assert result.worst_steps == 0


def test_a_probe_gives_way_to_a_newer_request() -> None:
    endless = make_bundle(1, int8_model=MODELS.joinpath("endless.tflite").read_bytes())
    assert ChildProbe().run("pump/1", endless, lambda: True) is None


def test_a_model_that_is_too_slow_for_the_device_is_refused() -> None:
    from edge_agent.errors import InstallFailedError

    with pytest.raises(InstallFailedError, match="too slow for this device"):
        ChildProbe(ProbeLimits(maximum_latency_us=0.001)).run("pump/1", make_bundle(1), lambda: False)
