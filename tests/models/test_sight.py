"""Sight: a detector that sees has much of it, a deaf one none, and the device's meter agrees with the release's figure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.sight import SHIFT_SDS, Probed, SightMeter, principal_direction, probe, sight
from models.standardiser import CLIP

pytestmark = pytest.mark.edge
SENSORS = 8


def correlated(count: int, seed: int = 0) -> NDArray[np.float32]:
    """(count, 8) of unit variance, half of which is common to all."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(count, 1))
    return ((common + rng.normal(size=(count, SENSORS))) / 2**0.5).astype(np.float32)


def mahalanobis(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """A detector that knows the correlation."""
    precision = np.linalg.inv(np.full((SENSORS, SENSORS), 0.5) + 0.5 * np.eye(SENSORS))
    return np.einsum("nf,fg,ng->n", rows, precision, rows) / SENSORS


def deaf(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """What learnt to copy: no error, whatever comes."""
    return np.zeros(len(rows))


def test_a_detector_that_knows_its_sensors_sees_the_larger_part_of_what_is_plainly_off() -> None:
    rows = correlated(1000)
    threshold = float(np.quantile(mahalanobis(rows), 0.99))
    assert sight(mahalanobis, rows, threshold) > 0.5


def test_a_detector_that_never_alarms_has_no_sight() -> None:
    assert probe(deaf, correlated(500), 0.1) == Probed(0, 500)


def test_a_threshold_near_the_largest_score_has_no_sight_though_every_upper_bound_holds() -> None:
    assert sight(mahalanobis, correlated(500), 55.0) == 0.0


def test_windows_already_over_the_threshold_do_not_flatter() -> None:
    rows = correlated(300)
    far = rows + np.float32(7)
    assert probe(lambda x: np.square(x).mean(axis=1), far, 1.0) == Probed(0, 0)
    assert sight(lambda x: np.square(x).mean(axis=1), far, 1.0) == 0.0
    mixed = probe(deaf, np.concatenate([rows, far]), 0.1)
    assert mixed.seen == 0
    assert probe(mahalanobis, np.concatenate([rows, far]), 3.0).probes <= len(rows)


def test_every_sensor_and_the_common_direction_are_disturbed_both_ways() -> None:
    rows = correlated(6)
    seen: list[NDArray[np.float32]] = []

    def remember(x: NDArray[np.float32]) -> NDArray[np.float64]:
        seen.append(x)
        return np.zeros(len(x))

    before = rows.copy()
    assert probe(remember, rows, 1.0).probes == 2 * (SENSORS + 1)
    assert np.array_equal(rows, before)
    shifts = seen[1] - rows[np.arange(18) % 6]
    for sensor in range(SENSORS):
        expected = np.zeros(SENSORS)
        expected[sensor] = SHIFT_SDS
        np.testing.assert_allclose(shifts[sensor], expected, atol=1e-5)
        np.testing.assert_allclose(shifts[SENSORS + 1 + sensor], -expected, atol=1e-5)
    assert np.count_nonzero(np.abs(shifts[SENSORS]) > 0.1) > 4


def test_the_principal_direction_is_that_of_the_covariance_and_one_sd_long() -> None:
    rows = correlated(2000) * np.float32(1.5) + np.float32(3)
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    found = principal_direction(rows)
    np.testing.assert_allclose(np.linalg.norm(found), values[-1] ** 0.5, rtol=1e-3)
    assert abs(float(found @ vectors[:, -1])) == pytest.approx(values[-1] ** 0.5, rel=1e-3)
    assert not principal_direction(np.ones((5, 3))).any()
    assert not principal_direction(np.ones((1, 3))).any()


def test_in_a_raw_window_the_sensor_is_the_channel() -> None:
    window = np.zeros((1, 4 * 3), np.float32)
    seen: list[NDArray[np.float32]] = []

    def remember(x: NDArray[np.float32]) -> NDArray[np.float64]:
        seen.append(x)
        return np.zeros(len(x))

    probe(remember, window, 1.0, sensors=3)
    assert np.array_equal(seen[1][1].reshape(4, 3), np.tile([0, SHIFT_SDS, 0], (4, 1)))


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 40), st.integers(0, 2**31))
def test_the_meter_of_a_device_disturbs_as_the_release_does(
    sensors: int, samples: int, count: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = (4 * rng.normal(size=(count, sensors * samples))).clip(-CLIP, CLIP).astype(np.float32)
    asked: list[NDArray[np.float32]] = []

    def score_row(row: NDArray[np.float32]) -> float:
        asked.append(row)
        return float(np.abs(row).max())

    meter = SightMeter(sensors)
    meter.aim(rows)
    for row in rows:
        meter.probe(score_row, row, 100.0)
    assert all(np.abs(row).max() <= CLIP for row in asked)
    assert meter.share == (0.0 if count >= 10 else None)
    disturbed: list[NDArray[np.float32]] = []

    def score_rows(x: NDArray[np.float32]) -> NDArray[np.float64]:
        disturbed.append(x)
        return np.zeros(len(x))

    probe(score_rows, rows, 1.0, sensors=sensors)
    if count:
        assert np.array_equal(np.stack(asked), disturbed[1][:count])


def test_a_meter_forgets_what_lies_far_back_and_what_another_model_saw() -> None:
    meter = SightMeter(2, remembered=10)
    row = np.zeros(2, np.float32)
    for _ in range(10):
        meter.probe(lambda _: 2.0, row, 1.0)
    assert meter.share == 1.0
    for _ in range(5):
        meter.probe(lambda _: 0.0, row, 1.0)
    assert meter.share == 0.5
    meter.aim(np.zeros((3, 2)))
    assert meter.is_aimed
    meter.reset()
    assert meter.share is None
    assert not meter.is_aimed


def test_what_happens_to_a_missing_sensor_is_not_seen() -> None:
    meter = SightMeter(3)
    for _ in range(12):
        meter.probe(lambda _: 2.0, np.zeros(3, np.float32), 1.0, missing=np.array([False, True, False]))
    assert meter.share == 0.75


def test_a_score_that_is_no_number_is_heard() -> None:
    rows = np.zeros((4, 2))  # do nothing together, so that every third disturbance is none
    assert probe(lambda x: np.where(np.abs(x).max(axis=1) > 2, np.nan, 0.0), rows, 1.0) == Probed(4, 6)
    meter = SightMeter(2)
    for _ in range(10):
        meter.probe(lambda _: float("nan"), np.zeros(2, np.float32), 1.0)
    assert meter.share == 1.0
