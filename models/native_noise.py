"""Keeping C++ libraries quiet that print to file descriptor 2, past Python's logging and `sys.stderr`.

LiteRT announces its delegate, TensorFlow its converter. Nothing is lost: both report failure by an exception. It
redirects the descriptor of the whole process, so it is held only around the noisy call.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

__all__ = ["silent_stderr"]


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Send file descriptor 2 to the null device for the length of the block."""
    try:
        kept = os.dup(2)
    except OSError:  # A service may run without a stderr: then there is nothing to keep quiet.
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
