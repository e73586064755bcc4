"""The matrix products of a step and nothing else, by NumPy's BLAS: a step cannot be much faster than that on this core.

It learns nothing; it is the floor that explains a ratio. Only for dense layers.
"""

from __future__ import annotations

import numpy as np

from models.architecture import split_parameters
from training_cost_runtimes.workloads import BATCHES, Float, Workload


class MatrixProducts:
    """x W forwards, xᵀ δ for each gradient, δ Wᵀ backwards but for the first layer."""

    def load(self, workload: Workload) -> None:
        """Weights as stored, inputs of each layer and derivatives of its output drawn at random."""
        self._flat = workload.start()
        weights = split_parameters(workload.architecture, self._flat)[::2]
        rng = np.random.default_rng(3)

        def random(width: int) -> Float:
            return rng.normal(size=(workload.batch, width)).astype(np.float32)

        first = [x for x, _ in workload.batches()]
        self._layers = [(w, [random(w.shape[0])], random(w.shape[1])) for w in weights]
        self._layers[0] = (weights[0], first, self._layers[0][2])

    def step(self, i: int) -> None:
        """Three products a layer."""
        for number, (weight, inputs, delta) in enumerate(self._layers):
            x = inputs[i % BATCHES % len(inputs)]
            np.matmul(x, weight)
            np.matmul(x.T, delta)
            if number:
                np.matmul(delta, weight.T)

    def flat(self) -> Float:
        """The start: nothing is learned."""
        return self._flat
