"""When a group has succeeded and when a release does harm: every rule with its reason in words."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.rollouts.gates import (
    Verdict,
    aborting_rule,
    judge_counts,
    judge_metrics,
    wilson_lower_bound,
)
from fleet.rollouts.plans import AbortRule, SuccessCriteria
from fleet.rollouts.progress import Execution, Figures
from protocol.messages.kinds import InstallStatus
from protocol.names import DeviceId

S = InstallStatus


def executions(*states: InstallStatus, before: Figures | None = None) -> list[Execution]:
    return [
        Execution(device=DeviceId(f"d{number}"), group=0, state=state, given_at=1.0, attempt=1, before=before)
        for number, state in enumerate(states)
    ]


def figures(rate: float = 0.0, *, windows: int = 100, p99: float = 100.0, drift: float = 0.0) -> Figures:
    return Figures(
        reports=5, windows=windows, windows_over=rate * windows, inference_p99_us=p99, drift_score=drift
    )


def criteria(*metrics: dict[str, Any], **changes: Any) -> SuccessCriteria:
    return msgspec.convert({"metrics": list(metrics)} | changes, SuccessCriteria)


@pytest.mark.parametrize(
    ("states", "threshold", "minimum", "verdict"),
    [
        ([S.SUCCEEDED] * 4, 100, 1, Verdict.HOLDS),
        ([S.SUCCEEDED] * 3 + [S.IN_PROGRESS], 100, 1, Verdict.UNDECIDED),
        ([S.SUCCEEDED] * 3 + [S.IN_PROGRESS], 75, 1, Verdict.HOLDS),
        ([S.SUCCEEDED] * 3 + [S.REJECTED], 75, 1, Verdict.HOLDS),
        ([S.SUCCEEDED] * 2 + [S.FAILED, S.TIMED_OUT], 75, 1, Verdict.FAILS),
        ([S.SUCCEEDED] * 3 + [S.DEFERRED], 100, 1, Verdict.HOLDS),
        ([S.DEFERRED] * 4, 100, 1, Verdict.UNDECIDED),
        ([S.SUCCEEDED, S.CANCELED], 100, 1, Verdict.HOLDS),
        ([S.CANCELED], 100, 1, Verdict.HOLDS),
        ([], 100, 1, Verdict.HOLDS),
        ([S.SUCCEEDED], 100, 5, Verdict.HOLDS),  # a group of one cannot have five
        ([S.SUCCEEDED] * 2 + [S.IN_PROGRESS] * 8, 10, 5, Verdict.UNDECIDED),
        ([S.SUCCEEDED] * 4 + [S.FAILED] * 6, 10, 5, Verdict.FAILS),
        ([S.QUEUED], 1, 1, Verdict.UNDECIDED),
    ],
)
def test_counts(states: list[InstallStatus], threshold: float, minimum: int, verdict: Verdict) -> None:
    judgement = judge_counts(executions(*states), criteria(threshold_pct=threshold, min_devices=minimum))
    assert judgement.verdict is verdict, judgement.reason


def judge(
    rule: SuccessCriteria,
    after: dict[str, Figures],
    recent: dict[str, Figures] | None = None,
    before: Figures | None = None,
) -> tuple[Verdict, str]:
    treated = executions(*[S.SUCCEEDED] * len(after), before=before)
    judgement = judge_metrics(
        rule,
        treated,
        {DeviceId(d): f for d, f in after.items()},
        {DeviceId(d): f for d, f in (recent or {}).items()},
    )
    return judgement.verdict, judgement.reason


RATE = {"name": "anomaly_rate", "op": "<=", "value": 0.2}


def test_one_alarming_device_is_not_hidden_by_well_ones() -> None:
    verdict, reason = judge(criteria(RATE), {"d0": figures(0.0), "d1": figures(0.0), "d2": figures(0.9)})
    assert verdict is Verdict.FAILS
    assert reason == "anomaly_rate <= 0.2 fails on d2: 0.9 against 0.2"


def test_a_rate_that_chance_explains_does_not_fail() -> None:
    assert judge(criteria(RATE), {"d0": figures(0.3, windows=10)})[0] is Verdict.HOLDS
    assert judge(criteria(RATE), {"d0": figures(0.3, windows=1000)})[0] is Verdict.FAILS


def test_a_machine_that_was_broken_before_does_not_condemn_the_release() -> None:
    broken = figures(0.6)
    assert judge(criteria(RATE), {"d0": figures(0.65)}, before=broken)[0] is Verdict.HOLDS
    verdict, reason = judge(criteria(RATE), {"d0": figures(1.0)}, before=broken)
    assert verdict is Verdict.FAILS
    assert "its own 0.6 before" in reason
    assert judge(criteria(RATE), {"d0": figures(1.0)}, before=figures(0.9))[0] is Verdict.FAILS


@pytest.mark.parametrize(("windows", "reports"), [(9, 5), (0, 5)])
def test_too_few_windows_are_no_evidence(windows: int, reports: int) -> None:
    assert judge(criteria(RATE), {"d0": figures(1.0, windows=windows)})[0] is Verdict.UNDECIDED


def test_too_few_reports_are_no_evidence() -> None:
    verdict, reason = judge(criteria(RATE, min_reports=6), {"d0": figures(0.0)})
    assert verdict is Verdict.UNDECIDED
    assert reason == "1 of 1 devices have not shown enough health on the release yet (d0)"


def test_the_control_are_devices_without_the_release() -> None:
    gate = {"name": "inference_p99_us", "vs": "control", "ratio": 1.5}
    control = {"c0": figures(p99=900.0), "c1": figures(p99=1100.0)}
    assert judge(criteria(gate), {"d0": figures(p99=1400.0)}, control)[0] is Verdict.HOLDS
    verdict, reason = judge(criteria(gate), {"d0": figures(p99=1400.0), "d1": figures(p99=1800.0)}, control)
    assert verdict is Verdict.FAILS
    assert reason == (
        "inference_p99_us <= 1.5 × control fails: mean of 2 devices 1.6e+03 against 1.5e+03"
        " (2 devices without the release: 1e+03)"
    )


def test_without_a_control_the_groups_own_past_is_the_control() -> None:
    gate = {"name": "drift_score", "vs": "control", "ratio": 2}
    verdict, reason = judge(criteria(gate), {"d0": figures(drift=3.0)}, before=figures(drift=1.0))
    assert verdict is Verdict.FAILS
    assert "(1 same devices before: 1)" in reason


def test_a_fleets_first_release_has_nothing_to_be_compared_with() -> None:
    gate = {"name": "anomaly_rate", "vs": "control", "ratio": 1.5}
    assert judge(criteria(gate), {"d0": figures(0.9)})[0] is Verdict.HOLDS


def test_twice_almost_nothing_is_almost_nothing() -> None:
    gate: dict[str, Any] = {"name": "inference_p99_us", "vs": "control", "ratio": 2}
    quick = {"c0": figures(p99=10.0)}
    assert judge(criteria(gate), {"d0": figures(p99=150.0)}, quick)[0] is Verdict.HOLDS
    assert judge(criteria(gate | {"floor": 100}), {"d0": figures(p99=150.0)}, quick)[0] is Verdict.FAILS


def test_strictly_less_is_stricter() -> None:
    gate = {"name": "drift_score", "value": 1.0}
    assert judge(criteria(gate | {"op": "<="}), {"d0": figures(drift=1.0)})[0] is Verdict.HOLDS
    assert judge(criteria(gate | {"op": "<"}), {"d0": figures(drift=1.0)})[0] is Verdict.FAILS


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
    struck = aborting_rule(executions(*states), [msgspec.convert(rule, AbortRule)])
    assert (struck is not None) is strikes


def test_an_abort_rule_says_what_it_saw() -> None:
    rule = msgspec.convert({"failure_type": "FAILED", "min_executed": 2, "threshold_pct": 50}, AbortRule)
    struck = aborting_rule(executions(S.FAILED, S.SUCCEEDED), [rule])
    assert struck == (rule, "1 of 2 ended executions FAILED; the rule allows less than 50 % from 2 on")


@given(trials=st.integers(1, 500), share=st.floats(0, 1), confidence=st.floats(0.5, 0.999))
def test_the_wilson_bound_solves_its_equation(trials: int, share: float, confidence: float) -> None:
    # independent of the closed form: at the bound p, the observed share is z standard errors above p
    bound = wilson_lower_bound(share * trials, trials, confidence)
    assert 0.0 <= bound <= share + 1e-12
    error = math.sqrt(bound * (1 - bound) / trials)
    above = (share - bound) / error if error > 0 else 0.0
    if bound > 1e-9:
        assert math.isclose(0.5 * math.erfc(-above / math.sqrt(2)), confidence, abs_tol=1e-6)
