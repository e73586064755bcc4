"""Windows become feature vectors: the numbers a vibration analyst looks at, or the source's own.

A ``vibration`` window (raw acceleration) becomes 24 features a channel: size and impulsiveness of the waveform, where
the spectrum's energy lies, and how strongly its high band is modulated (the envelope spectrum, where a bearing defect
first shows). Heavy-tailed quantities are natural logarithms, so that a change by a factor is a shift. ``passthrough``
hands ready features on; ``raw`` hands the samples on, time-major, for a model that finds its own features.

Not here: scaling to the single machine (`models.standardiser`), and any knowledge of shaft speed or bearing geometry:
a retrofitted sensor rarely has either.

What a sensor did not deliver is missing, and stays so: a value that is no finite number becomes NaN in what is made of
it, and in nothing else (a dead channel's features are NaN, the others are what they always are).

Invariants: a vector is float32 and never infinite, its order is that of `FeatureSpec.names` (``raw``: sample by sample),
extraction keeps no state.

Sources: R. B. Randall and J. Antoni, "Rolling element bearing diagnostics: a tutorial", MSSP 25 (2011), for envelope
analysis; ISO 13373-2 for the waveform factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, assert_never

import numpy as np
from numpy.typing import NDArray

from models.errors import FeatureError
from protocol.manifest import FeatureSpec

__all__ = [
    "VIBRATION_FEATURE_NAMES",
    "FeatureExtractor",
    "make_extractor",
    "passthrough_spec",
    "raw_spec",
    "vibration_spec",
]

_BANDS: Final = 8
_ENVELOPE_BANDS: Final = 4
_LOWEST_BAND_HZ: Final = 80.0
"""Upper end of the first spectral band: holds the shaft's first harmonics on machines of 1000-4500 rpm."""
_ENVELOPE_EDGES_HZ: Final = (12.0, 60.0, 140.0, 300.0, 1000.0)
"""Envelope bands: shaft rate, then the ranges in which cage, outer, inner and ball rates and harmonics fall."""
_ENVELOPE_FROM: Final = 0.15
"""The envelope is taken above this share of the sampling rate, beyond shaft harmonics, where casings resonate."""
_TINY: Final = 1e-12
"""Added before a logarithm or division, so that a dead (all-zero) sensor gives finite features."""
_MISSING: Final = np.array(np.nan, np.float32)
_SHORTEST_WINDOW: Final = 256
_LARGEST_SAMPLE: Final = 1e8
"""Fourth powers of what lies below, summed over a window, are float32 numbers still; no accelerometer comes near."""

_PER_CHANNEL: Final = (
    "log_rms",
    "log_peak",
    "log_crest_factor",
    "log_kurtosis",
    "skewness",
    "log_shape_factor",
    "log_impulse_factor",
    *(f"log_band_energy_{i}" for i in range(1, _BANDS + 1)),
    "spectral_centroid",
    "spectral_spread",
    "spectral_entropy",
    *(f"log_envelope_energy_{i}" for i in range(1, _ENVELOPE_BANDS + 1)),
    "log_envelope_peak",
    "log_envelope_kurtosis",
)


