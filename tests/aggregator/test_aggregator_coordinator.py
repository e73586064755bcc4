"""The state machine of a training run, over real training and a real collector, with short roads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from aggregator_world import FAMILY, POLICY, TRUSTED, Killed, World, first_bundle
from family_changes import changed

from aggregator.errors import FleetRefusedError, FleetUnreachableError, RunConflictError
from aggregator.rounds import assessment
from aggregator.rounds.runs import RunState
from models.bundles import read_bundle
from models.int8_model import Int8Model
from protocol.bundle import open_bundle
from protocol.questions import AssessQuestion, FitQuestion


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.slow
def test_a_run_ends_with_a_signed_release_that_a_device_can_run(world: World) -> None:
    run = world.run()
    assert (run.state, run.release) == (RunState.COMPLETED, "pump/2"), run.detail
    bundle = read_bundle(open_bundle(world.fleet.bundles[2], TRUSTED))
    bundle.golden.check(Int8Model(bundle.int8_model))
    provenance = bundle.manifest.provenance
    assert (provenance.training_run, provenance.rounds, provenance.participants) == ("run-1", 3, 4)
    assert provenance.parent == "pump/1"
    assert provenance.evaluation["candidate_loss"] < provenance.evaluation["champion_loss"]
    assert 0 < provenance.evaluation["int8_error"] < POLICY.gate.maximum_int8_error


def test_every_round_says_who_took_part_and_the_assessment_what_it_did_to_the_loss(world: World) -> None:
    run = world.run()
    fits = [entry for entry in run.log if entry.kind == "fit"]
    assert [entry.number for entry in fits] == [1, 2, 3]
    assert all(len(entry.participants) == 4 and entry.examples == 4 for entry in fits)
    (assessed,) = (entry for entry in run.log if entry.kind == "assess")
    assert assessed.loss_before is not None
    assert assessed.loss_after is not None
    assert assessed.loss_after < assessed.loss_before


def test_the_invitation_stands_while_devices_take_part_and_is_cleared_at_the_end(world: World) -> None:
    standing: list[bool] = []
    world.fleet.on_publish = lambda: standing.append(FAMILY in world.board.standing)
    run = world.run()
    invitation = world.board.posted[0]
    assert (invitation.run_id, invitation.base_release) == (run.id, "pump/1")
    assert invitation.expires_at > invitation.issued_at
    assert standing == [False]
    assert world.session.outcomes == ["GATED"]


def test_a_nan_answer_is_refused_by_name_and_the_round_goes_on(world: World) -> None:
    bad = world.devices[1]
    world.link.spoil = lambda device, question, vector: (
        vector * np.float32("nan") if device == bad and isinstance(question, FitQuestion) else vector
    )
    run = world.run()
    assert run.state is RunState.COMPLETED
    first = run.log[0]
    assert [refused.device for refused in first.refused] == [bad]
    assert "NaN" in first.refused[0].reason
    assert bad not in first.participants
    assert bad not in run.participants


def test_a_void_round_is_tried_again_and_leaves_the_model_alone(world: World) -> None:
    silent = iter([True] * 4)
    world.link.spoil = lambda device, question, vector: None if next(silent, False) else vector
    run = world.run()
    assert run.state is RunState.COMPLETED
    assert [(entry.number, entry.attempt, entry.is_void) for entry in run.log[:2]] == [
        (1, 1, True),
        (1, 2, False),
    ]
    assert "quorum" in run.log[0].note
    asked = [arrays for question, arrays in world.link.sent if isinstance(question, FitQuestion)]
    np.testing.assert_array_equal(asked[0]["parameters"], asked[1]["parameters"])


def test_too_many_void_rounds_end_the_run_and_say_why(world: World) -> None:
    world.link.spoil = lambda device, question, vector: None
    run = world.run()
    assert run.state is RunState.FAILED
    assert "2 attempts" in run.detail
    assert "0 of 4 devices" in run.detail
    assert FAMILY not in world.board.standing
    assert list(world.fleet.bundles) == [1]


def test_a_run_that_nobody_joins_fails_after_the_join_timeout(world: World) -> None:
    world.session.present = frozenset(world.devices[:1])
    run = world.run()
    assert run.state is RunState.FAILED
    assert "1 devices joined within 5 s, the quorum is 2" in run.detail
    assert world.clock.now() >= 1005


def test_a_settled_quorum_does_not_wait_for_devices_that_never_come(world: World) -> None:
    world.session.present = frozenset(world.devices[:3])
    run = world.run()
    assert run.state is RunState.COMPLETED
    assert world.clock.now() < 1000 + POLICY.rounds.join_timeout_s
    assert len(run.participants) == 3


def test_a_broken_flower_session_is_replaced_and_the_invitation_stands(world: World) -> None:
    world.link.is_broken = True
    run = world.run()
    assert run.state is RunState.COMPLETED
    assert len(world.federation.opened) == 2


def test_a_candidate_that_is_no_better_is_rejected_with_reasons(tmp_path: Path) -> None:
    strict = changed(POLICY, gate__minimum_improvement=0.999)
    world = World(tmp_path, policy=strict)
    run = world.run()
    assert run.state is RunState.REJECTED_BY_GATE
    assert "not enough" in run.detail
    assert list(world.fleet.bundles) == [1]
    failed = [check.name for check in run.checks if not check.is_passed]
    assert (failed, len(run.checks)) == (["improvement"], 6)


def test_after_an_undo_four_runs_are_judged_against_the_release_in_force_under_versions_of_their_own(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, policy=changed(POLICY, rounds__count=1))
    undone = world.run()
    assert undone.release == "pump/2"
    world.fleet.desired = {1: 4}  # a rollout of pump/1 gave every device back what it ran before
    for number in range(2, 6):
        run = world.coordinator().advance(world.add_run(f"run-{number}").id)
        assert run.base_release == "pump/1"
        assert run.champion_loss == undone.champion_loss
        assert (run.state, run.release) == (RunState.COMPLETED, f"pump/{number + 1}"), run.detail


def test_an_int8_model_too_far_from_float_is_rejected(tmp_path: Path) -> None:
    strict = changed(POLICY, gate__maximum_int8_error=1e-9)
    world = World(tmp_path, policy=strict)
    run = world.run()
    assert run.state is RunState.REJECTED_BY_GATE
    assert "int8" in run.detail
    assert list(world.fleet.bundles) == [1]


def test_the_rollout_template_is_started_for_the_new_release(tmp_path: Path) -> None:
    world = World(tmp_path, policy=changed(POLICY, rollout={"target_query": "family==pump"}))
    run = world.run()
    assert run.rollout == "rollout-1"
    assert list(world.fleet.rollouts.values()) == [{"target_query": "family==pump", "release": "pump/2"}]
    assert run.detail == "release pump/2 is published and rollout rollout-1 started"


def test_a_rollout_that_needs_approval_is_said_to_wait_for_a_person(tmp_path: Path) -> None:
    run = World(tmp_path, policy=changed(POLICY, rollout={"require_approval": True})).run()
    assert run.detail == (
        "release pump/2 is published and rollout rollout-1 waits for a person: fedge-fleet rollouts approve rollout-1,"
        " then start it"
    )


def test_a_refused_rollout_leaves_the_release_published_and_says_so(tmp_path: Path) -> None:
    world = World(tmp_path, policy=changed(POLICY, rollout={}))
    world.fleet.on_publish = lambda: world.fleet.failures.append(FleetRefusedError("no such group", 422))
    run = world.run()
    assert run.state is RunState.COMPLETED
    assert "rollout was refused: no such group" in run.detail


def test_an_unreachable_fleet_is_waited_for(world: World) -> None:
    world.fleet.failures = [FleetUnreachableError("away")] * 3
    assert world.run().state is RunState.COMPLETED


def test_a_fleet_that_stays_away_fails_the_run(world: World) -> None:
    world.fleet.failures = [FleetUnreachableError("connection refused")] * 100
    run = world.run()
    assert run.state is RunState.FAILED
    assert "connection refused" in run.detail


def test_a_version_taken_meanwhile_becomes_the_next_one(world: World) -> None:
    releases = world.fleet.releases

    def publish_another() -> None:
        if 2 not in world.fleet.bundles:
            world.fleet.bundles[2] = first_bundle(2)

    original = world.exporter.release
    world.exporter.release = lambda *args: (original(*args), publish_another())[0]  # type: ignore[method-assign,func-returns-value] # somebody publishes in between
    run = world.run()
    assert run.release == "pump/3", run.detail
    assert sorted(record.version for record in releases(FAMILY)) == [1, 2, 3]


def test_a_family_without_a_release_cannot_train(world: World) -> None:
    world.fleet.bundles.clear()
    run = world.run()
    assert run.state is RunState.FAILED
    assert "initial-release" in run.detail


def test_a_champion_with_a_flipped_byte_is_refused(world: World) -> None:
    content = bytearray(first_bundle())
    content[-5] ^= 1
    world.fleet.bundles[1] = bytes(content)
    run = world.run()
    assert run.state is RunState.FAILED
    assert "SHA-256" in run.detail


def test_a_cancellation_ends_the_run_at_its_next_look(world: World) -> None:
    run = world.add_run()

    def cancel_in_round_two(device: str, question: object, vector: object) -> object:
        if isinstance(question, FitQuestion) and question.round_number == 2:
            world.store.request_cancel(run.id)
        return vector

    world.link.spoil = cancel_in_round_two  # type: ignore[assignment] # the vector is passed through
    ended = world.coordinator().advance(run.id)
    assert ended.state is RunState.CANCELED
    assert ended.finished_rounds <= 2
    assert FAMILY not in world.board.standing
    with pytest.raises(RunConflictError, match="has ended"):
        world.store.request_cancel(run.id)


def test_a_stopping_service_leaves_the_run_and_its_invitation_for_the_next_start(world: World) -> None:
    run = world.add_run()

    def stop(device: str, question: object, vector: object) -> object:
        world.clock.is_stopping = True
        return vector

    world.link.spoil = stop  # type: ignore[assignment] # the vector is passed through
    left = world.coordinator().advance(run.id)
    assert not left.is_over
    assert FAMILY in world.board.standing
    world.clock.is_stopping = False
    world.link.spoil = lambda device, question, vector: vector
    assert world.coordinator().advance(run.id).state is RunState.COMPLETED


def test_a_defect_ends_the_run_and_clears_its_invitation(world: World) -> None:
    def stumble(device: str, question: object, vector: object) -> object:
        raise ZeroDivisionError

    world.link.spoil = stumble  # type: ignore[assignment] # it never returns
    run = world.run()
    assert (run.state, run.detail) == (
        RunState.FAILED,
        "internal error (ZeroDivisionError); the aggregator's log says where",
    )
    assert FAMILY not in world.board.standing


def _die_in_fit(number: int) -> Callable[[World], None]:
    def arrange(world: World) -> None:
        def spoil(device: str, question: object, vector: object) -> object:
            if isinstance(question, FitQuestion) and question.round_number == number:
                raise Killed
            return vector

        world.link.spoil = spoil  # type: ignore[assignment] # the vector is passed through

    return arrange


def _die_in_assessment(world: World) -> None:
    def spoil(device: str, question: object, vector: object) -> object:
        if isinstance(question, AssessQuestion):
            raise Killed
        return vector

    world.link.spoil = spoil  # type: ignore[assignment] # the vector is passed through


def _die_in_export(world: World) -> None:
    class Dying:
        def int8_model(self, candidate: object) -> bytes:
            raise Killed

        def release(self, cleared: object) -> bytes:
            raise Killed

    world.exporter = Dying()


def _die_after_publishing(world: World) -> None:
    def die() -> None:
        raise Killed

    world.fleet.on_publish = die


@pytest.mark.parametrize(
    ("arrange", "state", "rounds"),
    [
        (_die_in_fit(1), RunState.ROUND, 0),
        (_die_in_fit(3), RunState.ROUND, 2),
        (_die_in_assessment, RunState.ASSESSING, 3),
        (_die_in_export, RunState.EXPORTING, 3),
        (_die_after_publishing, RunState.PUBLISHING, 3),
    ],
    ids=["in round 1", "in round 3", "in the assessment", "while exporting", "after publishing"],
)
def test_a_killed_run_resumes_at_its_last_finished_step_and_gives_the_same_model(
    tmp_path: Path, arrange: Callable[[World], None], state: RunState, rounds: int
) -> None:
    world = World(tmp_path)
    run = world.add_run()
    arrange(world)
    with pytest.raises(Killed):
        world.coordinator().advance(run.id)
    world.reopen()
    left = world.store.get(run.id)
    assert (left.state, left.finished_rounds) == (state, rounds)

    fresh = World(tmp_path / "mended")
    world.link.spoil, world.exporter = fresh.link.spoil, fresh.exporter
    world.fleet.on_publish = lambda: None
    resumed = world.coordinator().advance(run.id)
    assert (resumed.state, resumed.release) == (RunState.COMPLETED, "pump/2"), resumed.detail
    undisturbed = fresh.run()
    assert resumed.candidate_loss == pytest.approx(undisturbed.candidate_loss, rel=1e-6)
    assert [e.number for e in resumed.log if e.kind == "fit"] == [1, 2, 3]


def test_a_killed_run_reposts_its_invitation_under_the_same_run_id(world: World) -> None:
    run = world.add_run()
    _die_in_fit(2)(world)
    with pytest.raises(Killed):
        world.coordinator().advance(run.id)
    world.reopen()
    world.link.spoil = lambda device, question, vector: vector
    world.coordinator().advance(run.id)
    assert {invitation.run_id for invitation in world.board.posted} == {run.id}
    assert len(world.board.posted) == 2


def test_a_family_trains_in_one_run_at_a_time(world: World) -> None:
    world.add_run()
    with pytest.raises(RunConflictError, match="already training in run 'run-1'"):
        world.add_run("run-2")


def test_a_sum_that_ruins_the_model_is_refused_when_it_is_admitted(tmp_path: Path) -> None:
    world = World(tmp_path, policy=changed(POLICY, training__update_norm=1e6, training__trust_radius=1e6))

    def spoil(device: str, question: object, vector: np.ndarray) -> np.ndarray:
        if isinstance(question, FitQuestion) and device == "pump0":
            vector = vector.copy()
            vector[5] = 9e5
        return vector

    world.link.spoil = spoil
    run = world.run()
    assert run.state is RunState.FAILED
    assert "the step of round 1 ruins the model: parameter 5 of 58 is" in run.detail
    assert "none of a model that has learned is beyond ±10000" in run.detail


def test_a_candidate_that_never_alarms_is_rejected_and_one_that_sees_says_so_in_its_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deafening = changed(POLICY, threshold__margin=1000.0)
    # Usually it cannot go that far: no threshold leaves the reach of the one before.
    run = World(tmp_path / "in reach", policy=deafening).run()
    assert run.threshold == pytest.approx(1.5 * 3.0)
    with monkeypatch.context() as patch:
        patch.setattr(assessment, "MOST_MOVED", 1e6)
        deaf = World(tmp_path / "deaf", policy=deafening).run()
    assert deaf.state is RunState.REJECTED_BY_GATE
    (sight,) = (check for check in deaf.checks if check.name == "sight")
    assert (sight.value, sight.is_passed) == (0.0, False)
    assert "the candidate sees less" in deaf.detail
    world = World(tmp_path / "sound")
    run = world.run()
    assert run.state is RunState.COMPLETED, run.detail
    figures = read_bundle(open_bundle(world.fleet.bundles[2], TRUSTED)).manifest.provenance.evaluation
    (sight,) = (check for check in run.checks if check.name == "sight")
    assert figures["sight"] == sight.value > 0
    assert {"champion_sight", "learned_share", "int8_sight", "float_sight"} <= figures.keys()
