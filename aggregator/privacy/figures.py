"""From what happened to what it cost: the two ε of a set of rounds.

Pure. `history` says which sums were seen by whom; `accountant` knows the mathematics; this module says which rounds go into
which figure, and as what.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aggregator.privacy.accountant import DeviceCosts, UsedSum, add_up, release_epsilon, server_epsilon
from aggregator.privacy.history import HeldRound
from aggregator.privacy.ledger_entries import FixedCohort, PoissonCohort, Sampling
from aggregator.privacy.poisson_draws import coin_draw, largest_draw
from protocol.privacy_cost import PrivacyCost, RoundNoise, planned_cost, round_cost

__all__ = ["Figures", "figures", "hides_sizes", "planned_sum", "told_figures", "used_sum"]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """ε towards the server and towards an outsider; infinity where a sum had no noise, 0 where there was none."""

    server: float
    release: float


def figures(rounds: Sequence[HeldRound], delta: float) -> Figures:
    """Both figures of `rounds`, in their order; open rounds count at their worst, void ones not at all."""
    seen = [held for held in rounds if held.is_seen_by_server]
    used = [(used_sum(held), held.participants) for held in seen if held.is_used]
    return Figures(
        server=server_epsilon(add_up((held.cost, held.participants) for held in seen), delta),
        release=release_epsilon(
            [one for one, _ in used], add_up((one.cost, there) for one, there in used), delta
        ),
    )


def told_figures(rounds: Sequence[HeldRound], delta: float, cap: int | None) -> Figures:
    """Both figures as outsiders may read them: the same, but where sizes are hidden nothing in them says who was drawn, or how many.

    There the device that gave most is one that was in every sum that came about, or in as many as `cap` allows, each with the fewest others.
    """
    seen = [held for held in rounds if held.is_seen_by_server]
    if not any(hides_sizes(held.opened.sampling) for held in seen):
        return figures(rounds, delta)
    used = [used_sum(held) for held in seen if held.is_used]
    return Figures(
        server=server_epsilon(_in_all((_planned_or_worse(held) for held in seen), cap), delta),
        release=release_epsilon(used, _in_all((one.cost for one in used), cap), delta),
    )


def hides_sizes(sampling: Sampling) -> bool:
    """Whether outsiders are not told, and cannot work out, how many devices were in a sum."""
    return isinstance(sampling, PoissonCohort) and sampling.largest is not None


def used_sum(held: HeldRound) -> UsedSum:
    """A round as the account towards outsiders takes it."""
    opened = held.opened
    # Who will be silent is not known while a round is open, and a run that was planned without silence must not end for fear of it. A sum is
    # used only after its round was closed.
    silent = 0 if held.is_open else held.dropouts
    return _sum(opened.noise, opened.sampling, held.cost, size=len(opened.cohort), silent=silent)


def planned_sum(noise: RoundNoise, sampling: Sampling) -> UsedSum:
    """A round that was not asked yet, at its worst: with the fewest devices that it may have."""
    size = 0
    if isinstance(sampling, PoissonCohort):
        size = largest_draw(sampling.rate, sampling.population, noise.noise_shares + noise.colluders)
    return _sum(noise, sampling, planned_cost(noise), size=size, silent=0)


def _sum(noise: RoundNoise, sampling: Sampling, cost: PrivacyCost, *, size: int, silent: int) -> UsedSum:
    is_gaussian = noise.mechanism == "discrete-gaussian"
    if not isinstance(sampling, PoissonCohort):
        return UsedSum(cost=cost, sampling=sampling, is_gaussian=is_gaussian)
    population = max(sampling.population, size)
    if sampling.largest is None:
        # Given its size a Poisson cohort is a sample without replacement, however many draws were void before it.
        drawn = FixedCohort(size=max(size, 1), population=population, is_secret=True)
        return UsedSum(cost=cost, sampling=drawn, is_gaussian=is_gaussian)
    coins = coin_draw(
        rate=sampling.rate,
        population=population,
        largest=sampling.largest,
        quorum=noise.noise_shares + noise.colluders,
        silent=silent,
    )
    # Towards outsiders the noise of those who are missing is there as well: the aggregator added it.
    return UsedSum(cost=round_cost(noise, sampling.largest), sampling=coins, is_gaussian=is_gaussian)


def _planned_or_worse(held: HeldRound) -> PrivacyCost:
    """That of the fewest, which hides how many there were; of a sum that was withheld for want of noise, its own."""
    planned = planned_cost(held.opened.noise)
    return planned if planned.rho >= held.cost.rho else held.cost


def _in_all(costs: Iterable[PrivacyCost], cap: int | None) -> DeviceCosts:
    dearest = sorted(costs, key=lambda cost: (-cost.rho, -cost.xi))[:cap]
    total = PrivacyCost(rho=0.0)
    for cost in dearest:
        total += cost
    return {"a device that was in all": total} if dearest else {}
