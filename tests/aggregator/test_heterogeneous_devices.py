"""What local training does to a fleet whose devices differ, and which method reaches the optimum all the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from heterogeneous_world import Fleet, PlainDevices, SecureDevices, optimum_of
from numpy.typing import NDArray

from protocol.names import DeviceId
from protocol.questions import SCAFFOLD

pytestmark = pytest.mark.slow


def distance(fleet: Fleet, devices: int, rounds: int) -> float:
    return float(np.linalg.norm(fleet.play(rounds) - optimum_of(devices)))


def kept_variates(devices: PlainDevices | SecureDevices) -> NDArray[np.float32]:
    """Each device's control variate, (devices, weights); nobody's business but a test's."""
    stores = [learner._variates for learner in devices.learners.values()]
    return np.stack([store.load("run-1", "f" * 64, 2) for store in stores])


def test_fedavg_stops_away_from_the_optimum_and_scaffold_reaches_it() -> None:
    fedavg = Fleet(PlainDevices(4))
    away = distance(fedavg, 4, 200)
    assert away > 0.3
    # It does not move any more: this is where it ends, not how far it has come.
    before = fedavg.model.parameters
    np.testing.assert_allclose(fedavg.play(1), before, atol=1e-5)
    assert distance(Fleet(PlainDevices(4), training__method="scaffold"), 4, 200) < 1e-3


def test_scaffold_with_single_steps_is_gradient_descent() -> None:
    plain = Fleet(PlainDevices(4), training__epochs=1).play(50)
    np.testing.assert_allclose(
        Fleet(PlainDevices(4), training__epochs=1, training__method="scaffold").play(50), plain, atol=1e-5
    )


def test_scaffold_reaches_the_optimum_although_half_of_the_fleet_is_asked_in_a_round() -> None:
    partly = {"cohort__fraction": 0.5, "cohort__over_selection": 1.0, "training__epochs": 5}
    errors = {}
    for method in ("plain", "scaffold"):
        fleet = Fleet(PlainDevices(4), training__method=method, **partly)
        fleet.play(300)
        errors[method] = max(distance(fleet, 4, 1) for _ in range(20))
    assert errors["scaffold"] < 0.01
    assert errors["plain"] > 0.3


def test_the_servers_variate_is_the_mean_of_the_devices() -> None:
    devices = PlainDevices(4)
    fleet = Fleet(devices, training__method="scaffold", cohort__fraction=0.5, cohort__over_selection=1.0)
    for _ in range(7):
        fleet.play(1)
        held = [learner._variates.load("run-1", "f" * 64, 2) for learner in devices.learners.values()]
        np.testing.assert_allclose(fleet.model.control, np.mean(held, axis=0), atol=1e-4)


def test_fedprox_ends_nearer_to_the_optimum_the_harder_it_pulls() -> None:
    ends = [distance(Fleet(PlainDevices(4), training__proximal=mu), 4, 400) for mu in (0.0, 1.0, 8.0)]
    assert ends[0] > 1.2 * ends[1] > 1.2**2 * ends[2]


def test_scaffold_reaches_the_optimum_through_the_secure_sum_and_a_restart_of_a_device(
    tmp_path: Path,
) -> None:
    devices = SecureDevices(tmp_path, 5)
    fleet = Fleet(devices, training__method="scaffold", cohort__minimum_devices=3)
    fleet.play(10)
    devices.start(DeviceId("press-002"))
    end = distance(fleet, 5, 25)
    undisturbed = Fleet(PlainDevices(5), training__method="scaffold", cohort__minimum_devices=3)
    np.testing.assert_allclose(fleet.model.parameters, undisturbed.play(35), atol=1e-3)
    assert end < 0.02
    assert distance(Fleet(PlainDevices(5)), 5, 35) > 0.3


def test_a_lost_variate_costs_accuracy_and_never_a_round(tmp_path: Path) -> None:
    devices = SecureDevices(tmp_path, 5)
    fleet = Fleet(devices, training__method="scaffold", cohort__minimum_devices=3)
    fleet.play(10)
    (tmp_path / "press-002.variate").write_bytes(b"spilt coffee")
    devices.start(DeviceId("press-002"))
    assert 0.02 < distance(fleet, 5, 25) < 5.0


def test_a_device_that_misses_a_round_enters_the_next_one_discounted(tmp_path: Path) -> None:
    late = DeviceId("press-004")
    devices = SecureDevices(tmp_path, 5)
    fleet = Fleet(devices, cohort__minimum_devices=3, training__staleness_exponent=1.0)
    devices.spoil = lambda kind, device, message: None if (kind, device) == ("train.fit", late) else message
    first = fleet.play(1)
    devices.spoil = lambda _kind, _device, message: message
    after = fleet.play(1)

    others = {name: learner for name, learner in PlainDevices(5).learners.items() if name != late}
    plain = PlainDevices(5)
    plain.learners = others
    expected = Fleet(plain, cohort__minimum_devices=3)
    np.testing.assert_allclose(first, expected.play(1), atol=1e-4)
    # The four train anew; the fifth adds half of the move it made from w = 0.
    fresh = expected.play(1) - first
    move = Fleet(_only(late), cohort__minimum_devices=1).play(1)
    np.testing.assert_allclose(after, first + (4 * fresh + 0.5 * move) / 5, atol=1e-4)


def test_a_late_scaffold_answer_keeps_the_variates_balanced(tmp_path: Path) -> None:
    late = DeviceId("press-001")
    devices = SecureDevices(tmp_path, 4)
    fleet = Fleet(devices, training__method="scaffold", cohort__minimum_devices=3)
    for number in range(12):
        is_silent = number % 3 == 1
        devices.spoil = lambda kind, device, message, is_silent=is_silent: (
            None if is_silent and (kind, device) == (SCAFFOLD, late) else message
        )
        fleet.play(1)
        np.testing.assert_allclose(fleet.model.control, kept_variates(devices).mean(axis=0), atol=1e-3)


def test_a_control_variate_that_is_clipped_is_kept_as_it_was_sent(tmp_path: Path) -> None:
    devices = SecureDevices(tmp_path, 4)
    fleet = Fleet(
        devices,
        training__method="scaffold",
        cohort__minimum_devices=3,
        rounds__norm_limit=0.05,
        training__epochs=1,
    )
    devices.policy = replace(devices.policy, norm_limit=0.05)
    fleet.play(3)
    held = kept_variates(devices)
    assert np.linalg.norm(held, axis=1).max() * fleet.policy.training.learning_rate > 0.05
    np.testing.assert_allclose(fleet.model.control, held.mean(axis=0), atol=1e-3)


def _only(device: DeviceId) -> PlainDevices:
    devices = PlainDevices(5)
    devices.learners = {device: devices.learners[device]}
    return devices
