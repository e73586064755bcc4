"""What the agent's loop asks of the parts around it: ports, so that a test can put its own behind them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edge_agent.installation.active import ActiveRelease
from edge_agent.learner_supervisor import LearnerSupervisor
from edge_agent.remote.executor import Executor
from protocol.messages.commands import CommandResult
from protocol.messages.kinds import InstallStep
from protocol.messages.payloads import DesiredState, InstallReport, ShadowReport

__all__ = ["Clocks", "Hands", "Installation"]


@dataclass(frozen=True, kw_only=True)
class Clocks:
    """`monotonic` and `wall` in seconds; `wait(timeout_s)` sleeps until then or, True, until woken.

    `came_round` is called after every turn of the loop, and by nothing else: a loop that hangs is seen by that.
    """

    monotonic: Callable[[], float]
    wall: Callable[[], float]
    wait: Callable[[float], bool]
    came_round: Callable[[], None] = lambda: None


class Installation(Protocol):
    """Which release to run; `edge_agent.installation.installer.Installer` is one. Every call returns at once."""

    def submit(self, desired: DesiredState) -> list[CommandResult]:
        """Ask for a release; returns what the fleet is told at once."""

    def poll(self) -> list[InstallReport]:
        """Reports made since the last call."""

    def active(self) -> ActiveRelease | None:
        """The release for the next window."""

    def on_window(self, score: float | None, latency_us: float, error: str | None = None) -> None:
        """How the last window went with the active release."""

    def candidate(self) -> ActiveRelease | None:
        """The release that shall judge beside the active one, the same object as long as it is the same; None: none."""

    def on_shadow(self, sha256: str, told: ShadowReport | str) -> None:
        """What came of judging by the candidate `sha256`, or, a sentence, why nothing does yet."""

    def step(self) -> InstallStep:
        """Where installing stands."""

    def problems(self) -> list[str]:
        """What a person should know of bundles and requests, a sentence each."""


@dataclass(frozen=True, kw_only=True)
class Hands:
    """What acts on the fleet's words: `installation` on releases, `learner` on invitations, `executor` on commands and settings."""

    installation: Installation
    learner: LearnerSupervisor
    executor: Executor
