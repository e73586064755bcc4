"""Pretended releases on a fleet's own past: canaries drawn again and again, and how many of the draws the gate would stop.

Ranks are summed for all draws at once; where the level lies among the sums is found with the gate's own test, in a few calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fleet.gates.arms import Arms, Shown
from fleet.gates.changes import MARGINS, change, is_told
from fleet.gates.harms import HARMS, harmed, taken
from fleet.gates.placebos import FEW
from fleet.gates.plan import Metric
from fleet.gates.ranks import rank_sum_p
from fleet.gates.scores import score
from fleet.gates.thinning import lots_of

__all__ = ["MOST_CANARIES", "Fleet", "draw_canaries", "draw_fleet", "score_sums", "stopped_shares"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MOST_CANARIES: Final = 200
"""More are not drawn: they see no less."""

_MOST_CONTROLS: Final = 400  # more of them tell hardly more
_MOST_CONTROLS_OF_FEW: Final = 1000  # but without them one or two canaries could not be tested at all
_PAIRS: Final = 2_000_000  # that are compared at once


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Devices that told one metric, before and after; `similar` has for each some rows with about its rate, (n, k).

    `told`: the share of devices that told the metric before and went on to. Of canaries, no more will tell it either.
    """

    metric: Metric
    told: float
    before: Shown
    after: Shown
    stratum: Ints
    changes: Floats
    similar: Ints


def draw_fleet(metric: Metric, arms: Arms, canaries: int, rng: np.random.Generator) -> Fleet | None:
    """The devices of `arms` that told `metric`, or as many drawn of them as are needed; None where fewer than two did."""
    nobody = np.zeros(len(arms.devices), dtype=np.bool_)
    changes = change(metric, arms.before, arms.after, MARGINS[metric].stop, nobody, lots_of(arms.devices))
    known = np.flatnonzero(np.isfinite(changes))
    count = len(known)
    controls = _MOST_CONTROLS if canaries > FEW else _MOST_CONTROLS_OF_FEW
    most = controls + min(canaries, MOST_CANARIES)
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
    told_before = int(is_told(metric, arms.before).sum())
    return Fleet(
        metric=metric,
        told=count / told_before,
        before=before,
        after=after,
        stratum=arms.stratum[known],
        changes=changes[known],
        similar=order[near],
    )


def stopped_shares(
    fleet: Fleet,
    canaries: int,
    bounds: tuple[float, float],
    draws: int,
    rng: np.random.Generator,
    *,
    is_clumped: bool,
) -> list[float]:
    """Of `draws` pretended releases with one form of the harm, the share that a test at each bound stops."""
    metric = fleet.metric
    rows = draw_canaries(fleet.stratum, canaries, draws, rng)
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
    return _shares(fleet, rows, moved.reshape(rows.shape), bounds)


def draw_canaries(stratum: Ints, canaries: int, draws: int, rng: np.random.Generator) -> Ints:
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


def _shares(fleet: Fleet, rows: Ints, moved: Floats, bounds: tuple[float, float]) -> list[float]:
    """Of all draws, the share with a p-value of at most each bound: sums of scores, and where the bounds lie among them."""
    order = np.argsort(score_sums(fleet, rows, moved))[::-1]
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


def _p(fleet: Fleet, rows: Ints, moved: Floats) -> float:
    values = fleet.changes.copy()
    values[rows] = moved
    is_canary = np.zeros(len(values), dtype=np.bool_)
    is_canary[rows] = True
    return rank_sum_p(score(values, is_canary, fleet.stratum))


def score_sums(fleet: Fleet, rows: Ints, moved: Floats) -> Floats:
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
