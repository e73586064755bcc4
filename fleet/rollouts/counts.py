"""Whether enough devices of a group run the release, and whether too many executions failed: by counts alone.

Pure functions of tallies and plan. Each answer carries its reason in words, because that is what the timeline shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from fleet.rollouts.executions import Index, Mark
from fleet.rollouts.plans import AbortRule, SuccessCriteria, share_of
from fleet.rollouts.states import EXECUTED, FAILURES
from protocol.messages.kinds import InstallStatus

__all__ = ["Counts", "Judgement", "Outcome", "aborting_rule", "count_group", "judge_counts"]

_FINAL = frozenset({Mark.NONE, Mark.UNHEARD})
"""An execution with one of these is not told again by itself."""


class Outcome(StrEnum):
    """What a rule says."""

    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"  # not enough is known yet
    BLIND = "blind"  # too few devices can judge anything, and time alone will not change that
    NO_EVIDENCE = "no evidence"  # nothing is known, and a person decides whether to go on without


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """An outcome and why."""

    outcome: Outcome
    reason: str


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How the devices of a group stand. `held` (quarantine) and `deferred` are neutral, `gone` (revoked) do not count.

    `failed` will not be tried again by itself; of them `unheard` never said a word.
    """

    total: int
    succeeded: int
    failed: int
    unheard: int
    deferred: int
    held: int
    gone: int


def count_group(index: Index, number: int) -> Counts:
    """How the devices of group `number` stand."""
    return Counts(
        total=index.number(number),
        succeeded=index.number(number, {InstallStatus.SUCCEEDED}),
        failed=index.number(number, FAILURES, _FINAL),
        unheard=index.number(number, marks={Mark.UNHEARD}),
        deferred=index.number(number, {InstallStatus.DEFERRED}),
        held=index.number(number, marks={Mark.HELD}),
        gone=index.number(number, {InstallStatus.CANCELED}),
    )


def judge_counts(counts: Counts, criteria: SuccessCriteria) -> Judgement:
    """Whether enough devices of a group run the release, or too many never will.

    Args:
        counts: those of one group.
        criteria: `threshold_pct` of the devices that count, and at least `min_devices`, must succeed; the number is
            capped at how many are not neutral, so that a canary of one can pass, but not below half of the group.

    Returns:
        HOLDS when enough succeeded, FAILS as soon as too few can, NO_EVIDENCE where that is so only for devices that never
        said a word, or were all shut out; else UNDECIDED. A group that never had a device holds.
    """
    counted = counts.total - counts.gone
    if not counts.total:
        return Judgement(
            outcome=Outcome.HOLDS, reason="the fleet is too small for this group: nobody is in it"
        )
    if not counted:
        return Judgement(
            outcome=Outcome.NO_EVIDENCE,
            reason=f"all {counts.gone} devices of the group were revoked, so nothing is known of the release",
        )
    neutral = counts.deferred + counts.held
    floor = min(criteria.min_devices, max(counted - neutral, math.ceil(counted / 2)))
    needed = max(floor, share_of(criteria.threshold_pct, counted))
    if counted - counts.failed < needed:
        if counted - counts.failed + counts.unheard >= needed:
            return Judgement(
                outcome=Outcome.NO_EVIDENCE,
                reason=f"{counts.unheard} of {counted} devices never said a word of it, so too little is known of the release"
                f" ({needed} must succeed)",
            )
        return Judgement(
            outcome=Outcome.FAILS,
            reason=f"{counts.failed} of {counted} devices failed; {needed} must succeed ({criteria.threshold_pct:g} %)",
        )
    if counts.succeeded >= max(floor, 1, share_of(criteria.threshold_pct, counted - neutral)):
        return Judgement(
            outcome=Outcome.HOLDS,
            reason=f"{counts.succeeded} of {counted} devices run the release{_neutral(counts)}",
        )
    waiting = f"; {counts.deferred} have put it off" if counts.deferred else ""
    waiting += f"; {counts.held} are in quarantine" if counts.held else ""
    return Judgement(
        outcome=Outcome.UNDECIDED,
        reason=f"{counts.succeeded} of {needed} devices needed run the release{waiting}",
    )


def _neutral(counts: Counts) -> str:
    deferred = f", {counts.deferred} deferred" if counts.deferred else ""
    return deferred + (f", {counts.held} in quarantine" if counts.held else "")


def aborting_rule(index: Index, rules: Iterable[AbortRule]) -> tuple[AbortRule, str] | None:
    """The first abort rule that strikes over all executions of a rollout, and why; None where none does.

    Counted are executions that have ended and are not tried again; a deferral is neutral, a cancellation was ours.

    Args:
        index: of all executions of the rollout, not only of its present group.
        rules: those in force, in the plan's order.
    """
    ended = index.number(states=EXECUTED, marks=_FINAL)
    for rule in rules:
        kinds = FAILURES if rule.failure_type == "ALL" else {InstallStatus(rule.failure_type)}
        failed = index.number(states=kinds, marks=_FINAL)
        if ended >= rule.min_executed and failed * 100 >= rule.threshold_pct * ended and failed:
            kind = "failed" if rule.failure_type == "ALL" else rule.failure_type
            return rule, (
                f"{failed} of {ended} ended executions {kind}; "
                f"the rule allows less than {rule.threshold_pct:g} % from {rule.min_executed} on"
            )
    return None
