"""One metric at one look, canaries compared with controls: STOP, PASS or NOT_SEEN, with interval and reason.

A test exists only where the number of devices could make its p-value small enough; there is no other test to fall back on.
A margin is forgiven to who runs the release, and the arms are as the lot drew them: so the p-value is right whoever puts it off.
Harm as large as matters is excluded by the same test the other way round (Berger, "Multiparameter hypothesis testing
and acceptance sampling", 1982: every metric at the full level, for all have to pass).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fleet.gates import words
from fleet.gates.alone import compare_alone
from fleet.gates.answers import Answer, Finding
from fleet.gates.arms import Arms
from fleet.gates.changes import MARGINS, Kind, change, counts, is_told, plain_change
from fleet.gates.intervals import Interval, interval_of_pairs
from fleet.gates.looks import Look
from fleet.gates.placebos import FEW, compare_with_past
from fleet.gates.plan import Metric
from fleet.gates.ranks import rank_sum_p
from fleet.gates.scores import Scores, least_p, score
from fleet.gates.thinning import lots_of

__all__ = ["compare", "is_applicable"]

Floats = NDArray[np.float64]


def is_applicable(metric: Metric, arms: Arms) -> bool:
    """Whether any device of either arm told this metric before: what nobody measures cannot be judged, nor asked for."""
    return bool(is_told(metric, arms.before).any())


def compare(metric: Metric, arms: Arms, look: Look) -> Answer:
    """What canaries show against controls; without any control, against their own past alone. Not for restarts and verdicts."""
    name = words.NAMES[metric]
    if not is_applicable(metric, arms):
        return Answer(metric=metric, finding=Finding.NOT_SEEN, reason=f"no device told its {name} before")
    if arms.is_canary.all():
        return compare_alone(metric, arms, look)
    scores = _scores(metric, arms, MARGINS[metric].stop)
    told = int((is_told(metric, arms.after) & is_told(metric, arms.before) & arms.runs_it).sum())
    reachable = least_p(scores.sizes, scores.canaries)
    if reachable > look.levels.last and 0 < told <= FEW and arms.placebos is not None:
        return compare_with_past(metric, arms, arms.placebos, look)
    interval = _interval(metric, arms)
    if interval is None:
        missing = (
            "no canary told enough yet"
            if not told
            else "no control of the canaries' hardware and site told it for as long"
        )
        return Answer(metric=metric, finding=Finding.NOT_SEEN, reason=f"{name}: {missing}", canaries=told)
    return _judge(metric, arms, look, scores, reachable, interval)


def _judge(
    metric: Metric, arms: Arms, look: Look, scores: Scores, reachable: float, interval: Interval
) -> Answer:
    canaries = int(scores.canaries.sum())
    controls = len(scores.score) - canaries
    effect, low, high = words.as_effect(metric, interval)
    p, level = rank_sum_p(scores), look.levels.test
    can_stop = reachable <= level
    if can_stop and p <= level:
        finding = Finding.STOP
        reason = (
            f"{words.at_least(metric, effect, low, high)} against own past, {words.devices(canaries)};"
            f" {words.devices(controls, 'control')} {words.effect(metric, _typical(metric, arms))};"
            f" p {words.probability(p)} (level {words.probability(level)}), {look.name}"
        )
    elif look.is_last and rank_sum_p(_passing(metric, arms)) <= look.levels.passing:
        finding = Finding.PASS
        reason = f"{words.between(metric, low, high)}; {words.harm(metric)} is excluded"
    else:
        finding = Finding.NOT_SEEN
        reason = f"{words.between(metric, low, high)}; {words.harm(metric)} is not excluded"
        if look.is_last:
            reason += f". {words.what_would_tell(metric, interval, _hours(arms), canaries)}"
    if not can_stop:
        reason += (
            f". {words.devices(canaries, 'canary')} and {words.devices(controls, 'control')} cannot show harm at level"
            f" {words.probability(level)}: p could not be below {words.probability(reachable)}"
        )
    if aside := int((arms.is_canary & ~arms.runs_it).sum()):
        reason += (
            f". {words.devices(aside)} that do not run it though they were drawn count among the canaries"
        )
    return Answer(
        metric=metric,
        finding=finding,
        reason=f"{words.NAMES[metric]}: {reason}",
        effect=words.finite(effect),
        low=words.finite(low),
        high=words.finite(high),
        p=p if can_stop else None,
        level=level if can_stop else None,
        canaries=canaries,
        controls=controls,
    )


def _scores(metric: Metric, arms: Arms, margin: float) -> Scores:
    harm = change(metric, arms.before, arms.after, margin, arms.runs_it, lots_of(arms.devices))
    return score(harm, arms.is_canary, arms.stratum)


def _passing(metric: Metric, arms: Arms) -> Scores:
    """Scores in which a release is far up that does less harm than the pass margin."""
    margin = MARGINS[metric].passing
    harm = change(metric, arms.before, arms.after, margin, arms.runs_it, lots_of(arms.devices))
    return score(-harm, arms.is_canary, arms.stratum)


def _interval(metric: Metric, arms: Arms) -> Interval | None:
    """On the scale of changes; for counts that may grow, a factor."""
    is_shown = arms.runs_it | ~arms.is_canary
    changes = np.where(is_shown, plain_change(metric, arms.before, arms.after), np.nan)
    if MARGINS[metric].kind is not Kind.MORE:
        return interval_of_pairs(lambda a, c: changes[a] - changes[c], changes, arms.runs_it, arms.stratum)
    counted, expected = counts(metric, arms.before, arms.after)
    root = np.sqrt(expected + 0.375)

    def factor(a: NDArray[np.int64], c: NDArray[np.int64]) -> Floats:
        # at this factor the forgiven change of canary a is that of control c
        like_control = np.maximum(changes[c] / 2 + root[a], 0) ** 2 - 0.375
        with np.errstate(divide="ignore", invalid="ignore"):
            found = counted[a] / np.maximum(like_control, 0)
        return np.where(counted[a] > 0, found, np.where(like_control > 0, 0.0, 1.0))

    return interval_of_pairs(factor, changes, arms.runs_it, arms.stratum)


def _typical(metric: Metric, arms: Arms) -> float:
    """What the controls changed by, as an effect."""
    controls = ~arms.is_canary
    if MARGINS[metric].kind in {Kind.MORE, Kind.FEWER}:
        counted, expected = counts(metric, arms.before, arms.after)
        known = controls & np.isfinite(expected)
        total = float(expected[known].sum())
        return float(counted[known].sum()) / total if total > 0 else math.nan
    changes = plain_change(metric, arms.before, arms.after)[controls]
    middle = float(np.nanmedian(np.where(np.isfinite(changes), changes, np.nan)))
    return words.as_effect(metric, (middle, middle, middle))[0]


def _hours(arms: Arms) -> float:
    """How long the canaries were watched, in the middle."""
    hours = arms.after.hours[arms.runs_it]
    return float(np.median(hours[np.isfinite(hours)])) if np.isfinite(hours).any() else 0.0
