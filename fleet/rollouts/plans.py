"""What a person or the aggregator asks for: the body of ``POST /v1/rollouts``, or a file of the same keys in TOML.

The same types are the HTTP schema, what a file is checked against, what is stored, and what the rules read, so a plan
means one thing. A plan never changes after it was created. Every field that is not asked for has a default with its
reason beside it; unknown fields are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Final, Literal

from msgspec import Meta, Struct

from fleet.gates.plan import GatePlan
from fleet.rollouts.pacing import Quarantine, Rate, Retries, Schedule, Timeouts
from protocol.errors import TopicError
from protocol.messages.kinds import InstallStatus
from protocol.names import FamilyName, split_release_id

__all__ = [
    "DEFAULT_GROUPS",
    "EXAMPLE_PLAN",
    "HELD_OUT",
    "MAXIMUM_GROUPS",
    "AbortAction",
    "AbortRule",
    "GroupPlan",
    "Limit",
    "LimitMetric",
    "RolloutPlan",
    "SuccessCriteria",
    "share_of",
]

Percentage = Annotated[float, Meta(gt=0, le=100)]
Seconds = Annotated[float, Meta(ge=0, le=30 * 86400)]
MAXIMUM_GROUPS: Final = 20

EXAMPLE_PLAN: Final[dict[str, Any]] = {
    "name": "rotating-machine v2",
    "release": "rotating-machine/2",
    "target_query": "hardware=in=(rpi4,rpi5);site!=lab",
    "groups": [
        {"name": "canary", "percentage": 5, "soak_s": 3600},
        {"percentage": 25, "soak_s": 3600},
        {"percentage": 100, "soak_s": 3600},
    ],
    "success": {"threshold_pct": 95, "min_devices": 1},
    "gates": {"metrics": ["latency_p99", "anomaly_rate", "sight", "restarts"], "on_not_seen": "pause"},
    "limits": [{"metric": "anomaly_rate", "op": "<=", "value": 0.2}],
    "abort": [{"failure_type": "FAILED", "min_executed": 5, "threshold_pct": 10, "action": "rollback"}],
}


class LimitMetric(StrEnum):
    """What a limit may be set to, as devices report it; for all three, less is better."""

    ANOMALY_RATE = "anomaly_rate"  # windows over threshold ÷ judged windows
    INFERENCE_P99_US = "inference_p99_us"
    DRIFT_SCORE = "drift_score"  # largest detector statistic ÷ its threshold


class AbortAction(StrEnum):
    """What happens when too many executions fail."""

    ROLLBACK = "rollback"
    PAUSE = "pause"
    CANCEL = "cancel"


class GroupPlan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One group: everyone up to `percentage` of the targeted devices, or up to `count` of them, who is in no earlier group."""

    name: Annotated[str, Meta(max_length=64)] = ""
    percentage: Percentage | None = None
    count: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    soak_s: Seconds = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError where its end is not said once."""
        if (self.percentage is None) == (self.count is None):
            raise ValueError(
                'a group ends at either "percentage" of the devices or a "count" of them, e.g. {"count": 5}'
            )

    @property
    def text(self) -> str:
        """Where it ends, as a person would write it."""
        return f"{self.count} devices" if self.percentage is None else f"{self.percentage:g} %"


DEFAULT_GROUPS: Final = (
    GroupPlan(name="canary", percentage=5, soak_s=3600),
    GroupPlan(percentage=25, soak_s=3600),
    GroupPlan(percentage=100, soak_s=3600),
)
"""An hour each: what harmless releases need to be seen as such (docs/gates.md)."""


HELD_OUT: Final = GroupPlan(name="held out", percentage=100)
"""Controls of the last group; they get the release when it has soaked, and are watched no further."""


class Limit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`metric` `op` `value`, which every device that runs the release must hold; one that was beyond it before, to its own past.

    Of one device and one message after another: how often a good release is stopped by it, nobody can say. `RolloutPlan.gates` can.
    """

    GONE: ClassVar[Mapping[str, str]] = {"name": "metric names what is limited"}

    metric: LimitMetric
    op: Literal["<", "<="] = "<="
    value: Annotated[float, Meta(ge=0)]

    @property
    def text(self) -> str:
        """The limit as a person would write it."""
        return f"{self.metric} {self.op} {self.value:g}"


