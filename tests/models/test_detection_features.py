"""Features mean what their names say, cost what was promised, and refuse what is no window."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from waiting import slowness

from models.errors import FeatureError
from models.features import VIBRATION_FEATURE_NAMES, make_extractor, passthrough_spec, vibration_spec

pytestmark = pytest.mark.edge

RATE, SAMPLES = 12_800.0, 2048
SPEC = vibration_spec(RATE, SAMPLES)
EXTRACTOR = make_extractor(SPEC)
TIME_S = np.arange(SAMPLES) / RATE


def features(signal: NDArray[np.floating]) -> dict[str, float]:
    row = EXTRACTOR.extract(np.asarray(signal, np.float32).reshape(-1, 1))
    assert row.dtype == np.float32
    return dict(zip(SPEC.names, row.tolist(), strict=True))


def noise(seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal(SAMPLES)


def test_waveform_factors_of_a_sine_are_those_of_the_textbook() -> None:
    found = features(3.0 * np.sin(2 * np.pi * 100.0 * TIME_S))  # a whole number of periods
    assert found["log_rms"] == pytest.approx(np.log(3 / 2**0.5), abs=1e-3)
    assert found["log_peak"] == pytest.approx(np.log(3.0), abs=1e-2)
    assert found["log_crest_factor"] == pytest.approx(np.log(2**0.5), abs=1e-2)
    assert found["log_kurtosis"] == pytest.approx(np.log(1.5), abs=1e-3)
    assert found["log_shape_factor"] == pytest.approx(np.log(np.pi / 8**0.5), abs=1e-2)
    assert found["skewness"] == pytest.approx(0.0, abs=1e-3)


def test_waveform_factors_equal_their_naive_twins_on_noise() -> None:
    x = noise() ** 3
    x = x.astype(np.float32).astype(np.float64)
    found, c = features(x), x - x.mean()
    assert found["log_kurtosis"] == pytest.approx(np.log((c**4).mean() / (c**2).mean() ** 2), abs=1e-3)
    assert found["skewness"] == pytest.approx((c**3).mean() / (c**2).mean() ** 1.5, abs=1e-3)
    assert found["log_impulse_factor"] == pytest.approx(np.log(abs(c).max() / abs(c).mean()), abs=1e-3)


@pytest.mark.parametrize(
    ("frequency_hz", "band"), [(40, 1), (110, 2), (300, 4), (700, 5), (1500, 6), (6000, 8)]
)
def test_a_tone_lies_in_the_band_of_its_frequency(frequency_hz: float, band: int) -> None:
    found = features(np.sin(2 * np.pi * frequency_hz * TIME_S))
    energies = [found[f"log_band_energy_{i}"] for i in range(1, 9)]
    assert int(np.argmax(energies)) + 1 == band
    assert found["spectral_centroid"] == pytest.approx(np.log2(frequency_hz), abs=0.15)


def test_band_energies_grow_with_the_square_of_the_amplitude() -> None:
    quiet, loud = features(noise()), features(2 * noise())
    for i in range(1, 9):
        assert loud[f"log_band_energy_{i}"] - quiet[f"log_band_energy_{i}"] == pytest.approx(
            np.log(4), abs=1e-3
        )
    assert loud["spectral_entropy"] == pytest.approx(quiet["spectral_entropy"], abs=1e-4)
    assert loud["log_envelope_peak"] == pytest.approx(quiet["log_envelope_peak"], abs=1e-3)


def test_a_modulated_high_band_shows_in_the_envelope_band_of_its_rate_and_nowhere_in_the_size() -> None:
    carrier = noise(1)
    plain = features(carrier)
    modulated = carrier * (1 + 0.9 * np.cos(2 * np.pi * 100.0 * TIME_S))
    found = features(modulated / modulated.std() * carrier.std())
    assert found["log_envelope_energy_2"] > plain["log_envelope_energy_2"] + 2.0
    assert found["log_envelope_energy_4"] < plain["log_envelope_energy_4"] + 1.0
    assert found["log_envelope_peak"] > plain["log_envelope_peak"] + 1.0
    assert found["log_rms"] == pytest.approx(plain["log_rms"], abs=0.01)


def test_shaft_tones_however_strong_do_not_reach_the_envelope() -> None:
    plain = features(noise(1))
    shaft = sum(20.0 / order * np.sin(2 * np.pi * 25.0 * order * TIME_S) for order in range(1, 6))
    found = features(noise(1) + shaft)
    for name in ("log_envelope_energy_2", "log_envelope_peak", "log_envelope_kurtosis"):
        assert found[name] == pytest.approx(plain[name], abs=0.05)


def test_channels_are_independent_and_named() -> None:
    extractor = make_extractor(vibration_spec(RATE, SAMPLES, 2))
    row = extractor.extract(np.column_stack([noise(1), noise(2)]).astype(np.float32))
    assert len(row) == len(VIBRATION_FEATURE_NAMES(2)) == 2 * len(VIBRATION_FEATURE_NAMES(1))
    np.testing.assert_array_equal(row[:24], EXTRACTOR.extract(noise(1).astype(np.float32).reshape(-1, 1)))
    assert VIBRATION_FEATURE_NAMES(2)[24] == "ch2.log_rms"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 1e-20, 1e-3, 1.0, 1e4]), st.floats(-100, 100))
def test_features_are_finite_for_every_finite_window(seed: int, size: float, offset: float) -> None:
    assert np.isfinite(list(features(size * noise(seed) + offset).values())).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_a_single_sample_that_is_no_number_makes_its_channels_features_missing_and_no_others(
    bad: float,
) -> None:
    spec = vibration_spec(RATE, SAMPLES, channels=2)
    window = np.column_stack([noise(1), noise(2)]).astype(np.float32)
    whole = make_extractor(spec).extract(window)
    window[700, 1] = bad
    found = make_extractor(spec).extract(window)
    assert np.array_equal(found[:24], whole[:24])
    assert np.isnan(found[24:]).all()


def test_a_window_of_another_shape_is_refused_with_both_shapes() -> None:
    with pytest.raises(FeatureError, match=r"\(2048, 1\).*got \(100, 1\)"):
        EXTRACTOR.extract(np.zeros((100, 1), np.float32))


def test_a_spec_this_build_cannot_compute_is_refused() -> None:
    with pytest.raises(FeatureError, match="at least 256 samples at 3200 Hz"):
        make_extractor(vibration_spec(1000.0, 2048))
    with pytest.raises(FeatureError, match="use vibration_spec"):
        make_extractor(type(SPEC)(kind="vibration", names=("rms",), window_samples=2048, sample_rate_hz=RATE))


def test_ready_features_pass_through_unchanged_and_what_is_no_number_is_missing() -> None:
    extractor = make_extractor(passthrough_spec(["a", "b"]))
    np.testing.assert_array_equal(extractor.extract(np.array([[1, 2]], np.float32)), [1, 2])
    for bad in (np.nan, np.inf, -np.inf):
        np.testing.assert_array_equal(extractor.extract(np.array([[1, bad]], np.float32)), [1, np.nan])
    huge = np.array([[3e38, -2]], np.float32)
    np.testing.assert_array_equal(extractor.extract(huge), huge[0])
    with pytest.raises(FeatureError, match="must hold 2 values"):
        extractor.extract(np.ones((1, 3), np.float32))


def test_extraction_is_quick() -> None:
    window = noise().astype(np.float32).reshape(-1, 1)
    costs = []
    for _ in range(60):
        begin = time.process_time()
        EXTRACTOR.extract(window)
        costs.append(time.process_time() - begin)
    assert np.median(costs) < 1e-3 * slowness()  # measured 0.16 ms alone
