"""Keras three ways: a step compiled by tf.function, the same through XLA, and `train_on_batch`.

The compiled steps get tensors, so that converting arrays is not counted; `train_on_batch` takes arrays, as it does.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import tensorflow as tf

from training_cost_runtimes.keras_model import build_keras_model, get_flat_parameters, set_flat_parameters
from training_cost_runtimes.workloads import BATCHES, MOMENTUM, Float, Workload

tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)


class KerasStep:
    """A hand-written training step under tf.function: the fast way to train with Keras."""

    uses_xla = False

    def load(self, workload: Workload) -> None:
        """Build the model and trace the step."""
        self._architecture = workload.architecture
        self._model = build_keras_model(workload.architecture)
        set_flat_parameters(self._model, workload.architecture, workload.start())
        self._optimizer, self._loss = _optimizer(workload), _loss(workload)
        self._optimizer.build(self._model.trainable_variables)
        self._batches = [
            (tf.constant(x), tf.constant(x if labels is None else labels)) for x, labels in workload.batches()
        ]
        self._step = tf.function(self._train, jit_compile=self.uses_xla)

    def step(self, i: int) -> None:
        """One call of the traced function; reading the loss waits for its end."""
        self._step(*self._batches[i % BATCHES]).numpy()

    def flat(self) -> Float:
        """The model's weights."""
        return get_flat_parameters(self._model, self._architecture)

    def _train(self, x: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = self._loss(target, self._model(x, training=True))
        variables = self._model.trainable_variables
        self._optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss


class KerasXla(KerasStep):
    """The same step compiled by XLA."""

    uses_xla = True


class KerasTrainOnBatch:
    """What most people write: compile, then train_on_batch."""

    def load(self, workload: Workload) -> None:
        """Build and compile."""
        self._architecture = workload.architecture
        self._model = build_keras_model(workload.architecture)
        set_flat_parameters(self._model, workload.architecture, workload.start())
        self._model.compile(optimizer=_optimizer(workload), loss=_loss(workload))
        self._batches = [(x, x if labels is None else labels) for x, labels in workload.batches()]

    def step(self, i: int) -> None:
        """One call."""
        self._model.train_on_batch(*self._batches[i % BATCHES])

    def flat(self) -> Float:
        """The model's weights."""
        return get_flat_parameters(self._model, self._architecture)


def _optimizer(workload: Workload) -> keras.optimizers.Optimizer:
    if workload.optimizer == "adam":
        return keras.optimizers.Adam(workload.learning_rate, epsilon=1e-8)
    momentum = MOMENTUM if workload.optimizer == "momentum" else 0.0
    return keras.optimizers.SGD(workload.learning_rate, momentum=momentum)


def _loss(workload: Workload) -> keras.losses.Loss:
    if workload.architecture.is_classifier:
        return keras.losses.CategoricalCrossentropy(from_logits=True)
    return keras.losses.MeanSquaredError()
