"""The gate of a candidate: what just reaches a limit passes, and what is wrong is told with its figures."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from msgspec import structs

from aggregator.rounds.gate import GateSettings, check_candidate, check_int8, failed_reasons
from aggregator.rounds.int8_report import Int8Report


def int8_of(error: float, *, lively: float = 0.0, sight: float = 0.6) -> Int8Report:
    return Int8Report(
        output_error=error,
        lively_error=lively,
        sight=sight,
        float_sight=0.6,
        score_error=0.0,
        disagreement=0.0,
        int8_bytes=1,
        float_bytes=4,
        is_per_channel=True,
    )


LIMITS = GateSettings(minimum_improvement=0.05, maximum_alarm_rate=0.01, maximum_int8_error=0.02)


def test_a_good_candidate_passes_every_check() -> None:
    checks = check_candidate(LIMITS, candidate_loss=0.9, champion_loss=1.0, alarm_rate=0.001, threshold=2.0)
    assert failed_reasons((*checks, *check_int8(LIMITS, int8_of(0.001)))) == ()


EXACT = GateSettings(minimum_improvement=0.25, maximum_alarm_rate=0.125, maximum_int8_error=0.5)


def passes(candidate: float, champion: float, alarm_rate: float, int8_error: float) -> dict[str, bool]:
    checks = check_candidate(
        EXACT, candidate_loss=candidate, champion_loss=champion, alarm_rate=alarm_rate, threshold=1.0
    )
    return {check.name: check.is_passed for check in (*checks, *check_int8(EXACT, int8_of(int8_error)))}


def test_what_just_reaches_a_limit_passes_and_what_just_misses_it_does_not() -> None:
    names = ("improvement", "alarm_rate", "int8_error")
    sees = {"int8_sight": True}
    assert passes(0.75, 1.0, 0.125, 0.5) == dict.fromkeys(names, True) | sees
    assert passes(1.5, 2.0, 0.125, 0.5) == dict.fromkeys(names, True) | sees
    assert passes(0.751, 1.0, 0.1251, 0.501) == dict.fromkeys(names, False) | sees


@pytest.mark.parametrize(
    ("candidate", "champion", "gain", "passed"),
    [(0.0, 0.0, 0.0, True), (0.125, 0.0, -np.inf, False), (0.5, 2.0, 0.75, True), (3.0, 2.0, -0.5, False)],
)
def test_the_gain_is_relative_to_the_champion_and_one_without_loss_cannot_be_improved_on(
    candidate: float, champion: float, gain: float, passed: bool
) -> None:
    limits = structs.replace(EXACT, minimum_improvement=0.0)
    check, *_ = check_candidate(
        limits, candidate_loss=candidate, champion_loss=champion, alarm_rate=0.0, threshold=1.0
    )
    assert (check.value, check.limit, check.is_passed) == (max(gain, -sys.float_info.max), 0.0, passed)
    assert ("is enough" in check.reason) is passed


@pytest.mark.parametrize(
    ("rate", "champions", "passed"),
    [(0.02, 0.04, True), (0.02, 0.039, False), (0.01, 0.0, True), (0.6, 1.0, False)],
)
def test_after_a_champion_that_alarms_too_often_one_that_halves_its_alarms_is_let_pass(
    rate: float, champions: float, passed: bool
) -> None:
    _, check = check_candidate(
        GateSettings(),
        candidate_loss=1.0,
        champion_loss=1.0,
        alarm_rate=rate,
        champion_alarm_rate=champions,
        threshold=2.0,
    )
    assert check.is_passed is passed
    assert ("halves the champion's" in check.reason) is (passed and rate > 0.01)


def test_a_check_keeps_what_was_measured_and_against_what() -> None:
    int8, _ = check_int8(EXACT, int8_of(0.25))
    assert (int8.value, int8.limit) == (0.25, 0.5)
    assert int8.reason.endswith("0.25 is within 0.5")
    assert failed_reasons(check_int8(EXACT, int8_of(0.75)))[0].endswith("0.75 exceeds 0.5")


def test_a_bad_candidate_is_told_everything_that_is_wrong() -> None:
    checks = check_candidate(LIMITS, candidate_loss=0.99, champion_loss=1.0, alarm_rate=0.5, threshold=2.0)
    reasons = failed_reasons((*checks, *check_int8(LIMITS, int8_of(0.1))))
    assert len(reasons) == 3
    assert "+1.00% is not enough (at least +5.00%)" in reasons[0]
    assert "0.5 exceeds 0.01" in reasons[1]
    assert "0.1 exceeds 0.02" in reasons[2]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_figure_that_is_not_finite_never_passes(bad: float) -> None:
    checks = check_candidate(LIMITS, candidate_loss=bad, champion_loss=1.0, alarm_rate=bad, threshold=2.0)
    assert not any(check.is_passed for check in (*checks, *check_int8(LIMITS, int8_of(bad, sight=-bad))))
