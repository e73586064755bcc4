"""Three opinions on what is far from healthy, in one quadratic form, and a fourth: the sensor that is furthest off.

How much a quiet direction should count differs from machine to machine, and nothing that healthy data show tells it
beforehand: on bearings a ridge of 3 deviations ranks best, on servers it may rank worst. So three detectors of different
ridge judge together, each in its own unit: the level that it exceeds on windows it was not fitted on. An expert that is noisy
here has a high level, and so little weight.

    expert k   Pk = ((1 − r)·R + r·I + a·Ω)⁻¹, and (I + a·diag Ω)⁻¹      u_k = z′ Pk z / F
    together   M = mean of Pk / level_k                       score = z′ M z / F

    furthest   max over sensors j of (P z)_j² / P_jj, P both ridges': how far each is from what the others say, in its own errors

One matrix: one dense layer on a device, whatever the number of experts. A sum over forty sensors hardly shows that one of them is
off, so the furthest is looked at by itself; it is F more outputs of the same layer.

Levels, and the series that `models.detection.openings` counts in, come from fifths of the windows in turn that the fit has not
seen: a score of rows that a form was fitted on promises two to twenty times too much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.detection.int8_layer import STEP
from models.detection.spread import FEWEST_ROWS, Spread, SpreadPrior, mixed
from models.detection.time_scales import TimeScales, averages_for, on_time_scales
from models.errors import InputError

__all__ = [
    "FEWEST_WINDOWS",
    "FOLDS",
    "Form",
    "fit_form",
    "hardly_exceeded",
    "held_out_statistics",
    "rare_level",
]

Floats = NDArray[np.float64]

RIDGES: Final = (0.05, 0.75)
"""Shares of the identity; a third expert takes each sensor by itself."""

FOLDS: Final = 5
"""Fifths, in the order of time: a fit of four is nearly that of all, and a fifth is as far as it has looked ahead."""

FEWEST_WINDOWS: Final = 16
"""Below this a fifth is no evidence."""

_AHEAD: Final = 8 / 3
"""Of wander: what was seen between quarters, for as far ahead as the device has learnt. Of a random walk, variance grows with the
distance, by 4; the wander is one and a half of it."""

_RARE: Final = 1e-3
"""What a level is exceeded by, if there are windows enough: the largest of a fifth, or one in a thousand of it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Form:
    """A fitted score: `matrix` (F, F) about `centre` (F,), how it is looked at in time, and the device's `own_weight` in it.

    `residuals` (F, F) make of a window how far each sensor is from what the others say. `held_out` (n,) is what each window that it
    was fitted on scores by a fit of the others, `typical` their middle; `held_out_furthest` (n,) their furthest sensor's square.
    """

    matrix: Floats
    residuals: Floats
    centre: Floats
    units: tuple[float, ...]
    averages: tuple[int, ...]
    typical: float
    own_weight: float
    held_out: Floats
    held_out_furthest: Floats

    def make_time_scales(self) -> TimeScales:
        """What turns scores into the statistic, from nothing seen."""
        return TimeScales(units=self.units, averages=self.averages, typical=self.typical)

    def scores(self, rows: NDArray[np.floating]) -> Floats:
        """Score (n,) of each window (n, F); about 1 is what a healthy window hardly ever exceeds."""
        z = np.asarray(rows, np.float64) - self.centre
        return np.asarray(np.einsum("ij,ij->i", z @ self.matrix, z) / z.shape[1])

    def furthest(self, rows: NDArray[np.floating]) -> Floats:
        """The square (n,) of how far the sensor that is furthest off is from what the others say, of each window (n, F)."""
        z = np.asarray(rows, np.float64) - self.centre
        return np.asarray(np.square(z @ self.residuals.T).max(axis=1))

    def statistics(self, rows: NDArray[np.floating]) -> Floats:
        """What a threshold is compared with (n,), for successive windows (n, F)."""
        return self.make_time_scales().follow(self.scores(rows), self.furthest(rows))


