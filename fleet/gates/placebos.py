"""One or two canaries, too few for a test: compared with every device in past hours of the fleet.

A canary is unusual where hardly any device in any hour changed as much, each less the middle of its hour. That finds what a
release breaks; but one machine that breaks by itself looks the same, so a person decides: PAUSE, never STOP.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fleet.gates import words
from fleet.gates.answers import Answer, Finding
from fleet.gates.arms import Arms, Placebos
from fleet.gates.changes import MARGINS, change, plain_change
from fleet.gates.looks import Look
from fleet.gates.plan import Metric

__all__ = ["FEW", "compare_with_past", "pool_of"]

Floats = NDArray[np.float64]

FEW: Final = 2
"""Up to so many canaries are compared with past hours."""


def pool_of(metric: Metric, arms: Arms, placebos: Placebos) -> Floats:
    """(k,) changes of devices that did not have the release, each less the median of its hour: controls now, and all before."""
    now = plain_change(metric, arms.before, arms.after)[~arms.is_canary]
    past = plain_change(metric, placebos.before, placebos.after)
    parts = [_centred(now)] + [_centred(past[placebos.block == block]) for block in np.unique(placebos.block)]
    return np.concatenate(parts)


def _centred(changes: Floats) -> Floats:
    known = changes[np.isfinite(changes)]
    return known - np.median(known) if len(known) else known


def compare_with_past(metric: Metric, arms: Arms, placebos: Placebos, look: Look) -> Answer:
    """PAUSE where a canary alone is more unusual than chance explains, else NOT_SEEN. Asked at two looks of the soak."""
    name = words.NAMES[metric]
    now = plain_change(metric, arms.before, arms.after)
    controls = now[~arms.is_canary & np.isfinite(now)]
    middle = float(np.median(controls)) if len(controls) else 0.0
    lots = np.full(len(now), 0.5)  # nobody is thinned: it is canaries that are looked at
    forgiven = change(metric, arms.before, arms.after, MARGINS[metric].stop, arms.runs_it, lots) - middle
    canaries = np.flatnonzero(arms.runs_it & np.isfinite(forgiven))
    pool = pool_of(metric, arms, placebos)
    worst = int(canaries[np.argmax(forgiven[canaries])])
    as_unusual = int((pool >= forgiven[worst]).sum())
    p = min(1.0, len(canaries) * (1 + as_unusual) / (1 + len(pool)))
    device = arms.devices[worst]
    level = look.levels.placebo
    is_unusual = look.is_of_placebos and p <= level
    if is_unusual:
        reason = (
            f"{device} alone is unusual ({1 + as_unusual} of {1 + len(pool)} device-hours);"
            " one machine cannot be told from a release"
        )
    else:
        reason = f"{device} is not unusual ({1 + as_unusual} of {1 + len(pool)} device-hours are like it)"
        if len(canaries) / (1 + len(pool)) > level:
            reason = (
                f"{words.devices(1 + len(pool), 'device-hour')} are too few to call {device} unusual;"
                f" {int(len(canaries) / level) + 1} would do"
            )
    return Answer(
        metric=metric,
        finding=Finding.PAUSE if is_unusual else Finding.NOT_SEEN,
        reason=f"{name}: {reason}",
        p=p,
        level=level,
        canaries=len(canaries),
        controls=len(controls),
    )
