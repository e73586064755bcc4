"""What a fleet knows, as a release carries it: scale, spread and openings curves, all made of sums.

    question     a device answers with            the sum becomes
    scale        `ScaleSums` (4 · F values)       `ScalePrior`
    spread       `SpreadSums` (F² + F + 3)        `SpreadPrior`, in units of the shrunk scale
    curve        `OpeningsSums` for each age      a `Curve` for each age

Each question needs what came of the one before; each is asked once. `fleet_prior` plays all three centrally, for the first
release of recordings that are at hand.

Bytes: MessagePack; matrices as the upper triangle in float16, which is a relative error of 5e-4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.architecture import Architecture
from models.detection.openings import (
    AGES,
    LARGEST_ALIKENESS,
    LEVELS,
    AlarmRules,
    Curve,
    OpeningsSums,
    age_counts,
    age_of,
)
from models.detection.scale import ScaleEvidence, ScalePrior, ScaleSums, shrunk_std
from models.detection.spread import Spread, SpreadPrior, SpreadSums
from models.detection.sums import total
from models.errors import BundleContentError, InputError
from models.standardiser import CLIP
from protocol.refit_sizes import MOST_MIXED_FEATURES
from runtime.unreadable import UNREADABLE

__all__ = ["FleetPrior", "can_mix", "decode_prior", "encode_prior", "fleet_prior", "rescaled"]

Floats = NDArray[np.float64]

MOST_PRIOR_BYTES: Final = 256 * 1024
_SMALLEST_RATE: Final = 1e-30
_WIDEST_LOG: Final = 110.0
"""Of a variance; devices clip theirs to ±100 (`protocol.secure_answers`)."""
_ROUNDED_ONE: Final = 1e-6
_ROUNDED_CORRELATION: Final = 1e-2
_WIDEST_WANDER: Final = 1.5 * (2 * CLIP) ** 2
"""Half of three squared steps between the means of quarters, each from one end of the scale to the other."""
_MOST_WINDOWS: Final = 1e6
"""A device counts on some thousand windows. More than that would be a promise that is never called provisional."""
_ROUNDED_EIGENVALUE: Final = -1e-2
"""Rounding to float16 moves an eigenvalue by less, in units of the mean one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FleetPrior:
    """What `devices` devices know together; `curves` by the age of the detector, from `AGES`."""

    devices: int
    scale: ScalePrior
    spread: SpreadPrior
    curves: Mapping[int, Curve]

    @property
    def features(self) -> int:
        """F."""
        return len(self.scale.variance)

    @property
    def most_windows(self) -> int:
        """How many windows openings were counted on at the age at which most were."""
        return round(max((curve.windows for curve in self.curves.values()), default=0.0))

    def curve_for(self, windows: int) -> Curve | None:
        """The curve of detectors as old as one learnt from so many windows; of younger ones where there is none; None: none at all."""
        age = age_of(windows)
        known = [a for a in self.curves if age is None or a <= age]
        return self.curves[max(known)] if known else None


def can_mix(architecture: Architecture) -> bool:
    """Whether devices can judge by a prior where this is the model: its input is features, and not too many for a covariance to travel."""
    return architecture.kind == "dense-autoencoder" and architecture.feature_count <= MOST_MIXED_FEATURES


def rescaled(
    rows: NDArray[np.floating], evidence: ScaleEvidence, unit: NDArray[np.floating], prior: ScalePrior | None
) -> tuple[Floats, Floats]:
    """Healthy rows (n, F), given in multiples of `unit` (F,), in units of the shrunk deviation, and what they were divided by (F,).

    A sensor that nobody saw move stays at 0: it is divided by infinity.
    """
    unit = np.where(np.isfinite(unit), unit, 1.0)
    divisor = shrunk_std(evidence, prior) / unit
    centred = np.asarray(rows, np.float64) - np.asarray(rows, np.float64).mean(axis=0)
    return np.clip(centred / divisor, -CLIP, CLIP), divisor


def fleet_prior(
    fleet: Sequence[tuple[NDArray[np.floating], NDArray[np.floating]]],
    rules: AlarmRules,
    *,
    shortest_event_windows: int = 2,
) -> FleetPrior:
    """The prior of devices whose healthy rows are at hand.

    Args:
        fleet: of each device its standardised rows (n, F) in the order of time, and its units (F,).
        rules: when alarms close.
        shortest_event_windows: `AlarmBudget.shortest_event_windows`.

    Raises:
        InputError: no device.
    """
    if not fleet:
        raise InputError("a prior needs the healthy windows of at least one device, got none")
    evidence = [ScaleEvidence.of(rows, unit) for rows, unit in fleet]
    scale_sums = [ScaleSums.of(one) for one in evidence]
    scale = ScalePrior.of(total(scale_sums))
    scaled = [rescaled(rows, one, unit, scale)[0] for (rows, unit), one in zip(fleet, evidence, strict=True)]
    spread_sums = [SpreadSums.of(Spread.of(rows)) for rows in scaled]
    everybody = total(spread_sums)
    by_age: dict[int, list[OpeningsSums]] = {}
    for rows, own in zip(scaled, spread_sums, strict=True):
        others = SpreadPrior.of(everybody - own) if len(fleet) > 1 else None
        for age, counts in age_counts(
            rows, others, rules, shortest_event_windows=shortest_event_windows
        ).items():
            by_age.setdefault(age, []).append(OpeningsSums.of(counts))
    return FleetPrior(
        devices=len(fleet),
        scale=scale,
        spread=SpreadPrior.of(everybody),
        curves={age: Curve.of(total(sums)) for age, sums in by_age.items()},
    )


class _CurveFile(Struct, frozen=True, kw_only=True):
    rate: bytes
    share: bytes
    windows: float
    alikeness: float


