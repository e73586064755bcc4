"""What was seen of a world: plain values that the screen, the report and the figures are made from.

Times are wall seconds since the story began unless named otherwise. Nothing here decides or draws.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from protocol.messages.kinds import AgentState
from protocol.messages.payloads import Health

__all__ = [
    "Alarm",
    "Chapter",
    "ChapterState",
    "DeviceSeen",
    "FaultInjected",
    "Record",
    "RolloutSeen",
    "ScoreTrace",
    "TrainingSeen",
    "is_away",
]


NO_HEALTH: Final = Health(state=AgentState.STARTING, release=None, uptime_s=0.0)
"""Of a device that has sent no health message yet."""


def is_away(health: Health) -> bool:
    """Has the machine drifted, and is it not back? One that a person has called normal there is not."""
    return health.drifted or health.drift_accepted


class ChapterState(StrEnum):
    """Where a chapter of the story stands."""

    AHEAD = "ahead"
    NOW = "now"
    DONE = "done"


@dataclass(kw_only=True)
class Chapter:
    """One chapter: its letter and title, and when it began and ended."""

    letter: str
    title: str
    state: ChapterState = ChapterState.AHEAD
    began_s: float = 0.0
    ended_s: float = 0.0
    note: str = ""


@dataclass(kw_only=True)
class DeviceSeen:
    """The newest the fleet knows of a device.

    Attributes:
        device: its id.
        hardware: the kind of device that it says it is.
        online: whether the fleet has heard of it lately.
        state: its agent's, e.g. ``commissioning`` or ``watching``; the fleet's before the agent's first health message.
        release, desired_release: what it runs and what it shall run.
        health: its last health message, with counters since its first start.
    """

    device: str
    hardware: str
    online: bool = False
    state: str = "-"
    release: str | None = None
    desired_release: str | None = None
    health: Health = NO_HEALTH


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """An anomaly the fleet has stored."""

    device: str
    at_s: float


@dataclass(kw_only=True)
class FaultInjected:
    """A fault the world put into one machine, and when its device's alarm reached the fleet."""

    device: str
    kind: str
    at_s: float
    ended_s: float | None = None
    caught_s: float | None = None
    published: int = 0


@dataclass(kw_only=True)
class TrainingSeen:
    """A training run as the aggregator tells it (``GET /v1/training-runs/{run}``).

    Attributes:
        run: its id.
        state: of the run, in capitals.
        began_s, ended_s: seconds of the story.
        planned_rounds: how many there shall be.
        rounds: its round records, oldest first, void ones too.
        evaluation: losses and errors of candidate and champion.
        privacy: its claim.
        release: what it made, if anything.
        reason: why it ended as it did.
    """

    run: str
    state: str
    began_s: float
    ended_s: float | None = None
    planned_rounds: int = 0
    rounds: list[dict[str, object]] = field(default_factory=list)
    evaluation: dict[str, float] = field(default_factory=dict)
    privacy: dict[str, object] = field(default_factory=dict)
    release: str | None = None
    reason: str = ""


@dataclass(kw_only=True)
class RolloutSeen:
    """A rollout as the fleet tells it (``GET /v1/rollouts/{rollout}``).

    Attributes:
        rollout: its id.
        release: what it brings.
        state: of the rollout, in capitals.
        began_s, ended_s: seconds of the story.
        recovered_s: when every device was back on the version before, as the story saw it.
        groups: (name, state, devices done, devices) in their order.
        looks: (group, finding, reason) of each look of the gates, in their order.
        timeline: every change of state, oldest first.
        reason: the newest the fleet gave.
    """

    rollout: str
    release: str
    state: str
    began_s: float
    ended_s: float | None = None
    recovered_s: float | None = None
    groups: list[tuple[str, str, int, int]] = field(default_factory=list)
    looks: list[tuple[str, str, str]] = field(default_factory=list)
    timeline: list[dict[str, object]] = field(default_factory=list)
    reason: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreTrace:
    """Every window of one device: times, score, threshold; `release` is the running version's number (0: none)."""

    device: str
    at_s: NDArray[np.float64]
    machine_s: NDArray[np.float64]
    score: NDArray[np.float64]
    threshold: NDArray[np.float64]
    over: NDArray[np.bool_]
    release: NDArray[np.int64]


@dataclass(kw_only=True)
class Record:
    """Everything that was seen, in one place.

    Attributes:
        title: of the story.
        chapters: all of them, whether begun or not.
        devices: the newest of each, by id.
        alarms: as the fleet stored them, oldest first.
        faults: that the world injected.
        trainings, rollouts: by id, in the order of their creation.
        drift_share: (second of the story, share of devices that drifted and are not back), each time the world was looked at.
        traces: every window of each device, by id.
        deaths: (second of the story, process) of processes found dead.
        learning_memory_bytes: agent and learner of one device together; the most that was seen.
        comparison: see `Figures`.
        sign_in_link: where one browser is signed in to the fleet's dashboard, once; empty before the fleet is up.
        now_s: second of the story of the last look.
        epoch_s: Unix time of the story's beginning.
        exit_reason: how it ended.
    """

    title: str
    chapters: list[Chapter]
    devices: dict[str, DeviceSeen] = field(default_factory=dict)
    alarms: list[Alarm] = field(default_factory=list)
    faults: list[FaultInjected] = field(default_factory=list)
    trainings: dict[str, TrainingSeen] = field(default_factory=dict)
    rollouts: dict[str, RolloutSeen] = field(default_factory=dict)
    drift_share: list[tuple[float, float]] = field(default_factory=list)
    traces: dict[str, ScoreTrace] = field(default_factory=dict)
    deaths: list[tuple[float, str]] = field(default_factory=list)
    learning_memory_bytes: int = 0
    comparison: dict[str, float] = field(default_factory=dict)
    sign_in_link: str = ""
    now_s: float = 0.0
    epoch_s: float = 0.0
    exit_reason: str = ""
    pace: float = 1.0
    """How many times slower than a quiet machine the story was played, as measured at its beginning."""

    @property
    def chapter(self) -> Chapter | None:
        """The chapter that is being played."""
        return next((c for c in self.chapters if c.state is ChapterState.NOW), None)

    def milestones(self) -> frozenset[tuple[object, ...]]:
        """What is there only once the story has come so far, while windows are scored all the time: to tell slow from stuck."""
        return frozenset(
            [
                *((d.device, d.release, is_away(d.health)) for d in self.devices.values()),
                *((t.run, t.state, len(t.rounds)) for t in self.trainings.values()),
                *((r.rollout, r.state) for r in self.rollouts.values()),
                *((r.rollout, group) for r in self.rollouts.values() for group in r.groups),
            ]
        )

    def since_epoch(self, unix_s: object) -> float:
        """A service's Unix time as seconds of the story; `epoch_s` is the Unix time at which it began."""
        return float(unix_s) - self.epoch_s if isinstance(unix_s, int | float) else 0.0

    def between(self, letter: str) -> tuple[float, float]:
        """When a chapter began and ended (now, if it has not)."""
        chapter = next(c for c in self.chapters if c.letter == letter)
        return chapter.began_s, chapter.ended_s if chapter.state is ChapterState.DONE else self.now_s
