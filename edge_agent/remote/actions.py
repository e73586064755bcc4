"""What a fleet can tell a device to do once, each over the part of the agent that does it.

How often is bounded on the device, because a broker that is not the fleet's could ask without end. None of them stops
a window from being judged: a commissioning from afar gathers beside watching and pools with the scale in force, and
windows that may be learnt are judged by what was in force until the new judge stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Protocol

from edge_agent.allowance import Allowance
from edge_agent.pipeline import Pipeline
from edge_agent.remote.executor import Action, Outcome, refuse
from protocol.messages.commands import Command
from protocol.messages.kinds import CommandStatus, InstallStatus, InstallStep, RefusalCode
from protocol.messages.payloads import InstallReport

__all__ = ["AcceptAsNormal", "Diagnose", "Reactivate", "Recommission", "RetryParked"]

_DONE: Final = CommandStatus.DONE
_IDLE_S: Final = 60.0
"""An installer that knows of a request has begun with it long before."""


class Recommission(Action):
    """Learn this machine's scale again; DONE when the new scale is in force, which takes a commissioning.

    Pooled with the scale so far. With `afresh` that one is forgotten at the end, so that windows of a fault alone would
    become this machine's normal: the owner's agent.toml must allow it (``[remote] afresh``).
    """

    is_repeatable = False

    def __init__(self, pipeline: Pipeline, *, allows_afresh: bool, monotonic: Callable[[], float]) -> None:
        self._pipeline, self._allows_afresh = pipeline, allows_afresh
        self.allowance = Allowance(burst=2, every_s=3600.0, monotonic=monotonic)

    def begin(self, command: Command) -> Outcome:
        """See `Action.begin`."""
        if unknown := _unknown(command, "afresh"):
            return unknown
        is_afresh = command.arguments.get("afresh", False)
        if not isinstance(is_afresh, bool):
            return refuse(RefusalCode.INVALID, f"afresh is {is_afresh!r}; valid are true and false")
        if is_afresh and not self._allows_afresh:
            return refuse(
                RefusalCode.FORBIDDEN,
                "agent.toml allows no scale from new windows alone ([remote] afresh); without afresh they are pooled",
            )
        commissioning = self._pipeline.commissioning
        if not commissioning.is_done:
            return refuse(RefusalCode.NOT_READY, "this device is commissioning for the first time")
        if commissioning.is_gathering:
            return refuse(
                RefusalCode.UNDER_WAY, "somebody on the device asked for it; it is gathering windows"
            )
        commissioning.restart(is_afresh=is_afresh)
        how = "from these alone" if is_afresh else "pooled with the scale so far"
        return Outcome(status=CommandStatus.IN_PROGRESS, reason=f"gathering windows, {how}")

    def look(self, command: Command) -> Outcome:  # noqa: ARG002 - there is one of it at most
        """See `Action.look`."""
        commissioning = self._pipeline.commissioning
        if commissioning.is_gathering or commissioning.is_complete:
            return Outcome(status=CommandStatus.IN_PROGRESS)
        scale = commissioning.standardiser
        windows = scale.fitted_on if scale is not None else 0
        rough = ", provisional: this machine wanders" if commissioning.is_provisional else ""
        return Outcome(status=_DONE, reason=f"a scale of {windows} windows is in force{rough}")


class Reactivation(Protocol):
    """What of the installer is asked: `edge_agent.installation.installer.Installer`."""

    def reactivate(self, execution: str) -> str:
        """Activate what runs once more; returns why not, or empty where it begins."""

    def outcome(self, execution: str) -> InstallReport | None:
        """How it ended, if it is remembered."""

    def step(self) -> InstallStep:
        """Where installing stands."""


class Reactivate(Action):
    """Activate the running release once more, a sham for honest comparisons; DONE when it is committed again."""

    is_repeatable = False

    def __init__(self, installer: Reactivation, *, monotonic: Callable[[], float]) -> None:
        self._installer, self._monotonic = installer, monotonic
        self._idle_since_s: float | None = None
        self.allowance = Allowance(burst=2, every_s=1800.0, monotonic=monotonic)

    def begin(self, command: Command) -> Outcome:
        """See `Action.begin`."""
        if unknown := _unknown(command):
            return unknown
        self._idle_since_s = None
        if why_not := self._installer.reactivate(_execution(command)):
            return refuse(RefusalCode.NOT_READY, why_not)
        return Outcome(status=CommandStatus.IN_PROGRESS, reason="the running release is activated once more")

    def look(self, command: Command) -> Outcome:
        """See `Action.look`."""
        report = self._installer.outcome(_execution(command))
        if report is not None:
            is_done = report.status is InstallStatus.SUCCEEDED
            text = f"{report.step.value} {report.reason}".strip()
            return Outcome(status=_DONE if is_done else CommandStatus.FAILED, reason=text)
        now_s = self._monotonic()
        if self._installer.step() is not InstallStep.IDLE:
            self._idle_since_s = None
        elif self._idle_since_s is None:
            self._idle_since_s = now_s
        elif now_s - self._idle_since_s > _IDLE_S:  # a kill came before the installer had written it down
            return Outcome(
                status=CommandStatus.INTERRUPTED, reason="the installer knows nothing of it; ask again"
            )
        return Outcome(status=CommandStatus.IN_PROGRESS)


def _execution(command: Command) -> str:
    return f"command-{command.number}"


class _AtOnce(Action):
    """What is over when it has begun, and may be done twice."""

    is_repeatable = True

    def look(self, command: Command) -> Outcome:  # noqa: ARG002 - there is one of it at most
        """See `Action.look`."""
        return Outcome(status=_DONE)


class AcceptAsNormal(_AtOnce):
    """Windows set aside up to `until_s` (Unix seconds) are normal, says a person: they may be learnt."""

    def __init__(
        self, pipeline: Pipeline, *, wall: Callable[[], float], monotonic: Callable[[], float]
    ) -> None:
        self._pipeline, self._wall = pipeline, wall
        # Each may fit another judge, a quarter of a second.
        self.allowance = Allowance(burst=20, every_s=5.0, monotonic=monotonic)

    def begin(self, command: Command) -> Outcome:
        """See `Action.begin`."""
        if unknown := _unknown(command, "until_s"):
            return unknown
        until_s = command.arguments.get("until_s")
        if isinstance(until_s, str | bool) or until_s is None or not math.isfinite(until_s):
            return refuse(RefusalCode.INVALID, f"until_s is {until_s!r}; valid is a time, Unix seconds")
        before = self._pipeline.set_aside_windows
        # Nobody can know what will be normal.
        recovered = self._pipeline.accept_normal(min(until_s, self._wall()))
        moved = before - self._pipeline.set_aside_windows
        return Outcome(status=_DONE, reason=f"{moved} windows may be learnt", recovered=recovered)


class Diagnose(_AtOnce):
    """Send a bounded bundle of log, state and settings, without secrets and without windows."""

    def __init__(self, make_bundle: Callable[[], tuple[str, str]], *, monotonic: Callable[[], float]) -> None:
        """Args: `make_bundle` gives the bundle as base64, and a sentence about it."""
        self._make_bundle = make_bundle
        self.allowance = Allowance(burst=3, every_s=60.0, monotonic=monotonic)

    def begin(self, command: Command) -> Outcome:
        """See `Action.begin`."""
        if unknown := _unknown(command):
            return unknown
        report, about = self._make_bundle()
        return Outcome(status=_DONE, reason=about, report=report)


class RetryParked(_AtOnce):
    """Offer events again that were parked because connections to the broker ended with them."""

    def __init__(self, retry: Callable[[], int], *, monotonic: Callable[[], float]) -> None:
        """Args: `retry` puts them back and says how many there were."""
        self._retry = retry
        # Each costs a few connections if it is still as it was.
        self.allowance = Allowance(burst=2, every_s=600.0, monotonic=monotonic)

    def begin(self, command: Command) -> Outcome:
        """See `Action.begin`."""
        if unknown := _unknown(command):
            return unknown
        return Outcome(status=_DONE, reason=f"{self._retry()} parked events are offered again")


def _unknown(command: Command, *known: str) -> Outcome | None:
    """A refusal that names an argument which this build does not know: what it would change is not guessed."""
    for name in command.arguments:
        if name not in known:
            valid = f"it knows {', '.join(known)}" if known else "it takes none"
            return refuse(
                RefusalCode.UNKNOWN, f"{command.action} of this agent knows no argument {name!r}; {valid}"
            )
    return None
