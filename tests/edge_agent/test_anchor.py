"""What a device lets itself be trained near: the release that a person approved, however many others it has run since."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from installation_world import ARCHITECTURE, Device, make_bundle
from msgspec.structs import replace

from edge_agent.errors import NotReadyError
from edge_agent.installation.active import read_active
from edge_agent.learner.anchor import Anchor, read_anchor, require_trained_near, trust_active_release
from edge_agent.settings import StatePaths
from models.architecture import initial_parameters
from models.bundles import ModelBundle
from protocol.messages.payloads import DesiredState
from protocol.training import TrainingSettings

pytestmark = pytest.mark.edge

PROFILE = TrainingSettings().settled()


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def install(
    device: Device, version: int, profile: TrainingSettings | None = PROFILE, *, seed: int | None = None
) -> DesiredState:
    """The parameters of each release are far from those of each other, but for the same `seed`."""
    content = make_bundle(version, training=profile, seed=seed)
    device.install(version, content=content)
    return device.fleet.offer(content, version)


def approve(device: Device, desired: DesiredState) -> None:
    device.submit(replace(desired, is_approved=True))


def trusted(device: Device) -> Anchor:
    return read_anchor(StatePaths(device.root))


def running(device: Device) -> ModelBundle:
    paths = StatePaths(device.root)
    active = read_active(paths.install_journal, paths.bundles)
    assert active is not None
    return active.bundle


def test_a_release_that_nobody_approved_brings_no_program_that_trains(device: Device) -> None:
    """Whoever signs releases also chooses the graph that trains: it could write windows into the update."""
    install(device, 1)
    content = make_bundle(2, training=PROFILE, seed=1, graph_suffix=b"leaks")
    device.install(2, content=content)
    with pytest.raises(NotReadyError, match=r"pump/2 has another training graph than pump/1.*trust-release"):
        require_trained_near(trusted(device), running(device), widest=1.0)
    approve(device, device.fleet.offer(content, 2))
    assert require_trained_near(trusted(device), running(device), widest=1.0) == PROFILE


def test_without_a_release_there_is_nothing_to_stay_near_to(device: Device) -> None:
    with pytest.raises(NotReadyError, match="no release has passed its trial"):
        trusted(device)


def test_the_first_release_is_the_anchor_and_stays_it_over_releases_that_nobody_approved(
    device: Device,
) -> None:
    for version in (1, 2, 3, 4):
        install(device, version)
    anchor = trusted(device)
    assert (anchor.release, anchor.profile) == ("pump/1", PROFILE)
    np.testing.assert_array_equal(anchor.parameters, initial_parameters(ARCHITECTURE, 1))
    install(device, 5, seed=1)
    assert require_trained_near(trusted(device), running(device), widest=1.0) == PROFILE


def test_a_release_that_nobody_approved_is_no_window_oracle_as_the_champion_of_an_assessment(
    device: Device,
) -> None:
    """Its signer chooses its parameters, and an assessment answers with their scores of this device's windows."""
    install(device, 1)
    crafted = install(device, 2)
    with pytest.raises(
        NotReadyError, match=r"pump/2 lies .* from pump/1.*trust radius is 0.1.*trust-release"
    ):
        require_trained_near(trusted(device), running(device), widest=1.0)
    approve(device, crafted)
    assert require_trained_near(trusted(device), running(device), widest=1.0) == PROFILE


def test_a_persons_approval_moves_it_also_long_after_the_installation(device: Device) -> None:
    install(device, 1)
    second = install(device, 2)
    assert trusted(device).release == "pump/1"
    approve(device, second)
    assert trusted(device).release == "pump/2"
    for version in (3, 4, 5):
        install(device, version)
    assert trusted(device).release == "pump/2"


def test_what_was_approved_but_never_passed_its_trial_moves_nothing(device: Device) -> None:
    install(device, 1)
    desired = device.fleet.offer(make_bundle(2, training=PROFILE), 2)
    approve(device, desired)
    assert device.release == "pump/2", "on trial"
    assert trusted(device).release == "pump/1"
    device.watch()
    assert trusted(device).release == "pump/2"


def test_the_owners_word_moves_it_and_only_a_later_approval_moves_it_again(device: Device) -> None:
    install(device, 1)
    approve(device, install(device, 2))
    install(device, 3)
    paths = StatePaths(device.root)
    assert trusted(device).release == "pump/2"
    assert trust_active_release(paths) == (
        "pump/3 is trusted instead of pump/2; training stays near it from the next run on"
    )
    assert trusted(device).release == "pump/3", "the approval of pump/2 is older"
    fourth = install(device, 4)
    assert trusted(device).release == "pump/3"
    approve(device, fourth)
    assert trusted(device).release == "pump/4"


def test_a_release_on_trial_is_not_trusted_by_hand(device: Device) -> None:
    install(device, 1)
    device.submit(device.fleet.offer(make_bundle(2), 2))
    with pytest.raises(NotReadyError, match="pump/2 is still on trial"):
        trust_active_release(StatePaths(device.root))


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_or_lost_anchor_is_the_first_release_again_or_the_last_approval(
    device: Device, damage: bytes | None
) -> None:
    install(device, 1)
    second = install(device, 2)
    paths = StatePaths(device.root)
    trust_active_release(paths)
    for expected in ("pump/1", "pump/2"):
        if damage is None:
            content = msgspec.msgpack.decode(paths.anchor.read_bytes())
            content["content"] = content["content"].replace(b"pump", b"jump")
            paths.anchor.write_bytes(msgspec.msgpack.encode(content))
        else:
            paths.anchor.write_bytes(damage)
        assert trusted(device).release == expected
        approve(device, second)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layout_sha256": "f" * 64}, "has another layout than pump/1, the last release that was approved"),
        ({"columns": "f" * 64}, "has another columns"),
        ({"graph_sha256": "f" * 64}, "has another training graph"),
        ({"profile": replace(PROFILE, batch_size=1)}, "has another training profile"),
        ({"profile": None}, "has another training profile"),
    ],
)
def test_a_release_unlike_the_approved_one_is_run_but_not_trained_on(
    device: Device, change: dict[str, object], words: str
) -> None:
    install(device, 1)
    anchor = replace(trusted(device), **change)
    with pytest.raises(NotReadyError, match=words):
        require_trained_near(anchor, running(device), widest=1.0)


def test_a_release_without_a_profile_is_not_trained_on_and_says_what_would_help(device: Device) -> None:
    install(device, 1, profile=None)
    with pytest.raises(NotReadyError, match=r"carries no training profile.*publish a release that has one"):
        require_trained_near(trusted(device), running(device), widest=1.0)


@pytest.mark.parametrize("bounds", [(1e6, 1e6), (1.01, 0.1), (0.5, 1.01)])
def test_a_release_that_bounds_next_to_nothing_is_not_trained_on_though_it_was_approved(
    device: Device, bounds: tuple[float, float]
) -> None:
    radius, norm = bounds
    install(device, 1, replace(PROFILE, trust_radius=radius, update_norm=norm))
    with pytest.raises(NotReadyError, match="this device trains within 1 "):
        require_trained_near(trusted(device), running(device), widest=1.0)
    require_trained_near(trusted(device), running(device), widest=max(bounds))
