"""How far a model may be moved before one of its units can be made to see a single window: no training may take it near that.

A first-layer unit v = (w, b) fires for a window x where w·x + b > 0. If it fires for one window alone, the change of its weights over
that of its bias is this window, through any sum::

    reference windows z_j = (x_j, 1) ─► for each unit: least |v - v0| such that v·z_i > 0 for one i and v·z_j ≤ 0 for all others
                                    ─► the least of all units ─► `trust_radius`, a share of it

Exact, by least-distance programmes. K = {v: v·z_j ≤ 0 for all j} is where the unit is dead. What separates v0 from its nearest point of
K is the nearest point of the cone of the z_j (Moreau), found by non-negative least squares. To leave a window i out of K brings K nearer
only where i holds that point, and then the nearest point left isolates i; any other window is farther than K itself. So a unit of F weights
costs 1 and at most F + 1 programmes, however many windows there are. Of many windows a sample is taken: of fewer, one is isolated
sooner, so the radius errs to the safe side.

Not here: units that fire for next to no window of the reference. No distance keeps them from isolating one; what they learn is
held back by each device (`models.support`).

Source: C. L. Lawson and R. J. Hanson, "Solving Least Squares Problems" (1974), chapter 23: algorithms NNLS and LDP.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.architecture import Architecture, require_finite, split_parameters
from models.errors import InputError
from models.support import FEWEST_WINDOWS

__all__ = ["TRUSTED_SHARE", "Isolation", "first_layer_inputs", "least_isolation"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

TRUSTED_SHARE: Final = 0.25
"""Of the least distance, for the trust radius. Within it the narrowest unit that was found on PRONOSTIA sees 8 % of all windows, within
half 5 %, within nine tenths 1 %; and other machines' windows are isolated a little sooner. One poisoner of twelve costs at most .008 of
average precision within it and .015 within half, a third of thirty .013 and .034; honest devices learn nothing more in the larger ball
(three seeds, `python benchmarks/poisoning.py radius`)."""

MOST_WINDOWS: Final = 2000
MOST_UNITS: Final = 64
"""What is looked at."""

_USUAL_WIDTH: Final = 128
"""Values that a unit reads; of wider units' windows fewer are looked at, for the work grows with both."""

_TOLERANCE: Final = 1e-10
_SMALLEST: Final = 1e-6


@dataclass(frozen=True, kw_only=True)
class Isolation:
    """The least `distance` (L2, of one unit's weights and bias) at which a unit sees one of `windows` different windows alone.

    `units` were looked at; `weak` ones fire for fewer than `FEWEST_WINDOWS` windows and were not. Where no unit can isolate, because no ReLU
    follows, the distance is that of the whole model to nothing.
    """

    distance: float
    windows: int
    units: int
    weak: int

    @property
    def trust_radius(self) -> float:
        """How far from the release training may take a model, L2 over all parameters."""
        return max(TRUSTED_SHARE * self.distance, _SMALLEST)


def least_isolation(
    architecture: Architecture,
    parameters: NDArray[np.floating],
    windows: NDArray[np.floating],
    *,
    seed: int,
    progress: Callable[[float], None] = lambda _share: None,
) -> Isolation:
    """The least distance from `parameters` (P,) at which a first-layer unit isolates one of `windows` (n, F).

    Args:
        architecture: of the parameters.
        parameters: of the release.
        windows: standardised, of the issuer's reference data; at least two different ones.
        seed: of the sample, where there are more than are looked at.
        progress: told the finished share, 0 to 1.

    Raises:
        InputError: fewer windows, or one that is not finite.
        LayoutError: parameters of another length.
    """
    flat = require_finite(architecture, parameters).astype(np.float64)
    z = first_layer_inputs(architecture, windows, seed=seed)
    least = float(np.linalg.norm(flat))
    if len(architecture.geometry) == 1:
        return Isolation(distance=least, windows=len(z), units=0, weak=0)
    weights, bias = split_parameters(architecture, flat)[:2]
    units = np.vstack([weights.reshape(-1, len(bias)), bias]).T
    fires = (z @ units.T > 0).sum(axis=0)
    # Short ones first: no unit is farther from seeing nothing than it is long.
    looked_at = [u for u in np.argsort(np.linalg.norm(units, axis=1)) if fires[u] >= FEWEST_WINDOWS][
        :MOST_UNITS
    ]
    gram = z @ z.T
    for done, u in enumerate(looked_at):
        progress(done / len(looked_at))
        least = min(least, _isolation_of(gram, z @ units[u]))
    return Isolation(
        distance=least, windows=len(z), units=len(looked_at), weak=int((fires < FEWEST_WINDOWS).sum())
    )


