"""The child process that tries a delegate, so that a library that crashes does not end the agent: `python -m models.delegate_child`.

Reads a JSON line and two models on stdin, writes one `DelegateVerdict` as JSON on stdout. Exit code 0 with a verdict,
also a bad one; anything else is a crash. The bytes come from a bundle whose signature the agent has verified.

    {"delegate": …, "library": …, "kind": …, "golden": …, "int8_bytes": n}, line feed, int8 model (n bytes), compiled model

Source: alarm(2), for a library that hangs after its agent is gone.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct

from models.architecture import Kind
from models.bundles import GoldenVectors
from models.delegates import Delegate, DelegateVerdict, open_with_delegate, try_delegate
from models.errors import ModelError

__all__ = ["DelegateQuestion", "main"]


class DelegateQuestion(Struct, frozen=True, kw_only=True):
    """Which delegate to try on which model; `library` is the file to load, `int8_bytes` where the second model begins."""

    delegate: Delegate
    library: str | None
    kind: Kind
    golden: GoldenVectors
    int8_bytes: int
    wall_s: int


def main() -> None:
    """Serve one question."""
    answer_fd = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not look like an answer
    head, _, models = sys.stdin.buffer.read().partition(b"\n")
    question = msgspec.json.decode(head, type=DelegateQuestion)
    signal.alarm(question.wall_s)
    try:
        verdict = try_delegate(
            partial(open_with_delegate, library=Path(question.library) if question.library else None),
            question.delegate,
            int8_model=models[: question.int8_bytes],
            compiled_model=models[question.int8_bytes :],
            kind=question.kind,
            golden=question.golden,
            clock=time.perf_counter,
        )
    except ModelError as error:
        verdict = DelegateVerdict(delegate=question.delegate, is_accepted=False, reason=str(error))
    os.write(answer_fd, msgspec.json.encode(verdict))
    # Some drivers crash on their way out; the answer is given.
    os._exit(0)


if __name__ == "__main__":
    main()
