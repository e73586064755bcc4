"""What watching costs: bytes, memory, and time on boards that people have. Each figure says whether it was measured, and where.

Nothing of Fedge ran on a physical board (docs/hardware.md). Time on a board is this machine's, times a guess of how much slower one of its
cores is, and is called that; memory does not depend on the processor by much and is what the agent took on x86-64.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from simulations.study.messages import HEALTH_EVERY_S, health_bytes
from simulations.study.notebook import Played
from simulations.study.subjects import Subject

__all__ = ["BOARDS", "Board", "Bytes", "TimeOnBoard", "count_bytes", "name_of_processor", "times_on_boards"]

AGENT_MB: Final = 43
AGENT_AND_LEARNER_MB: Final = 99
"""Proportional set size in the demo on x86-64 (docs/figures.md)."""


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board, its memory, and how much slower one of its cores is guessed to be than a core of a present server."""

    name: str
    memory_mb: int
    slower: float


BOARDS: Final = (
    Board(name="Raspberry Pi Zero 2 W (Cortex-A53)", memory_mb=512, slower=12.0),
    Board(name="Raspberry Pi 4 (Cortex-A72)", memory_mb=2048, slower=6.0),
    Board(name="Jetson Orin Nano (Cortex-A78AE)", memory_mb=8192, slower=3.0),
    Board(name="Raspberry Pi 5 (Cortex-A76)", memory_mb=4096, slower=2.5),
)
"""The factors are guesses to size by, from what public single-core benchmarks say of these cores; none was measured with Fedge."""


@dataclass(frozen=True, kw_only=True)
class TimeOnBoard:
    """Scaled, not measured: microseconds a window, and its share of the time until the next window; None where nobody knows that."""

    board: Board
    window_us: float
    share: float | None


@dataclass(frozen=True, kw_only=True)
class Bytes:
    """Of all machines in held-back time, as payloads.

    `raw`: every window as float32. `events`: alarms and drift, with the windows that opened them. `health`: a message each 30 s;
    None without a clock.
    """

    raw: int
    events: int
    health: int | None

    @property
    def saved(self) -> float | None:
        """Share of the raw bytes that need not travel; negative where health messages weigh more than the windows; None: not known."""
        return None if self.health is None or not self.raw else 1 - (self.events + self.health) / self.raw


def count_bytes(subjects: Sequence[Subject], played: Sequence[Played]) -> Bytes:
    """What would have travelled, of as many machines as were played."""
    has_clock = all(subject.has_clock for subject in subjects)
    one = health_bytes("study/1", subjects[0].windows[0].size) if subjects else 0
    return Bytes(
        raw=sum(subject.held_back * subject.raw_bytes for subject in subjects),
        events=sum(each.sent_bytes for each in played),
        health=round(one * sum(subject.held_back_s for subject in subjects) / HEALTH_EVERY_S)
        if has_clock
        else None,
    )


def times_on_boards(window_us: float, window_s: float | None) -> list[TimeOnBoard]:
    """What a window that takes so long here would take there."""
    return [
        TimeOnBoard(
            board=board,
            window_us=board.slower * window_us,
            share=board.slower * window_us / 1e6 / window_s if window_s else None,
        )
        for board in BOARDS
    ]


def name_of_processor() -> str:
    """Of this machine, as the kernel has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
