"""Which of the contenders detects best, out of the fleet's summed score counts.

Losses of a network and of a linear detector are on different scales, and a lower one may mean that a model has learned to copy. What is compared
instead has no scale and needs no label: the probability that a disturbed window scores above an aged one (`models.perturbations`), the area
under the ROC curve. It is called detection power here, 0.5 for a detector that sees nothing.

Who wins: a champion whose published threshold still holds, unless somebody is better by more than one standard error of the difference;
then the others in the order of `CONTENDERS`, each only if it is better than those before by as much: a network has to beat what follows from sums
without training. A champion whose threshold no longer holds has to be replaced in any case, if only by itself under a new threshold,
so it comes last in the order. The standard error is that of two independent samples. The contenders score the same windows, which makes it an upper
bound: a small fleet stays with the order more often than it would have to.

Pure; nothing but sums goes in. Not the limits of the gate (`gate`), which judges the winner.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from aggregator.errors import SumError
from aggregator.rounds.assessment import alarm_rate
from aggregator.rounds.runs import ContestRecord
from protocol.questions import CONTENDERS, contest_layout

__all__ = ["detection_power", "judge_contest"]

Counts = NDArray[np.floating]


def detection_power(aged: Counts, disturbed: Counts) -> float:
    """Probability that a disturbed window scores above an aged one, from SCORE_GRID counts; equal bins count half.

    >>> detection_power(np.array([2.0, 2.0, 0.0]), np.array([0.0, 2.0, 2.0]))
    0.875
    """
    below = np.cumsum(aged) - aged / 2
    return float(disturbed @ below / (aged.sum() * disturbed.sum()))


def judge_contest(total: Counts, *, champion_threshold: float, maximum_alarm_rate: float) -> ContestRecord:
    """Judge a cohort's sum, shape (contest_layout().total,).

    Args:
        total: summed counts.
        champion_threshold: the champion's published one.
        maximum_alarm_rate: of the gate; above it the champion's threshold no longer holds.

    Raises:
        SumError: no device held a window out, or the sum is not finite.
    """
    parts = contest_layout().unpack(np.asarray(total))
    n = float(parts["examples"][0])
    if not np.isfinite(total).all() or n < 1:
        raise SumError(
            f"the contest counts {n:g} held-out windows; at least one, and finite sums, are needed"
        )
    powers = {name: detection_power(parts[f"{name}_aged"], parts[f"{name}_disturbed"]) for name in CONTENDERS}
    champion_rate = alarm_rate(parts["champion_scores"], champion_threshold)
    is_stale = champion_rate > maximum_alarm_rate
    order = [name for name in CONTENDERS if name != "champion"]
    order = [*order, "champion"] if is_stale else ["champion", *order]
    winner = _winner(powers, order, n)
    return ContestRecord(
        winner=winner,
        powers=powers,
        is_champion_stale=is_stale,
        reason=_reason(winner, powers, champion_rate, is_stale=is_stale),
    )


def _winner(powers: dict[str, float], order: list[str], windows: float) -> str:
    """The first in `order` that nobody after it beats by more than one standard error, counting windows and not their copies."""
    leader = order[0]
    for name in order[1:]:
        error = math.sqrt(sum(powers[one] * (1 - powers[one]) for one in (leader, name)) / windows)
        if powers[name] - powers[leader] > error:
            leader = name
    return leader


def _reason(winner: str, powers: dict[str, float], champion_rate: float, *, is_stale: bool) -> str:
    found = ", ".join(f"{_words(name)} {powers[name]:.1%}" for name in CONTENDERS)
    if winner != "champion":
        verdict = f"the candidate is: {_words(winner)}"
    elif is_stale:
        verdict = "the champion detects best and is proposed again under a new threshold"
    else:
        verdict = "nobody is clearly better than the champion"
    held = "no longer holds" if is_stale else "still holds"
    return (
        f"disturbed windows score above aged ones: {found}; {verdict}"
        f" (the champion's threshold {held}: {champion_rate:.2%} of windows are above it)"
    )


def _words(name: str) -> str:
    known = {"mahalanobis": "Mahalanobis distance", "mahalanobis_ridge": "Mahalanobis distance with a ridge"}
    return known.get(name, name.replace("_", " "))
