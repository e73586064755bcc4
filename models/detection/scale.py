"""How much a sensor varies while its machine is healthy: the device's own estimate, shrunk towards the fleet's.

    own      ln s², of n windows that are worth d + 1 independent ones, uncertain by ψ′(d/2)
    fleet    mean and variance t of ln s² over devices, beyond what the estimates' uncertainty explains: how machines differ
    shrunk   w·own + (1 − w)·fleet, in the logarithm, w = t / (t + ψ′(d/2))

Few windows, or machines that hardly differ, and the fleet's deviation rules; many windows, and the own. A sensor that has
shown one value only (d = 0) takes the fleet's. In the logarithm, because machines may differ by decades: an arithmetic mean
would be the largest machine's. Variances are in the sensor's own units, so that devices can be compared.

Source: G. K. Smyth, "Linear models and empirical Bayes methods", Stat. Appl. Genet. Mol. Biol. 3 (2004), for the moments of ln s²;
there the mean is arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from models.detection.special import digamma, inverse_trigamma, trigamma
from models.detection.sums import Sums
from models.standardiser import Standardiser

__all__ = ["ScaleEvidence", "ScalePrior", "ScaleSums", "memory", "shrunk_std", "with_fleet_scale"]

Floats = NDArray[np.float64]

_CONSTANT_SHARE: Final = 1e-8
"""A variance below this share of the fleet's is a sensor that does not move here."""
_ODD: Final = 6.0
"""Deviations of its log variance from the fleet's that no machine of it has: of such a sensor the fleet knows nothing."""
_FEWEST_BLOCKS: Final = 3
_FREEDOM: Final = (0.5, 2000.0)
"""Bounds on d0: below, the fleet says nothing; above, machines do not differ."""


def memory(rows: NDArray[np.floating]) -> Floats:
    """Windows per independent window of each column (F,), from 1 to n/3, for rows (n, F) in the order of time.

    Means of blocks of √n windows vary √n times less than windows do, if windows are independent; what they vary more is the memory.
    """
    n = len(rows)
    block = max(2, int(np.sqrt(n)))
    blocks = n // block
    if blocks < _FEWEST_BLOCKS:
        return np.ones(rows.shape[1])
    means = np.asarray(rows, np.float64)[: blocks * block].reshape(blocks, block, -1).mean(axis=1)
    variance = np.maximum(rows.var(axis=0, ddof=1), 1e-12)
    return np.asarray(np.clip(block * means.var(axis=0, ddof=1) / variance, 1.0, n / 3))


@dataclass(frozen=True, kw_only=True, eq=False)
class ScaleEvidence:
    """One device's `variance` (F,) of each sensor, in its units, and the `freedom` (F,) behind it; 0 where it shows none."""

    variance: Floats
    freedom: Floats

    @classmethod
    def of(cls, rows: NDArray[np.floating], unit: NDArray[np.floating]) -> ScaleEvidence:
        """Of a deviation `unit` (F,), and the healthy rows (n, F) in multiples of it, oldest first; infinite: it has no scale.

        The unit is the variance: it was found before rows were clipped, without glitches, and with the sensor's resolution as
        floor (`models.standardiser`). A sensor that does not move in these rows is no evidence.
        """
        is_known = np.isfinite(unit) & (np.ptp(rows, axis=0) > 0)
        freedom = np.maximum(len(rows) / memory(rows) - 1.0, 1.0)
        return cls(
            variance=np.square(np.where(is_known, unit, 0.0)), freedom=np.where(is_known, freedom, 0.0)
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ScaleSums(Sums):
    """What devices add up, each (F,): devices that know, their corrected log variances, the squares, and their uncertainty."""

    devices: Floats
    logs: Floats
    squares: Floats
    uncertainty: Floats

    @classmethod
    def of(cls, evidence: ScaleEvidence) -> ScaleSums:
        """One device's part."""
        known = evidence.freedom > 0
        half = np.where(known, evidence.freedom, 2.0) / 2
        logs = np.log(np.where(known, evidence.variance, 1.0)) - digamma(half) + np.log(half)
        parts = (np.ones(len(half)), logs, logs * logs, trigamma(half))
        devices, logs, squares, uncertainty = (np.where(known, part, 0.0) for part in parts)
        return cls(devices=devices, logs=logs, squares=squares, uncertainty=uncertainty)


@dataclass(frozen=True, kw_only=True, eq=False)
class ScalePrior:
    """What a fleet knows of each sensor: its `variance` (F,), the geometric mean over devices, and the `freedom` (F,) of that word.

    The word is as uncertain, for one device, as an estimate of `freedom` degrees; 0 where fewer than two devices knew.
    """

    variance: Floats
    freedom: Floats

    @classmethod
    def of(cls, sums: ScaleSums) -> ScalePrior:
        """What follows from the sum over the devices."""
        n = np.maximum(sums.devices, 1.0)
        mean = sums.logs / n
        scatter = np.maximum(sums.squares - n * mean * mean, 0.0) / np.maximum(sums.devices - 1.0, 1.0)
        between = scatter - sums.uncertainty / n
        freedom = np.clip(2.0 * inverse_trigamma(np.maximum(between, 1e-6)), *_FREEDOM)
        variance = np.exp(mean)
        is_known = sums.devices >= 2
        return cls(variance=np.where(is_known, variance, 0.0), freedom=np.where(is_known, freedom, 0.0))


def shrunk_std(evidence: ScaleEvidence, prior: ScalePrior | None) -> Floats:
    """The deviation (F,) to scale each sensor by, in its units; infinite where neither the device nor the fleet saw it move."""
    if prior is None:
        return np.where(evidence.freedom > 0, np.sqrt(evidence.variance), np.inf)
    is_own = (evidence.freedom > 0) & (evidence.variance > _CONSTANT_SHARE * prior.variance)
    is_known = prior.freedom > 0
    between = trigamma(np.where(is_known, prior.freedom, 1.0) / 2)
    error = trigamma(np.where(is_own, evidence.freedom, 1.0) / 2)
    own, fleet = (
        np.log(np.where(mask, variance, 1.0))
        for mask, variance in ((is_own, evidence.variance), (is_known, prior.variance))
    )
    is_odd = np.abs(own - fleet) > _ODD * np.sqrt(between + error)
    own_weight = np.where(is_own, np.where(is_known & ~is_odd, between / (between + error), 1.0), 0.0)
    shrunk = np.exp((own_weight * own + (1.0 - own_weight) * fleet) / 2)
    return np.where(is_own | is_known, shrunk, np.inf)


def with_fleet_scale(standardiser: Standardiser, prior: ScalePrior) -> Standardiser:
    """The same scale, but a sensor that has shown one value only takes the fleet's deviation where the fleet knows one."""
    taken = [i for i in standardiser.unscaled if prior.freedom[i] > 0]
    std = np.array(standardiser.std)
    std[taken] = np.sqrt(prior.variance[taken])
    still = tuple(i for i in standardiser.unscaled if i not in taken)
    return replace(standardiser, std=tuple(std.tolist()), unscaled=still)
