"""Server optimisers: how the cohort's mean update moves the global model.

Pure functions over flat vectors: `init(parameters)` makes the state, `step(state, parameters, mean_update)` returns
the next state and parameters. Nothing here knows devices, rounds or clocks. The mean update Δ = Σ nᵢ(wᵢ - w) / Σ nᵢ is
weighted by examples; it points the way to go, so it is ADDED (a pseudo-gradient would be -Δ).

Sources:
    FedAvg: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017,
        arXiv:1602.05629v4, Algorithm 1.
    FedAdam: Reddi et al., Adaptive Federated Optimization, ICLR 2021, arXiv:2003.00295v5, Algorithm 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SettingsError

__all__ = [
    "OPTIMIZERS",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "ServerOptimizer",
    "ServerStep",
    "make_server_optimizer",
]

Vector = NDArray[np.float32]


class ServerStep(NamedTuple):
    """What one step leaves behind: `state` (moments stacked as float64 (k, P)) and `parameters` float32 (P,)."""

    state: NDArray[np.float64]
    parameters: Vector


class ServerOptimizer(Protocol):
    """A rule for moving the global model by the cohort's mean update."""

    def init(self, parameters: Vector) -> NDArray[np.float64]:
        """State before the first round: float64 (k, P); k = 0 for a rule without memory."""

    def step(
        self, state: NDArray[np.float64], parameters: Vector, mean_update: NDArray[np.floating]
    ) -> ServerStep:
        """Move `parameters` (P,) by `mean_update` (P,); the arguments are left as they are."""


@dataclass(frozen=True, kw_only=True)
class FedAvg:
    """Take the mean update as it is; `learning_rate` 1 is the FedAvg of the paper."""

    learning_rate: float = 1.0

    def init(self, parameters: Vector) -> NDArray[np.float64]:
        """No memory: shape (0, P).

        >>> FedAvg().init(np.zeros(3, np.float32)).shape
        (0, 3)
        """
        return np.zeros((0, parameters.size))

    def step(
        self, state: NDArray[np.float64], parameters: Vector, mean_update: NDArray[np.floating]
    ) -> ServerStep:
        """Return w + η·Δ.

        >>> FedAvg().step(np.zeros((0, 1)), np.float32([1]), np.float32([0.5])).parameters
        array([1.5], dtype=float32)
        """
        # Algorithm 1 of arXiv:1602.05629v4: w ← Σ (n_k / n) w_k, written with differences.
        moved = parameters + self.learning_rate * np.asarray(mean_update, np.float64)
        return ServerStep(state, moved.astype(np.float32))


@dataclass(frozen=True, kw_only=True)
class FedAdam:
    """Adam on the mean update, without bias correction, as in the paper.

    `tau` is the degree of adaptivity (the paper's τ): small is more adaptive. The defaults are the ones the paper
    found to be good across its tasks, with a server rate fit for small models.
    """

    learning_rate: float = 0.01
    beta_1: float = 0.9
    beta_2: float = 0.99
    tau: float = 1e-3

    def init(self, parameters: Vector) -> NDArray[np.float64]:
        """(m, v) with m = 0 and v = τ², the smallest start that Algorithm 2 allows: float64 (2, P)."""
        return np.stack([np.zeros(parameters.size), np.full(parameters.size, self.tau**2)])

    def step(
        self, state: NDArray[np.float64], parameters: Vector, mean_update: NDArray[np.floating]
    ) -> ServerStep:
        """Return w + η·m / (√v + τ) and the moments (m, v)."""
        delta = np.asarray(mean_update, np.float64)
        first, second = state
        # Algorithm 2 of arXiv:2003.00295v5: m_t = β1 m_{t-1} + (1-β1) Δ_t
        first = self.beta_1 * first + (1 - self.beta_1) * delta
        # Algorithm 2, FedAdam's line: v_t = β2 v_{t-1} + (1-β2) Δ_t²
        second = self.beta_2 * second + (1 - self.beta_2) * delta**2
        # Algorithm 2, last line: x_{t+1} = x_t + η m_t / (√v_t + τ)
        moved = parameters + self.learning_rate * first / (np.sqrt(second) + self.tau)
        return ServerStep(np.stack([first, second]), moved.astype(np.float32))


@dataclass(frozen=True, kw_only=True)
class FedAvgM:
    """Momentum on the mean update: small cohorts pull to different sides each round, and their pulls average out.

    At these defaults a steady update moves the model 0.5 / (1 - 0.8) = 2.5 times as far as FedAvg would. Source: Hsu, Qi,
    Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification", 2019,
    arXiv:1909.06335v1, section 4.
    """

    learning_rate: float = 0.5
    momentum: float = 0.8

    def init(self, parameters: Vector) -> NDArray[np.float64]:
        """The velocity, 0 at first: float64 (1, P)."""
        return np.zeros((1, parameters.size))

    def step(
        self, state: NDArray[np.float64], parameters: Vector, mean_update: NDArray[np.floating]
    ) -> ServerStep:
        """Return w + η·v and the velocity v.

        >>> FedAvgM().step(np.float64([[1.0]]), np.float32([0]), np.float32([0.2])).parameters
        array([0.5], dtype=float32)
        """
        # Section 4 of arXiv:1909.06335v1: v ← β v + Δ, then w moves by η v.
        velocity = self.momentum * state[0] + np.asarray(mean_update, np.float64)
        moved = parameters + self.learning_rate * velocity
        return ServerStep(velocity[np.newaxis], moved.astype(np.float32))


OPTIMIZERS = ("fedavg", "fedadam", "fedavgm")


def make_server_optimizer(name: str, learning_rate: float | None = None) -> ServerOptimizer:
    """Build the optimiser called `name`; `learning_rate` None takes its default.

    Raises:
        SettingsError: no optimiser has that name; the message lists those that exist.
    """
    match name:
        case "fedavg":
            return FedAvg() if learning_rate is None else FedAvg(learning_rate=learning_rate)
        case "fedadam":
            return FedAdam() if learning_rate is None else FedAdam(learning_rate=learning_rate)
        case "fedavgm":
            return FedAvgM() if learning_rate is None else FedAvgM(learning_rate=learning_rate)
        case _:
            raise SettingsError(f"server_optimizer {name!r} is not known; valid are {', '.join(OPTIMIZERS)}")
