"""When a group has succeeded and when a release does harm: every rule with its reason in words."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.rollouts.counts import Outcome
from fleet.rollouts.limits import TOLERANCE, judge_limits, wilson_lower_bound
from fleet.rollouts.plans import Limit, SuccessCriteria
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


def criteria(**changes: Any) -> SuccessCriteria:
    return msgspec.convert(changes, SuccessCriteria)


def judge(
    limits: list[dict[str, Any]], after: dict[str, Figures], before: Figures | None = None, **rule: Any
) -> tuple[Outcome, str]:
    treated = executions(*[S.SUCCEEDED] * len(after), before=before)
    judgement = judge_limits(
        msgspec.convert(limits, list[Limit]),
        criteria(**rule),
        treated,
        {DeviceId(d): f for d, f in after.items()},
    )
    return judgement.outcome, judgement.reason


RATE = {"metric": "anomaly_rate", "op": "<=", "value": 0.2}


def test_one_alarming_device_is_not_hidden_by_well_ones() -> None:
    outcome, reason = judge([RATE], {"d0": figures(0.0), "d1": figures(0.0), "d2": figures(0.9)})
    assert outcome is Outcome.FAILS
    assert reason == "anomaly_rate <= 0.2 fails on d2: 0.9 against 0.2"


def test_a_rate_that_chance_explains_does_not_fail() -> None:
    assert judge([RATE], {"d0": figures(0.3, windows=10)})[0] is Outcome.HOLDS
    assert judge([RATE], {"d0": figures(0.3, windows=1000)})[0] is Outcome.FAILS


def test_a_machine_that_was_broken_before_does_not_condemn_the_release() -> None:
    broken = figures(0.6)
    assert judge([RATE], {"d0": figures(0.65)}, before=broken)[0] is Outcome.HOLDS
    outcome, reason = judge([RATE], {"d0": figures(1.0)}, before=broken)
    assert outcome is Outcome.FAILS
    assert "its own 0.6 before" in reason
    assert judge([RATE], {"d0": figures(1.0)}, before=figures(0.9))[0] is Outcome.FAILS


@pytest.mark.parametrize(("windows", "reports"), [(9, 5), (0, 5)])
def test_too_few_windows_are_no_evidence(windows: int, reports: int) -> None:
    assert judge([RATE], {"d0": figures(1.0, windows=windows)})[0] is Outcome.UNDECIDED


def test_too_few_reports_are_no_evidence() -> None:
    outcome, reason = judge([RATE], {"d0": figures(0.0)}, min_reports=6)
    assert outcome is Outcome.UNDECIDED
    assert reason == "1 of 1 devices have not shown enough health on the release yet (d0)"


def test_strictly_less_is_stricter() -> None:
    limit = {"metric": "drift_score", "value": 1.0}
    assert judge([limit | {"op": "<="}], {"d0": figures(drift=1.0)})[0] is Outcome.HOLDS
    assert judge([limit | {"op": "<"}], {"d0": figures(drift=1.0)})[0] is Outcome.FAILS


@given(trials=st.integers(1, 500), share=st.floats(0, 1), confidence=st.floats(0.5, 0.999))
def test_the_wilson_bound_solves_its_equation(trials: int, share: float, confidence: float) -> None:
    # independent of the closed form: at the bound p, the observed share is z standard errors above p
    bound = wilson_lower_bound(share * trials, trials, confidence)
    assert 0.0 <= bound <= share + 1e-12
    error = math.sqrt(bound * (1 - bound) / trials)
    above = (share - bound) / error if error > 0 else 0.0
    if bound > 1e-9:
        assert math.isclose(0.5 * math.erfc(-above / math.sqrt(2)), confidence, abs_tol=1e-6)


# --- each limit on both sides, each reason in words -----------------------------------------------------------------------------


def test_two_reports_and_ten_windows_are_enough_evidence_and_fewer_are_none() -> None:
    def outcome(reports: int, windows: int) -> Outcome:
        shown = Figures(
            reports=reports, windows=windows, windows_over=0, inference_p99_us=1.0, drift_score=9.0
        )
        return judge([{"metric": "drift_score", "value": 1.0}], {"d0": shown})[0]

    assert outcome(2, 10) is Outcome.FAILS
    assert outcome(1, 10) is outcome(2, 9) is Outcome.UNDECIDED


def test_the_share_that_may_fail_may_also_be_silent_and_three_of_them_are_named() -> None:
    limits = [{"metric": "drift_score", "value": 1.0}]
    silent = figures(windows=0)
    shown = {f"d{n}": figures() if n < 3 else silent for n in range(5)}
    assert judge(limits, shown, threshold_pct=60) == (Outcome.HOLDS, "drift_score <= 1")
    outcome, reason = judge(limits, shown | {"d2": silent}, threshold_pct=60)
    assert outcome is Outcome.UNDECIDED
    assert reason == "3 of 5 devices have not shown enough health on the release yet (d2, d3, d4)"
    assert judge(limits, shown | {"d2": silent, "d1": silent}, threshold_pct=60)[1].endswith(
        "(d1, d2, d3, …)"
    )
    assert judge([], {"d0": silent}) == (Outcome.HOLDS, "no limit is set")


def test_the_first_limit_that_fails_decides_and_all_that_hold_are_named() -> None:
    drift, slow = {"metric": "drift_score", "value": 1.0}, {"metric": "inference_p99_us", "value": 50.0}
    shown = {"d0": figures(p99=100.0, drift=2.0)}
    assert judge([drift, slow], shown)[1].startswith("drift_score <= 1 fails on d0: 2 against 1")
    assert judge([slow, drift], shown)[1].startswith("inference_p99_us <= 50 fails on d0: 100 against 50")
    assert judge([drift, slow], {"d0": figures(p99=50.0, drift=1.0)}) == (
        Outcome.HOLDS,
        "drift_score <= 1, inference_p99_us <= 50",
    )


@pytest.mark.parametrize(
    ("before", "after", "outcome"),
    [
        (4.0, 5.0, Outcome.HOLDS),  # a quarter more than it showed before
        (4.0, 5.001, Outcome.FAILS),
        (1.0, 1.0, Outcome.HOLDS),  # at the value itself: held to the value
        (1.0, 1.001, Outcome.FAILS),
        (0.5, 1.001, Outcome.FAILS),
    ],
)
def test_a_device_that_was_beyond_the_value_may_get_a_quarter_worse(
    before: float, after: float, outcome: Outcome
) -> None:
    assert TOLERANCE == 1.25
    limits = [{"metric": "drift_score", "value": 1.0}]
    assert judge(limits, {"d0": figures(drift=after)}, before=figures(drift=before))[0] is outcome
    no_evidence = figures(windows=0, drift=before)
    assert (judge(limits, {"d0": figures(drift=after)}, before=no_evidence)[0] is Outcome.HOLDS) is (
        after <= 1.0
    )


def test_a_rate_is_allowed_half_the_way_to_one_where_a_quarter_more_would_pass_it() -> None:
    # Before, 0.8: a quarter more is 1.0, half-way to 1 is 0.9.
    outcome, reason = judge([RATE], {"d0": figures(1.0)}, before=figures(0.8))
    assert (outcome, "1 against 0.9 (its own 0.8 before, and tolerance)" in reason) == (Outcome.FAILS, True)
    assert judge([RATE], {"d0": figures(0.9)}, before=figures(0.8))[0] is Outcome.HOLDS
    # Before, 0.4: a quarter more is 0.5, and half-way to 1 would be 0.7.
    assert "against 0.5 " in judge([RATE], {"d0": figures(0.9)}, before=figures(0.4))[1]


def test_a_strict_limit_of_zero_is_held_by_zero() -> None:
    limits = [{"metric": "drift_score", "op": "<", "value": 0.0}]
    assert judge(limits, {"d0": figures(drift=0.0)})[0] is Outcome.HOLDS
    assert judge(limits, {"d0": figures(drift=0.001)})[0] is Outcome.FAILS


def test_a_device_that_judged_no_window_has_alarmed_in_none() -> None:
    assert figures(0.0, windows=0).anomaly_rate == 0.0
    assert figures(0.25, windows=8).anomaly_rate == 0.25


def test_the_wilson_bound_of_nothing_is_nothing_and_of_all_is_below_one() -> None:
    assert wilson_lower_bound(0, 0, 0.95) == 0.0
    assert wilson_lower_bound(0, 100, 0.95) == 0.0
    assert wilson_lower_bound(10, 10, 0.95) == pytest.approx(0.787, abs=5e-4)
    assert wilson_lower_bound(12, 10, 0.95) == wilson_lower_bound(10, 10, 0.95)
    assert wilson_lower_bound(50, 100, 0.95) == pytest.approx(0.419, abs=5e-4)
