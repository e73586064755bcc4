"""Restarts, crashes and silence at one look: `events` says how sure, here is what follows."""

from __future__ import annotations

from typing import Final

import numpy as np

from fleet.gates import words
from fleet.gates.answers import Answer, Finding
from fleet.gates.arms import Arms
from fleet.gates.events import HARMED_SHARE, binomial_tail, history_e, logrank_e, time_at_risk, upper_hazard
from fleet.gates.looks import Look
from fleet.gates.plan import Metric

__all__ = ["judge_restarts"]

_LEAST_CANARIES: Final = 2
_CONTROLS_AGREE: Final = 10.0


def judge_restarts(arms: Arms, look: Look, warm_up_s: float) -> Answer:
    """STOP where two canaries or more have their first event far sooner than the fleet's past and the controls explain.

    A device that fell silent while it warmed up has its first event when its span begins: a crash is no transient. So the past is
    asked about the `warm_up_s` seconds, too. PAUSE where there are no controls.
    """
    hours, has_event = time_at_risk(arms.after)
    known = np.isfinite(hours)
    canaries, controls = known & arms.runs_it, known & ~arms.is_canary
    events, watched = int((has_event & canaries).sum()), float((hours[canaries] + warm_up_s / 3600).sum())
    others, others_watched = int((has_event & controls).sum()), float(hours[controls].sum())
    hazard = upper_hazard(arms.hazard_events, arms.hazard_hours)
    past = history_e(events, watched, hazard) if np.isfinite(hazard) else 1.0
    has_controls = bool(controls.any())
    against = logrank_e(hours, has_event, arms.is_canary) if has_controls else 1.0
    level = look.levels.process
    agreed = against >= _CONTROLS_AGREE or not has_controls
    count = int(canaries.sum())
    seen = (
        f"{words.devices(events)} of {count} in {watched:.3g} device-hours,"
        f" {others} of {words.devices(int(controls.sum()), 'control')} in {others_watched:.3g}"
    )
    finding = Finding.NOT_SEEN
    if events >= _LEAST_CANARIES and past >= 1 / level and agreed:
        # a power cut, or a broker that is away, looks the same where nobody is left who would have shown it, too
        finding = Finding.STOP if has_controls else Finding.PAUSE
        reason = f"{seen}; the fleet's past explains so many with p {words.probability(words.p_of_e(past))} (level {words.probability(level)})"
        if not has_controls:
            reason += f" ({words.BEFORE_AND_AFTER})"
    elif look.is_last and binomial_tail(events, count, HARMED_SHARE) <= look.levels.passing:
        finding = Finding.PASS
        reason = f"{seen}; that {100 * HARMED_SHARE:.0f} % of devices are harmed within the soak is excluded"
    else:
        reason = seen
        if look.is_last:
            reason += (
                f"; that {100 * HARMED_SHARE:.0f} % of devices are harmed within the soak is not excluded"
            )
    ratio = _ratio(events, watched, others, others_watched)
    return Answer(
        metric=Metric.RESTARTS,
        finding=finding,
        reason=f"{words.NAMES[Metric.RESTARTS]}: {reason}",
        effect=ratio,
        p=words.p_of_e(past),
        level=level,
        canaries=count,
        controls=int(controls.sum()),
    )


def _ratio(events: int, hours: float, others: int, others_hours: float) -> float | None:
    if hours <= 0 or others_hours <= 0 or events + others == 0:
        return None
    return ((events + 0.5) / hours) / ((others + 0.5) / others_hours)
