"""What the machine of any fleet is made of: plans, devices that remember what they said, a process that dies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NoReturn

from fleet.rollouts.states import GroupState, RolloutState
from protocol.messages.kinds import InstallStatus, Kind

S = InstallStatus
BEGUN: Final = {GroupState.RUNNING, GroupState.SOAKING, GroupState.PASSED, GroupState.FAILED}
OWNING: Final = {RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.ROLLING_BACK}
BAD: Final = {S.FAILED, S.REJECTED, S.TIMED_OUT, S.ROLLED_BACK}
LIMITS: Final = {"queued_s": 300, "in_progress_s": 100, "step_s": 60, "health_s": 20, "rollback_s": 40}
PLANS: Final = (
    {"groups": [{"count": 1, "soak_s": 5}, {"percentage": 50}, {"percentage": 100, "soak_s": 5}]},
    {"groups": [{"percentage": 50}, {"percentage": 100}], "rate": {"maximum_per_minute": 2}, "dynamic": True},
    {"groups": [{"percentage": 100}], "retry": {"FAILED": 1, "TIMED_OUT": 1}, "dynamic": True},
    {
        "groups": [{"count": 2}, {"percentage": 100}],
        "abort": [{"min_executed": 2, "threshold_pct": 50, "action": "rollback"}],
        "success": {"threshold_pct": 60},
    },
    {
        "groups": [{"percentage": 50}, {"percentage": 100}],
        "abort": [{"min_executed": 1, "threshold_pct": 30, "action": "cancel"}],
        "success": {"threshold_pct": 40},
        "quarantine": {"device_failures": 1, "penalty_s": 600},
    },
)

QUERIES: Final = ("", "id=in=(d00,d01,d02)", "id=in=(d03,d04,d05)")
"""Whom a rollout means: all, or one half of those that are there from the beginning."""


class Killed(BaseException):
    """The process is gone: nothing catches this."""


class DeadlyPublisher:
    """Its process dies where it would publish."""

    def announce(self, devices: Iterable[str], kind: Kind = Kind.DESIRED) -> NoReturn:
        raise Killed


@dataclass
class Actor:
    """A device: what it obeyed last and what it runs, and whether the fleet shut it out at which counter."""

    runs: str | None = "pump/1"
    obeyed: int = 0
    revoked_at_counter: int | None = None
    said: list[tuple[str, InstallStatus]] = field(default_factory=list)
