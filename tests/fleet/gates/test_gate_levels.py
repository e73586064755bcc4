"""Whatever the order of events, a rollout spends no more than its plan permits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.gates.looks import extension_time, levels, look_times
from fleet.gates.plan import GatePlan, Metric


@given(st.integers(1, 20), st.floats(1, 30 * 86400), st.integers(1, 9), st.floats(0.001, 0.5))
def test_all_tests_at_all_looks_in_all_groups_together_spend_what_a_plan_permits(
    groups: int, soak_s: float, metrics: int, false_stop: float
) -> None:
    plan = GatePlan(metrics=tuple(Metric)[:metrics], false_stop=false_stop)
    looks = len(look_times(soak_s))
    spent = 0.0
    for group in range(groups):
        soak = sum(levels(plan, group, groups, number=k, of=looks).test for k in range(1, looks + 1))
        after = sum(
            levels(plan, group, groups, number=looks, of=looks, extension=k).test for k in range(1, 40)
        )
        found = levels(plan, group, groups, number=looks, of=looks)
        assert soak == pytest.approx(found.soak)
        assert 2 * found.placebo <= found.soak * 1.0001
        assert soak + after <= found.process * 1.0001  # an e-value spends the same, once for all
        spent += metrics * found.process
    assert spent == pytest.approx(false_stop)


def test_half_is_the_canarys() -> None:
    plan = GatePlan()
    assert levels(plan, 0, 3).process == pytest.approx(2 * levels(plan, 1, 3).process)
    assert levels(plan, 0, 1).process == pytest.approx(0.05 / 9)


@given(st.floats(0.01, 30 * 86400))
def test_looks_are_a_health_interval_apart_and_end_with_the_soak(soak_s: float) -> None:
    times = look_times(soak_s)
    assert times[-1] == pytest.approx(soak_s)
    assert 1 <= len(times) <= 6
    assert len(times) == 1 or min(b - a for a, b in zip((0.0, *times), times, strict=False)) >= 29.9
    assert extension_time(soak_s, 1) == pytest.approx(2 * soak_s)


def test_no_soak_has_no_look() -> None:
    assert look_times(0) == ()


@pytest.mark.parametrize(
    "wrong", [{"group": 3}, {"group": -1}, {"number": 0}, {"number": 7}, {"extension": -1}]
)
def test_a_look_that_there_is_not_is_refused(wrong: dict[str, int]) -> None:
    asked = {"group": 0, "groups": 3, "number": 1, "of": 6, "extension": 0} | wrong
    with pytest.raises(ValueError, match=r"from 0|from 1"):
        levels(GatePlan(), asked.pop("group"), asked.pop("groups"), **asked)
