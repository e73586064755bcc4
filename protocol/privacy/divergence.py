"""What the lattice costs: how far the realised noise is from the continuous Gaussian, in terms an accountant adds up.

It keeps no history and knows no δ: `aggregator.privacy` composes rounds. All lengths are in lattice steps.

Source: Kairouz, Liu, Steinke, arXiv:2102.06387v4, Proposition 14 (sums of discrete Gaussians); Agarwal, Kairouz, Liu,
arXiv:2110.04995v1, Theorem 3.5 (Rényi divergence of shifted Skellam noise).
"""

from __future__ import annotations

import math

from protocol.privacy.errors import ParameterError

__all__ = ["skellam_renyi_divergence", "sum_gap"]


def sum_gap(local_std: float, summands: int) -> float:
    """τ: max divergence, per coordinate, between a sum of discrete Gaussians and one discrete Gaussian of its variance.

    `local_std` is one device's σ, `summands` how many devices' noise is in the sum. Pass d·τ as ``xi`` of a
    ``ZCDpEvent``. Negligible (below 1e-30) from σ = 3 on.
    """
    return 10.0 * sum(math.exp(-2.0 * math.pi**2 * local_std**2 * j / (j + 1.0)) for j in range(1, summands))


def skellam_renyi_divergence(order: int, *, l2: float, dimension: int, variance: float) -> float:
    """Bound on the Rényi divergence of integer `order` ≥ 2 between Skellam noise and its shift by a vector of norm `l2`.

    The shift's L1 norm is at most min(sqrt(d)·l2, l2²), as its entries are integers.

    Raises:
        ParameterError: `order` is below 2, or `variance` is not positive.
    """
    if order < 2 or variance <= 0:
        raise ParameterError(f"needs order ≥ 2 and variance > 0, got {order} and {variance:g}")
    l1 = min(math.sqrt(dimension) * l2, l2 * l2)
    continuous = order * l2**2 / (2.0 * variance)
    # Theorem 3.5: the correction is the smaller of two bounds, one better for large noise, one for small.
    large = ((2 * order - 1) * l2**2 + 6.0 * l1) / (4.0 * variance**2)
    return continuous + min(large, 3.0 * l1 / (2.0 * variance))
