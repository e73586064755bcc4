"""Training models for tests: a committed one where there is one, else TensorFlow's, built once a run for all workers together.

TensorFlow costs ten seconds before its first model. `tests/models/test_models_export.py` proves that the committed models
(`tests/models/golden`) are what this checkout exports.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from models.architecture import Architecture
from models.export.isolated import export_training_model

__all__ = ["forget", "training_model"]

COMMITTED: Final = Path(__file__).parent / "models" / "golden"
RUN: Final = os.environ.get("PYTEST_XDIST_TESTRUNUID")
FOLDER: Final = Path(tempfile.gettempdir()) / f"fedge-tests-{RUN}" if RUN else None


def training_model(
    architecture: Architecture, export: Callable[[Architecture], bytes] = export_training_model
) -> bytes:
    """What `export` would build; a process that runs alone is a run of its own."""
    made_for = f"fedge training {architecture.layout_sha256}".encode()
    for file in COMMITTED.glob("*.training.tflite"):
        if made_for in (content := file.read_bytes()):
            return content
    if FOLDER is None:
        return export(architecture)
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    with (FOLDER / architecture.layout_sha256).open("a+b") as kept:
        fcntl.flock(kept, fcntl.LOCK_EX)
        if kept.seek(0, os.SEEK_END) == 0:
            kept.write(export(architecture))
        kept.seek(0)
        return kept.read()


def forget() -> None:
    """Take away what was built; at worst another worker builds a model again."""
    if FOLDER is not None:
        shutil.rmtree(FOLDER, ignore_errors=True)
