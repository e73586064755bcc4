"""The claim of a release, made from the ledger: every field says what was done, none what was hoped for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from msgspec import structs

from aggregator.privacy.accountant import (
    accountant_name,
    idealised_release_epsilon,
    idealised_server_epsilon,
    is_poisson,
)
from aggregator.privacy.drawn_text import enforcement, mechanisms, samplings
from aggregator.privacy.figures import hides_sizes, told_figures, used_sum
from aggregator.privacy.history import HeldRound
from aggregator.privacy.ledger import GENESIS, LedgerHead
from aggregator.privacy.ledger_entries import Outcome, PoissonCohort
from aggregator.privacy.modes import fewest_groups, lowest_quorum, mode_of, who_learns_what
from aggregator.privacy.settings import FamilyBudget
from protocol.names import RunId
from protocol.privacy_claim import Mode, PrivacyClaim, PrivacyFigure, RoundTally
from protocol.privacy_cost import realised_multiplier

__all__ = ["make_claim", "plain_claim"]

SERVER = "the aggregator: it knows who takes part and sees every unmasked sum, follows the protocol's messages, and may pool with the colluders named"
OUTSIDER = "whoever sees released models and their claims, and which rounds were void, and neither the aggregator's memory nor its list of who took part"
PRESENCE = "one device's contributions are there, or zero stands in their place"
REPLACEMENT = "one device's contributions are replaced by any others"
NOT_COVERED = (
    "that a device took part at all, when, and with how many bytes",
    "what a device tells the fleet outside training: anomalies with their windows, drift reports, health",
    "two or more devices that hold data about the same person or machine: their costs add up",
    "noise that colluding devices tell the aggregator, beyond the number of colluders named",
    "an aggregator and a fleet in one dishonest hand: the fleet's list of device keys is what keeps invented devices out of a cohort",
    "a device whose own software was replaced: it can give away what it holds",
)


def make_claim(
    rounds: Sequence[HeldRound], run: RunId, budget: FamilyBudget, head: LedgerHead
) -> PrivacyClaim:
    """The claim after `rounds`, all of one family; `run` is the one whose release carries it."""
    seen = [held for held in rounds if held.is_seen_by_server]
    noised = [held for held in seen if held.multiplier]
    of_run = [held for held in rounds if held.opened.id.run == run]
    cap = budget.maximum_participations
    total, own, only_noised = (told_figures(part, budget.delta, cap) for part in (rounds, of_run, noised))
    times = Counter(device for held in seen for device in held.participants)
    used = [held for held in seen if held.is_used]
    hidden = any(hides_sizes(held.opened.sampling) for held in seen)
    mode, quorum, groups = mode_of(seen), lowest_quorum(seen), fewest_groups(seen)
    multiplier = min((_told_multiplier(held) for held in seen), default=0.0)
    colluders = max((held.opened.noise.colluders for held in noised), default=0)
    learned = (
        None
        if mode is None
        else who_learns_what(
            mode, quorum=quorum or 0, multiplier=multiplier, colluders=colluders, groups=groups or 1
        )
    )
    poisson = is_poisson(used_sum(held) for held in used)
    name = accountant_name()
    return PrivacyClaim(
        server=PrivacyFigure(
            adversary=SERVER,
            adjacency=PRESENCE,
            accountant=name,
            epsilon=_finite(total.server),
            run_epsilon=_finite(own.server),
            noised_epsilon=_finite(only_noised.server),
            idealised_epsilon=_finite(_idealised_server(seen, budget, hidden=hidden)),
        ),
        release=PrivacyFigure(
            adversary=OUTSIDER,
            adjacency=PRESENCE if poisson else REPLACEMENT,
            accountant=name,
            epsilon=_finite(total.release),
            run_epsilon=_finite(own.release),
            noised_epsilon=_finite(only_noised.release),
            idealised_epsilon=_finite(_idealised_release(used, budget.delta)) if poisson else None,
        ),
        delta=budget.delta,
        mechanism=mechanisms(seen),
        bits=max((held.opened.noise.bits for held in seen), default=0),
        clip=max((held.opened.noise.clip for held in noised if held.opened.noise.clip), default=None),
        noise_multiplier=multiplier,
        sampling=samplings(held.opened.sampling for held in seen),
        sampling_enforced_by=enforcement(used, poisson=poisson),
        maximum_participations=budget.maximum_participations,
        participations=min(len(seen), cap or len(seen)) if hidden else max(times.values(), default=0),
        devices=max(held.opened.sampling.population for held in seen) if hidden else len(times),
        colluders=colluders,
        rounds=_tally(rounds, hidden=hidden),
        noiseless_questions=tuple(sorted({held.opened.id.question for held in seen if not held.multiplier})),
        not_covered=_not_covered(rounds, seen, budget),
        ledger_entries=head.entries,
        ledger_sha256=head.sha256,
        mode=mode,
        quorum=quorum,
        groups=groups,
        curious=learned.curious if learned else "",
        lying=learned.lying if learned else "",
        poisoner=learned.poisoner if learned else "",
    )


def plain_claim(*, devices: int, used: int, void: int, delta: float) -> PrivacyClaim:
    """The claim of a family without masks: the aggregator saw every answer, and there is no ledger to ask.

    Args:
        devices: that gave answers.
        used: questions whose answers went on into the model.
        void: questions that came to nothing.
        delta: of the family.
    """
    nothing = PrivacyFigure(
        adversary=SERVER, adjacency=PRESENCE, accountant="none", epsilon=None, run_epsilon=None
    )
    learned = who_learns_what(Mode.PLAIN, quorum=1, multiplier=0.0, colluders=0, groups=1)
    return PrivacyClaim(
        server=nothing,
        release=structs.replace(nothing, adversary=OUTSIDER),
        delta=delta,
        mechanism="none: no masks and no noise",
        bits=0,
        clip=None,
        noise_multiplier=0.0,
        sampling="not counted",
        sampling_enforced_by="nobody",
        maximum_participations=None,
        participations=used,
        devices=devices,
        colluders=0,
        rounds=RoundTally(used=used, void=void, withheld=0, open=0, dropouts=0, worst_dropouts=0),
        noiseless_questions=(),
        not_covered=("anything: the aggregator saw each answer of each device", *NOT_COVERED),
        ledger_entries=0,
        ledger_sha256=GENESIS.hex(),
        mode=Mode.PLAIN,
        quorum=1,
        groups=1,
        curious=learned.curious,
        lying=learned.lying,
        poisoner=learned.poisoner,
    )


def _told_multiplier(held: HeldRound) -> float:
    """The realised one; where its size is hidden that of the fewest, unless a sum that was withheld had even less."""
    if not hides_sizes(held.opened.sampling):
        return held.multiplier
    noise = held.opened.noise
    return min(held.multiplier, realised_multiplier(noise, noise.noise_shares + noise.colluders))


def _finite(epsilon: float) -> float | None:
    return epsilon if math.isfinite(epsilon) else None


def _idealised_server(seen: Sequence[HeldRound], budget: FamilyBudget, *, hidden: bool) -> float:
    # Σ z⁻² over a device's rounds decides; the largest sum is looked for first, as each ε takes milliseconds.
    multipliers = [_told_multiplier(held) for held in seen]
    costs = [multiplier**-2 if multiplier else math.inf for multiplier in multipliers]
    if hidden:
        dearest = sum(sorted(costs, reverse=True)[: budget.maximum_participations])
        return idealised_server_epsilon(dearest, budget.delta)
    totals: dict[str, float] = {}
    for held, cost in zip(seen, costs, strict=True):
        for device in held.participants:
            totals[device] = totals.get(device, 0.0) + cost
    return idealised_server_epsilon(max(totals.values(), default=0.0), budget.delta)


def _idealised_release(used: Sequence[HeldRound], delta: float) -> float:
    """By the rate alone: what fair coins would cost."""
    rates = [held.opened.sampling.rate for held in used if isinstance(held.opened.sampling, PoissonCohort)]
    lowest = min(
        (1 / math.sqrt(2 * cost.rho) for cost in (used_sum(held).cost for held in used) if cost.rho),
        default=0.0,
    )
    return idealised_release_epsilon(max(rates, default=1.0), lowest, len(used), delta)


def _tally(rounds: Sequence[HeldRound], *, hidden: bool) -> RoundTally:
    ends = Counter(held.closed.outcome for held in rounds if held.closed is not None)
    dropouts = [held.dropouts for held in rounds if held.closed is not None and held.is_seen_by_server]
    return RoundTally(
        used=ends[Outcome.USED],
        void=ends[Outcome.VOID],
        withheld=ends[Outcome.WITHHELD],
        open=sum(held.is_open for held in rounds),
        dropouts=None if hidden else sum(dropouts),
        worst_dropouts=None if hidden else max(dropouts, default=0),
    )


def _not_covered(
    rounds: Sequence[HeldRound], seen: Sequence[HeldRound], budget: FamilyBudget
) -> tuple[str, ...]:
    found = list(NOT_COVERED)
    if not all(held.multiplier for held in seen):
        found.insert(
            0, "anything that exact sums reveal: some or all sums carried no noise, so epsilon is unlimited"
        )
    populations = [held.opened.sampling.population for held in rounds]
    if populations and budget.delta * min(populations) >= 1:
        found.append(
            f"a delta of {budget.delta:g} is no smaller than one over the {min(populations)} devices: choose a smaller one"
        )
    if any(hides_sizes(held.opened.sampling) for held in rounds):
        found.append(
            "who was drawn, from the time that rounds took: a round waits for the slowest device that is in it"
        )
        found.append(
            "more devices out of reach than the draws found: each that was drawn and did not answer is taken to stand for as many as the"
            " rate says"
        )
    if budget.maximum_participations is None:
        found.append("rounds to come: no cap on participations is set, so each further round adds to epsilon")
    return tuple(found)
