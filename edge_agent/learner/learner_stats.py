"""What the learner tells the agent about itself: one small file, replaced atomically whenever something changes.

The agent adds `sent_bytes` and `received_bytes` to the device's counters and shows `state` to people. Figures are of
this process, from zero; `run_id` tells runs apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import msgspec

from runtime.durable_files import write_quickly

__all__ = ["LearnerState", "LearnerStats", "StatsFile", "Traffic"]


class LearnerState(StrEnum):
    """What the learner is doing."""

    JOINING = "joining"
    WAITING = "waiting"
    ANSWERING = "answering"
    RECONNECTING = "reconnecting"
    ENDED = "ended"


@dataclass(kw_only=True)
class Traffic:
    """Bodies over one connection so far: `sent_bytes` to the aggregator, `received_bytes` from it."""

    sent_bytes: int = 0
    received_bytes: int = 0


class LearnerStats(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``learner_stats.json``. `rounds` counts training rounds answered, bytes are HTTP bodies."""

    run_id: str
    state: LearnerState
    rounds: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    refused: int = 0


class StatsFile:
    """Writes the stats; without fsync, as they may be lost with the power."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: LearnerStats | None = None

    def show(self, stats: LearnerStats) -> None:
        """Replace the file where `stats` differ; raises StorageError where the disk refuses."""
        if stats != self._last:
            write_quickly(self._path, msgspec.json.encode(stats))
            self._last = stats
