"""Building models, in the cloud: the training graph, the int8 graph, and the signed release that carries both.

::

    architecture ──────────────► training.export_training_model ──► training .tflite ─┐
    parameters, ranges ────────► int8_graph.export_int8_model ────► int8 .tflite ─────┼─► release.build_release
    thresholds, reference, key ───────────────────────────────────────────────────────┘

Importing this package costs nothing: TensorFlow and the quantizer are imported where they are first used. A service
that must stay small uses `isolated`, which keeps TensorFlow in a child process. Never imported by a device.
"""

from models.export.int8_graph import export_int8_model
from models.export.release import ReleaseContent, build_release
from models.export.training import export_training_model

__all__ = ["ReleaseContent", "build_release", "export_int8_model", "export_training_model"]
