"""TensorFlow builds each training model once a run, whichever worker asks first: ten seconds that most tests here begin with."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import aggregator_world
import msgspec

from aggregator import initial_release
from models.architecture import Architecture
from models.export import release

RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID")
FOLDER = Path(tempfile.gettempdir()) / f"fedge-tests-{RUN}" if RUN else None


def pytest_sessionfinish() -> None:
    # Each worker that ends takes the folder away; at worst another one builds a model again.
    if FOLDER is not None:
        shutil.rmtree(FOLDER, ignore_errors=True)


def kept_for_the_run(export: Callable[[Architecture], bytes]) -> Callable[[Architecture], bytes]:
    """`export`, asked once by all the workers of a run together; a process that runs alone is a run of its own."""
    if FOLDER is None:
        return export
    folder = FOLDER

    def kept(architecture: Architecture) -> bytes:
        folder.mkdir(mode=0o700, exist_ok=True)
        file = folder / hashlib.sha256(msgspec.json.encode(architecture)).hexdigest()
        with file.open("a+b") as content:
            fcntl.flock(content, fcntl.LOCK_EX)
            if content.seek(0, os.SEEK_END) == 0:
                content.write(export(architecture))
            content.seek(0)
            return content.read()

    return kept


# In each module that has bound the name; not in its own, whose tests run on the same workers.
for module in (aggregator_world, release, initial_release):
    module.export_training_model = kept_for_the_run(module.export_training_model)
