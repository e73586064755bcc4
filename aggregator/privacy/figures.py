"""From what happened to what it cost: the two ε of a set of rounds.

Pure. `history` says which sums were seen by whom; `accountant` knows the mathematics; this module says which rounds go into
which figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aggregator.privacy.accountant import UsedSum, add_up, release_epsilon, server_epsilon
from aggregator.privacy.history import HeldRound

__all__ = ["Figures", "figures", "used_sum"]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """ε towards the server and towards an outsider; infinity where a sum had no noise, 0 where there was none."""

    server: float
    release: float


def figures(rounds: Sequence[HeldRound], delta: float) -> Figures:
    """Both figures of `rounds`, in their order; open rounds count at their worst, void ones not at all."""
    seen = [held for held in rounds if held.is_seen_by_server]
    used = [held for held in seen if held.is_used]
    server_costs = add_up((held.cost, held.participants) for held in seen)
    release_costs = (
        server_costs if len(used) == len(seen) else add_up((held.cost, held.participants) for held in used)
    )
    return Figures(
        server=server_epsilon(server_costs, delta),
        release=release_epsilon([used_sum(held) for held in used], release_costs, delta),
    )


def used_sum(held: HeldRound) -> UsedSum:
    """A round as the account towards outsiders takes it."""
    opened = held.opened
    return UsedSum(
        cost=held.cost,
        sampling=opened.sampling,
        is_gaussian=opened.noise.mechanism == "discrete-gaussian",
    )
