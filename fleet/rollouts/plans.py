"""What a person or the aggregator asks for: the body of ``POST /v1/rollouts``.

The same types are the HTTP schema, what is stored, and what the rules read, so a plan means one thing. A plan
never changes after it was created. Every field that is not asked for has a default with its reason beside it;
unknown fields are refused.
"""

from __future__ import annotations

from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.config import JsonDict

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
    "Timeouts",
]

Percentage = Annotated[float, Field(gt=0, le=100)]
Seconds = Annotated[float, Field(ge=0, le=30 * 86400)]
MAXIMUM_GROUPS: Final = 20

EXAMPLE_PLAN: Final[JsonDict] = {
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


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Metric(StrEnum):
    """What devices report that a group can be judged by; for all three, less is better."""

    ANOMALY_RATE = "anomaly_rate"  # windows over threshold ÷ windows
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


class GroupPlan(_Part):
    """One group: everyone up to `percentage` of the targeted devices who is in no earlier group."""

    name: Annotated[str, Field(max_length=64)] = ""
    percentage: Percentage
    soak_s: Seconds = 0.0


class MetricGate(_Part):
    """One condition on what the model does: `name` `op` `value`, or `name` `op` `ratio` × control.

    `floor` applies to a comparison with the control alone; None takes the metric's own (`FLOORS`).
    """

    name: Metric
    op: Literal["<", "<="] = "<="
    value: Annotated[float, Field(ge=0)] | None = None
    vs: Literal["control"] | None = None
    ratio: Annotated[float, Field(gt=0)] | None = None
    floor: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _one_comparison(self) -> Self:
        if (self.value is None) == (self.vs is None):
            raise ValueError(f'metric {self.name}: give either "value" or "vs": "control" with "ratio"')
        if (self.vs is None) != (self.ratio is None):
            raise ValueError(f'metric {self.name}: "vs": "control" and "ratio" belong together')
        if self.floor is not None and self.vs is None:
            raise ValueError(f'metric {self.name}: "floor" only applies with "vs": "control"')
        return self

    @property
    def text(self) -> str:
        """The condition as a person would write it."""
        if self.value is not None:
            return f"{self.name} {self.op} {self.value:g}"
        return f"{self.name} {self.op} {self.ratio:g} × control"

    def control_floor(self) -> float:
        """The limit below which no comparison with the control fails, in the metric's unit."""
        return FLOORS[self.name] if self.floor is None else self.floor


class SuccessCriteria(_Part):
    """When a group has succeeded: enough devices installed it, and after the soak every metric holds."""

    threshold_pct: Percentage = 95.0
    min_devices: Annotated[int, Field(ge=1)] = 1  # capped at the group's size: a canary of one can pass
    metrics: Annotated[tuple[MetricGate, ...], Field(max_length=20)] = ()
    min_reports: Annotated[int, Field(ge=1)] = 2  # one message may be an accident of timing
    min_windows: Annotated[int, Field(ge=1)] = 10  # below this a rate is mostly chance
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95  # one-sided, for rates


class AbortRule(_Part):
    """Acts when, of at least `min_executed` ended executions, `threshold_pct` or more ended in `failure_type`."""

    failure_type: Literal["FAILED", "REJECTED", "TIMED_OUT", "ROLLED_BACK", "ALL"] = "ALL"
    min_executed: Annotated[int, Field(ge=1)] = 1
    threshold_pct: Percentage
    action: AbortAction = AbortAction.ROLLBACK


class Timeouts(_Part):
    """How long is too long, seconds."""

    queued_s: Seconds = 86400.0  # an unreachable device may take a day; then it counts as timed out
    in_progress_s: Seconds = 3600.0  # from the device's first word on it to its end
    step_s: Seconds = 600.0  # without a word during an installation
    health_s: Seconds = 900.0  # after the soak, for health that a gate still misses: silence is harm
    rollback_s: Seconds = 600.0  # for devices to confirm a rollback before it is called done without them


class RolloutPlan(_Part):
    """A release, the devices meant, and the groups in which they get it."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [EXAMPLE_PLAN]})

    name: Annotated[str, Field(min_length=1, max_length=200)]
    release: Annotated[str, Field(max_length=80)]
    target_query: Annotated[str, Field(max_length=2000)] = ""  # everyone of the release's family
    dynamic: Literal[False] = False  # devices that enrol later are not added
    require_approval: bool = False
    groups: Annotated[tuple[GroupPlan, ...], Field(min_length=1, max_length=MAXIMUM_GROUPS)]
    success: SuccessCriteria = SuccessCriteria()
    abort: Annotated[tuple[AbortRule, ...], Field(max_length=20)] = ()
    rollback_to: Annotated[str, Field(max_length=80)] | None = None  # None: what each device ran before
    timeout: Timeouts = Timeouts()
    retry: dict[Literal["FAILED", "TIMED_OUT"], Annotated[int, Field(ge=0, le=10)]] = Field(
        default_factory=dict
    )
    force: bool = False  # also when the release was withdrawn

    @field_validator("release", "rollback_to")
    @classmethod
    def _is_release(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                split_release_id(value)
            except TopicError as error:
                raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        percentages = [group.percentage for group in self.groups]
        if any(later <= earlier for earlier, later in pairwise(percentages)):
            raise ValueError(
                f"group percentages {percentages} are cumulative and must grow from group to group, e.g. 5, 25, 100"
            )
        if percentages[-1] != 100:
            raise ValueError(
                f"the last group reaches {percentages[-1]:g} % of the devices; it must reach 100"
            )
        if self.rollback_to is not None:
            if self.rollback_to == self.release:
                raise ValueError(
                    f"rollback_to is the release itself ({self.release!r}); name another or leave it out"
                )
            if split_release_id(self.rollback_to)[0] != self.family:
                raise ValueError(f"rollback_to {self.rollback_to!r} is not of family {self.family!r}")
        return self

    @property
    def family(self) -> FamilyName:
        """The model family of the release; only its devices are targeted."""
        return split_release_id(self.release)[0]

    def retries(self, failure: InstallStatus) -> int:
        """How often an execution that ended in `failure` is tried again."""
        match failure:
            case InstallStatus.FAILED:
                return self.retry.get("FAILED", 0)
            case InstallStatus.TIMED_OUT:
                return self.retry.get("TIMED_OUT", 0)
            case _:
                return 0
