"""When a group has enough devices, when it never will, and when too many executions failed: by counts alone, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from fleet.rollouts.counts import Outcome, aborting_rule, count_group, judge_counts
from fleet.rollouts.executions import Execution, Index
from fleet.rollouts.plans import AbortRule, RolloutPlan, SuccessCriteria
from protocol.messages.kinds import InstallStatus
from protocol.names import DeviceId

S = InstallStatus
PLAN = msgspec.convert(
    {"name": "r", "release": "pump/2", "groups": [{"percentage": 100}], "retry": {"FAILED": 1}}, RolloutPlan
)
"""It tries what failed once more: an execution on its second attempt has failed for good."""


def executions(*states: InstallStatus, **fields: Any) -> list[Execution]:
    return [
        replace(Execution(device=DeviceId(f"d{n}"), group=0, state=state, given_at=1.0, attempt=2), **fields)
        for n, state in enumerate(states)
    ]


def index_of(found: Sequence[Execution]) -> Index:
    index = Index()
    for execution in found:
        index.count(PLAN, execution, 1)
    return index


def judged(found: Sequence[Execution], **rule: float) -> tuple[Outcome, str]:
    criteria = msgspec.convert(rule, SuccessCriteria)
    judgement = judge_counts(count_group(index_of(found), 0), criteria)
    return judgement.outcome, judgement.reason


@pytest.mark.parametrize(
    ("states", "threshold", "minimum", "outcome"),
    [
        ([S.SUCCEEDED] * 4, 100, 1, Outcome.HOLDS),
        ([S.SUCCEEDED] * 3 + [S.IN_PROGRESS], 100, 1, Outcome.UNDECIDED),
        ([S.SUCCEEDED] * 3 + [S.IN_PROGRESS], 75, 1, Outcome.HOLDS),
        ([S.SUCCEEDED] * 3 + [S.REJECTED], 75, 1, Outcome.HOLDS),
        ([S.SUCCEEDED] * 2 + [S.FAILED, S.TIMED_OUT], 75, 1, Outcome.FAILS),
        ([S.SUCCEEDED] * 3 + [S.DEFERRED], 100, 1, Outcome.HOLDS),
        ([S.DEFERRED] * 4, 100, 1, Outcome.UNDECIDED),
        ([S.SUCCEEDED, S.CANCELED], 100, 1, Outcome.HOLDS),
        ([S.CANCELED], 100, 1, Outcome.NO_EVIDENCE),
        ([], 100, 1, Outcome.HOLDS),
        ([S.SUCCEEDED], 100, 5, Outcome.HOLDS),  # a group of one cannot have five
        ([S.SUCCEEDED] * 2 + [S.IN_PROGRESS] * 8, 10, 5, Outcome.UNDECIDED),
        ([S.SUCCEEDED] * 4 + [S.FAILED] * 6, 10, 5, Outcome.FAILS),
        ([S.QUEUED], 1, 1, Outcome.UNDECIDED),
    ],
)
def test_counts(states: list[InstallStatus], threshold: float, minimum: int, outcome: Outcome) -> None:
    found, reason = judged(executions(*states), threshold_pct=threshold, min_devices=minimum)
    assert found is outcome, reason


@pytest.mark.parametrize(
    ("rule", "states", "strikes"),
    [
        (
            {"failure_type": "FAILED", "min_executed": 5, "threshold_pct": 20},
            [S.FAILED] + [S.SUCCEEDED] * 4,
            True,
        ),
        (
            {"failure_type": "FAILED", "min_executed": 6, "threshold_pct": 20},
            [S.FAILED] + [S.SUCCEEDED] * 4,
            False,
        ),
        (
            {"failure_type": "FAILED", "min_executed": 5, "threshold_pct": 21},
            [S.FAILED] + [S.SUCCEEDED] * 4,
            False,
        ),
        ({"failure_type": "TIMED_OUT", "threshold_pct": 10}, [S.FAILED], False),
        ({"failure_type": "ALL", "threshold_pct": 10}, [S.REJECTED], True),
        ({"threshold_pct": 10, "min_executed": 2}, [S.FAILED, S.IN_PROGRESS, S.DEFERRED, S.CANCELED], False),
    ],
)
def test_abort_rules_count_ended_executions(
    rule: dict[str, Any], states: list[InstallStatus], strikes: bool
) -> None:
    struck = aborting_rule(index_of(executions(*states)), [msgspec.convert(rule, AbortRule)])
    assert (struck is not None) is strikes


def test_an_abort_rule_says_what_it_saw() -> None:
    rule = msgspec.convert({"failure_type": "FAILED", "min_executed": 2, "threshold_pct": 50}, AbortRule)
    struck = aborting_rule(index_of(executions(S.FAILED, S.SUCCEEDED)), [rule])
    assert struck == (rule, "1 of 2 ended executions FAILED; the rule allows less than 50 % from 2 on")


def said(states: list[InstallStatus], **rule: float) -> str:
    return judged(executions(*states), **rule)[1]


def test_counts_say_what_they_counted() -> None:
    assert said([]) == "the fleet is too small for this group: nobody is in it"
    assert said([S.SUCCEEDED, S.SUCCEEDED, S.DEFERRED]) == "2 of 3 devices run the release, 1 deferred"
    assert said([S.SUCCEEDED] * 2) == "2 of 2 devices run the release"
    assert said([S.SUCCEEDED, S.QUEUED, S.QUEUED]) == "1 of 3 devices needed run the release"
    assert said([S.FAILED, S.SUCCEEDED], threshold_pct=80) == "1 of 2 devices failed; 2 must succeed (80 %)"
    assert said([S.CANCELED, S.SUCCEEDED, S.QUEUED], min_devices=2) == "1 of 2 devices needed run the release"


@pytest.mark.parametrize(
    ("threshold", "devices", "needed"),
    [(50, 10, 5), (51, 10, 6), (10, 10, 1), (33.4, 3, 2), (70, 10, 7), (0.1, 9, 1)],
)
def test_a_share_of_devices_is_rounded_up_and_exactly_as_many_suffice(
    threshold: float, devices: int, needed: int
) -> None:
    def outcome(succeeded: int, failed: int) -> Outcome:
        states = [S.SUCCEEDED] * succeeded + [S.FAILED] * failed
        states += [S.QUEUED] * (devices - len(states))
        return judged(executions(*states), threshold_pct=threshold)[0]

    assert outcome(needed, 0) is Outcome.HOLDS
    assert outcome(needed - 1, 0) is Outcome.UNDECIDED
    assert outcome(0, devices - needed) is Outcome.UNDECIDED
    assert outcome(0, devices - needed + 1) is Outcome.FAILS


def test_an_abort_rule_strikes_from_its_share_on_and_counts_only_what_was_given_and_has_ended() -> None:
    rule = msgspec.convert({"min_executed": 4, "threshold_pct": 50}, AbortRule)
    ended = [S.FAILED, S.REJECTED, S.SUCCEEDED, S.SUCCEEDED]
    struck = aborting_rule(index_of(executions(*ended)), [rule])
    assert struck == (rule, "2 of 4 ended executions failed; the rule allows less than 50 % from 4 on")
    assert aborting_rule(index_of(executions(*ended[1:], S.SUCCEEDED)), [rule]) is None
    assert aborting_rule(index_of(executions(*ended[:3])), [rule]) is None
    tried_again = executions(S.FAILED, S.FAILED, S.SUCCEEDED, S.SUCCEEDED, attempt=1)
    assert aborting_rule(index_of(tried_again), [rule]) is None
    other = msgspec.convert({"failure_type": "TIMED_OUT", "threshold_pct": 1}, AbortRule)
    assert aborting_rule(index_of(executions(*ended)), [other, rule]) == struck
    assert aborting_rule(index_of(executions(S.SUCCEEDED)), [other]) is None


@pytest.mark.parametrize(
    ("succeeded", "deferred", "minimum", "outcome"),
    [
        (4, 1, 5, Outcome.HOLDS),  # five were asked for, and one of the five is neutral
        (3, 2, 5, Outcome.HOLDS),
        (2, 3, 5, Outcome.UNDECIDED),  # not below half of the group
        (1, 3, 1, Outcome.HOLDS),
        (0, 3, 1, Outcome.UNDECIDED),
    ],
)
def test_a_deferred_device_lowers_what_a_plan_asks_for_but_not_below_half(
    succeeded: int, deferred: int, minimum: int, outcome: Outcome
) -> None:
    states = [InstallStatus.SUCCEEDED] * succeeded + [InstallStatus.DEFERRED] * deferred
    found, reason = judged(executions(*states), threshold_pct=100, min_devices=minimum)
    assert found is outcome, reason


def test_devices_that_never_said_a_word_are_no_evidence_and_those_that_failed_are() -> None:
    silent = executions(S.TIMED_OUT, S.TIMED_OUT, is_unheard=True)
    assert judged(silent) == (
        Outcome.NO_EVIDENCE,
        "2 of 2 devices never said a word of it, so too little is known of the release (2 must succeed)",
    )
    assert judged(executions(S.TIMED_OUT, S.TIMED_OUT))[0] is Outcome.FAILS
    mixed = [*silent, *executions(S.FAILED, S.FAILED)]
    assert judged([replace(e, device=DeviceId(f"d{n}")) for n, e in enumerate(mixed)])[0] is Outcome.FAILS


def test_a_group_all_of_whose_devices_were_shut_out_shows_nothing() -> None:
    assert judged(executions(S.CANCELED, S.CANCELED)) == (
        Outcome.NO_EVIDENCE,
        "all 2 devices of the group were revoked, so nothing is known of the release",
    )


def test_what_failed_and_is_tried_again_has_not_failed_yet() -> None:
    assert judged(executions(S.FAILED, S.SUCCEEDED, attempt=1))[0] is Outcome.UNDECIDED
    assert judged(executions(S.FAILED, S.SUCCEEDED))[0] is Outcome.FAILS
    assert judged(executions(S.FAILED, S.SUCCEEDED, allowed=3))[0] is Outcome.UNDECIDED, (
        "a person wants it tried"
    )


def test_a_device_in_quarantine_is_neutral() -> None:
    waiting = Execution(device=DeviceId("d9"), group=0, held_until=100.0)
    assert judged([*executions(S.SUCCEEDED), waiting]) == (
        Outcome.HOLDS,
        "1 of 2 devices run the release, 1 in quarantine",
    )
