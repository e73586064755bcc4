"""A cohort that is asked in groups: one secure sum each, passed together, failing apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import secure_world as world
from lies import Lie, add, lying, wreck
from secure_world import FIT_LAYOUT, PARAMETERS, World, update
from test_secure_round import ASKED, swallow

from aggregator.privacy.ledger_entries import Outcome
from aggregator.rounds.cohorts import Cohort, Group
from aggregator.rounds.reports import CohortSum, QuorumMissedError
from protocol.names import DeviceId
from protocol.questions import FIT
from protocol.sum_terms import SumStage


def dealt(w: World, *, size: int = 4, quorum: int = 3) -> Cohort:
    names = tuple(w.devices)
    groups = tuple(Group(devices=names[at : at + size], quorum=quorum) for at in range(0, len(names), size))
    return Cohort(devices=names, quorum=3, groups=groups, fewest_groups=-(-len(groups) // 2))


def collect(w: World, cohort: Cohort | None = None) -> CohortSum:
    return w.collector().collect(ASKED, cohort or dealt(w), deadline_s=5.0)


def outcomes(w: World) -> dict[int, Outcome | None]:
    rounds = w.accounts.rounds(world.FAMILY)
    return {held.opened.id.group: held.closed.outcome if held.closed else None for held in rounds}


def test_each_group_has_a_session_a_sum_and_a_ledger_entry_of_its_own(tmp_path: Path) -> None:
    w = World(tmp_path, 12)
    result = collect(w)
    assert result.participants == tuple(sorted(w.devices))
    assert [found.participants for found in result.sums] == [group.devices for group in dealt(w).groups]
    for index, found in enumerate(result.sums):
        expected = np.sum([update(i) for i in range(4 * index, 4 * index + 4)], axis=0)
        np.testing.assert_allclose(found.total, expected, atol=1e-2)
    assert outcomes(w) == dict.fromkeys((1, 2, 3), Outcome.USED)
    assert [group.left_out for group in result.groups] == ["", "", ""]
    # Each device was sent, and sent, as many messages as in one cohort.
    assert len(w.seen) == 4 * 12


@pytest.mark.parametrize("stage", [SumStage.ADVERTISE, SumStage.SHARE, FIT])
def test_a_group_that_goes_silent_is_left_out_and_the_others_go_on(tmp_path: Path, stage: str) -> None:
    w = World(tmp_path, 12)
    w.spoil = swallow(str(stage), *(DeviceId(f"press-{i:03d}") for i in (0, 1)))
    result = collect(w)
    assert result.participants == tuple(sorted(w.devices))[4:]
    assert "VoidRoundError" in result.groups[0].left_out
    assert outcomes(w) == {1: Outcome.VOID, 2: Outcome.USED, 3: Outcome.USED}
    assert result.lost == ("press-000", "press-001")


def test_a_group_that_must_be_whole_holds_nobody_up_once_a_member_has_refused(tmp_path: Path) -> None:
    w = World(tmp_path, 12)
    w.spoil = lambda kind, device, message: (
        b"\xc1" if kind == SumStage.ADVERTISE and device == "press-000" else message
    )
    result = collect(w, dealt(w, quorum=4))
    assert result.participants == tuple(sorted(w.devices))[4:]
    assert result.seconds < 1.0
    assert len([kind for kind, device, _ in w.seen if kind == FIT]) == 8


def test_with_fewer_than_half_of_the_groups_the_round_is_void_and_names_them(tmp_path: Path) -> None:
    w = World(tmp_path, 12)
    w.spoil = swallow(FIT, *(DeviceId(f"press-{i:03d}") for i in (0, 1, 4, 5)))
    words = r"1 of 3 groups gave a sum that can be used, it takes 2 .*\(group 1 \(press-000 … press-003\): VoidRoundError"
    with pytest.raises(QuorumMissedError, match=words) as missed:
        collect(w)
    assert [bool(group.left_out) for group in missed.value.report.groups] == [True, True, False]
    # The third group's sum was seen, and is not used.
    assert outcomes(w) == {1: Outcome.VOID, 2: Outcome.VOID, 3: Outcome.WITHHELD}
    assert missed.value.report.participants == ()


@pytest.mark.parametrize(
    ("attack", "lie", "rule"),
    [
        ("no example and a chosen update", add(votes=-1, update=9.0), "norm"),
        ("-159 votes", add(votes=-159), "votes"),
        ("4,096 counts", add(votes=4096, update=4096.0), "votes"),
        ("sign flip times ten", add(update=-10.0), "norm"),
        ("explode", add(update=4.9 * PARAMETERS**0.5), "norm"),
        ("+6 and -5 votes in a group of four", add(votes=0, update=11.0), "norm"),
        ("any words", wreck, ""),
    ],
)
def test_one_liar_of_twelve_costs_its_group_alone(tmp_path: Path, attack: str, lie: Lie, rule: str) -> None:
    w = World(tmp_path, 12)
    w.spoil = lying({DeviceId("press-005"): lie})
    result = collect(w)
    assert [bool(group.left_out) for group in result.groups] == [False, True, False], attack
    assert result.groups[1].left_out.startswith(rule)
    assert len(result.participants) == 8
    expected = np.median(
        [np.mean([update(i)[:PARAMETERS] for i in group], axis=0) for group in (range(4), range(8, 12))],
        axis=0,
    )
    np.testing.assert_allclose(FIT_LAYOUT.unpack(result.total)["update"], 8 * expected, atol=1e-5)
    # It was seen, and is not used.
    assert outcomes(w) == {1: Outcome.USED, 2: Outcome.WITHHELD, 3: Outcome.USED}


def test_a_liar_inside_the_clip_passes_the_rules_and_moves_the_median_little(tmp_path: Path) -> None:
    w = World(tmp_path, 12)
    w.spoil = lying({DeviceId("press-005"): add(update=1.0)})
    result = collect(w)
    assert [group.left_out for group in result.groups] == ["", "", ""]
    means = [np.mean([update(i)[:PARAMETERS] for i in range(at, at + 4)], axis=0) for at in (0, 4, 8)]
    moved = FIT_LAYOUT.unpack(result.total)["update"] / 12
    assert (moved >= np.min(means, axis=0) - 1e-5).all()
    assert (moved <= np.max(means, axis=0) + 1e-5).all()


def test_with_liars_in_half_of_the_groups_nothing_is_used_and_each_rule_is_named(tmp_path: Path) -> None:
    w = World(tmp_path, 12)
    w.spoil = lying(dict.fromkeys((DeviceId("press-001"), DeviceId("press-005")), add(votes=-159)))
    with pytest.raises(QuorumMissedError, match=r"1 of 3 groups .*votes: -155 .*votes: -155"):
        collect(w)
    assert outcomes(w) == dict.fromkeys((1, 2, 3), Outcome.WITHHELD)
