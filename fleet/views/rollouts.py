"""Rollouts as the API shows them: the resources of ``/v1/rollouts``; who reads them from the database is `fleet.api.rollout_views`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from fleet.gates.answers import Finding
from fleet.rollouts.states import RolloutState, Subject, Verb

__all__ = [
    "AnswerView",
    "ExecutionView",
    "GroupView",
    "LookView",
    "RolloutSummary",
    "RolloutView",
    "ShadowView",
    "TimelineLine",
]


class RolloutSummary(BaseModel):
    """One rollout in a list. `counts` says how many devices are in each execution state; times are Unix seconds.

    `author` is the person who answers for `created_by`, null where nobody does; where it `needs_approval` another one approves.
    """

    id: str
    name: str
    family: str
    release: str
    state: RolloutState
    since: float
    created_at: float
    created_by: str
    author: str | None
    needs_approval: bool
    counts: dict[str, int]


class GroupView(BaseModel):
    """One group, which ends at `percentage` or `count`, and how its devices stand: `devices` in all, of which `succeeded` and `failed`; `looks` of the gates."""

    number: int
    name: str
    percentage: float | None
    count: int | None
    soak_s: float
    state: str
    since: float
    reason: str
    devices: int
    succeeded: int
    failed: int
    counts: dict[str, int]
    looks: list[LookView]


class AnswerView(BaseModel):
    """One metric at one look: `finding` is STOP, PAUSE, PASS or NOT_SEEN, `reason` the whole of it in words.

    `effect`, from `low` to `high`, is the change of devices with the release against those without (a ratio; of sight a difference),
    null where nothing can be said; `p` had to be at most `level` for a STOP, null where no test could be made.
    """

    metric: str
    finding: Finding
    reason: str
    effect: float | None
    low: float | None
    high: float | None
    p: float | None
    level: float | None
    canaries: int
    controls: int


class LookView(BaseModel):
    """One look of the gates at a group: the `number`-th, of so many (`of`) until the soak ends; those with a greater number came after it."""

    number: int
    of: int
    at: float
    finding: Finding
    reason: str
    is_last: bool
    answers: list[AnswerView]


class TimelineLine(BaseModel):
    """One transition, by its number in the order of all. `was` is None where there was nothing before.

    `state` of a device is an execution state, or GIVEN, GIVEN_BACK, RESTORED, NOT_AWAITED, HELD, JOINED, RETRY, NO_RETRY; of a
    group, its state, or what its gates saw: LOOK_ and a finding; of a release, WITHDRAWN.
    """

    model_config = ConfigDict(from_attributes=True)
    id: int
    at: float
    subject: Subject
    group: int | None
    device: str | None
    was: str | None
    state: str
    reason: str
    actor: str


class RolloutView(RolloutSummary):
    """One rollout: its plan, its groups, what happened last, and the verbs it obeys now.

    `reason` says why it is in its present state, `waiting_for` what must happen next. `timeline` has the latest lines, oldest
    first: 100 of devices and 100 of everything else; `GET .../timeline` has them all.
    """

    reason: str
    waiting_for: str
    plan: dict[str, Any]
    groups: list[GroupView]
    verbs: list[Verb]
    timeline: list[TimelineLine]


class ShadowView(BaseModel):
    """A candidate beside the release that ran (`champion`), on the same live windows of one device.

    `windows` calm ones were judged by both; over their own thresholds were `champion_over`, `candidate_over` and `both_over`. With 95 %
    confidence `extra_share_low` to `extra_share_high` of calm windows are anomalies to the candidate alone. Of `probes` windows in
    which one thing was put plainly off, each saw so many. `outcome` is passed, refused, inconclusive or skipped; `note` says why.
    """

    outcome: str
    note: str
    champion: str
    windows: int
    skipped: int
    errors: int
    champion_over: int
    candidate_over: int
    both_over: int
    extra_share_low: float
    extra_share_high: float
    probes: int
    champion_seen: int
    candidate_seen: int
    rank_correlation: float | None
    champion_latency_us: float
    candidate_latency_us: float


class ExecutionView(BaseModel):
    """One device in a rollout. `step`, `progress` and `shadow` are its last word on the present attempt.

    `shadow` is what came of judging live windows by the release beside the one before it; null until then, and from older agents.
    """

    device: str
    group: int
    execution: str
    state: str
    reason: str
    since: float
    attempt: int
    given_at: float | None
    previous: str | None
    step: str | None
    progress: float | None
    shadow: ShadowView | None
    returned_at: float | None
    restored_at: float | None
