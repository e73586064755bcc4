"""Noise that is exact under dropout: devices add enough for the worst case, survivors let the surplus be removed.

Each of n devices adds T+1 independent Skellam components, each grown from its own seed, where T dropouts are tolerated:

    component 0        variance σ²/n
    component j ≤ T    variance σ²/((n-j)(n-j+1))        together σ²/(n-T)

When D ≤ T devices are gone, the survivors reveal the seeds of components j > D; the server regrows and subtracts
them. What stays is (n-D)·(σ²/n + Σ_{j≤D} σ²/((n-j)(n-j+1))) = σ² exactly, whatever D. Components 0..D are never
revealed. How seeds reach the server when a survivor falls silent between its masked input and its reveal is the secure
sum's affair (it shares them as it shares its own secrets).

Source: Jiang, Wang, Chen, "Dordis: Efficient Federated Learning with Dropout-Resilient Differential Privacy",
EuroSys 2024, arXiv:2209.12528v3, section 4 (XNoise).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from protocol.privacy.errors import ParameterError, SeedError
from protocol.privacy.randomness import KEY_BYTES, RandomBytes, RandomStream
from protocol.privacy.skellam import draw_skellam

__all__ = ["component_variances", "draw_seeds", "grow_noise", "revealed_components", "surplus_noise"]


def component_variances(variance: float, cohort: int, maximum_dropouts: int) -> tuple[float, ...]:
    """Variance of each of one device's T+1 components, in the unit of `variance`, the sum's planned one.

    Raises:
        ParameterError: `maximum_dropouts` is not in [0, cohort).
    """
    if not 0 <= maximum_dropouts < cohort:
        raise ParameterError(
            f"maximum_dropouts must be in [0, {cohort}) for a cohort of {cohort}, got {maximum_dropouts}"
        )
    n = cohort
    return (variance / n, *(variance / ((n - j) * (n - j + 1)) for j in range(1, maximum_dropouts + 1)))


def draw_seeds(maximum_dropouts: int, random_bytes: RandomBytes) -> tuple[bytes, ...]:
    """Fresh secret seeds of one device for one round, one for each of its T+1 components."""
    return tuple(random_bytes(KEY_BYTES) for _ in range(maximum_dropouts + 1))


def grow_noise(seeds: Sequence[bytes], variances: Sequence[float], dimension: int) -> NDArray[np.int64]:
    """The sum of the components that `seeds` stand for, shape (dimension,); seeds[i] has variances[i].

    Raises:
        SeedError: not one 32-byte seed for each variance.
    """
    if len(seeds) != len(variances):
        raise SeedError(f"needs one seed for each of {len(variances)} noise components, got {len(seeds)}")
    noise = np.zeros(dimension, np.int64)
    for seed, variance in zip(seeds, variances, strict=True):
        noise += draw_skellam(dimension, variance, RandomStream(seed))
    return noise


def revealed_components(dropped: int, maximum_dropouts: int) -> range:
    """Which components a survivor reveals when `dropped` devices are gone; empty at the worst case.

    Raises:
        ParameterError: more are gone than the plan tolerates: reveal nothing, the round is void.
    """
    if not 0 <= dropped <= maximum_dropouts:
        raise ParameterError(f"the noise was planned for at most {maximum_dropouts} dropouts, got {dropped}")
    return range(dropped + 1, maximum_dropouts + 1)


def surplus_noise(
    revealed: Sequence[Sequence[bytes]], variances: Sequence[float], dropped: int, dimension: int
) -> NDArray[np.int64]:
    """What to subtract from the sum, shape (dimension,): the surplus of all survivors.

    Args:
        revealed: for each survivor its seeds of the components `revealed_components` names, in that order.
        variances: of all T+1 components, as `component_variances` gives them.
        dropped: devices whose masked input is not in the sum.
        dimension: length of the sum.

    Raises:
        SeedError: a survivor revealed more or fewer seeds than asked.
        ParameterError: more devices dropped than planned.
    """
    components = revealed_components(dropped, len(variances) - 1)
    for position, seeds in enumerate(revealed):
        if len(seeds) != len(components):
            raise SeedError(
                f"survivor {position} must reveal {len(components)} seeds for components "
                f"{components.start}..{components.stop - 1}, got {len(seeds)}"
            )
    noise = np.zeros(dimension, np.int64)
    # Component by component, so that one sampling table serves all survivors.
    for index, component in enumerate(components):
        for seeds in revealed:
            noise += draw_skellam(dimension, variances[component], RandomStream(seeds[index]))
    return noise
