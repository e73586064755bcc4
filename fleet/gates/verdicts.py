"""What people say of the alarms: whether those of the release are false more often than those before.

An e-value against P(false) ≤ p₀, p₀ the upper 95 % bound of the share that people called false of the alarms before. It bets on three
shares between p₀ and 1. A device has a say of at most three verdicts: who labels one machine's afternoon says one thing, not fifty.
It only pauses, for people label what interests them.

Source: Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86, 2024.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fleet.gates import words
from fleet.gates.answers import Answer, Finding
from fleet.gates.arms import Arms, Shown
from fleet.gates.events import mean_of_exponentials
from fleet.gates.looks import Look
from fleet.gates.plan import Metric

__all__ = ["false_share_bound", "judge_verdicts", "verdicts_e"]

Bools = NDArray[np.bool_]

_SAY: Final = 3.0
_BETS: Final = (0.25, 0.5, 0.75)  # of the way from p₀ to 1
_LEAST_BOUND: Final = 0.1
_UNKNOWN: Final = 0.5
_HIGHEST_BOUND: Final = 0.99  # beyond, all alarms were false before, and cannot be more so
_Z: Final = 1.6449
_LEAST_CANARIES: Final = 2


def _heard(shown: Shown, rows: Bools) -> tuple[float, float]:
    """False and true verdicts of these devices, each of at most `_SAY` a device."""
    wrong, right = shown.false_alarms[rows], shown.true_alarms[rows]
    scale = np.minimum(1.0, _SAY / np.maximum(wrong + right, 1.0))
    return float((wrong * scale).sum()), float((right * scale).sum())


def false_share_bound(before: Shown, after: Shown, is_canary: Bools) -> float:
    """The upper 95 % bound (Wilson) of the share that was called false, without the release; 0.5 where nobody said anything."""
    wrong, right = _heard(before, np.ones(len(before), dtype=np.bool_))
    more_wrong, more_right = _heard(after, ~is_canary)
    wrong, said = wrong + more_wrong, wrong + right + more_wrong + more_right
    if said <= 0:
        return _UNKNOWN
    share = wrong / said
    spread = _Z * math.sqrt(share * (1 - share) / said + _Z * _Z / (4 * said * said))
    bound = (share + _Z * _Z / (2 * said) + spread) / (1 + _Z * _Z / said)
    return max(_LEAST_BOUND, bound)


def verdicts_e(after: Shown, is_canary: Bools, bound: float) -> tuple[float, int]:
    """E-value of what people said of the canaries' alarms, and how many canaries had a false one."""
    wrong, right = _heard(after, is_canary)
    devices = int((after.false_alarms[is_canary] > 0).sum())
    if bound > _HIGHEST_BOUND:
        return 1.0, devices
    bets = [bound + step * (1 - bound) for step in _BETS]
    logs = [wrong * math.log(bet / bound) + right * math.log((1 - bet) / (1 - bound)) for bet in bets]
    return mean_of_exponentials(logs), devices


def judge_verdicts(arms: Arms, look: Look) -> Answer:
    """PAUSE where people call the canaries' alarms false more often than before, on two canaries or more."""
    bound = false_share_bound(arms.before, arms.after, arms.runs_it)
    e_value, devices = verdicts_e(arms.after, arms.runs_it, bound)
    level = look.levels.process
    is_worse = devices >= _LEAST_CANARIES and e_value >= 1 / level
    said = "more often false than before" if is_worse else "not shown to be more often false than before"
    return Answer(
        metric=Metric.VERDICTS,
        finding=Finding.PAUSE if is_worse else Finding.NOT_SEEN,
        reason=(
            f"{words.NAMES[Metric.VERDICTS]}: alarms of {words.devices(devices)} were called false; {said}"
            f" (at most {100 * bound:.0f} % were)"
        ),
        p=words.p_of_e(e_value),
        level=level,
        canaries=devices,
    )
