"""Waiting for what another thread or process does: until it is done, for as long as this machine needs.

No fixed number of seconds decides a test. A wait ends as soon as its condition holds; at once, with the reason, when the
condition can no longer hold (`unless`); and otherwise when the patience is used up. Patience is counted in seconds of
a quiet machine: on one that is five times slower at the moment, five seconds count as one.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from simulations.patience import slowness

__all__ = ["AMPLE_S", "PATIENCE_S", "died", "slowness", "wait_until"]

T = TypeVar("T")
PATIENCE_S: Final = 60.0
"""Seconds of a quiet machine: ten times what the slowest wait of the suite takes there."""
AMPLE_S: Final = 1800.0
"""For a deadline that a program of ours must be given and that a test never waits for: enough on any machine."""
POLL_S: Final = 0.02
LOOK_EVERY_S: Final = 1.0


def wait_until(
    condition: Callable[[], T],
    what: str,
    *,
    unless: Callable[[], str | None] = lambda: None,
    progress: Callable[[], object] = lambda: None,
) -> T:
    """Poll `condition` until it is true, and return what it gave; `what` says in a failure what was waited for.

    `unless` names, as soon as there is one, the reason why it will never be true: the log of a process that died.
    Patience begins anew whenever `progress` changes: for much work, whose parts are each short.
    """
    used_s, looked_at, factor, reached = 0.0, time.monotonic(), slowness(), progress()
    while not (found := condition()):
        reason = unless()
        assert not reason, f"{what}: {reason}"
        assert used_s < PATIENCE_S, f"waited in vain for {what}"
        time.sleep(POLL_S)
        if (passed_s := time.monotonic() - looked_at) >= LOOK_EVERY_S:
            factor = (factor + slowness()) / 2
            used_s, looked_at = used_s + passed_s / factor, looked_at + passed_s
            if (now := progress()) != reached:
                used_s, reached = 0.0, now
    return found


def died(child: subprocess.Popen[bytes], log: Path) -> str | None:
    """For `unless`: what a process said that has ended; None while it runs."""
    if child.poll() is None:
        return None
    return f"its process ended with {child.returncode}\n{log.read_text(errors='replace')[-4000:]}"
