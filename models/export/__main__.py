"""The child of `models.export.isolated`: an architecture as JSON on stdin, its training model on stdout.

A refusal is one line on stderr and status 1.
"""

from __future__ import annotations

import os
import sys

import msgspec

from models.architecture import Architecture
from models.errors import ModelError
from models.export.training import export_training_model


def main() -> int:
    """Answer one request; returns the exit status."""
    # TensorFlow's converter may print: the answer goes to a descriptor it does not know.
    answer = os.dup(1)
    os.dup2(2, 1)
    try:
        architecture = msgspec.json.decode(sys.stdin.buffer.read(), type=Architecture)
        content = export_training_model(architecture)
    except (ModelError, msgspec.DecodeError) as error:
        sys.stderr.write(str(error).replace("\n", " ") + "\n")
        return 1
    with os.fdopen(answer, "wb") as stream:
        stream.write(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
