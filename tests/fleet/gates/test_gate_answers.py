"""What a look says of a release, in findings and in words that an operator reads."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from gate_worlds import arms, latency_arms, shown
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fleet.gates.answers import Answer, Finding, LookAnswer
from fleet.gates.arms import Arms, Placebos, Shown
from fleet.gates.belief import believe
from fleet.gates.judge import judge_look
from fleet.gates.plan import GatePlan, Metric

ALL = GatePlan()
LATENCY = GatePlan(metrics=(Metric.LATENCY_P99,))


def last_look(evidence: Arms, plan: GatePlan = ALL, number: int = 6) -> LookAnswer:
    """Of the first of three groups."""
    return judge_look(evidence, plan, group=0, groups=3, number=number, of=6, is_last=number == 6)


def answer(look: LookAnswer, metric: Metric) -> Answer:
    return next(found for found in look.answers if found.metric is metric)


def counted(
    canaries: int, controls: int, over: float, was: float, rng: np.random.Generator, **after: float
) -> Arms:
    """Of 3,600 windows an hour canaries alarm `over` times in the mean, and `was` times before, as controls always do."""
    devices = canaries + controls
    mean = np.where(np.arange(devices) < canaries, over, was)
    return arms(
        canaries,
        controls,
        shown(
            devices,
            hours=4.0,
            windows=14400.0,
            judged=14400.0,
            over=rng.poisson(4 * was, devices).astype(float),
        ),
        shown(
            devices, **{"windows": 3600.0, "judged": 3600.0, "over": rng.poisson(mean).astype(float)} | after
        ),
    )


def test_a_slower_release_is_stopped_with_its_size_its_least_and_whom_it_was_compared_with() -> None:
    found = last_look(latency_arms(20, 60, 1.31, np.random.default_rng(1)), number=2)
    assert found.finding is Finding.STOP
    said = answer(found, Metric.LATENCY_P99)
    assert said.low is not None
    assert said.effect is not None
    assert said.high is not None
    assert 1.2 < said.low < 1.31 < said.high < 1.4
    assert said.reason == found.reason
    assert re.match(
        r"latency: \+3\d % \(at least \+\d\d %\) against own past, 20 devices; 60 controls", said.reason
    )
    assert said.reason.endswith("look 2 of 6")


def test_a_release_without_harm_passes_at_the_end_and_not_before() -> None:
    evidence = latency_arms(20, 60, 1.0, np.random.default_rng(2))
    early = last_look(evidence, LATENCY, number=5)
    assert early.finding is early.answers[0].finding is Finding.NOT_SEEN
    found = last_look(evidence, LATENCY)
    assert found.finding is Finding.PASS
    assert "+20 % is excluded" in answer(found, Metric.LATENCY_P99).reason


def test_what_is_not_excluded_says_what_would() -> None:
    found = last_look(
        counted(5, 60, 2.0, 2.0, np.random.default_rng(3)), GatePlan(metrics=(Metric.ANOMALY_RATE,))
    )
    said = answer(found, Metric.ANOMALY_RATE)
    assert found.finding is said.finding is Finding.NOT_SEEN
    assert "a doubling is not excluded" in said.reason
    assert " h more or " in said.reason or " min more or " in said.reason
    assert "devices would" in said.reason


def test_twice_the_alarms_is_harm_and_none_at_all_is_another() -> None:
    rng = np.random.default_rng(4)
    assert [
        a.metric for a in last_look(counted(20, 100, 72, 36, rng)).answers if a.finding is Finding.STOP
    ] == [Metric.ANOMALY_RATE]
    assert [
        a.metric for a in last_look(counted(20, 100, 0, 36, rng)).answers if a.finding is Finding.STOP
    ] == [Metric.ANOMALY_LOSS]


def test_lost_sight_leaks_drift_and_windows_without_a_score_are_harm() -> None:
    rng = np.random.default_rng(5)
    harmed = np.where(np.arange(60) < 5, 1.0, 0.0)

    def noise(scale: float) -> NDArray[np.float64]:
        return rng.normal(0, scale, 60)

    before = shown(
        60, windows=3600.0, judged=3600.0, sight=0.8, memory_slope=noise(0.01), log_drift=noise(0.1)
    )
    after = shown(
        60,
        windows=3600.0,
        judged=3600.0 - 50 * harmed,
        sight=0.8 + noise(0.02) - 0.6 * harmed,
        memory_slope=noise(0.01) + 0.2 * harmed,
        log_drift=noise(0.1) + 1.5 * harmed,
    )
    found = last_look(arms(5, 55, before, after))
    assert {a.metric for a in found.answers if a.finding is Finding.STOP} == {
        Metric.SIGHT,
        Metric.MEMORY,
        Metric.DRIFT_SCORE,
        Metric.UNJUDGED,
    }
    assert "sight: −6" in answer(found, Metric.SIGHT).reason
    assert "% an hour" in answer(found, Metric.MEMORY).reason


def test_nobody_with_the_release_is_no_evidence_and_never_passes() -> None:
    found = last_look(latency_arms(0, 60, 1.0, np.random.default_rng(6)))
    assert found.finding is Finding.PAUSE
    assert "no evidence" in found.reason


def test_canaries_that_were_never_heard_are_no_evidence() -> None:
    evidence = latency_arms(3, 60, 1.0, np.random.default_rng(7))
    gone = np.where(evidence.is_canary, 0.0, 1.0)
    latency = np.where(evidence.is_canary, np.nan, evidence.after.log_latency)
    evidence = replace(evidence, after=replace(evidence.after, hours=gone, log_latency=latency))
    found = last_look(evidence)
    assert found.finding is Finding.PAUSE
    assert found.reason.startswith("no evidence: none of 3 canaries was heard")
    assert last_look(evidence, number=1).finding is Finding.NOT_SEEN


def test_the_first_release_of_a_fleet_has_nothing_to_be_worse_than() -> None:
    found = last_look(arms(5, 20, shown(25, hours=0.0), shown(25)))
    assert found.finding is Finding.PASS
    assert "nothing to compare with" in found.reason


def test_a_past_that_was_lost_passes_nothing() -> None:
    found = last_look(arms(5, 20, shown(25, hours=0.0), shown(25, windows=3600.0, judged=3600.0)))
    assert found.finding is Finding.NOT_SEEN
    assert "past is known" in found.reason
    # nor where nobody is left who would show that there was one
    alone = last_look(replace(arms(5, 0, shown(5, hours=0.0), shown(5, windows=3600.0)), ran_before=True))
    assert (alone.finding, alone.reason) == (Finding.NOT_SEEN, found.reason)


def test_what_no_device_ever_measured_is_asked_of_nobody_but_what_canaries_stopped_measuring_is() -> None:
    evidence = latency_arms(20, 60, 1.0, np.random.default_rng(8))
    plan = GatePlan(metrics=(Metric.LATENCY_P99, Metric.SIGHT))
    assert last_look(evidence, plan).finding is Finding.PASS
    told = np.where(evidence.is_canary, np.nan, 0.8)
    evidence = replace(
        evidence,
        before=replace(evidence.before, sight=np.full(80, 0.8)),
        after=replace(evidence.after, sight=told),
    )
    found = last_look(evidence, plan)
    assert found.finding is Finding.NOT_SEEN
    assert "sight: no canary told enough yet" in found.reason


def test_too_few_devices_for_a_test_are_told_so_and_nothing_else_is_tried() -> None:
    said = answer(last_look(latency_arms(3, 5, 3.0, np.random.default_rng(9)), LATENCY), Metric.LATENCY_P99)
    assert (said.finding, said.p) == (Finding.NOT_SEEN, None)
    assert "3 canaries and 5 controls cannot show harm" in said.reason


def placebos(hours: int, devices: int, rng: np.random.Generator) -> Placebos:
    rows = hours * devices
    return Placebos(
        block=np.repeat(np.arange(hours), devices),
        before=shown(rows, log_latency=7.0),
        after=shown(rows, log_latency=7.0 + rng.normal(0, 0.05, rows)),
    )


@pytest.mark.parametrize(
    ("canaries", "factor", "finding"), [(1, 2.0, "PAUSE"), (2, 2.0, "PAUSE"), (1, 1.0, "NOT_SEEN")]
)
def test_one_or_two_canaries_are_compared_with_past_hours_and_only_pause(
    canaries: int, factor: float, finding: str
) -> None:
    rng = np.random.default_rng(10)
    evidence = replace(latency_arms(canaries, 30, factor, rng), placebos=placebos(60, 32, rng))
    found = last_look(evidence)
    assert found.finding == finding
    assert "device-hours" in answer(found, Metric.LATENCY_P99).reason
    if factor > 1:
        assert "cannot be told from a release" in found.reason
    assert last_look(evidence, number=2).finding is Finding.NOT_SEEN  # it is no look for placebos


def test_two_canaries_among_many_controls_are_tested() -> None:
    assert last_look(latency_arms(2, 300, 2.0, np.random.default_rng(11)), LATENCY).finding is Finding.STOP


def test_without_a_control_every_answer_says_before_and_after_only() -> None:
    rng = np.random.default_rng(12)
    slower = last_look(latency_arms(40, 0, 1.5, rng), LATENCY)
    assert slower.finding is Finding.STOP
    same = last_look(latency_arms(40, 0, 1.0, rng), LATENCY)
    assert same.finding is Finding.PASS
    little = last_look(latency_arms(40, 0, 1.15, rng), LATENCY)
    assert little.finding is not Finding.STOP  # within the margin of what a season may do
    for look in (slower, same, little):
        assert "before and after only" in look.answers[0].reason


def test_what_a_device_cannot_have_shown_counts_as_not_told() -> None:
    wrong = shown(3, windows=100.0, judged=90.0, over=5.0, sight=0.5, log_latency=7.0)
    broken = replace(
        wrong,
        windows=np.array([100.0, -1.0, np.inf]),
        judged=np.array([900.0, 50.0, 50.0]),
        over=np.array([5000.0, np.nan, 2.0]),
        sight=np.array([1.5, np.nan, 0.5]),
        log_latency=np.array([np.inf, 7.0, -np.inf]),
        hours=np.array([np.nan, -3.0, 1.0]),
    )
    evidence = arms(
        1, 2, wrong, broken, placebos=Placebos(block=np.zeros(3, dtype=np.int64), before=wrong, after=broken)
    )
    believed = believe(evidence)
    for found in (believed.after, believed.placebos.after if believed.placebos else None):
        assert found is not None
        assert found.windows.tolist() == [100.0, 0.0, 0.0]
        assert found.judged.tolist() == [100.0, 0.0, 0.0]
        assert found.over.tolist() == [100.0, 0.0, 0.0]
        assert found.hours.tolist() == [0.0, 0.0, 1.0]
        np.testing.assert_array_equal(found.sight, [np.nan, np.nan, 0.5])
        np.testing.assert_array_equal(found.log_latency, [np.nan, 7.0, np.nan])
    assert believed.before.log_latency.tolist() == [7.0] * 3


def test_one_broken_machine_among_the_canaries_decides_nothing() -> None:
    evidence = latency_arms(20, 60, 1.0, np.random.default_rng(15))
    latency = np.where(np.arange(80) == 0, np.inf, evidence.after.log_latency)
    found = last_look(replace(evidence, after=replace(evidence.after, log_latency=latency)), LATENCY)
    assert found.finding is Finding.PASS
    assert found.answers[0].canaries == 19


NUMBERS = st.floats(allow_nan=True, allow_infinity=True, width=64)


@st.composite
def any_arms(draw: st.DrawFn) -> Arms:
    devices = draw(st.integers(0, 12))
    column = arrays(
        np.float64, devices, elements=st.one_of(NUMBERS, st.sampled_from([0.0, 1.0, 3600.0, np.nan]))
    )

    def span() -> Shown:
        return Shown(**{name: draw(column) for name in Shown.__dataclass_fields__})

    return Arms(
        devices=tuple(f"d{n}" for n in range(devices)),
        is_canary=draw(arrays(np.bool_, devices)),
        stratum=draw(arrays(np.int64, devices, elements=st.integers(0, 2))),
        before=span(),
        after=span(),
        placebos=draw(
            st.none()
            | st.builds(
                lambda a: Placebos(block=np.zeros(devices, dtype=np.int64), before=a, after=a),
                st.just(span()),
            )
        ),
        hazard_events=draw(st.floats(0, 1e6)),
        hazard_hours=draw(st.floats(0, 1e6)),
    )


@settings(max_examples=40)
@given(any_arms(), st.integers(1, 6), st.integers(0, 2))
def test_whatever_devices_tell_a_look_answers_with_finite_figures_and_nobody_passes_without_evidence(
    evidence: Arms, number: int, extension: int
) -> None:
    found = judge_look(
        evidence, GatePlan(), group=1, groups=2, number=number, of=6, is_last=number == 6, extension=extension
    )
    decoded = msgspec.json.decode(msgspec.json.encode(found), type=LookAnswer)
    assert decoded == found
    assert found.reason
    for said in found.answers:
        assert said.reason
        assert all(
            math.isfinite(figure)
            for figure in (said.effect, said.low, said.high, said.p)
            if figure is not None
        )
        assert said.p is None or 0 <= said.p <= 1
    if not evidence.is_canary.any():
        assert found.finding is Finding.PAUSE


def test_the_same_devices_in_another_order_get_the_same_answer() -> None:
    rng = np.random.default_rng(14)
    evidence = counted(10, 50, 40, 36, rng)
    order = rng.permutation(60)

    def reorder(span: Shown) -> Shown:
        return Shown(**{name: getattr(span, name)[order] for name in Shown.__dataclass_fields__})

    shuffled = replace(
        evidence,
        devices=tuple(evidence.devices[row] for row in order),
        is_canary=evidence.is_canary[order],
        stratum=evidence.stratum[order],
        before=reorder(evidence.before),
        after=reorder(evidence.after),
    )
    for first, second in zip(last_look(evidence).answers, last_look(shuffled).answers, strict=True):
        assert (first.finding, first.reason) == (second.finding, second.reason)
        assert first.p == pytest.approx(second.p)