class _PriorFile(Struct, frozen=True, kw_only=True):
    features: int
    devices: int
    log_variance: bytes
    scale_freedom: bytes
    correlation: bytes
    wander: bytes
    between: float
    curves: dict[int, _CurveFile]


_decoder: Final = msgspec.msgpack.Decoder(_PriorFile)


def encode_prior(prior: FleetPrior) -> bytes:
    """The file of a release: 9 kB for 46 features and four ages, 40 kB for 128."""
    return msgspec.msgpack.encode(
        _PriorFile(
            features=prior.features,
            devices=prior.devices,
            log_variance=_pack(np.log(np.where(prior.scale.freedom > 0, prior.scale.variance, 1.0)), "<f4"),
            scale_freedom=_pack(prior.scale.freedom, "<f4"),
            correlation=_pack(_triangle(prior.spread.correlation), "<f2"),
            wander=_pack(_triangle(prior.spread.wander), "<f2"),
            between=prior.spread.between,
            curves={
                age: _CurveFile(
                    rate=_pack(np.log(np.maximum(curve.rate, _SMALLEST_RATE)), "<f4"),
                    share=_pack(np.log(np.maximum(curve.share, _SMALLEST_RATE)), "<f4"),
                    windows=curve.windows,
                    alikeness=curve.alikeness,
                )
                for age, curve in prior.curves.items()
            },
        )
    )


def decode_prior(content: bytes) -> FleetPrior:
    """Read what `encode_prior` wrote; raises BundleContentError for anything else, or values that are no prior."""
    if len(content) > MOST_PRIOR_BYTES:
        raise BundleContentError(f"a prior has at most {MOST_PRIOR_BYTES} bytes, got {len(content)}")
    try:
        file = _decoder.decode(content)
    except UNREADABLE as error:
        raise BundleContentError(f"not a fleet's prior: {error}") from None
    f = file.features
    freedom = _unpack(file.scale_freedom, "<f4", f, "scale_freedom")
    log_variance = _unpack(file.log_variance, "<f4", f, "log_variance")
    if (
        not 1 <= f <= 4096
        or file.devices < 1
        or (freedom < 0).any()
        or (np.abs(log_variance) > _WIDEST_LOG).any()
        or not set(file.curves) <= set(AGES)
        or not 0 <= file.between <= 1 + _ROUNDED_CORRELATION
    ):
        raise BundleContentError("a fleet's prior has counts or ages that cannot be; build the release again")
    correlation = _square(_unpack(file.correlation, "<f2", f * (f + 1) // 2, "correlation"), f)
    wander = _square(_unpack(file.wander, "<f2", f * (f + 1) // 2, "wander"), f)
    if (
        np.abs(np.diag(correlation) - 1.0).max() > _ROUNDED_CORRELATION
        or np.diag(wander).max() > _WIDEST_WANDER
    ):
        raise BundleContentError("the correlations in a fleet's prior are none; build the release again")
    correlation, wander = _without_rounding(correlation), _without_rounding(wander)
    curves = {age: _read_curve(curve, file.devices) for age, curve in file.curves.items()}
    return FleetPrior(
        devices=file.devices,
        scale=ScalePrior(variance=np.where(freedom > 0, np.exp(log_variance), 0.0), freedom=freedom),
        spread=SpreadPrior(correlation=correlation, wander=wander, between=file.between),
        curves=curves,
    )


def _read_curve(file: _CurveFile, devices: int) -> Curve:
    rate = _unpack(file.rate, "<f4", len(LEVELS), "rate")
    share = _unpack(file.share, "<f4", len(LEVELS), "share")
    if (
        not (0 < file.windows <= devices * _MOST_WINDOWS and 0 < file.alikeness <= LARGEST_ALIKENESS)
        or max(rate.max(), share.max()) > _ROUNDED_ONE
        or max(np.diff(rate).max(), np.diff(share).max()) > _ROUNDED_ONE
    ):
        raise BundleContentError(
            "a curve in a fleet's prior was counted on windows that cannot be, opens more than once in each, or more often at a"
            " higher level; build the release again"
        )
    return Curve(rate=np.exp(rate), share=np.exp(share), windows=file.windows, alikeness=file.alikeness)


def _triangle(matrix: Floats) -> Floats:
    return np.asarray(matrix[np.triu_indices(len(matrix))])


def _square(triangle: Floats, size: int) -> Floats:
    matrix = np.zeros((size, size))
    matrix[np.triu_indices(size)] = triangle
    return matrix + np.triu(matrix, 1).T


def _without_rounding(matrix: Floats) -> Floats:
    """The same without negative eigenvalues, which would be a direction in which to vary is healthy without end.

    Raises:
        BundleContentError: they are more than what float16 has made of none.
    """
    values, vectors = np.linalg.eigh(matrix)
    if values[0] < _ROUNDED_EIGENVALUE * max(float(np.trace(matrix)) / len(matrix), 1.0):
        raise BundleContentError("the correlations in a fleet's prior are none; build the release again")
    return matrix if values[0] >= 0 else (vectors * np.maximum(values, 0.0)) @ vectors.T


def _pack(values: NDArray[np.floating], kind: str) -> bytes:
    return np.asarray(values).astype(kind).tobytes()


def _unpack(content: bytes, kind: str, count: int, name: str) -> Floats:
    if len(content) != count * np.dtype(kind).itemsize:
        raise BundleContentError(
            f"{name} of a fleet's prior has {len(content)} bytes, {count} values were promised"
        )
    values = np.frombuffer(content, kind).astype(np.float64)
    if not np.isfinite(values).all():
        raise BundleContentError(f"{name} of a fleet's prior holds values that are not finite")
    return values
