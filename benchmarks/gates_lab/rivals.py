"""Two gates that others have, over the same fleets: install success, and the ratios that this project had at 4dec79f.

Both are asked after every message of the soak, as they were. What they need of a course is read here, for all rollouts at once.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gates_lab.worlds import WINDOWS_PER_BIN, Course

__all__ = ["RATIO_GATES", "Newest", "RatioGates", "ratio_stops"]

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

KEPT_REPORTS: Final = 20
"""Newest messages of a device that were averaged."""

NORMAL_95: Final = 1.6448536269514722

RatioGates = tuple[float | None, float | None, float, float]
"""Ratios of latency and of anomaly rate against the control (None: not asked), and the floors below which neither fails."""

RATIO_GATES: Final[dict[str, RatioGates]] = {
    "4dec79f, 1.15 x and 1.5 x control, no floor": (1.15, 1.5, 0.0, 0.0),
    "4dec79f, its example plan": (1.5, None, 200.0, 0.02),
}


@dataclass(frozen=True, kw_only=True)
class Newest:
    """Means over the newest messages of a device after each message of the soak; arrays (rollouts, devices, bins)."""

    latency: Floats
    over: Floats
    windows: Floats

    @classmethod
    def of(cls, course: Course) -> Newest:
        """Of all devices."""
        count = _newest_sums(course.heard)
        with np.errstate(invalid="ignore", divide="ignore"):
            latency = np.where(
                count > 0, _newest_sums(np.exp(course.log_latency) * course.heard) / count, np.nan
            )
        return cls(
            latency=latency, over=_newest_sums(course.over * course.heard), windows=count * WINDOWS_PER_BIN
        )


def ratio_stops(
    canaries: Newest,
    controls: Newest,
    before: Newest,
    gates: RatioGates,
    size: int,
    silent: Bools | None = None,
) -> Bools:
    """Whether the gates of 4dec79f ever fail in the course of a soak, for the first `size` canaries; (rollouts,).

    The newest 20 messages of every device; latency as the mean over devices of their means, anomalies as the lower Wilson bound
    of the pooled windows, each against the mean of the devices that do not have the release yet. The example plan's
    ``anomaly_rate <= 0.2`` on each device is the other condition where a ratio of the rate is not asked; a device that was
    beyond it `before` (its last messages without the release) may reach 1.25 times its own rate. Where more than a
    twentieth of them is `silent` (rollouts, devices), has told less than two messages since its first, the group fails for silence.
    """
    latency_ratio, rate_ratio, latency_floor, rate_floor = gates
    latency, over, windows = (a[:, :size] for a in (canaries.latency, canaries.over, canaries.windows))
    enough = windows >= 2 * WINDOWS_PER_BIN  # two messages; ten windows are in each
    fails = np.zeros((latency.shape[0], latency.shape[2]), np.bool_)
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # the mean of an arm of which nothing was heard is no number
        if latency_ratio is not None:
            limit = np.maximum(latency_ratio * np.nanmean(controls.latency, axis=1), latency_floor)
            fails |= np.nanmean(np.where(enough, latency, np.nan), axis=1) > limit
        if rate_ratio is not None:
            limit = np.maximum(rate_ratio * np.nanmean(controls.over / controls.windows, axis=1), rate_floor)
            fails |= _wilson_lower((over * enough).sum(axis=1), (windows * enough).sum(axis=1)) > limit
        else:
            own = (before.over / np.maximum(before.windows, 1))[:, :size, -1:]
            limits = np.where(own > 0.2, np.minimum(own * 1.25, (1 + own) / 2), 0.2)
            fails |= (enough & (_wilson_lower(over, windows) > limits)).any(axis=1)
    is_silent = np.zeros(len(fails), np.bool_) if silent is None else silent[:, :size].mean(axis=1) > 0.05
    return fails[:, 1:].any(axis=1) | is_silent


def _newest_sums(values: NDArray[np.floating] | NDArray[np.uint8] | Bools) -> Floats:
    sums = np.cumsum(values, axis=-1, dtype=np.float64)
    sums[..., KEPT_REPORTS:] -= sums[..., :-KEPT_REPORTS].copy()
    return sums


def _wilson_lower(successes: Floats, trials: Floats) -> Floats:
    share = successes / trials
    z = NORMAL_95
    centre = share + z * z / (2 * trials)
    spread = z * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return np.nan_to_num(np.maximum(0, (centre - spread) / (1 + z * z / trials)))
