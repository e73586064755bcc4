"""The secure collector with real roles on both sides: sums, dropouts at every stage, refusals, the ledger, and what is seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import secure_world as world
from msgspec import structs
from secure_world import ARRAYS, FIT_LAYOUT, QUESTION, World, update

from aggregator.privacy.ledger_entries import Outcome
from aggregator.privacy.settings import FamilyBudget, PrivacySettings
from aggregator.rounds.admission import admit_update
from aggregator.rounds.cohorts import Cohort
from aggregator.rounds.collector import CohortQuestion
from aggregator.rounds.reports import CohortSum, QuorumMissedError, RoundCanceledError
from edge_agent.privacy.limits import OwnerLimits
from protocol.names import DeviceId
from protocol.questions import FIT
from protocol.refusals import RefusalCode, read_refusal
from protocol.secure_sum.device_role import DevicePolicy
from protocol.sum_terms import SumStage

LAST = DeviceId("press-004")
ASKED = CohortQuestion(
    question=QUESTION, arrays=ARRAYS, layout=FIT_LAYOUT, admission=admit_update(norm_limit=10.0)
)


def collect(w: World, *, quorum: int = 3, enough: int | None = None, **more: object) -> CohortSum:
    cohort = Cohort(devices=tuple(w.devices), quorum=quorum, enough=enough)
    return w.collector().collect(ASKED, cohort, deadline_s=5.0, **more)


def naive_sum(indices: range | list[int]) -> np.ndarray:
    return np.sum([np.asarray(update(i), np.float64) for i in indices], axis=0)


def outcomes(w: World) -> list[Outcome | None]:
    return [held.closed.outcome if held.closed else None for held in w.accounts.rounds(world.FAMILY)]


def swallow(stage: str, *devices: DeviceId) -> Callable[[str, DeviceId, bytes], bytes | None]:
    return lambda kind, device, message: None if kind == stage and device in devices else message


def test_sum_is_the_plain_sum_to_the_fixed_points_step(tmp_path: Path) -> None:
    w = World(tmp_path, 5)
    result = collect(w)
    assert result.participants == tuple(sorted(w.devices))
    expected = naive_sum(range(5))
    np.testing.assert_allclose(result.total, expected, atol=1e-3)
    assert FIT_LAYOUT.unpack(result.total)["votes"] == FIT_LAYOUT.unpack(expected)["votes"]
    assert outcomes(w) == [Outcome.USED]


@pytest.mark.parametrize("stage", [SumStage.ADVERTISE, SumStage.SHARE, FIT, SumStage.UNMASK])
def test_a_device_may_vanish_at_every_stage(tmp_path: Path, stage: str) -> None:
    w = World(tmp_path, 5)
    w.spoil = swallow(str(stage), LAST)
    result = collect(w)
    # Who sent its masked input is in the sum, whether or not it stayed to unmask.
    is_in = stage is SumStage.UNMASK
    np.testing.assert_allclose(result.total, naive_sum(range(5 if is_in else 4)), atol=1e-3)
    assert (LAST in result.participants) is is_in
    assert result.lost == (() if is_in else (LAST,))


def test_below_the_quorum_the_round_is_void_and_the_retry_has_fresh_secrets(tmp_path: Path) -> None:
    w = World(tmp_path, 5)
    w.spoil = swallow(FIT, LAST, DeviceId("press-003"))
    with pytest.raises(
        QuorumMissedError, match=r"came to nothing, nothing of it was used \(VoidRoundError"
    ) as missed:
        collect(w, quorum=4)
    assert missed.value.report.participants == ()
    assert sorted(missed.value.report.lost) == ["press-003", LAST]
    assert not [kind for kind, _, _ in w.seen if kind == SumStage.UNMASK]
    first = {(d, m) for k, d, m in w.seen if k == SumStage.ADVERTISE}
    w.spoil = lambda _kind, _device, message: message
    np.testing.assert_allclose(collect(w, quorum=4).total, naive_sum(range(5)), atol=1e-3)
    assert not first & {(d, m) for k, d, m in w.seen[len(first) :] if k == SumStage.ADVERTISE}
    assert outcomes(w) == [Outcome.VOID, Outcome.USED]
    assert [held.opened.id.attempt for held in w.accounts.rounds(world.FAMILY)] == [1, 2]


def test_enough_masked_inputs_close_the_round_and_the_others_are_spared(tmp_path: Path) -> None:
    w = World(tmp_path, 5)
    w.spoil = swallow(FIT, LAST)
    result = collect(w, enough=4)
    assert result.spared == (LAST,)
    assert result.seconds < 1.0


def test_learner_that_was_killed_between_stages_is_left_out(tmp_path: Path) -> None:
    w = World(tmp_path, 5)

    def kill(kind: str, device: DeviceId, message: bytes) -> bytes:
        if (kind, device) == (SumStage.SHARE, LAST):
            w.start(LAST)
        return message

    w.spoil = kill
    result = collect(w)
    (refusal,) = result.refused
    assert refusal.device == LAST
    assert read_refusal(refusal.reason) is RefusalCode.ORDER
    np.testing.assert_allclose(result.total, naive_sum(range(4)), atol=1e-3)


def test_garbage_at_any_stage_costs_its_sender_the_round(tmp_path: Path) -> None:
    for number, stage in enumerate([SumStage.ADVERTISE, SumStage.SHARE, FIT, SumStage.UNMASK]):
        (tmp_path / str(number)).mkdir()
        w = World(tmp_path / str(number), 5)
        w.spoil = lambda kind, device, message, at=str(stage): (
            b"\xc1 no message" if (kind, device) == (at, LAST) else message
        )
        result = collect(w)
        assert len(result.participants) == (5 if stage is SumStage.UNMASK else 4)
        if stage is not SumStage.UNMASK:
            assert result.refused[0].reason.startswith("SumMessageError")


def test_device_shown_another_model_refuses_before_it_trains(tmp_path: Path) -> None:
    w = World(tmp_path, 5)
    other = {"parameters": np.zeros(world.PARAMETERS, np.float32)}
    w.bend = lambda request: replace(request, arrays=other) if request.question else request
    with pytest.raises(QuorumMissedError, match="refused: TERMS"):
        collect(w)
    assert all(device.asked == [] for device in w.devices.values())
    assert all(device.budget.spending().participations == 0 for device in w.devices.values())


def test_stranger_smuggled_into_the_cohort_is_refused_by_every_device(tmp_path: Path) -> None:
    w = World(tmp_path, 5)
    # The aggregator knows a device that the fleet does not: the devices' roster decides.
    del w.roster.held[LAST]
    with pytest.raises(QuorumMissedError, match="refused: ROSTER") as missed:
        collect(w)
    assert len(missed.value.report.refused) == 5
    assert outcomes(w) == [Outcome.VOID]


def test_devices_with_a_higher_floor_refuse_a_small_cohort_by_name(tmp_path: Path) -> None:
    w = World(tmp_path, 5, floors=DevicePolicy(minimum_cohort=6))
    with pytest.raises(QuorumMissedError, match="refused: COHORT"):
        collect(w)


def test_device_charges_its_account_before_its_answer_leaves_and_refuses_when_it_is_spent(
    tmp_path: Path,
) -> None:
    w = World(tmp_path, 5, limits=OwnerLimits(maximum_participations=1))
    collect(w)
    assert {d.budget.spending().participations for d in w.devices.values()} == {1}
    with pytest.raises(QuorumMissedError, match="refused: BUDGET") as missed:
        collect(w)
    assert read_refusal(missed.value.report.refused[0].reason) is RefusalCode.BUDGET


def test_cap_announced_by_the_aggregator_is_enforced_by_the_device(tmp_path: Path) -> None:
    privacy = PrivacySettings(budget=FamilyBudget(maximum_participations=1))
    w = World(tmp_path, 5, policy=replace(world.POLICY, privacy=privacy))
    collect(w)
    with pytest.raises(QuorumMissedError, match="refused: BUDGET"):
        collect(w)


def test_update_beyond_the_norm_is_clipped_by_the_device_itself(tmp_path: Path) -> None:
    w = World(tmp_path, 3, policy=replace(world.POLICY, norm_limit=1.0), answers=lambda _: update(1000))
    parts = FIT_LAYOUT.unpack(collect(w).total)
    move = parts["update"] / parts["votes"]
    assert np.linalg.norm(move) == pytest.approx(1.0, rel=1e-3)


def test_compared_survivors_take_one_more_stage(tmp_path: Path) -> None:
    w = World(
        tmp_path,
        5,
        policy=replace(world.POLICY, stages=structs.replace(world.POLICY.stages, requires_confirmation=True)),
        floors=DevicePolicy(requires_confirmation=True, split_view_safe=True),
    )
    np.testing.assert_allclose(collect(w).total, naive_sum(range(5)), atol=1e-3)
    assert len([kind for kind, _, _ in w.seen if kind == SumStage.CONFIRM]) == 5


def test_canceled_round_is_void_in_the_ledger(tmp_path: Path) -> None:
    w = World(tmp_path, 5)
    w.spoil = swallow(FIT, *w.devices)
    with pytest.raises(RoundCanceledError):
        collect(w, canceled=lambda: w.now > 0.5)
    assert outcomes(w) == [Outcome.VOID]


def test_round_that_fails_after_unmasking_began_is_withheld_and_counted(tmp_path: Path) -> None:
    w = World(tmp_path, 5)
    w.spoil = swallow(SumStage.UNMASK, *w.devices)
    with pytest.raises(QuorumMissedError):
        collect(w)
    assert outcomes(w) == [Outcome.WITHHELD]


def test_nothing_that_reaches_the_aggregator_holds_an_answer(tmp_path: Path) -> None:
    w = World(tmp_path, 5)
    collect(w)
    for device in w.devices.values():
        plain = [
            np.asarray(device.answer, kind).tobytes() for kind in (np.float32, np.float64, np.int32, np.int64)
        ]
        # The whole vector, and the eight bytes of any two of its entries side by side.
        for message in (m for _, _, m in w.seen):
            assert not any(p in message or p[:8] in message for p in plain)


def test_claim_of_exact_sums_says_that_nothing_limits_epsilon(tmp_path: Path) -> None:
    w = World(tmp_path, 5)
    collect(w)
    claim = w.accounts.claim(world.FAMILY, "run-1")
    assert claim.server.epsilon is None
    assert claim.release.epsilon is None
    assert claim.noiseless_questions == (FIT,)


@pytest.mark.parametrize(("devices", "false"), [(3, 2), (4, 2), (5, 3), (7, 4), (11, 7)])
def test_so_many_false_devices_of_a_group_see_another_and_one_fewer_do_not(
    tmp_path: Path, devices: int, false: int
) -> None:
    """The others are said to be lost: what is opened then is a sum of the smallest size, of one honest device and false ones."""
    for held in (false, false - 1):
        folder = tmp_path / str(held)
        folder.mkdir()
        w = World(folder, devices, floors=DevicePolicy(split_view_safe=True))
        w.policy = replace(w.policy, stages=structs.replace(w.policy.stages, split_view_safe=True))
        names = sorted(w.devices)
        w.spoil = swallow(FIT, *names[1 + held :])
        if held < false:
            with pytest.raises(QuorumMissedError):
                collect(w, quorum=min(held + 1, 3))
            continue
        result = collect(w, quorum=held + 1)
        assert result.participants == tuple(names[: held + 1])
        seen = result.total - naive_sum(list(range(1, held + 1)))
        np.testing.assert_allclose(seen, update(0), atol=1e-3)