class SuccessCriteria(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a group has the release: enough devices installed it. And from how much health on a limit judges a device."""

    GONE: ClassVar[Mapping[str, str]] = {
        "metrics": "a value that no device may pass goes to limits = [{metric, op, value}]; a comparison with devices"
        " without the release is what gates does, and is on unless gates is null"
    }

    threshold_pct: Percentage = 95.0
    min_devices: Annotated[int, Meta(ge=1)] = 1  # capped at the group's size: a canary of one can pass
    min_reports: Annotated[int, Meta(ge=1)] = 2  # one message may be an accident of timing
    min_windows: Annotated[int, Meta(ge=1)] = 10  # judged ones; below this a rate is mostly chance
    confidence: Annotated[float, Meta(ge=0.5, lt=1)] = 0.95  # one-sided, for rates


class AbortRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Acts when, of at least `min_executed` ended executions, `threshold_pct` or more ended in `failure_type`."""

    failure_type: Literal["FAILED", "REJECTED", "TIMED_OUT", "ROLLED_BACK", "ALL"] = "ALL"
    min_executed: Annotated[int, Meta(ge=1)] = 1
    threshold_pct: Percentage
    action: AbortAction = AbortAction.ROLLBACK


class RolloutPlan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A release, the devices meant, and the groups in which they get it."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    release: Annotated[str, Meta(max_length=80)]
    target_query: Annotated[str, Meta(max_length=2000)] = ""  # everyone of the release's family
    dynamic: bool = False  # whether devices that match the query only later join their group
    require_approval: bool = False
    groups: Annotated[tuple[GroupPlan, ...], Meta(min_length=1, max_length=MAXIMUM_GROUPS)] = DEFAULT_GROUPS
    success: SuccessCriteria = SuccessCriteria()
    abort: Annotated[tuple[AbortRule, ...], Meta(max_length=20)] = ()
    rollback_to: Annotated[str, Meta(max_length=80)] | None = None  # None: what each device ran before
    gates: GatePlan | None = GatePlan()  # None: nothing compares the devices with those that do not have it
    limits: Annotated[tuple[Limit, ...], Meta(max_length=20)] = ()
    rate: Rate = Rate()
    schedule: Schedule = Schedule()
    timeout: Timeouts = Timeouts()
    retry: Retries = Retries()
    quarantine: Quarantine | None = None
    force: bool = False  # also when the release was withdrawn

    def __post_init__(self) -> None:
        """Raises ValueError where the releases or the groups do not go together."""
        family = _family(self.release)
        percentages = [group.percentage for group in self.groups if group.percentage is not None]
        counts = [group.count for group in self.groups if group.count is not None]
        for ends, kind, example in (
            (percentages, "percentages", "5, 25, 100"),
            (counts, "counts", "1, 10, 50"),
        ):
            if any(later <= earlier for earlier, later in pairwise(ends)):
                raise ValueError(
                    f"group {kind} {ends} are cumulative and must grow from group to group, e.g. {example}"
                )
        if self.groups[-1].percentage != 100:
            raise ValueError(
                f"the last group reaches {self.groups[-1].text} of the devices; it must reach 100 %"
                if self.groups[-1].percentage is not None
                else f"the last group reaches {self.groups[-1].text}; it must reach all: percentage 100"
            )
        if self.rollback_to is None:
            return
        if self.rollback_to == self.release:
            raise ValueError(
                f"rollback_to is the release itself ({self.release!r}); name another or leave it out"
            )
        if _family(self.rollback_to) != family:
            raise ValueError(f"rollback_to {self.rollback_to!r} is not of family {family!r}")

    @property
    def is_gated(self) -> bool:
        """Whether gates compare the devices of groups that soak with those that do not have the release."""
        return self.gates is not None and bool(self.gates.metrics)

    @property
    def holds_out(self) -> bool:
        """Whether some of the last group wait until the rest of it has soaked: without them it had nothing to be compared with."""
        return (
            self.gates is not None
            and self.is_gated
            and self.gates.hold_out > 0
            and self.groups[-1].soak_s > 0
        )

    @property
    def drawn_groups(self) -> tuple[GroupPlan, ...]:
        """The groups in which devices get the release: those that were asked for, and who is held out of the last one."""
        return (*self.groups, HELD_OUT) if self.holds_out else self.groups

    @property
    def family(self) -> FamilyName:
        """The model family of the release; only its devices are targeted."""
        return split_release_id(self.release)[0]

    def retries(self, failure: InstallStatus) -> int:
        """How often an execution that ended in `failure` is tried again."""
        tries = {InstallStatus.FAILED: self.retry.failed, InstallStatus.TIMED_OUT: self.retry.timed_out}
        return tries.get(failure, 0)


def share_of(percentage: float, count: int) -> int:
    """The least whole number that is at least `percentage` % of `count`.

    Example:
        >>> share_of(7, 100), share_of(7, 101)
        (7, 8)
    """
    # the guard keeps 7 % of 100 at 7: 7.000000000000001 would round up to 8
    return math.ceil(count * percentage / 100 - 1e-9)


def _family(release: str) -> FamilyName:
    try:
        return split_release_id(release)[0]
    except TopicError as error:
        raise ValueError(str(error)) from None
