"""Builds the small .tflite files beside it; needs the aggregator extra, while the tests that read them do not.

`healthy.int8.tflite` and `training.tflite` are a real 4-3-4 autoencoder; `endless.tflite` loops for ever and
`greedy.tflite` asks for 16 GB, both with valid int8 inputs and outputs. Run: python tests/edge_agent/installation_models/make.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import flatbuffers
import numpy as np
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

from models.architecture import Architecture, initial_parameters
from models.export.int8_graph import export_int8_model
from models.export.isolated import export_training_model

HERE = Path(__file__).parent
ARCHITECTURE = Architecture(kind="dense-autoencoder", layers=(4, 3, 4))


def harmful(function: Callable[[tf.Tensor], tf.Tensor]) -> bytes:
    """An int8 (1, 4) → (1, 4) graph of `function`, with the quantisation that an agent looks for."""
    concrete = tf.function(function).get_concrete_function(tf.TensorSpec((1, 4), tf.int8, name="x"))
    content = tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()
    model = schema.ModelT.InitFromPackedBuf(bytearray(content))
    graph = model.subgraphs[0]
    for index in (*graph.inputs, *graph.outputs):
        graph.tensors[index].quantization = schema.QuantizationParametersT(
            scale=np.array([1 / 32], np.float32), zeroPoint=np.array([0], np.int64)
        )
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def endless(x: tf.Tensor) -> tf.Tensor:
    def turn(y: tf.Tensor) -> tuple[tf.Tensor]:
        return (tf.concat([y[:, 1:], y[:, :1]], 1),)

    return tf.while_loop(lambda y: tf.reduce_sum(tf.cast(y, tf.int32)) < 1_000_000, turn, [x])[0]


def greedy(x: tf.Tensor) -> tf.Tensor:
    y = tf.cast(x, tf.float32)
    huge = tf.fill([1 << 16, 1 << 16], y[0, 0])
    return tf.cast(tf.minimum(y, tf.reduce_max(huge)), tf.int8)


if __name__ == "__main__":
    parameters = initial_parameters(ARCHITECTURE, 1)
    low = np.full(ARCHITECTURE.tensor_count, -4.0, np.float32)
    high = np.full(ARCHITECTURE.tensor_count, 4.0, np.float32)
    HERE.joinpath("healthy.int8.tflite").write_bytes(export_int8_model(ARCHITECTURE, parameters, low, high))
    HERE.joinpath("training.tflite").write_bytes(export_training_model(ARCHITECTURE))
    HERE.joinpath("endless.tflite").write_bytes(harmful(endless))
    HERE.joinpath("greedy.tflite").write_bytes(harmful(greedy))
