"""What follows from a study, in sentences: would this help, with what, and what stands in its way.

Differences are said only where they are more than chance: of two counts of alarms in as many windows, the smaller is half of both by chance,
and the exact binomial test says how often it would be as small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import comb
from typing import Final

from simulations.study.notebook import Played
from simulations.study.releases import ALONE, MIXTURE, NETWORK
from simulations.study.studying import Study, Way
from simulations.study.verdicts import Tally, Verdict

__all__ = ["NAMES", "Headline", "Recommendation", "often_in_words", "rate_in_words", "recommend"]

NAMES: Final = {ALONE: "each machine alone", NETWORK: "the shared network", MIXTURE: "the mixture"}
"""What a way is called to people."""

SURE: Final = 0.05
LEAST_BUDGET: Final = 0.01
"""False alarms in 1,000 windows: below this hardly any recording can support a promise."""
MONTH_DAYS, WEEK_DAYS = 30, 7
DAY_S: Final = 86_400.0


class Headline(StrEnum):
    """The answer in one word, and its colour on the page."""

    YES = "good"
    PARTLY = "wait"
    NOT_YET = "bad"


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """`title` is one sentence; `reasons` are more, the most important first."""

    headline: Headline
    title: str
    reasons: tuple[str, ...]


def recommend(study: Study) -> Recommendation:
    """The plain word."""
    best = study.best
    tally, budget = best.tally, study.prepared.settings.budget.alarms_per_1000_windows
    kept = _budget_kept(tally, budget)
    drifted = [pair for pair in zip(best.played, best.int8, strict=True) if _drifts_by_itself(*pair)]
    reasons = [*_compared(study, best), _promise(tally, budget, has_labels=_has_labels(study))]
    reasons += _events(study, tally)
    reasons += _drift(study, len(drifted), len(best.played))
    reasons += _int8(best)
    reasons += _sight(best)
    reasons += _allowed(tally, budget)
    reasons += _unjudged(best)
    reasons += _left_out(study)
    if kept is False and not _has_labels(study):
        headline = Headline.PARTLY
        title = "Perhaps: there would be more alarms than the budget allows, and nobody labelled faults: look whether these are some"
    elif kept is False:
        headline, title = (
            Headline.NOT_YET,
            "Not as it is: there would be more false alarms than the budget allows"
            + (", on machines that have changed" if 2 * len(drifted) > len(best.played) else ""),
        )
    elif kept is None or study.prepared.too_short or 2 * len(drifted) > len(best.played):
        headline, title = Headline.PARTLY, _partly(study, len(drifted), is_known=kept is not None)
    else:
        headline, title = Headline.YES, "Yes: the budget of false alarms is kept on time that was held back"
    return Recommendation(headline=headline, title=title, reasons=tuple(reasons))


def often_in_words(tally: Tally) -> str | None:
    """False alarms of all machines together in a month, a week or a day, the longest that was watched; None: not even a day was."""
    for days, name in ((MONTH_DAYS, "a month"), (WEEK_DAYS, "a week"), (1, "a day")):
        per = tally.per_days(days)
        if per is not None and (tally.watched_s or 0.0) >= days * DAY_S:
            return f"{_number(per)} {name}"
    return None


def rate_in_words(tally: Tally) -> str:
    """How often false alarms come: in time where enough was watched, else in 1,000 windows."""
    per_1000 = tally.per_1000()
    if per_1000 is None:
        return "nothing was judged"
    return often_in_words(tally) or f"{_number(per_1000)} in 1,000 windows"


def _partly(study: Study, drifted: int, *, is_known: bool) -> str:
    short = len(study.prepared.too_short)
    if not is_known:
        return "Perhaps: too little was held back to say whether the budget of false alarms is kept; record for longer"
    if short:
        return f"Yes for {len(study.best.played)} machines; {short} {_have(short)} too few rows"
    return f"Yes, with a person who looks: {drifted} of {len(study.best.played)} machines moved away from where they were learnt"


def _drifts_by_itself(played: Played, verdict: Verdict) -> bool:
    """Did it drift before any labelled fault, which would be a reason?"""
    fault = min((event.first for event in verdict.events), default=len(played.ratios))
    return any(at < fault for at in played.drift_reports)


def _compared(study: Study, best: Way) -> list[str]:
    others = [way for name, way in study.ways.items() if name != best.name]
    if not others or len(study.prepared.subjects) == 1:
        return ["one machine has nobody to learn with: what it can do alone is what is shown"]
    return [_against(way, best, study.prepared.settings.budget.alarms_per_1000_windows) for way in others]


def _against(way: Way, best: Way, budget: float) -> str:
    mine, theirs, name = best.tally, way.tally, NAMES[way.name]
    pair = f"{name} {rate_in_words(theirs)}, {NAMES[best.name]} {rate_in_words(mine)}"
    both = mine.false_alarms + theirs.false_alarms
    seen = f"; labelled faults seen: {theirs.seen} and {mine.seen} of {mine.events}" if mine.events else ""
    if way.sight is not None and best.sight is not None:
        seen += f"; of slight disturbances {way.sight:.0%} and {best.sight:.0%}"
    if mine.false_alarms == theirs.false_alarms:
        return f"false alarms: as many by {name} as by {NAMES[best.name]}{seen}"
    if chance_of_so_few(min(mine.false_alarms, theirs.false_alarms), both) > SURE:
        return f"false alarms: {pair}, a difference that chance can make{seen}"
    if mine.false_alarms < theirs.false_alarms:
        what = "federation" if way.name == ALONE else NAMES[best.name]
        return f"{what} cuts false alarms from {rate_in_words(theirs)} ({name}) to {rate_in_words(mine)} here{seen}"
    if (mine.per_1000() or 0.0) <= budget:
        return f"false alarms: {pair}: more, within the budget, which is there to be spent on seeing{seen}"
    return f"{NAMES[best.name]} does not help here: {pair}{seen}"


def chance_of_so_few(fewer: int, both: int) -> float:
    """How often the smaller of two counts would be so small or smaller if both had one mean, two-sided.

    >>> round(chance_of_so_few(4, 35), 6) < 0.001, chance_of_so_few(2, 5)
    (True, 1.0)
    """
    return min(1.0, float(2 * sum(comb(both, k) for k in range(fewer + 1)) / 2**both))


def _budget_kept(tally: Tally, budget: float) -> bool | None:
    """Is the interval below the budget, or above it? None: it cannot be told, or hardly."""
    low, high, rate = tally.per_1000(tally.low), tally.per_1000(tally.high), tally.per_1000()
    if low is None or high is None or rate is None:
        return None
    if low > budget:
        return False
    return True if high <= budget or (rate <= budget and tally.healthy * budget >= 3000) else None


def _promise(tally: Tally, budget: float, *, has_labels: bool) -> str:
    if not tally.healthy:
        return "no window of the held-back time was judged"
    low, high = (tally.per_1000(end) or 0.0 for end in (tally.low, tally.high))
    said = (
        f"{tally.false_alarms} false alarms in {tally.healthy:,} held-back windows: {_number(tally.per_1000() or 0)} in 1,000"
        f" ({_number(low)} to {_number(high)}), where the budget is {budget:g}"
    )
    if not has_labels:
        said += "; nobody labelled faults, so each alarm counts as false, and some may be true: look at the worst windows in the report"
    if tally.time_in_alarm > 0.05:
        said += f"; but {tally.time_in_alarm:.0%} of the healthy time was spent in alarm"
    return said


def _events(study: Study, tally: Tally) -> list[str]:
    if not tally.events:
        labelled = _has_labels(study)
        return ["labels say that no fault lies in the held-back time"] if labelled else []
    said = f"labelled faults in the held-back time that were seen: {tally.seen} of {tally.events}"
    if tally.median_delay is not None:
        said += f", the median after {tally.median_delay:g} windows"
    if tally.opened < tally.seen:
        said += f"; {tally.seen - tally.opened} of them while an alarm was open already"
    learnt = [
        subject.name
        for subject in study.prepared.subjects
        if subject.labels is not None and (subject.labels[: subject.learning] == 1).any()
    ]
    if learnt:
        said += f". Faults lie in the learning time of {_listed(learnt)}: they were learnt as normal"
    return [said]


def _drift(study: Study, drifted: int, machines: int) -> list[str]:
    best = study.best
    if not any(one.drift_reports for one in best.played):
        return ["no machine drifted from where it was learnt"]
    if not drifted:
        return ["no machine drifted from where it was learnt before a labelled fault began"]
    away = sum(one.away for one in best.played) / max(sum(one.judged for one in best.played), 1)
    said = f"{drifted} of {machines} machines drifted by themselves; all were away for {away:.0%} of the held-back time: an agent says so once,"
    return [
        f"{said} learns nothing of it by itself, and promises nothing there until a person calls it normal or mends the machine"
    ]


def _int8(best: Way) -> list[str]:
    whole, floats = best.tally, best.float_tally
    if whole.false_alarms == floats.false_alarms and whole.seen == floats.seen:
        return ["int8 costs nothing: the same alarms as in float"]
    seen = f", and {whole.seen} events for {floats.seen}" if whole.events else ""
    return [f"int8 gives {whole.false_alarms} false alarms for {floats.false_alarms} in float{seen}"]


def _sight(best: Way) -> list[str]:
    known = [one.sight for one in best.played if one.sight is not None]
    if best.sight is None:
        return []
    said = f"of slight disturbances, one sensor off by three of its deviations in one window, agents would see {best.sight:.0%}"
    return [f"{said}; the least on one machine {min(known):.0%}"]


def _allowed(tally: Tally, budget: float) -> list[str]:
    """What the budget is in time, where that is known."""
    if not tally.watched_s or not tally.healthy:
        return []
    windows = MONTH_DAYS * DAY_S * tally.healthy / tally.watched_s
    allowed = budget * windows / 1000
    if allowed < 1.5:
        return []
    said = f"the budget allows each machine {_number(allowed)} false alarms a month"
    if 1000 / windows >= LEAST_BUDGET:
        return [f"{said}; for one, ask for --alarms-per-1000 {1000 / windows:.2g}"]
    return [f"{said}: windows come so often that rows averaged over longer would serve you better"]


def _unjudged(best: Way) -> list[str]:
    lacking = {
        one.machine: int(len(one.ratios) - one.judged) for one in best.played if one.judged < len(one.ratios)
    }
    if not lacking:
        return []
    worst = max(lacking, key=lambda name: lacking[name])
    said = f"{sum(lacking.values()):,} held-back windows could not be judged, most of them of {worst} ({lacking[worst]:,})"
    return [f"{said}: more than half of their sensors were missing, or the agent was still commissioning"]


def _left_out(study: Study) -> list[str]:
    short, machines = study.prepared.too_short, len(study.prepared.reading.machines)
    if not short:
        return []
    return [
        f"{len(short)} of {machines} machines {_have(len(short))} too few rows: "
        + "; ".join(one.said for one in short[:3])
    ]


def _has_labels(study: Study) -> bool:
    return any(subject.labels is not None for subject in study.prepared.subjects)


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
