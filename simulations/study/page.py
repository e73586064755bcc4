"""The report as one HTML file: no script, no other host, light and dark, for a phone as well; the dashboard's own sheet and charts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.resources import files
from typing import Final

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fleet.dashboard.charts.marks import element
from simulations.study.costs import AGENT_AND_LEARNER_MB, AGENT_MB, name_of_processor, times_on_boards
from simulations.study.drawings import draw_alarms, draw_held_back, draw_worst, values_around
from simulations.study.notebook import Played
from simulations.study.recommendation import NAMES, Recommendation, often_in_words
from simulations.study.studying import Study, Way
from simulations.study.subjects import Subject
from simulations.study.understood import FIRST_DATE_S, columns_of, length_in_words, understood
from simulations.study.verdicts import Tally, Verdict

__all__ = ["LIMITS", "draw_page"]

LIMITS: Final = (
    "It is a replay: the pipeline that is deployed saw these windows in this order, with the clock of the recording.",
    "What it did in the held-back time is what a deployed agent would have done with a release of the learning time.",
    "Time to come may differ from time that was. A rate of rare alarms is known as well as its interval says, and no better.",
    "The first windows of each machine were taken for healthy: a machine that was sick then is sick normally.",
    "Without labels every alarm counts as false. With labels, only what is labelled counts as a fault, and a label may be wrong.",
    "The shared network learnt here without noise and without losing a device; rounds in the field lose some.",
    "Float is the same judges before quantisation: what another alarm would have kept out of learning is not played again.",
)

_ENVIRONMENT: Final = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)


def draw_page(study: Study, recommendation: Recommendation, *, title: str, now_s: float) -> str:
    """The whole page; `title` says what was studied, `now_s` is Unix seconds."""
    prepared, best = study.prepared, study.best
    subjects = prepared.subjects
    has_labels = any(subject.labels is not None for subject in subjects)
    has_clock = often_in_words(best.tally) is not None
    template = (files(__package__) / "page.html").read_text("utf-8")
    sheet = (files("fleet.dashboard") / "assets" / "fedge.css").read_text("utf-8")
    return _ENVIRONMENT.from_string(
        template
    ).render(
        title=title,
        made=datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        sheet=Markup(sheet),  # noqa: S704 - a file of ours
        recommendation=recommendation,
        budget=f"{prepared.settings.budget.alarms_per_1000_windows:g}",
        has_labels=has_labels,
        has_clock=has_clock,
        ways=[row for way in study.ways.values() for row in _way_rows(way, is_best=way is best)],
        alarms_drawing=_alarms_drawing(study),
        ways_said=_ways_said(study),
        understood=understood(prepared),
        columns=list(columns_of(prepared.reading)),
        answers=_answers(prepared.reading.answers),
        best_name=NAMES[best.name].capitalize(),
        machines=[
            _machine(study, subject, played, verdict)
            for subject, played, verdict in sorted(
                zip(subjects, best.played, best.int8, strict=True), key=lambda three: _gravity(*three[1:])
            )
        ],
        too_short=prepared.too_short,
        costs=_costs(study),
        processor=name_of_processor(),
        boards=_boards(study),
        privacy=study.privacy,
        privacy_said=study.privacy.said.capitalize(),
        limits=LIMITS,
    )


def _alarms_drawing(study: Study) -> Markup:
    rates = []
    for way in study.ways.values():
        tally = way.tally
        rate, low, high = (tally.per_1000(count) for count in (None, tally.low, tally.high))
        if rate is not None and low is not None and high is not None:
            rates.append((NAMES[way.name], rate, low, high))
    drawing = draw_alarms(rates, study.prepared.settings.budget.alarms_per_1000_windows)
    return element("figure", drawing, class_="chart")


def _way_rows(way: Way, *, is_best: bool) -> list[dict[str, object]]:
    return [
        _way_row(NAMES[way.name], "int8", way.tally, way.sight, is_best=is_best),
        _way_row("", "float", way.float_tally, None, is_best=False),
    ]


def _way_row(
    name: str, numbers: str, tally: Tally, sight: float | None, *, is_best: bool
) -> dict[str, object]:
    rate, low, high = (tally.per_1000(count) for count in (None, tally.low, tally.high))
    return {
        "name": name,
        "numbers": numbers,
        "is_best": is_best,
        "alarms": f"{tally.false_alarms:,} in {tally.healthy:,}",
        "rate": "?" if rate is None else f"{rate:.2g} ({low:.2g} to {high:.2g})",
        "often": often_in_words(tally) or "",
        "sight": "" if sight is None else f"{sight:.0%}",
        "in_alarm": f"{tally.time_in_alarm:.1%}",
        "seen": f"{tally.seen} of {tally.events}",
        "opened": tally.opened,
        "delay": "" if tally.median_delay is None else f"{tally.median_delay:g}",
    }


def _ways_said(study: Study) -> list[str]:
    averaged, is_fleet = study.releases.averaged, len(study.prepared.subjects) > 1
    how = f"The shared network learnt in {averaged.rounds} rounds of federated averaging"
    said = [
        f"{how}; its loss on windows that nobody trained on fell from {averaged.loss_before:.3g} to {averaged.loss_after:.3g}."
    ]
    if is_fleet:
        said.append(
            "Alone is a fleet of one: a release made of that machine's learning time and nothing else."
        )
    return said


def _gravity(played: Played, verdict: Verdict) -> tuple[float, ...]:
    """Machines that a person should look at first."""
    worst = max((one.ratio for one in played.worst), default=0.0)
    return -verdict.false_alarms, -len(played.alarms), -worst


def _machine(study: Study, subject: Subject, played: Played, verdict: Verdict) -> Mapping[str, object]:
    seen = sum(event.seen_after is not None for event in verdict.events)
    first, last = float(subject.times_s[subject.learning]), float(subject.times_s[-1])
    return {
        "name": subject.name,
        "learning": f"{subject.learning:,}",
        "held_back": f"{played.judged:,}",
        "alarms": verdict.false_alarms,
        "seen": f"{seen} of {len(verdict.events)}",
        "drifts": len(played.drift_reports),
        "away": f"{played.away / max(played.judged, 1):.0%}",
        "sight": "" if played.sight is None else f"{played.sight:.0%}",
        "said": [part for part in (*played.problems, played.promise) if part],
        "brief": f"{len(played.alarms)} alarms, {len(played.drift_reports)} drift reports",
        "span": _span(subject, first, last),
        "drawing": draw_held_back(subject, played, verdict),
        "worst": [
            {
                "title": f"{worst.ratio:.3g} times the threshold",
                "drawing": draw_worst(
                    *values_around(subject, study.prepared.spec, worst, worst.contributors[0]),
                    worst.contributors[0],
                ),
                "said": f"window {worst.window:,} of the held-back time; {', '.join(worst.contributors)}",
            }
            for worst in played.worst
            if worst.contributors
        ],
    }


def _span(subject: Subject, first: float, last: float) -> str:
    if not subject.has_clock:
        return f"{subject.held_back:,} windows"
    if first < FIRST_DATE_S:
        return length_in_words(last - first)
    begin, end = (datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M") for at in (first, last))
    return f"{begin} to {end} UTC"


def _costs(study: Study) -> list[tuple[str, str]]:
    sent, best = study.bytes, study.best
    slowest = max(one.slowest_s for one in best.played)
    said = [
        ("Raw windows", f"{sent.raw:,} bytes as float32"),
        ("Alarms and drift", f"{sent.events:,} bytes, as encoded, each opening with its window"),
    ]
    if sent.health is None or sent.saved is None:
        said.append(("Health", "one message each 30 s; without a clock nobody knows how many"))
    else:
        said.append(("Health", f"{sent.health:,} bytes: one message each 30 s"))
        saved = f"{sent.saved:.1%} of the raw bytes"
        if sent.saved < 0:
            saved += ": health messages weigh more than these windows do. Ask for fewer: [health] every_s"
        said.append(("Saved", saved))
    said += [
        ("Release", f"{study.releases.bytes_of_release:,} bytes, signed, for each device and version"),
        (
            "Time a window",
            f"{_window_us(study):.0f} µs here, measured, one core, the whole pipeline; the longest, in which it learnt, {slowest:.2g} s",
        ),
        (
            "Memory",
            f"{AGENT_MB} MB an agent, {AGENT_AND_LEARNER_MB} MB with its learner: measured in the demo on x86-64, not here",
        ),
        ("This study", f"{length_in_words(study.seconds)}"),
    ]
    return said


def _window_us(study: Study) -> float:
    played = study.best.played
    return sum(one.window_us for one in played) / len(played)


def _boards(study: Study) -> list[Mapping[str, str]]:
    window_s = study.best.int8[0].window_s
    return [
        {
            "name": one.board.name,
            "factor": f"{one.board.slower:g}",
            "window_us": f"{one.window_us:,.0f}",
            "share": "" if one.share is None else f"{one.share:.2%}",
            "memory": f"{AGENT_MB} / {AGENT_AND_LEARNER_MB} of {one.board.memory_mb:,} MB",
        }
        for one in times_on_boards(_window_us(study), window_s)
    ]


def _answers(answers: Mapping[str, str]) -> str:
    return " ".join(f"--answer {shlex.quote(f'{key}={value}')}" for key, value in answers.items())
