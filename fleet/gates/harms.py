"""Harm, applied to what devices showed without it: how a release of a known fault would have looked on the fleet's own past.

Nobody knows how more alarms come: one by one, or in clumps as the machine's own do. So a count grows in two forms, A and B, and what
the gate would see lies between: in A each alarm brings others by chance (Poisson), in B a whole span of a device of a similar
rate is laid on top. What is no count is shifted, in B by a different amount on each device.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fleet.gates.arms import Shown
from fleet.gates.plan import Metric

__all__ = ["HARMS", "harmed", "taken"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

HARMS: Final[dict[Metric, float]] = {
    Metric.LATENCY_P99: 1.15,
    Metric.ANOMALY_RATE: 2.0,
    Metric.ANOMALY_LOSS: 0.0,  # blind
    Metric.UNJUDGED: 0.01,  # of all windows, more
    Metric.MEMORY: 0.10,  # an hour
    Metric.DRIFT_SCORE: 2.0,
    Metric.SIGHT: 0.2,
}
"""The harm that a preview asks about: factors, but for unjudged windows (a share) and memory (log PSS an hour)."""

_UNEVEN: Final = 0.5  # in form B a shift is between so much less and more of itself


def taken(shown: Shown, rows: Ints) -> Shown:
    """What the devices of `rows` showed, in that order; rows may repeat."""
    return Shown(**{name: getattr(shown, name)[rows] for name in Shown.__dataclass_fields__})


def harmed(
    metric: Metric, size: float, after: Shown, similar: Shown, *, is_clumped: bool, rng: np.random.Generator
) -> Shown:
    """`after` as it would be with harm of `size` (see `HARMS`).

    Args:
        metric: which figure; any of `HARMS`.
        size: of the harm, as there.
        after: k devices.
        similar: for each of them another one whose past rate is about the same.
        is_clumped: form B.
        rng: draws the alarms that come or go.
    """
    uneven = rng.uniform(1 - _UNEVEN, 1 + _UNEVEN, len(after)) if is_clumped else np.ones(len(after))
    match metric:
        case Metric.LATENCY_P99:
            shown = {"log_latency": after.log_latency + uneven * np.log(size)}
        case Metric.DRIFT_SCORE:
            shown = {"log_drift": after.log_drift + uneven * np.log(size)}
        case Metric.MEMORY:
            shown = {"memory_slope": after.memory_slope + uneven * size}
        case Metric.SIGHT:
            shown = {"sight": np.clip(after.sight * (1 - uneven * (1 - size)), 0.0, 1.0)}
        case Metric.UNJUDGED:
            shown = {
                "judged": after.judged - np.minimum(rng.poisson(uneven * size * after.windows), after.judged)
            }
        case Metric.ANOMALY_LOSS:
            shown = {"over": rng.binomial(np.rint(after.over).astype(np.int64), size).astype(np.float64)}
        case _:
            seen = np.rint(after.over)
            more = np.rint((size - 1) * similar.over) if is_clumped else rng.poisson((size - 1) * seen)
            shown = {"over": np.minimum(seen + more, after.judged)}
    return replace(after, **shown)