def fit_form(
    rows: NDArray[np.floating],
    prior: SpreadPrior | None,
    *,
    knows_own: bool = True,
    averages: tuple[int, ...] | None = None,
) -> Form:
    """Fit on healthy rows (n, F), n ≥ 16, in the order of time; without `knows_own` the fleet's correlations alone judge.

    `averages` are the time scales, by default those that so many rows support.

    Raises:
        InputError: too few rows, or none of own and prior.
    """
    x = np.asarray(rows, np.float64)
    if x.ndim != 2 or len(x) < FEWEST_WINDOWS:
        raise InputError(f"a detector needs at least {FEWEST_WINDOWS} healthy windows, got shape {x.shape}")
    experts = _experts(x, prior, knows_own=knows_own)
    off = [
        (x[test] - fold.centre, fold)
        for test, fold in zip(_fifths(len(x)), _folds(x, prior, knows_own=knows_own), strict=True)
    ]
    held_out = np.concatenate([_distances(z, fold.precisions) for z, fold in off], axis=1)
    furthest = np.concatenate([np.square(z @ fold.residuals.T).max(axis=1) for z, fold in off])
    levels = np.array(
        [
            rare_level(scores, smallest)
            for scores, smallest in zip(held_out, experts.smallest.tolist(), strict=True)
        ]
    )
    together = (held_out / levels[:, None]).mean(axis=0)
    smallest = float((experts.smallest / levels).mean())
    averages = averages_for(len(x)) if averages is None else averages
    typical = float(np.sqrt(max(np.median(together), STEP**2 * smallest)))
    *scales, furthest_scale = on_time_scales(together, furthest, averages, typical)
    return Form(
        matrix=np.asarray((experts.precisions / levels[:, None, None]).mean(axis=0)),
        residuals=experts.residuals,
        centre=experts.centre,
        units=(
            *(rare_level(scale, smallest) for scale in scales),
            rare_level(furthest_scale, experts.smallest_furthest),
        ),
        averages=averages,
        typical=typical,
        own_weight=experts.own_weight,
        held_out=together,
        held_out_furthest=furthest,
    )


def held_out_statistics(
    rows: NDArray[np.floating], prior: SpreadPrior | None, *, averages: tuple[int, ...] | None = None
) -> list[Floats]:
    """What a threshold is compared with, for each fifth of the rows (n, F), by a form, units and all, of the other four."""
    x = np.asarray(rows, np.float64)
    averages = averages_for(len(x)) if averages is None else averages
    return [
        fit_form(np.delete(x, test, axis=0), prior, averages=averages).statistics(x[test])
        for test in _fifths(len(x))
    ]


def rare_level(scores: NDArray[np.floating], smallest: float) -> float:
    """What healthy scores (n,), in the order of time, hardly exceed; never less than `smallest` > 0, however calm they are.

    The mean over fifths of the largest in each, or of one in a thousand: as deep as the windows allow, and steadier than the few
    largest of all, which may be of one bad hour. A machine that is louder in one fifth than in others has the level of neither.
    """
    highest = [hardly_exceeded(part) for part in np.array_split(scores, FOLDS)]
    return max(float(np.mean(highest)), smallest)


def hardly_exceeded(scores: NDArray[np.floating]) -> float:
    """The largest of scores (n,), n ≥ 1, or of one in a thousand of them."""
    return float(np.sort(scores)[-max(int(_RARE * len(scores)), 1)])


class _Experts(NamedTuple):
    """`precisions` (K, F, F) about `centre` (F,), and `residuals` (F, F) as of a `Form`.

    `smallest` (K,), and `smallest_furthest`, is the least that windows may be said to hardly exceed.

    A window that varies as the scale and the correlations say scores some F times what it would with one sensor alone. Where a
    sensor never moved (a flag that was not set, a machine at rest), one deviation of it is no rarity, as little as all others
    moved; where all did, one step of the int8 input is none.
    """

    centre: Floats
    precisions: Floats
    residuals: Floats
    smallest: Floats
    smallest_furthest: float
    own_weight: float


def _fifths(windows: int) -> list[NDArray[np.intp]]:
    return np.array_split(np.arange(windows), FOLDS)


def _folds(x: Floats, prior: SpreadPrior | None, *, knows_own: bool) -> list[_Experts]:
    """Of the windows (n, F) without each fifth in turn."""
    return [_experts(np.delete(x, test, axis=0), prior, knows_own=knows_own) for test in _fifths(len(x))]


def _experts(x: Floats, prior: SpreadPrior | None, *, knows_own: bool) -> _Experts:
    own = Spread.of(x) if knows_own and len(x) >= FEWEST_ROWS else None
    spread = mixed(own, prior)
    identity, wander = np.eye(x.shape[1]), _AHEAD * spread.wander
    ridged = np.linalg.inv([(1 - r) * spread.correlation + r * identity + wander for r in RIDGES])
    alone = np.diag(1.0 / (1.0 + np.diag(wander)))
    precisions = np.concatenate([ridged, alone[None]])
    together = ridged.mean(axis=0)
    errors = np.sqrt(np.diag(together))
    of_one_sensor = np.einsum("kij,ij->k", precisions, spread.correlation) / x.shape[1] ** 2
    one = 1.0 if (np.ptp(x, axis=0) == 0).any() else STEP**2
    return _Experts(
        centre=x.mean(axis=0),
        precisions=precisions,
        residuals=together / errors[:, None],
        smallest=of_one_sensor * one,
        # Where all moved, a step of the input is no news by whatever its sensor is known best.
        smallest_furthest=one if one == 1.0 else one * float(errors.max()) ** 2,
        own_weight=spread.own_weight,
    )


def _distances(z: Floats, precisions: Floats) -> Floats:
    """z′ Pk z / F for each expert and window, (K, n)."""
    return np.asarray(np.einsum("knf,nf->kn", z @ precisions, z) / z.shape[1])
