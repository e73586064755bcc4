"""A command line of ours, called in this process: what it prints and the status it ends with, as a person at a shell gets them.

A process of its own costs a second of imports at each call. That a program really starts as a process is shown once for
each (`house/test_bad_input.py`); servers always are processes.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from unittest.mock import patch


def run_command(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """``python -m program words ...`` to its end."""
    main = importlib.import_module(f"{program}.cli").main
    with logging_as_before():
        return _run(main, [program, *words])


def _run(main: Callable[[], int | None], command: list[str]) -> subprocess.CompletedProcess[str]:
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        patch.object(sys, "argv", command),
    ):
        try:
            status = main() or 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except Exception:  # noqa: BLE001 - what a person would get: a traceback and status 1
            traceback.print_exc()
            status = 1
    return subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def logging_as_before() -> Iterator[None]:
    """A command says how its process logs; this process goes on."""
    root = logging.getLogger()
    handlers, level, events = list(root.handlers), root.level, sys.modules.get("structlog")
    configured = events.get_config() if events else {}
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        if events:
            events.configure(**configured)
