"""How a run ends: by SIGTERM as by Ctrl-C, whatever is pressed again while it ends, and with no folder left behind."""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["end_if_asked", "temporary_folder", "terminate_as_interrupt", "undisturbed"]

_asked = threading.Event()


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM ends a run the way Ctrl-C does: everything that was started is stopped."""

    def interrupt(*_: object) -> None:
        _asked.set()
        raise KeyboardInterrupt

    before = {each: signal.signal(each, interrupt) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        _asked.clear()
        for each, handler in before.items():
            signal.signal(each, handler)


def end_if_asked() -> None:
    """Interrupt again where Python had to ignore it: in a finaliser, or a callback of the garbage collector's."""
    if _asked.is_set():
        raise KeyboardInterrupt


@contextmanager
def undisturbed() -> Iterator[None]:
    """Nobody who presses Ctrl-C again, out of impatience, leaves half of it undone: for what takes seconds at most."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = {each: signal.signal(each, signal.SIG_IGN) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def temporary_folder(prefix: str, *, kept_after: tuple[type[Exception], ...] = ()) -> Iterator[Path]:
    """A folder that is gone afterwards, however the run ends short of a SIGKILL; not where somebody has to look why: `kept_after`."""
    is_kept = False
    with terminate_as_interrupt():
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        try:
            yield folder
        except kept_after:
            is_kept = True
            raise
        finally:
            if not is_kept:
                with undisturbed():
                    shutil.rmtree(folder, ignore_errors=True)
