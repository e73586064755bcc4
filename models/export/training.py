"""From an architecture to the bytes of its training model: TensorFlow's converter, kept quiet and reproducible.

What the graph computes is said in `models.export.training_graph`; this is only how it becomes a file.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from models.architecture import Architecture
from models.errors import ExportError
from models.export.compaction import compact_training_model
from models.export.flatbuffer import canonical_model
from models.native_noise import silent_stderr
from models.seal import seal_model

__all__ = ["export_training_model"]

# oneDNN announces itself, and orders sums differently on each kind of CPU; a GPU is of no use to a converter.
_QUIET: Final = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"}


def export_training_model(architecture: Architecture) -> bytes:
    """The training ``.tflite`` of an architecture; its weights are zero until `restore`.

    Takes seconds, and hundreds of megabytes for TensorFlow that stay with the process: a service calls
    `models.export.isolated.export_training_model` instead. The same architecture gives the same bytes.

    Raises:
        ExportError: TensorFlow is not installed, or refused the graph.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    with silent_stderr():
        try:
            # Only here: importing it takes seconds and hundreds of megabytes.
            import tensorflow as tf

            from models.export.training_graph import TrainingGraph
        except ImportError as error:
            raise ExportError(
                f"building a training model needs TensorFlow (pip install 'fedge[aggregator]'): {error}"
            ) from None
        graph = TrainingGraph(architecture)
        try:
            with tempfile.TemporaryDirectory(prefix="fedge-export-") as folder:
                target = str(Path(folder) / "training")
                tf.saved_model.save(graph.module, target, signatures=graph.signatures())
                converter = tf.lite.TFLiteConverter.from_saved_model(target)
                converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
                converter.experimental_enable_resource_variables = True
                content = bytes(converter.convert())
        except (ValueError, RuntimeError, tf.errors.OpError) as error:
            raise ExportError(
                f"TensorFlow could not convert {architecture.kind} {architecture.layers}: {str(error)[:500]}"
            ) from error
    description = f"fedge training {architecture.layout_sha256}"
    return seal_model(compact_training_model(canonical_model(content, description=description)))
