"""What local training does to a fleet whose devices differ, and what becomes of an update that came late."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from heterogeneous_world import Fleet, PlainDevices, SecureDevices, optimum_of

from protocol.names import DeviceId

pytestmark = pytest.mark.slow


def distance(fleet: Fleet, devices: int, rounds: int) -> float:
    return float(np.linalg.norm(fleet.play(rounds) - optimum_of(devices)))


def test_fedavg_stops_away_from_the_optimum() -> None:
    fedavg = Fleet(PlainDevices(4))
    assert distance(fedavg, 4, 200) > 0.3
    # It does not move any more: this is where it ends, not how far it has come.
    before = fedavg.model.parameters
    np.testing.assert_allclose(fedavg.play(1), before, atol=1e-5)


def test_fedprox_ends_nearer_to_the_optimum_the_harder_it_pulls() -> None:
    ends = [distance(Fleet(PlainDevices(4), training__proximal=mu), 4, 400) for mu in (0.0, 1.0, 8.0)]
    assert ends[0] > 1.2 * ends[1] > 1.2**2 * ends[2]


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


def _only(device: DeviceId) -> PlainDevices:
    devices = PlainDevices(5)
    devices.learners = {device: devices.learners[device]}
    return devices
