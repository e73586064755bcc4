"""Fleets of machines that resemble each other, for the tests of `models.detection`: healthy rows, and more of the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.standardiser import Standardiser, fit_standardiser

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Machine:
    """Raw healthy rows to learn from (n, F) and later ones (m, F), and the scale of the first."""

    healthy: Floats
    later: Floats
    scale: Standardiser

    @property
    def rows(self) -> Floats:
        """Learnt rows, standardised."""
        return self.scale.apply(self.healthy).astype(np.float64)

    @property
    def unit(self) -> Floats:
        """What one of them is in the sensor's own units."""
        return self.scale.scale

    @property
    def fitted(self) -> tuple[Floats, Floats]:
        """As `fleet_prior` takes them."""
        return self.rows, self.unit


def machines(
    *,
    count: int = 8,
    learnt: int = 240,
    later: int = 2000,
    features: int = 8,
    alike: float = 0.3,
    seed: int = 0,
) -> list[Machine]:
    """Machines of one family: three common causes, autocorrelated (.6), tails of t₅; `alike` 0 makes them identical in law."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(features, 3))
    made = []
    for _ in range(count):
        loadings = common + alike * rng.normal(size=common.shape)
        n = learnt + later
        steps = rng.standard_t(5, (n, 3)) @ loadings.T + 0.6 * rng.standard_t(5, (n, features))
        rows = np.empty_like(steps)
        state = steps[0]
        for i in range(n):
            state = 0.6 * state + 0.8 * steps[i]
            rows[i] = state
        rows = rows * np.exp(0.3 * rng.normal(size=features)) + 5 * rng.normal(size=features)
        made.append(
            Machine(healthy=rows[:learnt], later=rows[learnt:], scale=fit_standardiser(rows[:learnt]))
        )
    return made
