"""Raw windows: how they become rows, each channel's own scale, what drift is looked for in, and whom to blame."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from models.errors import FeatureError
from models.features import make_extractor, passthrough_spec, raw_spec, vibration_spec
from models.sensors import SensorView
from protocol.manifest import FeatureSpec
from protocol.messages.payloads import DetectorFinding

pytestmark = pytest.mark.edge

SAMPLES, CHANNELS = 20, ("x", "y", "z")
SPEC = raw_spec(CHANNELS, SAMPLES, sample_rate_hz=100.0)


def windows(count: int, seed: int = 0) -> np.ndarray:
    """(count, samples, channels) around levels and spreads that differ from channel to channel."""
    rng = np.random.default_rng(seed)
    rows = rng.normal((5, -2, 0), (0.1, 1, 30), (count, SAMPLES, len(CHANNELS)))
    return rows.astype(np.float32)


def flat(count: int, seed: int = 0) -> np.ndarray:
    return windows(count, seed).reshape(count, -1)


def standardised(view: SensorView, rows: np.ndarray) -> np.ndarray:
    centre, scale = view.scale_of(view.fit_scale(flat(100)))
    return (rows - centre) / scale


def test_a_raw_window_is_handed_on_sample_by_sample() -> None:
    row = make_extractor(SPEC).extract(windows(1)[0])
    assert row.dtype == np.float32
    assert SPEC.feature_count == len(row) == 60
    assert np.array_equal(row[:3], windows(1)[0, 0])
    assert np.array_equal(row.reshape(SAMPLES, 3), windows(1)[0])


@pytest.mark.parametrize("shape", [(SAMPLES, 2), (SAMPLES + 1, 3), (60,), (3, SAMPLES)])
def test_a_raw_window_of_another_shape_is_refused(shape) -> None:
    with pytest.raises(FeatureError, match=r"must have shape \(20, 3\) \(samples, channels\)"):
        make_extractor(SPEC).extract(np.zeros(shape, np.float32))


def test_a_raw_sample_that_is_no_number_is_missing_alone() -> None:
    window = windows(1)[0]
    whole = make_extractor(SPEC).extract(window)
    window[7, 1] = -np.inf
    found = make_extractor(SPEC).extract(window)
    assert np.flatnonzero(np.isnan(found)).tolist() == [7 * 3 + 1]
    assert np.array_equal(np.delete(found, 22), np.delete(whole, 22))


def test_raw_channels_without_a_name_each_are_refused() -> None:
    with pytest.raises(FeatureError, match="3 channels need a name for each, the spec names 2"):
        make_extractor(FeatureSpec(kind="raw", names=("x", "y"), channels=3, window_samples=4))


def test_each_channel_has_one_scale_for_all_its_samples() -> None:
    view = SensorView(SPEC)
    fitted = view.fit_scale(flat(100))
    assert fitted.fitted_on == 100
    np.testing.assert_allclose(fitted.mean, windows(100).mean(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(fitted.std, windows(100).reshape(-1, 3).std(axis=0, ddof=1), rtol=1e-5)
    rows = standardised(view, flat(50, 1)).reshape(-1, 3)
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=0.1)
    np.testing.assert_allclose(rows.std(axis=0), 1, atol=0.1)


def test_drift_is_looked_for_in_the_level_and_the_spread_of_each_channel() -> None:
    view = SensorView(SPEC)
    rows = standardised(view, flat(8, 1))
    watched = view.watch(rows)
    assert view.watched == ("x level", "y level", "z level", "x spread", "y spread", "z spread")
    assert watched.shape == (8, 6)
    assert np.array_equal(view.watch(rows[3]), watched[3])
    louder = rows.reshape(8, SAMPLES, 3) * (1, 2, 1) + (0, 0, 3)
    moved = view.watch(louder.reshape(8, -1)) - watched
    np.testing.assert_allclose(moved[:, 2], 3, atol=1e-5)
    np.testing.assert_allclose(moved[:, 3:], [[0, np.log(2), 0]] * 8, atol=0.01)


def test_a_stuck_channel_gives_a_finite_and_constant_spread() -> None:
    view = SensorView(SPEC)
    rows = standardised(view, flat(3)).reshape(3, SAMPLES, 3)
    rows[:, :, 1] = 0.5
    spread = view.watch(rows.reshape(3, -1))[:, 4]
    assert np.isfinite(spread).all()
    assert len(set(spread.tolist())) == 1
    assert spread[0] < -6


def test_the_channel_whose_reconstruction_is_worst_is_blamed_first() -> None:
    view = SensorView(SPEC)
    row = np.zeros(60, np.float32)
    output = row.reshape(SAMPLES, 3).copy()
    output[4, 2] = 3.0  # one large error
    output[:, 0] = 1.0  # many small ones weigh more
    assert view.blame(np.square(output.ravel() - row), 2) == ("x", "z")


def test_ready_features_are_sensors_themselves() -> None:
    view = SensorView(passthrough_spec(("a", "b")))
    rows = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    assert view.names == view.watched == ("a", "b")
    assert view.watch(rows) is rows
    assert view.fit_scale(rows).fitted_on == 30
    assert [len(part) for part in view.scale_of(view.fit_scale(rows))] == [2, 2]
    assert [len(part) for part in view.scale_of(None)] == [0, 0]
    assert view.blame(np.array([0, 1], np.float32), 1) == ("b",)


def test_a_channel_is_missing_where_any_sample_of_it_is() -> None:
    view = SensorView(SPEC)
    missing = np.zeros(60, bool)
    missing[7 * 3 + 1] = True
    assert view.missing_sensors(missing).tolist() == [False, True, False]
    assert view.parts == CHANNELS
    assert view.missing_parts(missing).tolist() == [False, True, False]
    watched = view.watch_all_but(standardised(view, flat(1))[0], missing)
    assert np.isnan(watched).tolist() == [False, True, False] * 2


def test_of_computed_features_the_channel_is_what_fails() -> None:
    view = SensorView(vibration_spec(12_800.0, 2048, channels=2))
    missing = np.arange(48) >= 24
    assert view.parts == ("ch1", "ch2")
    assert view.missing_parts(missing).tolist() == [False, True]
    assert np.array_equal(view.missing_sensors(missing), missing)


def test_of_ready_features_each_may_fail() -> None:
    view = SensorView(passthrough_spec(("a", "b", "c")))
    missing = np.array([False, True, False])
    assert view.parts == ("a", "b", "c")
    assert np.array_equal(view.missing_parts(missing), missing)
    row = np.ones(3, np.float32)
    np.testing.assert_array_equal(view.watch_all_but(row, missing), [1, np.nan, 1])
    assert row.tolist() == [1, 1, 1]


def test_a_channel_with_the_longest_name_can_be_reported() -> None:
    view = SensorView(raw_spec(("x" * 200,), SAMPLES))
    finding = DetectorFinding(detector="mean up", sensor=view.watched[0], statistic=1.0, threshold=1.0)
    assert msgspec.json.decode(msgspec.json.encode(finding), type=DetectorFinding) == finding
