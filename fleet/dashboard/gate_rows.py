"""What a look of the gates saw, as rows that a page shows: each metric's interval in units of the harm that matters to it.

Pure. The numbers are those of the API (`fleet.views.rollouts.AnswerView`), the margins those that the gates themselves ask for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from fleet.dashboard.charts.intervals import Shown, draw_interval, draw_looks
from fleet.gates import words
from fleet.gates.answers import Finding
from fleet.gates.changes import MARGINS, Kind
from fleet.gates.plan import Metric
from fleet.views.rollouts import AnswerView, LookView

__all__ = ["MEANINGS", "GateRow", "gate_rows", "in_harm", "look_charts", "shown_of"]

MEANINGS: Final[dict[str, str]] = {
    Finding.STOP: "Harm, beyond what chance explains. Every device goes back, and the release is withdrawn.",
    Finding.PAUSE: "Unusual, or no evidence at all. A person decides; nothing is withdrawn.",
    Finding.PASS: "Harm of the size that matters is excluded, for every metric. The next group follows.",
    Finding.NOT_SEEN: "Neither harm nor its absence can be said. It is watched on until the soak ends.",
}
"""What follows from a finding, for people."""

TONES: Final[dict[str, str]] = {
    Finding.STOP: "bad",
    Finding.PAUSE: "wait",
    Finding.PASS: "good",
    Finding.NOT_SEEN: "off",
}


@dataclass(frozen=True, kw_only=True)
class GateRow:
    """One gate at one look: its name, finding and words, the drawing, and whom it compared."""

    name: str
    finding: str
    reason: str
    limit: str
    chance: str
    compared: str
    drawing: Markup


def gate_rows(look: LookView) -> list[GateRow]:
    """A row for each metric, those that need a person first."""
    order = {finding: number for number, finding in enumerate(TONES)}
    return [_row(answer) for answer in sorted(look.answers, key=lambda answer: order[answer.finding])]


def _row(answer: AnswerView) -> GateRow:
    metric = Metric(answer.metric)
    name = words.NAMES[metric]
    shown = shown_of(answer)
    size = _size(metric, answer)
    return GateRow(
        name=name,
        finding=answer.finding,
        reason=answer.reason.removeprefix(f"{name}: "),
        limit=words.harm(metric) if metric in MARGINS else "",
        chance=_chance(answer),
        compared=_compared(answer),
        drawing=draw_interval(shown, title=name, description=size or answer.reason),
    )


def look_charts(looks: Sequence[LookView]) -> list[tuple[str, Markup]]:
    """For each metric that was ever measured: its name, and its intervals over `looks`, the oldest first."""
    charts = []
    for metric in Metric:
        seen = [
            (f"{look.number}", shown_of(answer))
            for look in looks
            for answer in look.answers
            if answer.metric == metric
        ]
        if metric in MARGINS and any(shown is not None for _, shown in seen):
            name = words.NAMES[metric]
            said = f"{len(seen)} looks; the last: {next(a.reason for a in looks[-1].answers if a.metric == metric)}"
            charts.append((name, draw_looks(seen, title=name, description=said)))
    return charts


def shown_of(answer: AnswerView) -> Shown | None:
    """The interval in units of the harm that matters; None where the metric has none, or nothing can be said."""
    metric = Metric(answer.metric)
    if metric not in MARGINS or (answer.effect, answer.low, answer.high) == (None, None, None):
        return None
    margins = MARGINS[metric]
    ends = sorted(
        (
            in_harm(metric, -math.inf if answer.low is None else answer.low),
            in_harm(metric, math.inf if answer.high is None else answer.high),
        )
    )
    return Shown(
        low=ends[0],
        middle=math.nan if answer.effect is None else in_harm(metric, answer.effect),
        high=ends[1],
        tone=TONES[answer.finding],
        # what is forgiven is a share of what matters, on the axis of this metric
        stop=_share(metric, margins.stop if answer.controls else margins.alone),
    )


def in_harm(metric: Metric, effect: float) -> float:
    """An effect as it is shown (a factor, or a difference) in units of the harm that matters: 0 none, 1 so much, negative is better.

    >>> round(in_harm(Metric.ANOMALY_RATE, 2.0), 6), in_harm(Metric.SIGHT, -0.05), round(in_harm(Metric.ANOMALY_LOSS, 0.5), 6)
    (1.0, 0.5, 1.0)
    """
    margins = MARGINS[metric]
    if margins.kind is Kind.DIFFERENCE:
        return (-effect if metric is Metric.SIGHT else effect) / margins.passing
    # a factor of nothing, or less, is as small as a factor can be
    log = math.log(effect) if effect > 0 else -math.inf
    return (-log if margins.kind is Kind.FEWER else log) / math.log(margins.passing)


def _share(metric: Metric, margin: float) -> float:
    margins = MARGINS[metric]
    if margins.kind is Kind.DIFFERENCE:
        return margin / margins.passing
    return math.log(margin) / math.log(margins.passing)


def _size(metric: Metric, answer: AnswerView) -> str:
    if metric not in MARGINS or answer.effect is None:
        return ""
    low = -math.inf if answer.low is None else answer.low
    high = math.inf if answer.high is None else answer.high
    return f"{words.effect(metric, answer.effect)}, {words.between(metric, low, high)}"


def _chance(answer: AnswerView) -> str:
    if answer.p is None or answer.level is None:
        return "no test could be made: too few devices" if answer.metric in MARGINS else ""
    return f"p {words.probability(answer.p)}, stops below {words.probability(answer.level)}"


def _compared(answer: AnswerView) -> str:
    canaries = words.devices(answer.canaries)
    if not answer.controls:
        return f"{canaries}, against their own past alone"
    return f"{canaries} against {words.devices(answer.controls, 'control')}"
