"""TensorFlow in a child process that ends with its job, so that a long-running service stays small.

    service ── architecture as JSON on stdin ──► python -m models.export ── .tflite on stdout ──► service

The answer depends on the architecture alone, so it is kept for the life of the service; a family has few.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import lru_cache
from typing import Final

import msgspec

from models.architecture import Architecture
from models.errors import ExportError

__all__ = ["export_training_model"]

TIMEOUT_S: Final = 300.0
"""A hundred times what it takes on two cores; a converter that hangs must not hold up a training run for ever."""


@lru_cache(maxsize=8)
def export_training_model(architecture: Architecture) -> bytes:
    """The training ``.tflite`` as `models.export.training.export_training_model` builds it, from a child process.

    Raises:
        ExportError: the child failed or took longer than TIMEOUT_S; the message carries its last words.
    """
    try:
        child = subprocess.run(
            [sys.executable, "-m", "models.export"],
            input=msgspec.json.encode(architecture),
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            # The child sees the same packages, wherever the service was started.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    except subprocess.TimeoutExpired:
        raise ExportError(
            f"building the training model of {architecture.kind} {architecture.layers} took longer than {TIMEOUT_S:.0f} s"
        ) from None
    if child.returncode != 0:
        lines = child.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise ExportError(
            f"the export process of {architecture.kind} {architecture.layers} ended with status {child.returncode}: {lines[-1][:500]}"
        )
    return child.stdout
