"""What an agent that has just joined is doing, in one line for the person who waits, and how long it still learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edge_agent.settings import DetectionSettings, Settings
from edge_agent.sources.live_settings import LineSettings
from edge_agent.sources.settings import PluginSettings, ReplaySettings, SimulatedSettings
from edge_agent.status import Status
from protocol.messages.kinds import AgentState, InstallStep

__all__ = ["LEARNING", "Progress", "progress_of", "window_every_s"]

LEARNING: Final = "learning"
"""The phase whose words are worth saying again."""
_SHARE_AT_FEWEST: Final = 0.9
"""How far commissioning says it is with the fewest windows; see `edge_agent.commissioning`."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """`phase` changes seldom, `words` with every look; `is_watching`: windows come and a release is in force."""

    phase: str
    words: str
    is_watching: bool = False


def progress_of(status: Status, detection: DetectionSettings, every_s: float | None) -> Progress:
    """What a status says; `every_s` is the wall time between two windows, None where nobody knows."""
    health = status.health
    match health.state:
        case AgentState.WATCHING:
            score = "" if status.last_score is None else f"; last score {status.last_score:.3g}"
            threshold = "" if status.threshold is None else f", alarm above {status.threshold:.3g}"
            words = f"watching: {status.device} with release {health.release}{score}{threshold}"
            return Progress(phase="watching", words=words, is_watching=True)
        case AgentState.COMMISSIONING:
            share = health.commissioned_share
            words = f"watching, and learning what is normal for {status.device}: {_learning(share, detection, every_s)}"
            phase = "settling" if share >= _SHARE_AT_FEWEST else LEARNING
            return Progress(phase=phase, words=words, is_watching=True)
        case AgentState.BLIND:
            why = status.problems[0] if status.problems else "no window can be judged"
            return Progress(phase=f"blind {why}", words=f"blind: {why}")
        case AgentState.WAITING_FOR_RELEASE:
            return _waiting(status)
        case _:
            return _without_windows(status) or Progress(phase="starting", words="the agent starts")


def _without_windows(status: Status) -> Progress | None:
    """No window has come yet, and somebody knows why."""
    if status.health.windows or not status.problems:
        return None
    return Progress(phase=f"no windows {status.problems[0]}", words=f"no window yet: {status.problems[0]}")


def _waiting(status: Status) -> Progress:
    step = status.health.install_step
    if step in {InstallStep.REJECTED, InstallStep.FAILED, InstallStep.TIMED_OUT} and status.problems:
        return Progress(
            phase=f"refused {status.problems[0]}", words=f"a release was not installed: {status.problems[0]}"
        )
    if step not in {InstallStep.IDLE, InstallStep.COMMITTED}:
        return Progress(phase="installing", words=f"installs a release: {step.value.lower()}")
    if silent := _without_windows(status):
        return silent
    broker = "" if status.broker_connected else "; the broker is not connected yet"
    return Progress(
        phase=f"waiting{broker}",
        words=f"waits for a release of family {status.family} (fedge rollouts){broker}",
    )


def _learning(share: float, detection: DetectionSettings, every_s: float | None) -> str:
    fewest = detection.commissioning_windows
    if share >= _SHARE_AT_FEWEST:
        return f"{fewest} windows and more, until its scale has settled or {detection.longest_commissioning} are seen"
    seen = round(share / _SHARE_AT_FEWEST * fewest)
    left = "" if every_s is None else f", {_span((fewest - seen) * every_s)} until it can alarm"
    return f"{seen} of {fewest} windows{left}"


def _span(seconds: float) -> str:
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def window_every_s(settings: Settings) -> float | None:
    """Wall seconds between two windows of a source, where the settings say so."""
    match source := settings.source:
        case ReplaySettings():
            return (source.step_rows or source.window_rows) * source.row_every_s / source.speed
        case SimulatedSettings():
            return source.snapshot_every_s / source.speed
        case PluginSettings() | LineSettings():  # windows come when they come
            return None
        case _:
            return source.every_s * source.window_rows
