"""The graph a device trains with: forward pass, hand-written gradients, and weights as resource variables.

TFLite has no ReluGrad and no BiasAddGrad, so `tf.GradientTape` cannot be used: each derivative is written out in
builtin operations, by the layer it belongs to (`models.export.layer_gradients`). The same file runs under ai-edge-litert
and tflite-runtime. This module says what the graph computes; `models.export.training` makes a file of it and
`models.training_model` runs it. y stands for `labels` (B,O), which only a classifier has; every rate is (1,).

    signature       inputs                                                  outputs
    infer           x (B,F)                                                 output (B,O), score (B,)
    train           x, [y], learning_rate                                   loss (1,)
    train_momentum  x, [y], learning_rate, momentum                         loss (1,)
    train_adam      x, [y], learning_rate                                   loss (1,)
    gradient        x, [y], proximal, clip                                  gradient (P,), loss (1,)
    clipped_sum     x, [y], clip                                            total (P,), loss (1,)
    step_momentum   gradient (P,), learning_rate, momentum, proximal        done (1,)
    step_adam       gradient (P,), learning_rate, proximal                  done (1,)
    ranges          x                                                       low (T,), high (T,)
    save                                                                    parameters (P,)
    restore         parameters (P,), anchor (P,), correction (P,)           done (1,)

The `train`s are for speed: nothing clipped, no pull, no correction. Whoever wants those asks for the `gradient`, whose norm is
clipped with the proximal pull in it, and takes a `step_`, which adds the correction. `clipped_sum` adds up the gradients of single
examples, each clipped to norm `clip`; noise comes from outside, and then a `step_`: DP-SGD, Abadi et al., arXiv:1607.00133v2,
Algorithm 1. `restore` makes the optimizer start anew.

Invariants: every input of an operation has rank 1 or more (LiteRT on aarch64 crashes where a scalar meets a matrix); every
gradient is computed from the weights as they were before the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from models.architecture import Architecture
from models.export.conv_gradients import ConvolutionGradients
from models.export.dense_gradients import DenseGradients
from models.export.layer_gradients import LayerGradients, Tensor
from models.export.optimizer_steps import OptimizerSteps, clip_factor, clipped

__all__ = ["TrainingGraph"]


class TrainingGraph:
    """The variables of one architecture and the functions over them; `module` owns the variables."""

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        self._layers = _layers(architecture)
        self._shapes = [shape for layer in self._layers for shape in layer.shapes]
        # One variable a parameter: the forward pass would have to cut a flat one up in every step.
        self._variables = [
            tf.Variable(tf.zeros(shape), name=f"parameter_{i}") for i, shape in enumerate(self._shapes)
        ]
        self._steps = OptimizerSteps(architecture.parameter_count)
        self.module = tf.Module()
        self.module.owned = [*self._variables, *self._steps.variables]

    def signatures(self) -> dict[str, Any]:
        """Concrete function by signature name."""
        inputs = {"x": _vector("x", None, self._architecture.feature_count)}
        batch = dict(inputs)
        if self._architecture.is_classifier:
            batch["labels"] = _vector("labels", None, self._architecture.output_count)
        rate, momentum, proximal, clip = (
            {name: _vector(name, 1)} for name in ("learning_rate", "momentum", "proximal", "clip")
        )
        flat = {
            name: _vector(name, self._architecture.parameter_count)
            for name in ("parameters", "anchor", "correction")
        }
        gradient = {"gradient": _vector("gradient", self._architecture.parameter_count)}
        specs: dict[str, tuple[Any, dict[str, Any]]] = {
            "infer": (self.infer, inputs),
            "train": (self.train, batch | rate),
            "train_momentum": (self.train_momentum, batch | rate | momentum),
            "train_adam": (self.train_adam, batch | rate),
            "gradient": (self.gradient, batch | proximal | clip),
            "clipped_sum": (self.clipped_sum, batch | clip),
            "step_momentum": (self.step_momentum, gradient | rate | momentum | proximal),
            "step_adam": (self.step_adam, gradient | rate | proximal),
            "ranges": (self.ranges, inputs),
            "save": (self.save, {}),
            "restore": (self.restore, flat),
        }
        return {
            name: tf.function(function).get_concrete_function(**spec)
            for name, (function, spec) in specs.items()
        }

    def infer(self, x: Tensor) -> dict[str, Tensor]:
        """Output and anomaly score of each window."""
        output = self._forward(x, self._values())[-1]
        if self._architecture.is_classifier:
            score = tf.constant([1.0]) - tf.reduce_max(tf.nn.softmax(output), axis=[1])
        else:
            score = tf.reduce_mean(tf.square(output - x), axis=[1])
        return {"output": output, "score": score}

    def train(self, x: Tensor, learning_rate: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """One step of gradient descent; the loss is that before the step."""
        values = self._values()
        tensors = self._forward(x, values)
        # The rate goes into the small derivative by the output, and so reaches every gradient for nothing.
        loss, delta = self._loss(x, tensors[-1], labels, learning_rate / _batch_size(x))
        moves = self._gradients(tensors, self._deltas(tensors, values, delta))
        for variable, value, move in zip(self._variables, values, moves, strict=True):
            variable.assign(value - move)
        return {"loss": loss}

    def train_momentum(
        self, x: Tensor, learning_rate: Tensor, momentum: Tensor, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One step of SGD with momentum; the loss is that before the step."""
        loss, values, gradient = self._mean_gradient(x, labels)
        self._move(values, self._steps.momentum_move(gradient, learning_rate, momentum))
        return {"loss": loss}

    def train_adam(self, x: Tensor, learning_rate: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """One step of Adam, likewise."""
        loss, values, gradient = self._mean_gradient(x, labels)
        self._move(values, self._steps.adam_move(gradient, learning_rate))
        return {"loss": loss}

    def gradient(
        self, x: Tensor, proximal: Tensor, clip: Tensor, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Gradient of the mean loss with proximal pull, clipped; nothing is changed, and the loss is without the pull."""
        loss, values, gradient = self._mean_gradient(x, labels)
        return {
            "gradient": clipped(self._steps.pulled(_flat(values), gradient, proximal), clip),
            "loss": loss,
        }

    def clipped_sum(self, x: Tensor, clip: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Sum over the batch of each example's gradient, scaled to norm `clip` where it is longer; nothing is changed."""
        values = self._values()
        tensors = self._forward(x, values)
        loss, delta = self._loss(x, tensors[-1], labels, tf.constant([1.0]))
        deltas = self._deltas(tensors, values, delta)
        norms = [
            layer.squared_norms(source, delta)
            for layer, source, delta in zip(self._layers, tensors[:-1:2], deltas, strict=True)
        ]
        factor = clip_factor(clip, tf.add_n(norms))
        return {
            "total": _flat(self._gradients(tensors, [factor * delta for delta in deltas])),
            "loss": loss,
        }

    def step_momentum(
        self, gradient: Tensor, learning_rate: Tensor, momentum: Tensor, proximal: Tensor
    ) -> dict[str, Tensor]:
        """One step of SGD with momentum along a gradient computed elsewhere, with proximal pull and correction."""
        values = self._values()
        gradient = self._steps.corrected(self._steps.pulled(_flat(values), gradient, proximal))
        self._move(values, self._steps.momentum_move(gradient, learning_rate, momentum))
        return {"done": gradient[0:1]}

    def step_adam(self, gradient: Tensor, learning_rate: Tensor, proximal: Tensor) -> dict[str, Tensor]:
        """One step of Adam, likewise."""
        values = self._values()
        gradient = self._steps.corrected(self._steps.pulled(_flat(values), gradient, proximal))
        self._move(values, self._steps.adam_move(gradient, learning_rate))
        return {"done": gradient[0:1]}

    def ranges(self, x: Tensor) -> dict[str, Tensor]:
        """Lowest and highest value of each activation tensor, in the order of `Architecture.tensor_names`."""
        tensors = self._forward(x, self._values())
        return {
            "low": tf.stack([tf.reduce_min(tensor) for tensor in tensors]),
            "high": tf.stack([tf.reduce_max(tensor) for tensor in tensors]),
        }

    def save(self) -> dict[str, Tensor]:
        """All parameters as one flat vector."""
        return {"parameters": _flat(self._values())}

    def restore(self, parameters: Tensor, anchor: Tensor, correction: Tensor) -> dict[str, Tensor]:
        """Set parameters, anchor and correction from flat vectors; the optimizer forgets."""
        for variable, part in zip(self._variables, self._parts(parameters), strict=True):
            variable.assign(part)
        self._steps.restore(anchor, correction)
        # A signature must return something.
        return {"done": parameters[0:1]}

    def _values(self) -> list[Tensor]:
        return [variable.read_value() for variable in self._variables]

    def _parts(self, flat: Tensor) -> list[Tensor]:
        """A flat vector (P,) as one matrix a parameter."""
        pieces = tf.split(flat, [rows * columns for rows, columns in self._shapes])
        return [tf.reshape(piece, shape) for piece, shape in zip(pieces, self._shapes, strict=True)]

    def _move(self, values: list[Tensor], move: Tensor) -> None:
        """Subtract a flat vector (P,) from the parameters, which have these values."""
        for variable, value, part in zip(self._variables, values, self._parts(move), strict=True):
            variable.assign(value - part)

    def _by_layer(self, values: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        groups, at = [], 0
        for layer in self._layers:
            groups.append(values[at : at + len(layer.shapes)])
            at += len(layer.shapes)
        return groups

    def _forward(self, x: Tensor, values: list[Tensor]) -> list[Tensor]:
        """Every activation tensor, in the order of `Architecture.tensor_names`; every second one is a layer's input."""
        tensors = [x]
        for layer, parameters in zip(self._layers, self._by_layer(values), strict=True):
            if len(tensors) > 1:
                tensors.append(tf.nn.relu(tensors[-1]))
            tensors.append(layer.forward(tensors[-1], parameters))
        return tensors

    def _loss(self, x: Tensor, output: Tensor, labels: Tensor | None, scale: Tensor) -> tuple[Tensor, Tensor]:
        """(mean loss (1,), `scale` times the derivative of each example's own loss by its output (B,O))."""
        if labels is not None:
            total = tf.reduce_sum(labels * tf.nn.log_softmax(output), keepdims=True)[0]
            return -total / _batch_size(x), (tf.nn.softmax(output) - labels) * scale
        difference = output - x
        loss = tf.reduce_mean(tf.square(difference), keepdims=True)[0]
        return loss, difference * (scale * tf.constant([2.0 / self._architecture.feature_count]))

    def _mean_gradient(self, x: Tensor, labels: Tensor | None) -> tuple[Tensor, list[Tensor], Tensor]:
        """(mean loss (1,), parameters, gradient of the mean loss (P,))."""
        values = self._values()
        tensors = self._forward(x, values)
        loss, delta = self._loss(x, tensors[-1], labels, tf.constant([1.0]) / _batch_size(x))
        return loss, values, _flat(self._gradients(tensors, self._deltas(tensors, values, delta)))

    def _deltas(self, tensors: list[Tensor], values: list[Tensor], delta: Tensor) -> list[Tensor]:
        """Derivative of the loss by each layer's output, back-propagated from that of the last."""
        groups, deltas = self._by_layer(values), [delta]
        for i in range(len(self._layers) - 1, 0, -1):
            is_active = tf.cast(tensors[2 * i] > tf.constant([0.0]), tf.float32)
            deltas.insert(0, self._layers[i].input_gradient(groups[i], deltas[0]) * is_active)
        return deltas

    def _gradients(self, tensors: list[Tensor], deltas: list[Tensor]) -> list[Tensor]:
        """Gradient of each parameter, summed over the batch."""
        return [
            gradient
            for layer, source, delta in zip(self._layers, tensors[:-1:2], deltas, strict=True)
            for gradient in layer.parameter_gradients(source, delta)
        ]


def _layers(architecture: Architecture) -> list[LayerGradients]:
    return [
        DenseGradients(layer.inputs, layer.outputs)
        if architecture.convolution is None
        else ConvolutionGradients(layer)
        for layer in architecture.geometry
    ]


def _batch_size(x: Tensor) -> Tensor:
    # A slice, not an element: the batch size keeps rank 1.
    return tf.cast(tf.shape(x)[0:1], tf.float32)


def _flat(parts: Sequence[Tensor]) -> Tensor:
    return tf.concat([tf.reshape(part, [-1]) for part in parts], axis=0)


def _vector(name: str, *shape: int | None) -> Any:
    return tf.TensorSpec(shape, tf.float32, name=name)
