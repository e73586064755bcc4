"""What a plan's canaries would see: how often the gate would stop releases of a known harm, on the fleet's own past.

Canaries are drawn from the fleet again and again, their past is pretended to have been a bad release (`harms`), and the gate is asked.
The answer is an interval, between two forms of the harm. Its lower end is what the last look of the soak alone would stop, its upper
end what one look would that may spend all that the soak's looks may spend together. It is no promise: it knows one past hour.
"""

from __future__ import annotations

import math
from typing import Annotated, Final

import numpy as np
from msgspec import Meta, Struct

from fleet.gates import words
from fleet.gates.arms import Arms
from fleet.gates.belief import believe
from fleet.gates.coverage import without_short_spans
from fleet.gates.harms import HARMS
from fleet.gates.looks import levels, look_times
from fleet.gates.plan import GatePlan, Metric
from fleet.gates.pretended import MOST_CANARIES, Fleet, draw_fleet, stopped_shares

__all__ = ["PowerLine", "power"]

Share = Annotated[float, Meta(ge=0, le=1)]

_RELIABLE: Final = 0.6
_STEP: Final = 4
_MOST_ROWS: Final = 60_000  # draws × canaries; with many canaries fewer draws are sure enough
_Z: Final = 1.96
_KNOWN: Final = 50
"""Draws that an end of the interval rests on at most: all are of one fleet in one hour, and the next hour differs by more than draws do.

With all of 600 the interval held the measured power in 69 % of the simulated cells where that lay between 5 and 95 %, with 50 in 96 %.
"""


class PowerLine(Struct, frozen=True, kw_only=True):
    """How often harm of one kind would be seen by the end of the soak.

    `effect`: as in `harms.HARMS`. `low`, `high`: the share of such releases that are stopped.
    `canaries`, `minutes`: with how many devices, after how long. `words`: the whole of it as a sentence.
    """

    metric: Metric
    effect: float
    low: Share
    high: Share
    canaries: int
    minutes: float
    words: str


def power(
    arms: Arms,
    plan: GatePlan,
    *,
    canaries: int,
    soak_s: float,
    group: int = 0,
    groups: int = 1,
    draws: int = 600,
    seed: int = 1,
) -> tuple[PowerLine, ...]:
    """One line for each metric of the plan that the fleet told and that is judged by ranks.

    Args:
        arms: the fleet's own past, nobody on the release: `before` over the plan's baseline, `after` over the soak, later.
            Who is canary in it is not looked at: canaries are drawn anew.
        plan: with its metrics and false stops.
        canaries: how many would be drawn.
        soak_s: how long they would be watched.
        group: of the plan's `groups`, from 0.
        groups: of the plan.
        draws: how many pretended releases a line rests on, at most.
        seed: of the draws; the same seed gives the same lines.
    """
    looks = len(look_times(soak_s))
    if not looks or canaries < 1:
        return ()
    arms = without_short_spans(believe(arms))
    found = levels(plan, group, groups, number=looks, of=looks)
    bounds = (found.last, found.soak)
    rng = np.random.default_rng(seed)
    lines = []
    for metric in plan.metrics:
        fleet = draw_fleet(metric, arms, canaries, rng) if metric in HARMS else None
        if fleet is not None:
            lines.append(_line(fleet, canaries, soak_s, bounds, draws, rng))
    return tuple(lines)


def _line(
    fleet: Fleet,
    canaries: int,
    soak_s: float,
    bounds: tuple[float, float],
    draws: int,
    rng: np.random.Generator,
) -> PowerLine:
    metric = fleet.metric
    low, high = _interval(fleet, canaries, bounds, draws, rng)
    minutes = soak_s / 60
    text = f"{words.devices(canaries, 'canary')}: {words.harm_asked(metric, HARMS[metric])} {words.shares(low, high)}"
    if high < _RELIABLE:
        text += f" within {words.duration(minutes / 60)}, cannot be relied on"
        more = _enough(fleet, canaries, bounds, draws // 4, rng)
        text += f"; {more[0]}: {words.shares(more[1], more[2])}" if more else ""
    return PowerLine(
        metric=metric,
        effect=HARMS[metric],
        low=low,
        high=high,
        canaries=canaries,
        minutes=minutes,
        words=text,
    )


def _enough(
    fleet: Fleet,
    canaries: int,
    bounds: tuple[float, float],
    draws: int,
    rng: np.random.Generator,
) -> tuple[int, float, float] | None:
    """Of four, sixteen … times as many canaries the first that can be relied on, at most half of the fleet; None where none can."""
    while _STEP * canaries <= min(len(fleet.changes) // 2, MOST_CANARIES):
        canaries *= _STEP
        low, high = _interval(fleet, canaries, bounds, draws, rng)
        if low >= _RELIABLE:
            return canaries, low, high
    return None


def _interval(
    fleet: Fleet,
    canaries: int,
    bounds: tuple[float, float],
    draws: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    most = min(canaries, len(fleet.changes) - 1, MOST_CANARIES)
    told = max(1, math.floor(most * fleet.told + 1e-9))
    draws = max(1, min(draws, _MOST_ROWS // most))
    strict: list[float] = []
    lenient: list[float] = []
    for is_clumped in (False, True):
        least, greatest = stopped_shares(fleet, most, bounds, draws, rng, is_clumped=is_clumped)
        if told < most:
            least, _ = stopped_shares(fleet, told, bounds, draws, rng, is_clumped=is_clumped)
        strict.append(least)
        lenient.append(greatest)
    return _wilson(min(strict), draws, -1), _wilson(max(lenient), draws, 1)


def _wilson(share: float, draws: int, side: int) -> float:
    """The end of a 95 % interval of a share of `draws`; what always or never happened may go on so."""
    if share == (side > 0):
        return share
    draws = min(draws, _KNOWN)
    middle = (share + _Z * _Z / (2 * draws)) / (1 + _Z * _Z / draws)
    spread = (
        _Z * math.sqrt(share * (1 - share) / draws + _Z * _Z / (4 * draws * draws)) / (1 + _Z * _Z / draws)
    )
    return min(1.0, max(0.0, middle + side * spread))
