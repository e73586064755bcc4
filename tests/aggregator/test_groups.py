"""How devices are dealt into groups, and which groups may be asked: what a device would refuse is not drawn."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.privacy.history import HeldRound
from aggregator.privacy.ledger_entries import FixedCohort, Outcome, RoundClosed, RoundId, RoundOpened
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.gate import GateSettings
from aggregator.rounds.groups import FEWEST_EXCHANGED, Memory, deal, may_ask
from aggregator.rounds.run_groups import next_cohort, protection, with_groups
from aggregator.rounds.runs import GroupRecord, RefusedDevice, RoundRecord, RunState, TrainingRun
from protocol.names import DeviceId, FamilyName, RunId
from protocol.privacy_cost import RoundNoise
from protocol.questions import ASSESS, COVARIANCE, FIT, SCALE

FAMILY = FamilySettings(name="pump")


def names(count: int, first: int = 0) -> list[DeviceId]:
    return [DeviceId(f"d{i:03d}") for i in range(first, first + count)]


def dealt(
    present: Iterable[DeviceId], memory: Memory | None = None, seed: int = 0
) -> list[frozenset[DeviceId]]:
    groups = deal(present, memory or Memory(), np.random.default_rng(seed), size=4, fewest=3)
    return [frozenset(group) for group in groups]


def remembering(groups: Iterable[frozenset[DeviceId]]) -> Memory:
    return Memory(answered={device: (group,) for group in groups for device in group})


def held(
    together: Iterable[DeviceId],
    *,
    kind: str = FIT,
    outcome: Outcome = Outcome.USED,
    number: int = 1,
    mechanism: str = "none",
) -> HeldRound:
    devices = tuple(together)
    key = RoundId(run=RunId("run-0"), question=kind, number=number, attempt=1)
    noise = RoundNoise(mechanism="none", bits=32, dimension=3)
    if mechanism != "none":
        noise = RoundNoise(
            mechanism=mechanism, bits=20, dimension=3, clip=1.0, sensitivity=1.0, local_noise=1.0
        )
    opened = RoundOpened(
        id=key,
        family=FamilyName("pump"),
        at=0.0,
        noise=noise,
        sampling=FixedCohort(size=len(devices), population=len(devices)),
        cohort=devices,
    )
    inside = () if outcome is Outcome.VOID else devices
    return HeldRound(opened=opened, closed=RoundClosed(id=key, at=1.0, outcome=outcome, participants=inside))


def run_of(**more: object) -> TrainingRun:
    return TrainingRun(
        id=RunId("run-1"),
        family=FamilyName("pump"),
        trigger="person",
        reason="",
        requested_by="",
        rounds=3,
        state=RunState.ROUND,
        created_at=0.0,
        updated_at=0.0,
        **more,
    )


@given(st.integers(3, 90), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_everybody_is_in_one_group_of_four_to_seven_or_all_are_in_one(count: int, seed: int) -> None:
    groups = dealt(names(count), seed=seed)
    assert sorted(device for group in groups for device in group) == names(count)
    if count < 12:
        assert len(groups) == 1
    else:
        assert len(groups) >= 3
        assert all(4 <= len(group) <= 7 for group in groups)


def test_who_stays_stays_together() -> None:
    before = dealt(names(30))
    assert sorted(dealt(names(30), remembering(before), seed=9), key=sorted) == sorted(before, key=sorted)


@given(st.sets(st.integers(0, 29), max_size=6), st.integers(0, 6), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_after_joins_and_leaves_no_group_is_nearly_an_old_one(gone: set[int], new: int, seed: int) -> None:
    everybody = names(30)
    before = dealt(everybody, seed=seed)
    memory = remembering(before)
    present = [device for i, device in enumerate(everybody) if i not in gone] + names(new, first=100)
    after = dealt(present, memory, seed=seed)
    for group in after:
        for old in before:
            if group & old:
                assert group == old or len(group ^ old) >= FEWEST_EXCHANGED
    placed = sum(map(len, after))
    assert placed >= len(present) - 3, "few sit out"
    assert len({device for group in after for device in group}) == placed


def test_a_small_fleet_that_lost_one_is_asked_without_two_more() -> None:
    memory = remembering([frozenset(names(9))])
    (group,) = dealt(names(8), memory)
    assert len(group) == 6
    assert dealt(names(9), memory) == [frozenset(names(9))]
    # A newcomer would be told apart from the others.
    assert dealt(names(10), memory) == [frozenset(names(9))]


def test_a_group_that_has_answered_is_asked_whole_or_sits_out() -> None:
    group = frozenset(names(4))
    memory = remembering([group])
    whole = may_ask(sorted(group), names(4), memory, fewest=3)
    assert whole is not None
    assert (whole.devices, whole.quorum) == (tuple(names(4)), 4)
    assert may_ask(sorted(group), names(3), memory, fewest=3) is None
    fresh = may_ask(sorted(group), names(3), Memory(), fewest=3)
    assert fresh is not None
    assert (fresh.devices, fresh.quorum) == (tuple(names(3)), 3)


def test_members_who_answered_without_the_fourth_go_on_without_it() -> None:
    memory = remembering([frozenset(names(3))])
    asked = may_ask(names(4), names(4), memory, fewest=3)
    assert asked is not None
    assert asked.devices == tuple(names(3))


def test_losses_on_the_way_must_not_bring_a_group_near_an_old_one() -> None:
    """Seven, of whom four answered before: two may be lost and still five... of them differ by three."""
    memory = remembering([frozenset(names(4))])
    asked = may_ask(names(7), names(7), memory, fewest=3)
    assert asked is not None
    assert (len(asked.devices), asked.quorum) == (7, 7)
    other = may_ask(names(5, first=2), names(9), memory, fewest=3)
    assert other is not None
    quorum = other.quorum
    for lost in range(len(other.devices) - quorum + 1):
        for left in combinations(other.devices, len(other.devices) - lost):
            assert memory.allows(frozenset(left))


def test_the_ledger_is_the_memory_of_sums_that_may_have_been_seen() -> None:
    four, others = names(4), names(4, first=4)
    rounds = [
        held(four),
        held(names(4, first=2), outcome=Outcome.VOID, number=2),
        held(others, outcome=Outcome.WITHHELD, number=3),
        held(names(3), mechanism="discrete-gaussian", number=4),
        held(names(5), kind=SCALE, number=5),
    ]
    memory = Memory.of(rounds, {FIT})
    assert memory.answered == remembering([frozenset(four), frozenset(others)]).answered
    both = Memory.of(rounds, {FIT, SCALE})
    assert both.answered[four[0]] == (frozenset(names(5)), frozenset(four))


def test_a_runs_groups_are_fixed_while_it_trains_and_dealt_anew_where_an_attempt_was_refused() -> None:
    run = with_groups(run_of(), FAMILY, names(12), ())
    assert len(run.groups) == 3
    assert protection(run, FAMILY).startswith("the median of 3 groups outvotes")
    training = run_of(groups=run.groups, finished_rounds=1, attempts=1)
    assert with_groups(training, FAMILY, names(11), ()).groups == run.groups
    refused = RoundRecord(
        kind="scale",
        number=4,
        attempt=1,
        started_at=0.0,
        seconds=1.0,
        asked=12,
        participants=(),
        refused=(RefusedDevice(device=run.groups[0][0], reason="refused: COHORT"),),
        lost=(),
        spared=(),
        groups=tuple(GroupRecord(devices=group) for group in run.groups),
        is_void=True,
    )
    again = run_of(groups=run.groups, finished_rounds=3, attempts=1, log=(refused,))
    dealt_anew = with_groups(again, FAMILY, names(12), [held(group) for group in run.groups[1:]])
    assert run.groups[0] not in dealt_anew.groups
    assert sum(map(len, dealt_anew.groups)) == 12


def test_a_run_that_has_a_median_does_not_go_on_without_one() -> None:
    """Two poisoners of twelve: one voids a group, the other one too and then goes silent; eleven would be one group."""
    run = with_groups(run_of(), FAMILY, names(12), ())
    later = run_of(groups=run.groups, finished_rounds=3, attempts=1)
    assert with_groups(later, FAMILY, names(11), ()).groups == run.groups


def test_a_question_is_put_to_whole_groups_and_void_below_half_of_them() -> None:
    run = with_groups(run_of(), FAMILY, names(12), ())
    rounds = [held(group, kind=COVARIANCE, number=i) for i, group in enumerate(run.groups, 1)]
    there = set(names(12)) - {run.groups[0][0]}
    cohort = next_cohort(run, FAMILY, COVARIANCE, there, rounds)
    assert [group.devices for group in cohort.groups] == list(run.groups[1:])
    assert (cohort.fewest_groups, cohort.quorum) == (2, 3)
    assert all(group.quorum == len(group.devices) for group in cohort.groups)
    # Of another kind nobody has answered in that group: three of it will do.
    other = next_cohort(run, FAMILY, SCALE, there, rounds)
    assert [len(group.devices) for group in other.groups] == [3, 4, 4]
    # With two groups broken the others are asked all the same: devices know best what they have forgotten.
    few = next_cohort(run, FAMILY, COVARIANCE, there - {run.groups[1][0]}, rounds)
    assert [len(group.devices) for group in few.groups] == [3, 3, 4]


def test_a_fraction_trains_in_whole_groups_the_same_in_each_round() -> None:
    settings_ = FamilySettings(name="pump", cohort=FAMILY.cohort.__class__(fraction=0.5))
    run = with_groups(run_of(), settings_, names(40), ())
    first = next_cohort(run, settings_, FIT, names(40), ())
    assert len(first.groups) == 5
    later = run_of(groups=run.groups, finished_rounds=2)
    assert next_cohort(later, settings_, FIT, names(40), ()).groups == first.groups
    assert len(next_cohort(run, settings_, SCALE, names(40), ()).groups) == 10


@pytest.mark.parametrize(("devices", "training"), [(4, 1), (12, 3), (16, 3), (20, 4), (28, 5)])
def test_a_fifth_of_the_groups_judges_what_it_has_not_taught_where_three_are_left_to_train(
    devices: int, training: int
) -> None:
    run = with_groups(run_of(), FAMILY, names(devices), ())
    fit = next_cohort(run, FAMILY, FIT, names(devices), ())
    assert len(fit.groups) == training
    assess = next_cohort(run, FAMILY, ASSESS, names(devices), ())
    assert set(assess.devices) == set(names(devices))
    everybody = msgspec.structs.replace(FAMILY, gate=GateSettings(judging_share=0.0))
    assert len(next_cohort(run, everybody, FIT, names(devices), ()).groups) == len(run.groups)


@pytest.mark.parametrize(
    ("family", "mode"),
    [
        ({}, "no protection against a poisoner: one group"),
        ({"secure_sum": {"enabled": False}}, "no protection against a poisoner: answers in plain"),
        (
            {"privacy": {"noise": {"noise_multiplier": 1.0}}},
            "no protection against a poisoner: a cohort with noise",
        ),
    ],
)
def test_where_there_is_no_protection_the_run_says_so(family: dict[str, object], mode: str) -> None:
    policy = msgspec.convert({"name": "pump", **family}, FamilySettings)
    run = with_groups(run_of(), policy, names(11), ())
    assert protection(run, policy).startswith(mode)
