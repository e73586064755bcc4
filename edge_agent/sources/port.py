"""What the agent asks of anything that senses.

A source hands out one window at a time when it is due; it never blocks, never sleeps and starts no thread. The agent
sleeps until `next_due_s` on the same clock that it passes as `now`.

Invariants: `index` counts from 0 without gaps, `observed_at_s` (the machine's own clock, seconds) never decreases,
`samples` is float32 (samples, channels) as `spec` promises and belongs to the receiver. A value that the sensor did not
deliver is NaN: the window is handed on all the same, for the other sensors are in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from protocol.manifest import FeatureSpec

__all__ = ["Source", "SourceWindow"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceWindow:
    """One window of a machine's life.

    `raw_bytes` is what the measurement weighed before a source reduced it to ready features; by default, the samples.
    """

    samples: NDArray[np.float32]
    observed_at_s: float
    index: int
    raw_bytes: int | None = None

    @property
    def streaming_bytes(self) -> int:
        """Bytes that streaming this window raw would have cost."""
        return self.samples.nbytes if self.raw_bytes is None else self.raw_bytes


class Source(Protocol):
    """A sensor, a recording, or a simulation."""

    @property
    def spec(self) -> FeatureSpec:
        """How its windows become features."""

    @property
    def next_due_s(self) -> float:
        """When the next window is due, on the clock of `now`; infinity once the source has ended."""

    def next_window(self, now: float) -> SourceWindow | None:
        """The window due at `now` (seconds of any monotonic clock), or None if none is due yet.

        Raises SourceError when the sensor or recording cannot deliver; the agent reports it and asks again later.
        """

    def close(self) -> None:
        """Let go of files and devices; safe to call twice."""
