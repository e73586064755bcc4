"""The installer as the agent's loop sees it: one worker thread that never makes inference wait.

::

    loop ── submit(desired) ──►┌────────┐── events ──► transitions.decide ──► journal (fsync) ──► next effect
    loop ── on_window(...) ───►│ worker │
    loop ◄─ active(), poll() ──└────────┘── disk, HTTPS, probe child

The worker handles one event at a time: decide, write the journal, publish the active release, perform the effect, whose
result is the next event. A newer request interrupts a download or a probe. The loop swaps models between windows, when
it sees that `active()` gives another `generation`.

Not here: scheduling of windows, building interpreters, sending reports (the loop puts them into its outbox).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edge_agent.installation.active import ActiveRelease
from protocol.messages.kinds import InstallStep
from protocol.messages.payloads import DesiredState, InstallReport

__all__ = ["Installation"]


class Installation(Protocol):
    """What the loop may ask. Every call returns at once; all of them belong to the loop's thread.

    Use::

        installer = open_installer(state_dir, keys, requirements, fleet_client)   # recovers; active() is right already
        installer.start(wake=loop_wakeup)
        while running:
            active = installer.active()                    # once before each window
            if active and active.generation != generation:
                model, generation = Int8Model(active.bundle.int8_model), active.generation   # error → on_window
            ... score the window ...
            installer.on_window(score, latency_us, error)  # speaks of the release that active() last gave
            for report in installer.poll():
                outbox.put(report)
        installer.close()
    """

    def start(self, wake: Callable[[], None] | None = None) -> None:
        """Begin to work in the background; `wake` is called from the worker when there is a report or a new release."""

    def submit(self, desired: DesiredState) -> None:
        """Ask for a release. Repeats are answered again, older ones are refused with a report."""

    def poll(self) -> list[InstallReport]:
        """Take the reports made since the last call: per execution only the newest unless it is final."""

    def active(self) -> ActiveRelease | None:
        """The release to run for the next window; None while the device has none."""

    def on_window(self, score: float | None, latency_us: float, error: str | None = None) -> None:
        """Tell how the last window went with the release that `active` last gave.

        Args:
            score: its anomaly score, or None where the model gave none (also: the model could not be loaded).
            latency_us: time of the inference, µs.
            error: one line if something failed, else None.
        """

    def step(self) -> InstallStep:
        """Where installing stands; IDLE when nothing is under way."""

    def close(self) -> None:
        """Stop the worker within a few seconds; what was under way continues at the next start."""
