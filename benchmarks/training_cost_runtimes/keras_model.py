"""The model families as Keras models: what a person with the pooled data trains in the cloud or in a notebook.

A Keras model of ours reads and writes the same flat vector as every other runtime. It is not what a device trains
with: Keras' own gradients are no TFLite builtins, `models.export.training_graph` writes them out.

Invariants: outputs and gradients are those of `models.reference_model` within float32; Keras keeps weights as we do,
(inputs, outputs), so a flat vector is the model's weights end to end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.architecture import Architecture, join_parameters, require_finite, split_parameters
from models.errors import ExportError

__all__ = ["build_keras_model", "get_flat_parameters", "set_flat_parameters"]

# Keras ships no types, so a model is Any in this file and nowhere else.
KerasModel = Any


def build_keras_model(architecture: Architecture) -> KerasModel:
    """A `keras.Model` from windows (B, F) to outputs (B, outputs), not compiled, its weights fresh.

    Train an autoencoder with ``loss="mse"``, a classifier with ``CategoricalCrossentropy(from_logits=True)``.

    Raises:
        ExportError: TensorFlow is not installed.
    """
    keras = _keras()
    x = inputs = keras.Input((architecture.feature_count,), name="input")
    last = len(architecture.layers) - 2
    for i, width in enumerate(architecture.layers[1:]):
        named = {"activation": "relu" if i != last else None, "name": f"layer_{i}"}
        if architecture.convolution is None:
            x = keras.layers.Dense(width, **named)(x)
        else:
            x = _convolve(keras, architecture, i, x, named)
    return keras.Model(inputs, x, name=architecture.kind.replace("-", "_"))


def set_flat_parameters(model: KerasModel, architecture: Architecture, flat: NDArray[np.floating]) -> None:
    """Set all weights of a model of this architecture from a flat vector (P,).

    Raises:
        LayoutError: another length; ParameterError: not finite. Nothing is changed then.
    """
    model.set_weights(split_parameters(architecture, require_finite(architecture, flat)))


def get_flat_parameters(model: KerasModel, architecture: Architecture) -> NDArray[np.float32]:
    """The weights as a new flat vector (P,); raises LayoutError for a model of another architecture."""
    return join_parameters(architecture, model.get_weights())


def _convolve(keras: Any, architecture: Architecture, i: int, x: Any, named: dict[str, Any]) -> Any:
    """Layer i over rows as all runtimes keep them, time-major (B, samples · channels)."""
    spec, layers = architecture.convolution, architecture.layers
    assert spec is not None
    rows = keras.layers.Reshape((-1, layers[i]))(x)
    if i < len(layers) // 2:
        rows = keras.layers.Conv1D(layers[i + 1], spec.kernel, strides=spec.stride, padding="same", **named)(
            rows
        )
    else:
        taps = architecture.geometry[i].taps
        rows = keras.layers.Conv1D(spec.stride * layers[i + 1], taps, padding="same", **named)(rows)
    return keras.layers.Flatten()(rows)


def _keras() -> Any:
    try:
        # Only here: importing TensorFlow takes seconds and hundreds of megabytes.
        import tensorflow as tf
    except ImportError as error:
        raise ExportError(
            f"a Keras model needs TensorFlow (pip install 'fedge[aggregator]'): {error}"
        ) from None
    return tf.keras
