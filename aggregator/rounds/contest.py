"""Which of the contenders detects most, out of the fleet's summed score counts.

Losses of a network and of a linear detector are on different scales, and a lower one may mean that a model has learned to copy. Detection
power is neither: each contender gets the threshold that the same share of healthy windows exceeds, and is measured by the share of
disturbed windows (`models.perturbations`) that exceed it, too.

Who wins: a champion whose published threshold still holds, unless somebody is better by more than one standard error of the difference;
then the network, unless a linear detector is better by as much; then the better linear detector. A champion whose threshold no
longer holds has to be replaced in any case, if only by itself under a new threshold, so it comes last in the order.

Pure; nothing but sums goes in. Not the limits of the gate (`gate`), which judges the winner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aggregator.errors import SumError
from aggregator.rounds.assessment import alarm_rate
from protocol.grids import SCORE_GRID
from protocol.questions import CONTENDERS, contest_layout

__all__ = ["FEWEST_ALARMS", "Verdict", "judge_contest"]

FEWEST_ALARMS: Final = 10
"""Held-out windows above the threshold at which powers are compared: a quantile beyond them is mostly luck."""

LARGEST_RATE: Final = 0.2
"""With so many false alarms a comparison says little about a detector in use; fewer than 50 windows are compared here."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The `winner`, each contender's power in [0, 1] at `false_alarm_rate`, and why, in a sentence.

    `champion_alarm_rate` is the share of held-out windows above the champion's published threshold.
    """

    winner: str
    powers: dict[str, float]
    false_alarm_rate: float
    champion_alarm_rate: float
    is_champion_stale: bool
    reason: str


def judge_contest(
    total: NDArray[np.floating], *, champion_threshold: float, quantile: float, maximum_alarm_rate: float
) -> Verdict:
    """Judge a cohort's sum, shape (contest_layout().total,).

    Args:
        total: summed counts.
        champion_threshold: the champion's published one.
        quantile: of the family's threshold; 1 - quantile is the share of false alarms at which powers are compared, where
            there are windows enough to tell.
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
    rate = min(max(1.0 - quantile, FEWEST_ALARMS / n), LARGEST_RATE)
    powers = {}
    for name in CONTENDERS:
        threshold = SCORE_GRID.quantile(parts[f"{name}_healthy"], 1.0 - rate)
        powers[name] = alarm_rate(parts[f"{name}_perturbed"], threshold)
    champion_rate = alarm_rate(parts["champion_healthy"], champion_threshold)
    is_stale = champion_rate > maximum_alarm_rate
    order = [name for name in CONTENDERS if name != "champion"]
    order = [*order, "champion"] if is_stale else ["champion", *order]
    winner = _winner(powers, order, n)
    return Verdict(
        winner=winner,
        powers=powers,
        false_alarm_rate=rate,
        champion_alarm_rate=champion_rate,
        is_champion_stale=is_stale,
        reason=_reason(winner, powers, rate, champion_rate, is_stale=is_stale),
    )


def _winner(powers: dict[str, float], order: list[str], windows: float) -> str:
    """The first in `order` that nobody after it beats by more than one standard error."""
    leader = order[0]
    for name in order[1:]:
        error = math.sqrt(sum(powers[one] * (1 - powers[one]) for one in (leader, name)) / windows)
        if powers[name] - powers[leader] > error:
            leader = name
    return leader


def _reason(
    winner: str, powers: dict[str, float], rate: float, champion_rate: float, *, is_stale: bool
) -> str:
    found = ", ".join(f"{_words(name)} {powers[name]:.1%}" for name in CONTENDERS)
    if winner != "champion":
        verdict = f"the {_words(winner)} wins"
    elif is_stale:
        verdict = "the champion detects most and is proposed again under a new threshold"
    else:
        verdict = "nobody is clearly better than the champion"
    held = "no longer holds" if is_stale else "still holds"
    return (
        f"disturbed windows found at {rate:.2%} false alarms: {found}; {verdict}"
        f" (the champion's threshold {held}: {champion_rate:.2%} of healthy windows are above it)"
    )


def _words(name: str) -> str:
    return name.replace("_", " ")
