"""What a plan's canaries would see: how often the gate would stop releases of a known harm, on the fleet's own past.

Canaries are drawn from the fleet again and again, their past is pretended to have been a bad release (`harms`), and the gate is asked.
The answer is an interval, between two forms of the harm. Its lower end is what the last look of the soak alone would stop, its upper
end what one look would that may spend all that the soak's looks may spend together. It is no promise: it knows one past hour.

Ranks are summed for all draws at once; where the level lies among the sums is found with the gate's own test, in a few calls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from fleet.gates import words
from fleet.gates.arms import Arms, Shown
from fleet.gates.belief import believe
from fleet.gates.changes import MARGINS, change
from fleet.gates.harms import HARMS, harmed, taken
from fleet.gates.looks import levels, look_times
from fleet.gates.placebos import FEW
from fleet.gates.plan import GatePlan, Metric
from fleet.gates.ranks import rank_sum_p
from fleet.gates.scores import score
from fleet.gates.thinning import lots_of

__all__ = ["PowerLine", "power"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Share = Annotated[float, Meta(ge=0, le=1)]

_MOST_CONTROLS: Final = 400  # more of them tell hardly more
_MOST_CONTROLS_OF_FEW: Final = 1000  # but without them one or two canaries could not be tested at all
_MOST_CANARIES: Final = 200
_RELIABLE: Final = 0.6
_STEP: Final = 4
_MOST_ROWS: Final = 60_000  # draws × canaries; with many canaries fewer draws are sure enough
_Z: Final = 1.96
_PAIRS: Final = 2_000_000  # that are compared at once


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


@dataclass(frozen=True, kw_only=True)
class _Fleet:
    """Devices that told one metric, before and after; `similar` has for each some rows with about its rate, (n, k)."""

    before: Shown
    after: Shown
    stratum: Ints
    changes: Floats
    similar: Ints


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
    arms = believe(arms)
    found = levels(plan, group, groups, number=looks, of=looks)
    bounds = (found.last, found.soak)
    rng = np.random.default_rng(seed)
    lines = []
    for metric in plan.metrics:
        fleet = _fleet(metric, arms, canaries, rng) if metric in HARMS else None
        if fleet is not None:
            lines.append(_line(metric, fleet, canaries, soak_s, bounds, draws, rng))
    return tuple(lines)


def _fleet(metric: Metric, arms: Arms, canaries: int, rng: np.random.Generator) -> _Fleet | None:
    nobody = np.zeros(len(arms.devices), dtype=np.bool_)
    changes = change(metric, arms.before, arms.after, MARGINS[metric].stop, nobody, lots_of(arms.devices))
    known = np.flatnonzero(np.isfinite(changes))
    controls = _MOST_CONTROLS if canaries > FEW else _MOST_CONTROLS_OF_FEW
    most = controls + min(canaries, _MOST_CANARIES)
    if len(known) > most:
        known = np.sort(rng.choice(known, most, replace=False))
    if len(known) < 2:
        return None
    before, after = taken(arms.before, known), taken(arms.after, known)
    rate = before.over / np.maximum(before.judged, 1)
    order = np.argsort(rate, kind="stable")
    place = np.empty(len(known), dtype=np.int64)
    place[order] = np.arange(len(known))
    reach = max(2, len(known) // 40)
    steps = np.concatenate((np.arange(-reach, 0), np.arange(1, reach + 1)))
    near = np.clip(place[:, None] + steps[None, :], 0, len(known) - 1)
    return _Fleet(
        before=before, after=after, stratum=arms.stratum[known], changes=changes[known], similar=order[near]
    )


def _line(
    metric: Metric,
    fleet: _Fleet,
    canaries: int,
    soak_s: float,
    bounds: tuple[float, float],
    draws: int,
    rng: np.random.Generator,
) -> PowerLine:
    low, high = _interval(metric, fleet, canaries, bounds, draws, rng)
    minutes = soak_s / 60
    text = f"{words.devices(canaries, 'canary')}: {words.harm_asked(metric, HARMS[metric])} {words.shares(low, high)}"
    if high < _RELIABLE:
        text += f" within {words.duration(minutes / 60)}, cannot be relied on"
        more = _enough(metric, fleet, canaries, bounds, draws // 4, rng)
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
    metric: Metric,
    fleet: _Fleet,
    canaries: int,
    bounds: tuple[float, float],
    draws: int,
    rng: np.random.Generator,
) -> tuple[int, float, float] | None:
    """Of four, sixteen … times as many canaries the first that can be relied on, at most half of the fleet; None where none can."""
    while _STEP * canaries <= min(len(fleet.changes) // 2, _MOST_CANARIES):
        canaries *= _STEP
        low, high = _interval(metric, fleet, canaries, bounds, draws, rng)
        if low >= _RELIABLE:
            return canaries, low, high
    return None


def _interval(
    metric: Metric,
    fleet: _Fleet,
    canaries: int,
    bounds: tuple[float, float],
    draws: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    canaries = min(canaries, len(fleet.changes) - 1, _MOST_CANARIES)
    draws = max(1, min(draws, _MOST_ROWS // canaries))
    strict: list[float] = []
    lenient: list[float] = []
    for is_clumped in (False, True):
        rows = _draw(fleet.stratum, canaries, draws, rng)
        flat = rows.ravel()
        picks = fleet.similar[flat, rng.integers(0, fleet.similar.shape[1], len(flat))]
        after = harmed(
            metric,
            HARMS[metric],
            taken(fleet.after, flat),
            taken(fleet.after, picks),
            is_clumped=is_clumped,
            rng=rng,
        )
        margin, all_canaries = MARGINS[metric].stop, np.ones(len(flat), dtype=np.bool_)
        moved = change(metric, taken(fleet.before, flat), after, margin, all_canaries, rng.random(len(flat)))
        moved = moved.reshape(rows.shape)
        least, most = _shares_stopped(fleet, rows, moved, bounds)
        strict.append(least)
        lenient.append(most)
    return _wilson(min(strict), draws, -1), _wilson(max(lenient), draws, 1)


def _draw(stratum: Ints, canaries: int, draws: int, rng: np.random.Generator) -> Ints:
    """(draws, canaries) rows, each stratum with its share (largest remainders), the same in every draw."""
    codes, sizes = np.unique(stratum, return_counts=True)
    exact = canaries * sizes / sizes.sum()
    shares = np.floor(exact).astype(np.int64)
    left = canaries - int(shares.sum())
    shares[np.argsort(shares - exact, kind="stable")[:left]] += 1
    parts = []
    for code, share in zip(codes, shares, strict=True):
        inside = np.flatnonzero(stratum == code)
        if share:
            parts.append(inside[_lots(len(inside), int(share), draws, rng)])
    return np.concatenate(parts, axis=1)


def _lots(devices: int, drawn: int, draws: int, rng: np.random.Generator) -> Ints:
    if 2 * drawn >= devices:
        return np.argsort(rng.random((draws, devices)), axis=1)[:, :drawn]
    return np.argpartition(rng.random((draws, devices), dtype=np.float32), drawn, axis=1)[:, :drawn]


def _shares_stopped(fleet: _Fleet, rows: Ints, moved: Floats, bounds: tuple[float, float]) -> list[float]:
    """Of all draws, the share with a p-value of at most each bound: sums of scores, and where the bounds lie among them."""
    order = np.argsort(_sums(fleet, rows, moved))[::-1]
    found: dict[int, float] = {}
    shares = []
    low = 0  # draws before it are stopped; a greater bound stops no fewer
    for bound in sorted(bounds):
        high = len(order)
        while low < high:
            middle = (low + high) // 2
            if middle not in found:
                found[middle] = _p(fleet, rows[order[middle]], moved[order[middle]])
            low, high = (middle + 1, high) if found[middle] <= bound else (low, middle)
        shares.append(low / len(order))
    return shares


def _p(fleet: _Fleet, rows: Ints, moved: Floats) -> float:
    values = fleet.changes.copy()
    values[rows] = moved
    is_canary = np.zeros(len(values), dtype=np.bool_)
    is_canary[rows] = True
    return rank_sum_p(score(values, is_canary, fleet.stratum))


def _sums(fleet: _Fleet, rows: Ints, moved: Floats) -> Floats:
    """(draws,) sum of the canaries' scores: wins over all devices of the stratum, less those over canaries as they were."""
    total = np.zeros(len(rows))
    column_stratum = fleet.stratum[rows[0]]
    for code in np.unique(column_stratum):
        inside = column_stratum == code
        values = np.sort(fleet.changes[fleet.stratum == code])
        if len(values) == int(inside.sum()):
            continue  # nobody to compare with
        mine, was = moved[:, inside], fleet.changes[rows[:, inside]]
        wins = (np.searchsorted(values, mine, "left") + np.searchsorted(values, mine, "right")).sum(
            axis=1
        ) / 2
        step = max(1, _PAIRS // max(1, mine.shape[1] ** 2))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            ahead = (mine[part, :, None] > was[part, None, :]).sum(axis=(1, 2))
            level = (mine[part, :, None] == was[part, None, :]).sum(axis=(1, 2))
            wins[part] -= ahead + level / 2
        total += wins / (len(values) + 1)
    return total


def _wilson(share: float, draws: int, side: int) -> float:
    """The end of a 95 % interval of a share of `draws`."""
    middle = (share + _Z * _Z / (2 * draws)) / (1 + _Z * _Z / draws)
    spread = (
        _Z * math.sqrt(share * (1 - share) / draws + _Z * _Z / (4 * draws * draws)) / (1 + _Z * _Z / draws)
    )
    return min(1.0, max(0.0, middle + side * spread))
