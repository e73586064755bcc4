"""What to change so that a refused plan fits: one parameter at a time, each to the nearest value that was found to fit.

Searches by halving over `budget.projected`; nothing here decides anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec

from aggregator.privacy.budget import PlannedQuestion, exceeded, projected, raised
from aggregator.privacy.history import HeldRound
from aggregator.privacy.settings import FamilyBudget
from protocol.privacy_cost import RoundNoise

__all__ = ["advise", "with_more_noise"]

_MARGIN = 1.01
"""More noise also widens the rounding a little, which a projection with scaled noise does not see."""
_LARGEST_FACTOR = 64.0


def advise(held: Sequence[HeldRound], questions: Sequence[PlannedQuestion], budget: FamilyBudget) -> str:
    """What fits instead, in one sentence. `questions` do not fit into `budget` as they are."""

    def fits(changed: Sequence[PlannedQuestion], limits: FamilyBudget = budget) -> bool:
        return not exceeded(projected(held, changed, limits), limits)

    nothing = [replace(question, rounds=0) for question in questions]
    target = projected(held, questions, budget)
    wider = raised(target, budget)
    if not fits(nothing):
        return f"the budget is spent already: no run fits; raise it to {wider} in [family.privacy.budget], or let the family rest"
    found = [
        _more_noise(questions, fits),
        _fewer_rounds(questions, fits),
        _lower_cap(questions, budget, fits),
    ]
    if math.isfinite(target.server) and math.isfinite(target.release):
        found.append(f"raise privacy.budget to {wider}")
    return "one of these fits into the family's settings: " + "; ".join(text for text in found if text)


def with_more_noise(noise: RoundNoise, factor: float) -> RoundNoise:
    """The same question with `factor` times the noise."""
    return msgspec.structs.replace(
        noise,
        noise_multiplier=noise.noise_multiplier * factor,
        local_noise=noise.local_noise and noise.local_noise * factor,
        clip_bit_noise=noise.clip_bit_noise and noise.clip_bit_noise * factor,
    )


def _more_noise(
    questions: Sequence[PlannedQuestion], fits: Callable[[Sequence[PlannedQuestion]], bool]
) -> str:
    noised = [question for question in questions if question.noise.mechanism != "none"]
    silent = sorted({question.question for question in questions if question.noise.mechanism == "none"})
    if silent:
        return f"ask {', '.join(silent)} with noise (noise_multiplier, clip), as a sum without noise fits into no budget"

    def scaled(factor: float) -> list[PlannedQuestion]:
        return [replace(q, noise=with_more_noise(q.noise, factor)) for q in noised]

    low, high = 1.0, 2.0
    while not fits(scaled(high)):
        low, high = high, high * 2
        if high > _LARGEST_FACTOR:
            return ""
    while high / low > 1.005:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(scaled(middle)) else (middle, high)
    planned = noised[0].noise.noise_multiplier
    return f"privacy.noise.noise_multiplier {math.ceil(planned * high * _MARGIN * 100) / 100:g} instead of {planned:g}"


def _fewer_rounds(
    questions: Sequence[PlannedQuestion], fits: Callable[[Sequence[PlannedQuestion]], bool]
) -> str:
    first, *others = questions
    rounds = _largest(first.rounds, lambda count: fits([replace(first, rounds=count), *others]))
    return f"rounds.count {rounds} instead of {first.rounds}" if rounds else ""


def _lower_cap(
    questions: Sequence[PlannedQuestion],
    budget: FamilyBudget,
    fits: Callable[[Sequence[PlannedQuestion], FamilyBudget], bool],
) -> str:
    present = budget.maximum_participations
    most = sum(question.rounds for question in questions) if present is None else present
    cap = _largest(
        most, lambda count: fits(questions, msgspec.structs.replace(budget, maximum_participations=count))
    )
    return (
        f"privacy.budget.maximum_participations {cap} instead of {'no cap' if present is None else present}"
        if cap
        else ""
    )


def _largest(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest count below `limit` that fits, 0 where none from 1 on does."""
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
