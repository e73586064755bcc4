"""Cohorts drawn by coins, as they really come about: too few and the round is void, too many and it is drawn again.

::

    coins (rate q) ─► more than `largest`? again ─► asked ─► fewer than the quorum m answer? void, later again ─► a sum

An outsider sees the sums that came about, how many draws were void before, and when. Whether a draw is void depends on coins and on who is
reachable, never on data, and each draw has fresh coins: the number of voids tells nothing. But a sum that came about was not drawn with
rate q. Say who of the OTHER devices is in it (R of them; revealing more can only cost more). Then one device, itself reachable, is in
it

* with probability q, by its own coin, where m ≤ R < `largest`;
* for certain where R = m - 1: without it there would be no sum;
* for certain not where R = `largest`: there it gave nothing.

So the Rényi moment of a sum is at most (1 - η)·A + η·B: A of a Poisson-sampled Gaussian of rate q, B of a Gaussian that everybody is in
(joint convexity of ∫P^α/P'^(α-1)), with the `forced_share` η = q·P[Bin(a - 1, q) = m - 1] / P[m ≤ Bin(a, q), at most `largest` asked].
It needs three things that are done elsewhere, or the bound is false:

* Nobody outside learns HOW MANY are in a sum, for beside R that says whether the device is. So every such sum carries the noise of
  `largest` devices (the aggregator adds what is missing), in words that are planned for `largest`, and is divided by `nominal_size`;
  a claim tells no realised sizes, and the ledger, which does, is salted before its digest is told. A Poisson cohort without
  `largest` was not treated so, and is accounted as a sample without replacement of a size that everybody knows.
* a is the number of devices that could have answered. Who is out of reach does not depend on who is drawn, and no coin of a reachable device
  says who is not: `reachable` counts each drawn device that did not answer for 1/q of the population. Devices that were left out before
  the draw are not in the population at all.
* A device's own cap may end its part early: its moment then only loses factors (Minkowski's inequality).

Timing is not covered: a round waits for the slowest who is in it.

Sources: Mironov, Talwar, Zhang, 2019, arXiv:1908.10530 (A); Balle, Barthe, Gaboardi, 2018, arXiv:1807.01647 (couplings); Ganesh,
"Tighter Privacy Analysis for Truncated Poisson Sampling", 2025, arXiv:2508.15089 (draws that are too large). The lower end is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from aggregator.errors import PrivacyPlanError

__all__ = ["CoinDraw", "coin_draw", "largest_draw", "nominal_size", "require_few_voids", "void_share"]

BEYOND_LARGEST: Final = 0.01
"""Share of draws that are too large. Drawing again costs nothing, asking for noise of more devices costs learning."""

MOST_VOID: Final = 0.25
"""Of the draws; a run gives up after a few voids in a row, and those that come about are no longer fair coins."""


@dataclass(frozen=True, kw_only=True)
class CoinDraw:
    """A sum's draw as an outsider's account takes it: `rate` q, and η, the share of sums that a device is in for certain."""

    rate: float
    forced: float = 0.0


def coin_draw(*, rate: float, population: int, largest: int, quorum: int, silent: int = 0) -> CoinDraw:
    """A draw from `population` devices of which `silent` were drawn and did not answer; at least `quorum` did."""
    reachable = max(population - math.ceil(silent / rate), quorum)
    came_about = _at_least(quorum, reachable, rate) - _at_least(largest + 1, population, rate)
    only_with = rate * _exactly(quorum - 1, reachable - 1, rate)
    forced = 1.0 if came_about <= only_with else only_with / came_about
    # A coin is a fraction of 53 bits: it falls with at most so much more than the rate.
    return CoinDraw(rate=min(rate + 2.0**-53, 1.0), forced=forced)


def void_share(rate: float, population: int, quorum: int) -> float:
    """P[fewer than `quorum` of `population` are drawn]."""
    return 1.0 - _at_least(quorum, population, rate)


def largest_draw(rate: float, population: int, quorum: int) -> int:
    """The size beyond which a cohort is drawn again: one draw in a hundred is larger."""
    low, high = min(max(quorum, math.floor(rate * population)), population), population
    while low < high:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if _at_least(middle + 1, population, rate) <= BEYOND_LARGEST else (middle + 1, high)
        )
    return low


def nominal_size(rate: float, population: int, quorum: int, largest: int) -> int:
    """How many devices a sum is taken to be of, whoever is in it: what was to be expected."""
    return min(max(round(rate * population), quorum), largest)


def require_few_voids(what: str, rate: float, population: int, quorum: int) -> None:
    """Refuse a way of drawing in which most rounds are void.

    Raises:
        PrivacyPlanError: names the rate, the quorum and the population that would do, each with the others as they are.
    """
    void = void_share(rate, population, quorum)
    if void <= MOST_VOID:
        return
    found = []
    # Each chance falls as the number searched for goes up; a rate of 1 helps if the quorum is there at all.
    if population >= quorum:
        step = _first(
            1000, lambda thousandths: void_share(thousandths / 1000, population, quorum) <= MOST_VOID
        )
        found.append(f"cohort.fraction {step / 1000:g} instead of {rate:g}")
    lower = _first(quorum, lambda fewer: void_share(rate, population, quorum - fewer) <= MOST_VOID)
    if lower < quorum:
        found.append(f"cohort.minimum_devices {quorum - lower} instead of {quorum}")
    most = math.ceil(4 * (quorum + 4) / rate)
    more = _first(most, lambda devices: void_share(rate, max(devices, 1), quorum) <= MOST_VOID)
    found.append(f"{more} devices instead of {population}")
    raise PrivacyPlanError(
        f"{what}: coins of {rate:g} over {population} devices draw fewer than the quorum of {quorum} {void:.0%} of the time; rounds would be"
        f" void more often than not worth it, and those that come about hide nobody. One of these would do: {'; '.join(found)}"
    )


def _first(most: int, does: Callable[[int], bool]) -> int:
    """The smallest number from 1 to `most` that does, of a property that does not go away again; `most` where none does."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if does(middle) else (middle + 1, high)
    return low


def _at_least(fewest: int, trials: int, rate: float) -> float:
    """P[Bin(trials, rate) ≥ fewest]."""
    return _upper_tails(trials, rate)[min(max(fewest, 0), trials + 1)]


@lru_cache(maxsize=64)
def _upper_tails(trials: int, rate: float) -> tuple[float, ...]:
    tails = [0.0]
    for count in range(trials, -1, -1):
        tails.append(min(tails[-1] + _exactly(count, trials, rate), 1.0))
    tails[-1] = 1.0
    return tuple(reversed(tails))


def _exactly(count: int, trials: int, rate: float) -> float:
    """P[Bin(trials, rate) = count]."""
    if not 0 <= count <= trials:
        return 0.0
    if rate >= 1:
        return float(count == trials)
    ways = math.lgamma(trials + 1) - math.lgamma(count + 1) - math.lgamma(trials - count + 1)
    return math.exp(ways + count * math.log(rate) + (trials - count) * math.log1p(-rate))
