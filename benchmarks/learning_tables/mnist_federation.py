"""Rounds of federated learning over a hundred devices: who is drawn, what comes back, how the server moves, how good it is.

    w ─► ten devices drawn ─► each: [offset its output biases] ─ local epochs ─ [take the offset away] ─► mean of w' - w
    w ◄─ server step (FedAvg, FedAvgM, FedAdam of `aggregator.rounds.optimizers`) ◄────────────────────────┘
    release ◄─ or the running mean of the last models: it is published, never trained on, and costs no round

It is the aggregator's loop without its messages. Devices are all equally large, so the plain mean is the weighted one. SCAFFOLD keeps a
variate per device; a device that is not drawn keeps its old one, which at a tenth per round is ten rounds old on average.

Sources: FedAvg, McMahan et al., arXiv:1602.05629v4; SCAFFOLD, Karimireddy et al., arXiv:1910.06378v4, Algorithm 1, option II;
logit adjustment, `learning_tables.logit_adjustment`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from aggregator.rounds.optimizers import FedAvg, ServerOptimizer
from learning_tables.logit_adjustment import class_offsets, shift_output
from learning_tables.mnist_digits import CLASSES, DEVICES
from protocol.training import TrainingSettings

__all__ = ["COHORT", "LOCAL_WORK", "Curves", "Method", "Runner", "round_of_first", "train_together"]

Flat = NDArray[np.float32]

COHORT: Final = 10
"""C = 0.1 of the paper."""

RELEASE_DECAY: Final = 0.8
"""Weight of the past in the running mean of models: five rounds of ten devices, half of the fleet."""


LOCAL_WORK: Final = TrainingSettings(epochs=2, batch_size=10, learning_rate=0.1)
"""What a device does in a round, unless a row says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to learn together.

    Args:
        work: on the device.
        server: how the mean update moves the model.
        adjustment: τ of the logit adjustment by own label shares; 0 is none.
        is_scaffold: with control variates.
    """

    work: TrainingSettings = LOCAL_WORK
    server: ServerOptimizer = field(default_factory=FedAvg)
    adjustment: float = 0.0
    is_scaffold: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Curves:
    """Test accuracy after each round of the model that is trained on, and of the running mean that could be released.

    `release` is the last of those means (P,).
    """

    trained: Sequence[float]
    averaged: Sequence[float]
    release: Flat


class Runner(Protocol):
    """A network that trains on one device's digits and is judged on the test set; parameters are one flat vector (P,)."""

    def initial(self, seed: int) -> Flat:
        """First parameters (P,)."""

    def fit(
        self,
        parameters: Flat,
        x: NDArray[np.float32],
        labels: NDArray[np.float32],
        work: TrainingSettings,
        rng: np.random.Generator,
        correction: Flat | None,
    ) -> tuple[Flat, int]:
        """Parameters after `work` on images (n, 784) and one-hot labels (n, 10), and the steps it took."""

    def accuracy(self, parameters: Flat, x: NDArray[np.float32], y: NDArray[np.int64]) -> float:
        """Share of images (n, 784) that get their label (n,)."""


def train_together(
    runner: Runner,
    start: Flat,
    devices: Sequence[tuple[NDArray[np.float32], NDArray[np.int64]]],
    method: Method,
    judge: Callable[[Flat], float],
    *,
    rounds: int,
    seed: int,
) -> Curves:
    """The judge's verdict after each round.

    Args:
        runner: trains.
        start: first parameters (P,).
        devices: images (n, 784) and labels (n,) of each of the hundred.
        method: how.
        judge: test accuracy of parameters (P,).
        rounds: how many.
        seed: draws the cohorts and shuffles on the devices.
    """
    draw = np.random.default_rng((seed, 2))
    server_state = method.server.init(start)
    control = np.zeros_like(start)
    variates: dict[int, Flat] = {}
    parameters, averaged = start, start
    trained: list[float] = []
    released: list[float] = []
    for number in range(rounds):
        total, control_moves = np.zeros(start.shape, np.float64), np.zeros(start.shape, np.float64)
        for device in draw.choice(DEVICES, COHORT, replace=False):
            x, y = devices[device]
            labels = np.eye(CLASSES, dtype=np.float32)[y]
            offsets = class_offsets(labels, strength=method.adjustment)
            own = variates.get(int(device), np.zeros_like(start)) if method.is_scaffold else None
            fitted, steps = runner.fit(
                shift_output(parameters, offsets),
                x,
                labels,
                method.work,
                np.random.default_rng((seed, 3, number, int(device))),
                None if own is None else control - own,
            )
            update = shift_output(fitted, -offsets) - parameters
            total += update
            if own is not None:
                # Option II of arXiv:1910.06378v4: c_i' = c_i - c + (w - w_i) / (K η).
                moved = own - control - update / np.float32(steps * method.work.learning_rate)
                control_moves += moved - own
                variates[int(device)] = moved
        server_state, parameters = method.server.step(server_state, parameters, total / COHORT)
        control = (control + control_moves / DEVICES).astype(np.float32)
        decay = np.float32(RELEASE_DECAY if number else 0.0)
        averaged = decay * averaged + (1 - decay) * parameters
        trained.append(judge(parameters))
        released.append(judge(averaged))
    return Curves(trained=trained, averaged=released, release=averaged)


def round_of_first(curve: Sequence[float], accuracy: float) -> int:
    """The first round, counted from 1, whose model is at least that accurate; one past the last where none is."""
    return next((number for number, value in enumerate(curve, start=1) if value >= accuracy), len(curve) + 1)
