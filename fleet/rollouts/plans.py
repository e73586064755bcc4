"""What a person or the aggregator asks for: the body of ``POST /v1/rollouts``, or a file of the same keys in TOML.

The same types are the HTTP schema, what a file is checked against, what is stored, and what the rules read, so a plan
means one thing. A plan never changes after it was created. Every field that is not asked for has a default with its
reason beside it; unknown fields are refused.
"""

from __future__ import annotations

from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from fleet.gates.plan import GatePlan
from fleet.rollouts.pacing import Quarantine, Rate, Retries, Schedule, Timeouts
from protocol.errors import TopicError
from protocol.messages.kinds import InstallStatus
from protocol.names import FamilyName, split_release_id

__all__ = [
    "EXAMPLE_PLAN",
    "FLOORS",
    "MAXIMUM_GROUPS",
    "AbortAction",
    "AbortRule",
    "GroupPlan",
    "Metric",
    "MetricGate",
    "RolloutPlan",
    "SuccessCriteria",
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
        {"percentage": 100},
    ],
    "success": {
        "threshold_pct": 95,
        "min_devices": 1,
        "metrics": [
            {"name": "inference_p99_us", "op": "<=", "vs": "control", "ratio": 1.5},
            {"name": "anomaly_rate", "op": "<=", "value": 0.2},
        ],
    },
    "abort": [{"failure_type": "FAILED", "min_executed": 5, "threshold_pct": 10, "action": "rollback"}],
}


class Metric(StrEnum):
    """What devices report that a group can be judged by; for all three, less is better."""

    ANOMALY_RATE = "anomaly_rate"  # windows over threshold ÷ judged windows
    INFERENCE_P99_US = "inference_p99_us"
    DRIFT_SCORE = "drift_score"  # largest detector statistic ÷ its threshold


class AbortAction(StrEnum):
    """What happens when too many executions fail."""

    ROLLBACK = "rollback"
    PAUSE = "pause"
    CANCEL = "cancel"


FLOORS: Final[dict[Metric, float]] = {
    Metric.ANOMALY_RATE: 0.02,  # one window in fifty is within what a healthy machine shows by chance
    Metric.INFERENCE_P99_US: 200.0,  # scheduling jitter of a small board, far below any window's length
    Metric.DRIFT_SCORE: 0.5,  # half-way to what a detector calls drift
}
"""Below this a figure is never worse than the control, whatever the ratio: 2 × almost nothing is almost nothing."""


class GroupPlan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One group: everyone up to `percentage` of the targeted devices who is in no earlier group."""

    name: Annotated[str, Meta(max_length=64)] = ""
    percentage: Percentage
    soak_s: Seconds = 0.0


class MetricGate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One condition on what the model does: `name` `op` `value`, or `name` `op` `ratio` × control.

    `floor` applies to a comparison with the control alone; None takes the metric's own (`FLOORS`).
    """

    name: Metric
    op: Literal["<", "<="] = "<="
    value: Annotated[float, Meta(ge=0)] | None = None
    vs: Literal["control"] | None = None
    ratio: Annotated[float, Meta(gt=0)] | None = None
    floor: Annotated[float, Meta(ge=0)] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError where the condition is not one comparison."""
        if (self.value is None) == (self.vs is None):
            raise ValueError(f'metric {self.name}: give either "value" or "vs": "control" with "ratio"')
        if (self.vs is None) != (self.ratio is None):
            raise ValueError(f'metric {self.name}: "vs": "control" and "ratio" belong together')
        if self.floor is not None and self.vs is None:
            raise ValueError(f'metric {self.name}: "floor" only applies with "vs": "control"')

    @property
    def text(self) -> str:
        """The condition as a person would write it."""
        if self.value is not None:
            return f"{self.name} {self.op} {self.value:g}"
        return f"{self.name} {self.op} {self.ratio:g} × control"

    def control_floor(self) -> float:
        """The limit below which no comparison with the control fails, in the metric's unit."""
        return FLOORS[self.name] if self.floor is None else self.floor


class SuccessCriteria(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a group has succeeded: enough devices installed it, and after the soak every metric holds."""

    threshold_pct: Percentage = 95.0
    min_devices: Annotated[int, Meta(ge=1)] = 1  # capped at the group's size: a canary of one can pass
    metrics: Annotated[tuple[MetricGate, ...], Meta(max_length=20)] = ()
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
    dynamic: Literal[False] = False  # devices that enrol later are not added
    require_approval: bool = False
    groups: Annotated[tuple[GroupPlan, ...], Meta(min_length=1, max_length=MAXIMUM_GROUPS)]
    success: SuccessCriteria = SuccessCriteria()
    abort: Annotated[tuple[AbortRule, ...], Meta(max_length=20)] = ()
    rollback_to: Annotated[str, Meta(max_length=80)] | None = None  # None: what each device ran before
    gates: GatePlan | None = None
    rate: Rate = Rate()
    schedule: Schedule = Schedule()
    timeout: Timeouts = Timeouts()
    retry: Retries = Retries()
    quarantine: Quarantine | None = None
    force: bool = False  # also when the release was withdrawn

    def __post_init__(self) -> None:
        """Raises ValueError where the releases or the groups do not go together."""
        family = _family(self.release)
        percentages = [group.percentage for group in self.groups]
        if any(later <= earlier for earlier, later in pairwise(percentages)):
            raise ValueError(
                f"group percentages {percentages} are cumulative and must grow from group to group, e.g. 5, 25, 100"
            )
        if percentages[-1] != 100:
            raise ValueError(
                f"the last group reaches {percentages[-1]:g} % of the devices; it must reach 100"
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
    def family(self) -> FamilyName:
        """The model family of the release; only its devices are targeted."""
        return split_release_id(self.release)[0]

    def retries(self, failure: InstallStatus) -> int:
        """How often an execution that ended in `failure` is tried again."""
        tries = {InstallStatus.FAILED: self.retry.failed, InstallStatus.TIMED_OUT: self.retry.timed_out}
        return tries.get(failure, 0)


def _family(release: str) -> FamilyName:
    try:
        return split_release_id(release)[0]
    except TopicError as error:
        raise ValueError(str(error)) from None
