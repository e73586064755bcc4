"""The last group where no control is left: every device against its own past, and nothing else.

Whatever changed in between is taken for the release, so the margins are wider and every answer says so.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fleet.gates import words
from fleet.gates.answers import Answer, Finding
from fleet.gates.arms import Arms
from fleet.gates.changes import MARGINS, Kind, change, counts, exposure_ratio, plain_change
from fleet.gates.intervals import Interval, interval_alone
from fleet.gates.looks import Look
from fleet.gates.plan import Metric
from fleet.gates.signed_ranks import least_signed_p, signed_rank_p
from fleet.gates.thinning import lots_of, thin

__all__ = ["compare_alone"]

Floats = NDArray[np.float64]


def compare_alone(metric: Metric, arms: Arms, look: Look) -> Answer:
    """STOP, PASS or NOT_SEEN by signed ranks of all devices of `arms`, canaries all."""
    margins = MARGINS[metric]
    harm = _harm(metric, arms, margins.alone)
    known = int(np.isfinite(harm).sum())
    p, level = signed_rank_p(harm), look.levels.test
    can_stop = least_signed_p(known) <= level
    interval = _interval(metric, arms)
    if interval is None:
        return Answer(
            metric=metric,
            finding=Finding.NOT_SEEN,
            reason=f"{words.NAMES[metric]}: no canary told enough yet ({words.BEFORE_AND_AFTER})",
        )
    effect, low, high = words.as_effect(metric, interval)
    if can_stop and p <= level:
        finding = Finding.STOP
        reason = (
            f"{words.at_least(metric, effect, low, high)} against own past, {words.devices(known)};"
            f" p {words.probability(p)} (level {words.probability(level)}), {look.name}"
        )
    elif look.is_last and signed_rank_p(-_harm(metric, arms, margins.passing)) <= look.levels.passing:
        finding = Finding.PASS
        reason = f"{words.between(metric, low, high)}; {words.harm(metric)} is excluded"
    else:
        finding = Finding.NOT_SEEN
        reason = f"{words.between(metric, low, high)}; {words.harm(metric)} is not excluded"
    return Answer(
        metric=metric,
        finding=finding,
        reason=f"{words.NAMES[metric]}: {reason} ({words.BEFORE_AND_AFTER})",
        effect=words.finite(effect),
        low=words.finite(low),
        high=words.finite(high),
        p=p if can_stop else None,
        level=level if can_stop else None,
        canaries=known,
    )


def _harm(metric: Metric, arms: Arms, margin: float) -> Floats:
    """(n,) change beyond `margin`, of who runs the release. Counts are thinned to equally long spans without the margin, so that either sign is as likely."""
    if MARGINS[metric].kind not in {Kind.MORE, Kind.FEWER}:
        lots = np.full(len(arms.devices), 0.5)
        shift = change(metric, arms.before, arms.after, margin, arms.runs_it, lots)
        return np.where(arms.runs_it, shift, np.nan)
    counted, expected = counts(metric, arms.before, arms.after)
    ratio = exposure_ratio(metric, arms.before, arms.after)
    past = expected / ratio
    is_loss = MARGINS[metric].kind is Kind.FEWER
    now = thin(
        counted, np.minimum(1 / ratio, 1.0) / (1.0 if is_loss else margin), lots_of(arms.devices, "after")
    )
    was = thin(past, np.minimum(ratio, 1.0) / (margin if is_loss else 1.0), lots_of(arms.devices, "before"))
    harm: Floats = 2 * np.sqrt(now + 0.375) - 2 * np.sqrt(was + 0.375)
    return np.where(arms.runs_it, -harm if is_loss else harm, np.nan)


def _interval(metric: Metric, arms: Arms) -> Interval | None:
    if MARGINS[metric].kind is not Kind.MORE:
        return interval_alone(plain_change(metric, arms.before, arms.after)[arms.runs_it])
    counted, expected = counts(metric, arms.before, arms.after)
    found = interval_alone((np.log(counted + 0.5) - np.log(expected + 0.5))[arms.runs_it])
    if found is None:
        return None
    middle, low, high = (float(np.exp(min(value, 700.0))) for value in found)
    return middle, low, high
