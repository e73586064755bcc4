"""TensorFlow's own post-training quantisation, calibrated on the recordings themselves: the peer that may see what we may not."""

from __future__ import annotations

import contextlib
import sys

import numpy as np
from numpy.typing import NDArray

from models.architecture import Architecture, split_parameters
from models.int8_model import Int8Model
from models.native_noise import silent_stderr

__all__ = ["tensorflow_int8"]


def tensorflow_int8(
    architecture: Architecture,
    parameters: NDArray[np.floating],
    recordings: NDArray[np.float32],
    *,
    per_channel: bool,
) -> Int8Model:
    """The int8 model that TensorFlow's converter makes of a dense family with `recordings` (n, F) as representative data."""
    # A TensorFlow import takes seconds, and what it prints belongs to no figure.
    with silent_stderr(), contextlib.redirect_stdout(sys.stderr):
        import tensorflow as tf

        parts = [np.asarray(part) for part in split_parameters(architecture, parameters)]
        last = len(architecture.layers) - 2
        layers = [
            tf.keras.layers.Dense(width, activation=None if i == last else "relu")
            for i, width in enumerate(architecture.layers[1:])
        ]
        model = tf.keras.Sequential(
            [tf.keras.layers.Input((architecture.feature_count,), batch_size=1), *layers]
        )
        model.set_weights(parts)
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([row[None]] for row in recordings)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
        # The converter has no public switch for dense layers.
        converter._experimental_disable_per_channel_quantization_for_dense_layers = not per_channel  # noqa: SLF001
        content = converter.convert()
    return Int8Model(content, architecture.kind)
