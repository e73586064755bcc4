"""How large the harm is: the Hodges-Lehmann estimate and its interval, found from pairs of a canary and a control.

For each pair of one stratum there is a shift (or factor) at which the canary would look like the control. The middle of all is
the estimate, and the interval ends where the rank-sum would no longer be unusual, one-sided at 5 % at each end. Pairs of
stratum s weigh 1/(n_s + m_s + 1), as in the test. With many devices each arm is thinned to evenly spaced ones first.

Source: Hodges & Lehmann, "Estimates of location based on rank tests", 1963; the ends: Moses 1965 (Hollander & Wolfe, ch. 4).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "interval_alone", "interval_of_pairs"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Interval = tuple[float, float, float]
"""Estimate, low, high."""

_Z: Final = 1.6449  # one-sided 5 %
_MOST_OF_AN_ARM: Final = 400


def interval_of_pairs(
    pair: Callable[[Ints, Ints], Floats], order_by: Floats, is_canary: Bools, stratum: Ints
) -> Interval | None:
    """Estimate and interval of what `pair` gives for (rows of canaries, rows of controls); None without a pair.

    Args:
        pair: of index arrays (a, 1) and (1, b), the shifts (a, b); may be infinite, never NaN.
        order_by: (n,) change of each device; NaN: left out. Thinning keeps evenly spaced ones of it.
        is_canary: (n,).
        stratum: (n,).
    """
    shifts: list[Floats] = []
    weights: list[Floats] = []
    variance = total = 0.0
    known = np.isfinite(order_by)
    for code in np.unique(stratum[known & is_canary]):
        inside = known & (stratum == code)
        canaries, controls = np.flatnonzero(inside & is_canary), np.flatnonzero(inside & ~is_canary)
        n, m = len(canaries), len(controls)
        if not m:
            continue
        weight = 1 / (n + m + 1)
        drawn = pair(_thin(canaries, order_by)[:, None], _thin(controls, order_by)[None, :]).ravel()
        shifts.append(drawn)
        weights.append(np.full(len(drawn), weight * n * m / len(drawn)))
        total += weight * n * m
        variance += weight * weight * n * m * (n + m + 1) / 12
    if not shifts:
        return None
    values, weight_of = np.concatenate(shifts), np.concatenate(weights)
    order = np.argsort(values)
    values, reached = values[order], np.cumsum(weight_of[order])
    margin = _Z * math.sqrt(variance)
    at = [np.searchsorted(reached, goal) for goal in (total / 2, total / 2 - margin, total / 2 + margin)]
    estimate = float(values[min(int(at[0]), len(values) - 1)])
    low = float(values[at[1]]) if total / 2 > margin else -math.inf
    high = float(values[at[2]]) if total / 2 + margin < total and at[2] < len(values) else math.inf
    return estimate, low, high


def _thin(rows: Ints, order_by: Floats) -> Ints:
    if len(rows) <= _MOST_OF_AN_ARM:
        return rows
    ordered = rows[np.argsort(order_by[rows], kind="stable")]
    return ordered[((np.arange(_MOST_OF_AN_ARM) + 0.5) * len(rows) / _MOST_OF_AN_ARM).astype(np.int64)]


def interval_alone(changes: Floats) -> Interval | None:
    """The same where there are no controls: from the means of all pairs of changes, (n,); None without one."""
    known = changes[np.isfinite(changes)]
    if not len(known):
        return None
    rows = known[_thin(np.arange(len(known)), known)]
    n = len(rows)
    first, second = np.triu_indices(n)
    means = np.sort((rows[first] + rows[second]) / 2)
    spread = _Z * math.sqrt(len(known) * (len(known) + 1) * (2 * len(known) + 1) / 24)
    # of all pairs, the share that lies beyond the end of the interval
    beyond = (len(known) * (len(known) + 1) / 4 - spread) / (len(known) * (len(known) + 1) / 2)
    middle = float(np.median(means))
    if beyond <= 0:
        return middle, -math.inf, math.inf
    return (
        middle,
        float(means[int(beyond * len(means))]),
        float(means[min(len(means) - 1, int((1 - beyond) * len(means)))]),
    )