class FeatureExtractor(Protocol):
    """Turns one window into one vector."""

    def extract(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """(samples, channels) → (F,), NaN where something is missing; raises FeatureError for another shape."""


def VIBRATION_FEATURE_NAMES(channels: int = 1) -> tuple[str, ...]:  # noqa: N802 — a constant that needs the channel count
    """The vibration features in order; prefixed ``ch1.``, ``ch2.`` … where there are several channels."""
    if channels == 1:
        return _PER_CHANNEL
    return tuple(f"ch{c}.{name}" for c in range(1, channels + 1) for name in _PER_CHANNEL)


def vibration_spec(sample_rate_hz: float, window_samples: int, channels: int = 1) -> FeatureSpec:
    """Spec of a raw vibration source; `window_samples` ≥ 256, `sample_rate_hz` ≥ 3200."""
    return FeatureSpec(
        kind="vibration",
        names=VIBRATION_FEATURE_NAMES(channels),
        window_samples=window_samples,
        channels=channels,
        sample_rate_hz=sample_rate_hz,
    )


def passthrough_spec(names: Sequence[str]) -> FeatureSpec:
    """Spec of a source that delivers ready features, one row a window."""
    return FeatureSpec(kind="passthrough", names=tuple(names), channels=len(names))


def raw_spec(
    names: Sequence[str], window_samples: int, *, sample_rate_hz: float | None = None
) -> FeatureSpec:
    """Spec of a source whose windows (samples, channels) are the model's input; `names` are the channels'."""
    return FeatureSpec(
        kind="raw",
        names=tuple(names),
        window_samples=window_samples,
        channels=len(names),
        sample_rate_hz=sample_rate_hz,
    )


def make_extractor(spec: FeatureSpec) -> FeatureExtractor:
    """The extractor a spec asks for.

    Raises:
        FeatureError: the spec names features this build does not compute, a window too short for them, or (raw)
            not one name a channel.
    """
    match spec.kind:
        case "vibration":
            return _VibrationFeatures(spec)
        case "passthrough":
            return _Passthrough(spec)
        case "raw":
            return _RawSamples(spec)
        case _:
            assert_never(spec.kind)


class _Passthrough:
    """The source's values are the features."""

    def __init__(self, spec: FeatureSpec) -> None:
        self._size = len(spec.names)

    def extract(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        if window.size != self._size:
            raise FeatureError(
                f"a window of ready features must hold {self._size} values, got {window.shape}"
            )
        return _without_infinity(np.asarray(window, np.float32).reshape(self._size))


class _RawSamples:
    """The samples are the features, all channels of one instant side by side."""

    def __init__(self, spec: FeatureSpec) -> None:
        if spec.channels != len(spec.names):
            raise FeatureError(
                f"raw windows of {spec.channels} channels need a name for each, the spec names {len(spec.names)}"
            )
        self._shape = (spec.window_samples, spec.channels)

    def extract(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        if window.shape != self._shape:
            raise FeatureError(
                f"a window must have shape {self._shape} (samples, channels), got {window.shape}"
            )
        return _without_infinity(np.asarray(window, np.float32).reshape(-1))


class _VibrationFeatures:
    """All tables depend on the spec alone and are computed once."""

    def __init__(self, spec: FeatureSpec) -> None:
        n, rate = spec.window_samples, spec.sample_rate_hz
        if n < _SHORTEST_WINDOW or rate is None or rate < 3200.0:
            raise FeatureError(
                f"vibration features need at least {_SHORTEST_WINDOW} samples at 3200 Hz or more, "
                f"got {n} samples at {rate} Hz"
            )
        if spec.names != VIBRATION_FEATURE_NAMES(spec.channels):
            raise FeatureError(
                f"this build computes {len(VIBRATION_FEATURE_NAMES(spec.channels))} vibration features for "
                f"{spec.channels} channels, the spec names {len(spec.names)} others; use vibration_spec()"
            )
        self._shape = (n, spec.channels)
        self._window = np.hanning(n).astype(np.float32)
        frequency = np.fft.rfftfreq(n, 1.0 / rate)
        self._octave = np.log2(np.maximum(frequency, rate / n)).astype(np.float32)
        # From the lowest bin above DC: band 1 ends at 80 Hz, the others divide the rest evenly in octaves.
        self._band_starts = _starts(frequency, (0.0, *np.geomspace(_LOWEST_BAND_HZ, rate / 2, _BANDS)[:-1]))
        self._high = int(np.searchsorted(frequency, _ENVELOPE_FROM * rate))
        self._envelope_starts = _starts(frequency, _ENVELOPE_EDGES_HZ)
        self._entropy_scale = 1.0 / float(np.log(len(frequency)))

    def extract(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        if window.shape != self._shape:
            raise FeatureError(
                f"a window must have shape {self._shape} (samples, channels), got {window.shape}"
            )
        return np.concatenate([self._channel(window[:, c]) for c in range(window.shape[1])])

    def _channel(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        # Every sample enters every feature: one that is no number, or whose square is none, leaves none.
        if not np.abs(samples).max() < _LARGEST_SAMPLE:
            return np.full(len(_PER_CHANNEL), np.nan, np.float32)
        x = samples - samples.mean()
        spectrum = np.fft.rfft(x * self._window)
        return np.concatenate(
            [_waveform_factors(x), self._spectral(spectrum), self._envelope(spectrum)], dtype=np.float32
        )

    def _spectral(self, spectrum: NDArray[np.complexfloating]) -> NDArray[np.floating]:
        power = spectrum.real**2 + spectrum.imag**2
        bands = np.add.reduceat(power, self._band_starts)
        share = power / (bands.sum() + _TINY)
        centroid = float(share @ self._octave)
        spread = float(np.sqrt(share @ (self._octave - centroid) ** 2))
        entropy = -float(share @ np.log(share + _TINY)) * self._entropy_scale
        return np.append(np.log(bands / len(power) + _TINY), (centroid, spread, entropy))

    def _envelope(self, spectrum: NDArray[np.complexfloating]) -> NDArray[np.floating]:
        """Demodulate the high band: analytic signal of its spectrum, squared, and that signal's own spectrum."""
        analytic = np.zeros(2 * (len(spectrum) - 1), spectrum.dtype)
        analytic[self._high : len(spectrum)] = spectrum[self._high :]
        z = np.fft.ifft(analytic)
        squared = z.real**2 + z.imag**2
        level = squared.mean() + _TINY
        modulation = np.fft.rfft(squared / level)
        power = (modulation.real**2 + modulation.imag**2) / len(squared)
        starts = self._envelope_starts
        inner = power[starts[0] : starts[-1]]
        bands = np.add.reduceat(power, starts)[:-1] / np.diff(starts)
        peak = inner.max() / (np.median(inner) + _TINY)
        deviation = squared / level - 1.0
        variance = (deviation @ deviation) / len(deviation) + _TINY
        return np.append(np.log(bands + _TINY), (np.log(peak + _TINY), np.log(variance)))


def _without_infinity(row: NDArray[np.float32]) -> NDArray[np.float32]:
    finite = np.isfinite(row)
    # Counted, because `all` takes four times as long for one row.
    return row if np.count_nonzero(finite) == len(row) else np.where(finite, row, _MISSING)


def _starts(frequency: NDArray[np.floating], edges_hz: Sequence[float]) -> NDArray[np.intp]:
    """First bin of each band, never DC; a coarse spectrum still gets at least one bin a band."""
    return np.maximum(np.searchsorted(frequency, edges_hz), np.arange(len(edges_hz)) + 1)


def _waveform_factors(x: NDArray[np.float32]) -> NDArray[np.floating]:
    """Size and impulsiveness; x has zero mean. Logs of ratios that are all ≥ 1, plus skewness, which has a sign."""
    n = len(x)
    magnitude = np.abs(x)
    squares = x * x
    mean_square = float(squares.sum()) / n + _TINY
    rms = mean_square**0.5
    peak = float(magnitude.max()) + _TINY
    mean_magnitude = float(magnitude.sum()) / n + _TINY
    skewness = float(squares @ x) / n / (mean_square * rms)
    kurtosis = float(squares @ squares) / n / mean_square**2
    ratios = (rms, peak, peak / rms, kurtosis + _TINY, rms / mean_magnitude, peak / mean_magnitude)
    log_rms, log_peak, log_crest, log_kurtosis, log_shape, log_impulse = np.log(ratios)
    return np.array((log_rms, log_peak, log_crest, log_kurtosis, skewness, log_shape, log_impulse))
