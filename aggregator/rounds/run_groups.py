"""The groups of a run: dealt when its devices have joined, the same for every question, dealt anew where an attempt came to nothing.

Only sums without noise are taken in groups. Under noise the whole cohort is one sum: groups of four would carry √(n/4) times the noise
each. In plain each answer is looked at by itself.

Pure, given who is there and what the ledger holds.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

import numpy as np
from msgspec import structs

from aggregator.privacy.history import HeldRound
from aggregator.privacy.ledger_entries import FixedCohort
from aggregator.privacy.modes import FEWEST_GROUPS, SMALLEST_SUM
from aggregator.rounds.cohorts import Cohort, Group
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.groups import Memory, deal, may_ask
from aggregator.rounds.runs import RoundRecord, TrainingRun
from protocol.names import DeviceId
from protocol.privacy_claim import Mode
from protocol.questions import FIT, KINDS, Kind
from protocol.refusals import RefusalCode

__all__ = ["is_grouped", "next_cohort", "planned_mode", "protection", "with_groups"]


def is_grouped(policy: FamilySettings) -> bool:
    """Whether the family's sums are taken in groups: under masks, without noise."""
    return policy.secure_sum.enabled and policy.privacy.noise is None


def planned_mode(policy: FamilySettings) -> Mode:
    """How the family's sums shall be taken (docs/secure-rounds.md); a claim says how they were (`aggregator.privacy.modes.mode_of`)."""
    if is_grouped(policy):
        return Mode.ROBUST
    return Mode.PRIVATE if policy.secure_sum.enabled else Mode.PLAIN


def protection(run: TrainingRun, policy: FamilySettings) -> str:
    """What stands between a run and a device that lies about itself, for people."""
    if len(run.groups) >= FEWEST_GROUPS:
        return (
            f"the median of {len(run.groups)} groups outvotes poisoners that are in fewer than half of them"
        )
    if is_grouped(policy):
        least = FEWEST_GROUPS * policy.cohort.group_devices
        return (
            f"no protection against a poisoner: one group; from {least} devices on there are {FEWEST_GROUPS}"
        )
    return "no protection against a poisoner: " + (
        "a cohort with noise is one sum"
        if policy.privacy.noise is not None
        else "answers in plain are averaged"
    )


def with_groups(
    run: TrainingRun, policy: FamilySettings, joined: Iterable[DeviceId], rounds: Iterable[HeldRound]
) -> TrainingRun:
    """The run with groups of those who joined, so dealt that as many as possible may answer.

    Groups of before stay. Whoever has answered a round of training with its companions would answer with no others: while a run
    trains, its groups are left as they are.
    """
    if not is_grouped(policy) or (run.groups and run.finished_rounds < run.rounds and run.finished_rounds):
        return run
    memory = Memory.of(rounds, KINDS, refused=_refused(run.log))
    rng = np.random.default_rng([run.seed, run.finished_rounds, run.attempts])
    size, fewest = policy.cohort.group_devices, policy.cohort.minimum_devices
    groups = deal(joined, memory, rng, size=size, fewest=fewest)
    # Where no group may answer, one that is refused costs nothing.
    groups = groups or deal(joined, Memory(), rng, size=size, fewest=fewest)
    if len(run.groups) >= FEWEST_GROUPS > len(groups):
        # Or whoever goes silent would bring a run to do without the median.
        return run
    return structs.replace(run, groups=groups)


def next_cohort(
    run: TrainingRun,
    policy: FamilySettings,
    kind: Kind,
    there: Collection[DeviceId],
    rounds: Iterable[HeldRound],
) -> Cohort:
    """Whom of a run's groups a question of `kind` can be put to now; a group that misses somebody sits it out if it has to.

    Where that leaves too few groups the others are asked as they are: devices may have forgotten what the ledger has not, for half of
    their windows are new; and those that have not refuse before anything leaves them.
    """
    groups = _chosen(run, policy) if kind == FIT else run.groups
    memory = Memory.of(rounds, {kind}, refused=_refused(run.log))
    fewest = SMALLEST_SUM if len(run.groups) > 1 else policy.cohort.minimum_devices
    least = max(math.ceil(len(groups) / 2), 1)
    asked = _askable(groups, there, memory, fewest)
    if len(asked) < least:
        asked = _askable(groups, there, Memory(refused=memory.refused), fewest)
    devices = tuple(sorted(device for group in asked for device in group.devices))
    return Cohort(
        devices=devices,
        quorum=policy.cohort.minimum_devices,
        groups=asked,
        fewest_groups=least,
        sampling=FixedCohort(size=len(devices), population=len(there)) if devices else None,
    )


def _askable(
    groups: Iterable[Sequence[DeviceId]], there: Collection[DeviceId], memory: Memory, fewest: int
) -> tuple[Group, ...]:
    found = (may_ask(members, there, memory, fewest=fewest) for members in groups)
    return tuple(group for group in found if group is not None)


def _chosen(run: TrainingRun, policy: FamilySettings) -> tuple[tuple[DeviceId, ...], ...]:
    """The groups that train, the same in each round of the run: `cohort.fraction` of them, and none that shall judge what it has not taught."""
    there = len(run.groups)
    most = there - math.ceil(policy.gate.judging_share * there)
    count = min(math.ceil(policy.cohort.fraction * there), most)
    order = np.random.default_rng([run.seed, there]).permutation(there)
    kept = sorted(order[: max(count, FEWEST_GROUPS)].tolist())
    return tuple(run.groups[index] for index in kept)


def _refused(log: Iterable[RoundRecord]) -> Iterable[frozenset[DeviceId]]:
    """Groups in which a device would not answer for who else was in them: what it remembers is not what the ledger does."""
    for record in log:
        would_not = {
            refusal.device for refusal in record.refused if RefusalCode.COHORT.value in refusal.reason
        }
        yield from (frozenset(group.devices) for group in record.groups if would_not & set(group.devices))