def first_layer_inputs(architecture: Architecture, windows: NDArray[np.floating], *, seed: int) -> Floats:
    """What a first-layer unit reads: different rows (m, inputs + 1) that end in 1; of a convolution the block at each position.

    Raises:
        InputError: as `least_isolation`.
    """
    x = np.asarray(windows, np.float64)
    if x.ndim != 2 or x.shape[1] != architecture.feature_count or not np.isfinite(x).all():
        raise InputError(
            f"windows must be finite and of shape (n, {architecture.feature_count}), got {x.shape}"
        )
    rng = np.random.default_rng(seed)
    layer = architecture.geometry[0]
    read = layer.taps * layer.inputs
    most = max(MOST_WINDOWS * _USUAL_WIDTH // max(_USUAL_WIDTH, read), FEWEST_WINDOWS)
    x = _sample(x, most, rng)
    if architecture.convolution is not None:
        blocks = x.reshape(len(x), layer.positions, layer.inputs)
        blocks = np.pad(blocks, ((0, 0), (layer.reach, layer.reach), (0, 0)))
        x = np.concatenate(
            [blocks[:, at : at + layer.taps].reshape(len(x), read) for at in range(layer.positions)]
        )
    x = _sample(np.unique(x, axis=0), most, rng)
    if len(x) < 2:
        raise InputError(f"{len(x)} different windows: at least two are needed to say what isolates one")
    return np.hstack([x, np.ones((len(x), 1))])


def _sample(rows: Floats, most: int, rng: np.random.Generator) -> Floats:
    return rows if len(rows) <= most else rows[np.sort(rng.choice(len(rows), most, replace=False))]


def _isolation_of(gram: Floats, sums: Floats) -> float:
    """Least distance at which one unit that is not dead isolates a window.

    `gram` (m, m) are the windows' products with each other, `sums` (m,) theirs with the unit.
    """
    nobody = np.zeros(len(sums), np.bool_)
    dead = _cone_weights(gram, sums, left_out=nobody, start=np.zeros(len(sums)))
    distances = [_length(gram, dead)]
    for i in np.flatnonzero(dead):
        left_out, start = nobody.copy(), dead.copy()
        left_out[i], start[i] = True, 0.0
        distances.append(_length(gram, _cone_weights(gram, sums, left_out=left_out, start=start)))
    return min(distances)


def _length(gram: Floats, weights: Floats) -> float:
    at = np.flatnonzero(weights)
    return math.sqrt(max(float(weights[at] @ gram[np.ix_(at, at)] @ weights[at]), 0.0))


def _cone_weights(gram: Floats, sums: Floats, *, left_out: Bools, start: Floats) -> Floats:
    """Weights λ ≥ 0 (m,) of the point of the windows' cone nearest to the unit: NNLS by Gram matrix, from weights that are known.

    Algorithm NNLS of Lawson and Hanson; its step numbers are theirs.
    """
    weights, passive = start.copy(), start > 0
    lengths = np.sqrt(gram.diagonal())
    enough = _TOLERANCE * max(float(np.max(np.abs(sums / lengths))), 1.0)
    for _ in range(3 * len(sums) + 1):
        # Steps 6 to 11: the free optimum of the passive set, approached until a weight reaches zero, which then leaves.
        while passive.any():
            at = np.flatnonzero(passive)
            wanted = np.linalg.lstsq(gram[np.ix_(at, at)], sums[at], rcond=None)[0]
            falls = wanted <= 0
            if not falls.any():
                weights[at] = wanted
                break
            now = weights[at]
            step = float((now[falls] / np.maximum(now[falls] - wanted[falls], 1e-300)).min())
            weights[at] = now + step * (wanted - now)
            gone = at[falls & (weights[at] <= _TOLERANCE * max(float(now.max()), 1e-300))]
            weights[gone], passive[gone] = 0.0, False
        # Steps 2 to 5: whoever would help most comes in.
        gain = (sums - gram[:, passive] @ weights[passive]) / lengths
        gain[passive | left_out] = -np.inf
        best = int(np.argmax(gain))
        if gain[best] <= enough:
            break
        passive[best] = True
    return weights
