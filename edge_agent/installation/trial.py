"""Differential health: does a new release work where the one before it worked?

Pure apart from a lock: windows go in, a verdict comes out. It does not judge whether a model detects well (the fleet's
health gate compares many devices for that), only whether it runs here: no errors, finite scores, no sudden slowness.

Invariant: a fault that was there before the release is never blamed on it, and a silent sensor gives no verdict: after a
while the trial is *deferred*, which neither fails nor passes it. It goes on, and ends as soon as there are windows.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
from msgspec import Struct

from edge_agent.installation.journal import Baseline

__all__ = ["Failed", "Passed", "Trial", "TrialLimits", "Verdict", "WindowRecord"]

RECORD_WINDOWS: Final = 64
"""Windows remembered of the release before: enough for a steady median, 1 KB."""

MINIMUM_BASELINE_WINDOWS: Final = 5
"""Below this the median of the release before says nothing, and only the absolute limit holds."""


class TrialLimits(Struct, frozen=True, kw_only=True):
    """When a trial passes.

    Attributes:
        windows: live windows that must be scored. 10 is a few seconds of a fast machine, minutes of a slow one.
        latency_factor: the median may grow by this factor over the release before.
        latency_slack_us: and by this much beyond it, so that 10 µs → 40 µs on a busy machine is no failure.
        maximum_latency_us: the absolute limit; one inference must never hold up a window.
        deferred_after_s: wall time without a judged window after which the fleet need not wait: a fifth of what it lets
            pass without a word.
    """

    windows: int = 10
    latency_factor: float = 3.0
    latency_slack_us: float = 2_000.0
    maximum_latency_us: float = 250_000.0
    deferred_after_s: float = 120.0


@dataclass(frozen=True, kw_only=True)
class Passed:
    """The release works here."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The release must be undone; `reason` is one line for people."""

    reason: str


Verdict = Passed | Failed


class WindowRecord:
    """The last windows of a committed release, kept for the next trial. Written by the loop, read by the worker."""

    def __init__(self, size: int = RECORD_WINDOWS) -> None:
        self._windows: deque[tuple[float, bool]] = deque(maxlen=size)
        self._lock = threading.Lock()

    def add(self, latency_us: float, *, has_failed: bool) -> None:
        """Remember one window."""
        with self._lock:
            self._windows.append((latency_us, has_failed))

    def clear(self) -> None:
        """Forget: another release runs now."""
        with self._lock:
            self._windows.clear()

    def baseline(self) -> Baseline | None:
        """The yardstick for a trial; None where nothing was recorded."""
        with self._lock:
            windows = list(self._windows)
        if not windows:
            return None
        latencies = [latency for latency, failed in windows if not failed]
        return Baseline(
            windows=len(latencies),
            latency_us=float(np.median(latencies)) if latencies else 0.0,
            error_share=1.0 - len(latencies) / len(windows),
        )


class Trial:
    """One release on trial: hand in each window until there is a verdict."""

    def __init__(self, limits: TrialLimits, baseline: Baseline | None) -> None:
        self._limits = limits
        self._baseline = baseline
        self._latencies: list[float] = []

    def observe(self, score: float | None, latency_us: float, error: str | None) -> Verdict | None:
        """Judge one window.

        Args:
            score: the model's anomaly score; None where it gave none.
            latency_us: time of the inference, µs.
            error: what went wrong, or None.

        Returns:
            A verdict once there is one, else None: hand in the next window.
        """
        fault = error
        if fault is None and (score is None or not math.isfinite(score)):
            fault = f"the model gave the score {score}; a score is a finite number"
        if fault is not None:
            # "Did not work before either" is a fault of the sensor or the device, and undoing would not mend it.
            was_failing = self._baseline is not None and self._baseline.error_share > 0
            return None if was_failing else Failed(reason=f"window {len(self._latencies) + 1}: {fault}")
        self._latencies.append(latency_us)
        if len(self._latencies) < self._limits.windows:
            return None
        return self._judge_latency(float(np.median(self._latencies)))

    def _judge_latency(self, latency_us: float) -> Verdict:
        limits, before = self._limits, self._baseline
        allowed_us = limits.maximum_latency_us
        if before is not None and before.windows >= MINIMUM_BASELINE_WINDOWS:
            relative_us = before.latency_us * limits.latency_factor + limits.latency_slack_us
            allowed_us = min(allowed_us, relative_us)
        if latency_us <= allowed_us:
            return Passed()
        was = f"{before.latency_us:.0f} µs before it" if before is not None else "unknown before it"
        return Failed(
            reason=f"median inference time {latency_us:.0f} µs, {was}; at most {allowed_us:.0f} µs is allowed"
        )
