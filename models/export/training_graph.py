"""The graph a device trains with: forward pass, hand-written gradients, and weights as resource variables.

TFLite has no ReluGrad and no BiasAddGrad, so `tf.GradientTape` cannot be used: each derivative is written out in
builtin operations. The same file runs under ai-edge-litert and tflite-runtime. This module says what the graph
computes; `models.export.training` makes a file of it and `models.training_model` runs it.

    signature   inputs                                                          outputs
    infer       x (B,F)                                                         output (B,O), score (B,)
    train       x (B,F), [labels (B,O)], learning_rate (1,), proximal (1,)      loss (1,)
    ranges      x (B,F)                                                         low (T,), high (T,)
    save                                                                        parameters (P,)
    restore     parameters (P,), anchor (P,)                                    done (1,)

Invariants: every input of an operation has rank 1 or more (LiteRT on aarch64 crashes where a scalar meets a matrix); every
gradient is computed from the weights as they were before the step.

The proximal pull to the anchor is FedProx: Li et al., arXiv:1812.06127v5, Eq. (2).
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from models.architecture import Architecture

__all__ = ["TrainingGraph"]

# TensorFlow ships no types, so a tensor is Any in this file and nowhere else.
Tensor = Any


class TrainingGraph:
    """The variables of one architecture and the functions over them; `module` owns the variables."""

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        # A bias is a row: its gradient is a row sum, and rank 1 would be broadcast in every step.
        self._shapes = [shape if len(shape) == 2 else (1, *shape) for shape in architecture.shapes]
        self._variables = [
            tf.Variable(tf.zeros(s), name=f"parameter_{i}") for i, s in enumerate(self._shapes)
        ]
        self._anchors = [tf.Variable(tf.zeros(s), name=f"anchor_{i}") for i, s in enumerate(self._shapes)]
        self.module = tf.Module()
        self.module.variables_and_anchors = [*self._variables, *self._anchors]

    def signatures(self) -> dict[str, Any]:
        """Concrete function by signature name."""
        x = _vector("x", None, self._architecture.feature_count)
        step = {"x": x, "learning_rate": _vector("learning_rate", 1), "proximal": _vector("proximal", 1)}
        if self._is_classifier:
            step["labels"] = _vector("labels", None, self._architecture.output_count)
        flat = {name: _vector(name, self._architecture.parameter_count) for name in ("parameters", "anchor")}
        return {
            "infer": tf.function(self.infer).get_concrete_function(x=x),
            "train": tf.function(self.train).get_concrete_function(**step),
            "ranges": tf.function(self.ranges).get_concrete_function(x=x),
            "save": tf.function(self.save).get_concrete_function(),
            "restore": tf.function(self.restore).get_concrete_function(**flat),
        }

    def infer(self, x: Tensor) -> dict[str, Tensor]:
        """Output and anomaly score of each window."""
        output = self._forward(x, self._values())[-1]
        if self._is_classifier:
            score = tf.constant([1.0]) - tf.reduce_max(tf.nn.softmax(output), axis=[1])
        else:
            score = tf.reduce_mean(tf.square(output - x), axis=[1])
        return {"output": output, "score": score}

    def train(
        self, x: Tensor, learning_rate: Tensor, proximal: Tensor, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One step of gradient descent; the loss is that before the step, without the proximal term."""
        values = self._values()
        tensors = self._forward(x, values)
        loss, delta = self._loss(x, tensors[-1], labels)
        gradients = self._gradients(tensors, values, delta)
        for variable, value, anchor, gradient in zip(
            self._variables, values, self._anchors, gradients, strict=True
        ):
            pull = proximal * (value - anchor.read_value())
            variable.assign(value - learning_rate * (gradient + pull))
        return {"loss": loss}

    def ranges(self, x: Tensor) -> dict[str, Tensor]:
        """Lowest and highest value of each activation tensor, in the order of `Architecture.tensor_names`."""
        tensors = self._forward(x, self._values())
        return {
            "low": tf.stack([tf.reduce_min(tensor) for tensor in tensors]),
            "high": tf.stack([tf.reduce_max(tensor) for tensor in tensors]),
        }

    def save(self) -> dict[str, Tensor]:
        """All parameters as one flat vector."""
        return {"parameters": tf.concat([tf.reshape(value, [-1]) for value in self._values()], axis=0)}

    def restore(self, parameters: Tensor, anchor: Tensor) -> dict[str, Tensor]:
        """Set parameters and anchor from flat vectors."""
        at = 0
        for variable, kept, shape in zip(self._variables, self._anchors, self._shapes, strict=True):
            size = shape[0] * shape[1]
            variable.assign(tf.reshape(parameters[at : at + size], shape))
            kept.assign(tf.reshape(anchor[at : at + size], shape))
            at += size
        # A signature must return something.
        return {"done": parameters[0:1]}

    @property
    def _is_classifier(self) -> bool:
        return self._architecture.kind == "dense-classifier"

    def _values(self) -> list[Tensor]:
        return [variable.read_value() for variable in self._variables]

    def _forward(self, x: Tensor, values: list[Tensor]) -> list[Tensor]:
        """Every activation tensor, in the order of `Architecture.tensor_names`."""
        tensors = [x]
        for i in range(0, len(values), 2):
            tensors.append(tf.matmul(tensors[-1], values[i]) + values[i + 1])
            if i < len(values) - 2:
                tensors.append(tf.nn.relu(tensors[-1]))
        return tensors

    def _loss(self, x: Tensor, output: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """(mean loss (1,), its derivative by the output (B,O))."""
        # A slice, not an element: the batch size keeps rank 1.
        batch = tf.cast(tf.shape(x)[0:1], tf.float32)
        if labels is not None:
            total = tf.reduce_sum(labels * tf.nn.log_softmax(output), keepdims=True)[0]
            return -total / batch, (tf.nn.softmax(output) - labels) / batch
        loss = tf.reduce_mean(tf.square(output - x), keepdims=True)[0]
        return loss, (output - x) * tf.constant([2.0 / self._architecture.feature_count]) / batch

    def _gradients(self, tensors: list[Tensor], values: list[Tensor], delta: Tensor) -> list[Tensor]:
        """Gradients of W0, b0, W1, ... by back-propagating `delta`, the derivative by the output."""
        inputs = [tensors[0], *tensors[2:-1:2]]
        gradients: list[Tensor] = []
        for i in reversed(range(len(inputs))):
            weight = tf.matmul(inputs[i], delta, transpose_a=True)
            gradients = [weight, tf.reduce_sum(delta, axis=[0], keepdims=True), *gradients]
            if i:
                is_active = tf.cast(inputs[i] > tf.constant([0.0]), tf.float32)
                delta = tf.matmul(delta, values[2 * i], transpose_b=True) * is_active
        return gradients


def _vector(name: str, *shape: int | None) -> Any:
    return tf.TensorSpec(shape, tf.float32, name=name)
