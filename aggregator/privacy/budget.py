"""What a family may spend, and the refusal of a run or a round that would spend more.

A plan is projected at its worst: every planned round is used with the least noise devices agree to, and the device that
has given most so far takes part in as many of them as its own cap allows. So a run that is admitted ends within the
budget unless rounds are repeated or their noise falls short; `admit_round` then stops it before the budget is exceeded.

Pure: the ledger's history comes in, a figure or an error comes out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from aggregator.errors import PrivacyBudgetError
from aggregator.privacy.accountant import DeviceCosts, add_up, release_epsilon, server_epsilon
from aggregator.privacy.figures import Figures, figures, planned_sum, used_sum
from aggregator.privacy.history import HeldRound
from aggregator.privacy.ledger_entries import RoundOpened, Sampling
from aggregator.privacy.settings import FamilyBudget
from protocol.privacy_cost import PrivacyCost, RoundNoise, planned_cost

__all__ = ["PlannedQuestion", "admit_round", "exceeded", "projected", "raised", "require_within"]

NEWCOMER = "a device that has not taken part yet"


@dataclass(frozen=True, kw_only=True)
class PlannedQuestion:
    """`rounds` times the same question with the same noise to cohorts drawn the same way."""

    question: str
    rounds: int
    noise: RoundNoise
    sampling: Sampling


def projected(
    held: Sequence[HeldRound], questions: Sequence[PlannedQuestion], budget: FamilyBudget
) -> Figures:
    """The family's figures if every planned round is used, at their worst."""
    seen = [one for one in held if one.is_seen_by_server]
    used = [(used_sum(one), one.participants) for one in seen if one.is_used]
    planned = [(planned_sum(question.noise, question.sampling), question.rounds) for question in questions]
    towards_server = _at_worst(
        [(one.cost, one.participants) for one in seen],
        [(planned_cost(question.noise), question.rounds) for question in questions],
        budget,
    )
    towards_outsiders = _at_worst(
        [(one.cost, there) for one, there in used], [(one.cost, rounds) for one, rounds in planned], budget
    )
    sums = [one for one, _ in used] + [one for one, rounds in planned for _ in range(rounds)]
    return Figures(
        server=server_epsilon(towards_server, budget.delta),
        release=release_epsilon(sums, towards_outsiders, budget.delta),
    )


def require_within(figure: Figures, budget: FamilyBudget, what: str, advice: str) -> None:
    """Refuse figures beyond the budget.

    Raises:
        PrivacyBudgetError: names the figure, the limit and, in the words of `advice`, what would fit.
    """
    over = exceeded(figure, budget)
    if over:
        raise PrivacyBudgetError(
            f"{what} would bring {' and '.join(over)} (delta {budget.delta:g}); {advice}"
        )


def exceeded(figure: Figures, budget: FamilyBudget) -> list[str]:
    """The limits that `figure` exceeds, in words; empty where it is within all."""
    return [f"{name} to {value:.4g}, the budget is {limit:g}" for name, value, limit in _over(figure, budget)]


def raised(figure: Figures, budget: FamilyBudget) -> str:
    """The settings under which `figure` would fit, for those limits that it exceeds; a little is added for rounding."""
    return ", ".join(f"{name} = {value * 1.005 + 0.005:.2f}" for name, value, _ in _over(figure, budget))


def _over(figure: Figures, budget: FamilyBudget) -> list[tuple[str, float, float]]:
    pairs = (
        ("epsilon_server", figure.server, budget.epsilon_server),
        ("epsilon_release", figure.release, budget.epsilon_release),
    )
    return [(name, value, limit) for name, value, limit in pairs if limit is not None and value > limit]


def admit_round(held: Sequence[HeldRound], opened: RoundOpened, budget: FamilyBudget) -> None:
    """Refuse a round whose release would exceed the budget.

    Raises:
        PrivacyBudgetError: says by how much, and what to do.
    """
    if budget.epsilon_server is None and budget.epsilon_release is None:
        return
    after = figures([*held, HeldRound(opened=opened)], budget.delta)
    require_within(
        after,
        budget,
        str(opened.id),
        "no device was asked. End the run here, or raise [family.privacy.budget] to at least "
        + raised(after, budget),
    )


def _at_worst(
    held: Sequence[tuple[PrivacyCost, Sequence[Hashable]]],
    planned: Sequence[tuple[PrivacyCost, int]],
    budget: FamilyBudget,
) -> DeviceCosts:
    """Per device what it will have given when the plan is carried out, as far as its cap allows; dearest rounds first.

    `held` are (cost, participants) of the past, `planned` (cost, rounds) of what is to come.
    """
    totals = add_up(held)
    times: Counter[Hashable] = Counter(device for _, there in held for device in there)
    dearest = sorted(planned, key=lambda pair: (-pair[0].rho, -pair[0].xi))
    worst: dict[Hashable, PrivacyCost] = {}
    for device, total in [*totals.items(), (NEWCOMER, PrivacyCost(rho=0.0))]:
        cap = budget.maximum_participations
        left = sum(rounds for _, rounds in planned) if cap is None else max(cap - times[device], 0)
        for cost, rounds in dearest:
            taken = min(rounds, left)
            total, left = total + cost.times(taken), left - taken  # noqa: PLW2901 - a running total, read at once below
        worst[device] = total
    return worst
