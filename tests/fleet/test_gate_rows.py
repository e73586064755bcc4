"""A gate as it is drawn: every metric in units of the harm that matters to it, so that 1 is its limit, and better is to the left."""

from __future__ import annotations

import math
import re

import pytest

from fleet.dashboard.charts.intervals import AXIS, Shown, draw_interval, draw_looks
from fleet.dashboard.gate_rows import gate_rows, in_harm, look_charts, shown_of
from fleet.gates.answers import Finding
from fleet.gates.changes import MARGINS
from fleet.gates.plan import Metric
from fleet.views.rollouts import AnswerView, LookView

HARMED = {
    Metric.LATENCY_P99: 1.2,
    Metric.ANOMALY_RATE: 2.0,
    Metric.ANOMALY_LOSS: 0.5,
    Metric.UNJUDGED: 2.0,
    Metric.MEMORY: 0.05,
    Metric.DRIFT_SCORE: 1.5,
    Metric.SIGHT: -0.10,
}
"""What docs/gates.md says a release must be shown not to do, as effects are shown."""


def answer(metric: Metric = Metric.LATENCY_P99, **changes: object) -> AnswerView:
    told: dict[str, object] = {
        "metric": metric,
        "finding": Finding.NOT_SEEN,
        "reason": "latency: why",
        "effect": None,
        "low": None,
        "high": None,
        "p": None,
        "level": None,
        "canaries": 5,
        "controls": 20,
    }
    return AnswerView.model_validate(told | changes)


def look(*answers: AnswerView, number: int = 1) -> LookView:
    return LookView(
        number=number, of=6, at=1.0, finding=Finding.STOP, reason="r", is_last=False, answers=list(answers)
    )


def places(drawing: str, kind: str) -> list[float]:
    """Where the ends of the lines of this class lie, per cent of the width."""
    lines = re.findall(rf'<line class="{kind}" x1="([\d.]+)%" x2="([\d.]+)%"', drawing)
    return [float(end) for line in lines for end in line]


@pytest.mark.parametrize("metric", MARGINS)
def test_the_harm_that_matters_is_one_and_none_is_nought_for_every_metric(metric: Metric) -> None:
    assert in_harm(metric, HARMED[metric]) == pytest.approx(1.0)
    assert in_harm(metric, MARGINS[metric].none) == pytest.approx(0.0)
    better = 1 / HARMED[metric] if MARGINS[metric].none else -HARMED[metric]
    assert in_harm(metric, better) == pytest.approx(-1.0)


@pytest.mark.parametrize("metric", [Metric.SIGHT, Metric.ANOMALY_LOSS, Metric.LATENCY_P99])
def test_an_interval_goes_from_the_least_harm_to_the_most_whichever_way_its_numbers_run(
    metric: Metric,
) -> None:
    harmless, harmful = sorted((HARMED[metric], MARGINS[metric].none), key=lambda one: in_harm(metric, one))
    low, high = min(harmless, harmful), max(harmless, harmful)
    shown = shown_of(answer(metric, effect=harmful, low=low, high=high))
    assert shown is not None
    assert (shown.low, shown.middle, shown.high) == pytest.approx((0.0, 1.0, 1.0))
    assert 0 < (shown.stop or 0) < 1
    unknown = shown_of(answer(metric, effect=harmful, low=low))
    assert unknown is not None
    assert math.inf in {abs(unknown.low), unknown.high}


def test_where_nothing_can_be_said_nothing_is_drawn_but_the_axis() -> None:
    assert shown_of(answer()) is None
    assert shown_of(answer(Metric.RESTARTS, effect=3.0)) is None
    drawing = draw_interval(None, title="latency", description="<nothing>")
    assert "reach" not in drawing
    assert "&lt;nothing&gt;" in drawing
    assert places(drawing, "rule limit")[0] == pytest.approx(100 * AXIS.place(1.0), abs=0.1)


def test_an_end_beyond_the_axis_goes_on_and_is_no_end() -> None:
    drawing = draw_interval(Shown(low=0.5, middle=9.0, high=math.inf, tone="bad"), title="t", description="d")
    assert "›" in drawing
    assert "‹" not in drawing
    assert max(places(drawing, "reach bad")) == 100.0
    many = draw_looks(
        [("1", None), ("2", Shown(low=-9, middle=math.nan, high=9, tone="off"))], title="t", description="d"
    )
    assert "circle" not in many


def test_what_needs_a_person_stands_first_and_metrics_nobody_told_have_no_chart_over_time() -> None:
    bad = answer(Metric.SIGHT, finding=Finding.STOP, effect=-0.2, low=-0.3, high=-0.1, p=1e-5, level=1e-4)
    calm = answer(effect=1.0, low=0.9, high=1.1)
    rows = gate_rows(look(calm, answer(Metric.MEMORY), bad))
    assert [row.name for row in rows] == ["sight", "latency", "memory"]
    assert rows[0].chance == "p .00001, stops below .0001"
    assert rows[1].compared == "5 devices against 20 controls"
    alone = gate_rows(look(answer(controls=0, canaries=1)))[0]
    assert alone.compared == "1 device, against their own past alone"
    charts = look_charts([look(calm, answer(Metric.MEMORY)), look(calm, answer(Metric.MEMORY), number=2)])
    assert [name for name, _ in charts] == ["latency"]
