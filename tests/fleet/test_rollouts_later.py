"""Devices that come later, rollouts that are undone later, and who has a device then: over a real database."""

from __future__ import annotations

import msgspec
import pytest
from rollout_world import ANN, PLAN, RolloutWorld, make_boot, make_device
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from fleet.admission import Assignment, assign
from fleet.errors import ConflictError, UnacceptableError
from fleet.rollouts import operations, saying
from fleet.rollouts.engine import RolloutEngine
from fleet.rollouts.operations import create_rollout, withdraw_release
from fleet.rollouts.plans import RolloutPlan
from fleet.rollouts.progress import Rollout
from fleet.rollouts.saying import Answer, Said, carry_out_verb, decide_said
from fleet.rollouts.states import RolloutState, Verb
from fleet.rollouts.store import find_rollout
from fleet.storage.device_tables import Device
from fleet.storage.release_tables import Release
from fleet.storage.rollout_tables import RolloutExecution, RolloutTransition
from protocol.messages.kinds import InstallStatus
from service.errors import ForbiddenError

ALL_AT_ONCE = {"groups": [{"percentage": 100}], "limits": [], "success": {"threshold_pct": 50}}


def enrol(world: RolloutWorld, name: str) -> None:
    with world.database.write() as session:
        session.add(make_device(name, world.now))
        session.add_all(make_boot(name, number, world.now) for number in (0, 1, 2))


def completed(world: RolloutWorld, **changes: object) -> str:
    rollout = world.started(**(ALL_AT_ONCE | changes))
    world.install([device for device in world.devices if world.desired(device)])
    world.tick(1)
    assert world.view(rollout).state is RolloutState.COMPLETED
    return rollout


def has(world: RolloutWorld, device: str) -> list[str]:
    with world.database.read() as session:
        return list(
            session.scalars(select(RolloutExecution.rollout).where(RolloutExecution.device == device))
        )


def wanted(world: RolloutWorld, device: str) -> str | None:
    desired = world.desired(device)
    return None if desired is None else desired.release


def roll_back(world: RolloutWorld, rollout: str, to: str | None = None) -> None:
    carry_out_verb(
        world.database, world.publisher, rollout, Verb.ROLLBACK, caller=ANN, now=world.now, rollback_to=to
    )


def test_a_device_that_enrols_later_is_told_while_the_rollout_runs_and_when_it_is_completed(
    world: RolloutWorld,
) -> None:
    rollout = world.started(**ALL_AT_ONCE, dynamic=True)
    enrol(world, "new1")
    world.tick(120)
    assert wanted(world, "new1") == "pump/2"
    world.install([*world.devices, "new1"])
    world.tick(1)
    assert world.view(rollout).state is RolloutState.COMPLETED
    enrol(world, "new2")
    world.tick(120)
    assert wanted(world, "new2") == "pump/2"
    world.say(rollout, Verb.CANCEL)
    enrol(world, "new3")
    world.tick(120)
    assert (wanted(world, "new3"), has(world, "new3")) == (None, [])


def test_a_dynamic_rollout_begins_before_its_first_device_and_another_one_does_not(
    world: RolloutWorld,
) -> None:
    nobody = ALL_AT_ONCE | {"target_query": "site==nowhere", "gates": None}
    with pytest.raises(UnacceptableError, match="selects no enrolled device"):
        world.started(**nobody)
    with world.database.write() as session:
        session.execute(delete(Device))
    rollout = world.started(**(nobody | {"target_query": "", "dynamic": True}))
    world.tick(1)
    world.tick(1)
    assert world.view(rollout).state is RolloutState.COMPLETED
    enrol(world, "new1")
    world.tick(120)
    assert wanted(world, "new1") == "pump/2"


def test_a_dynamic_rollout_without_a_device_can_be_rolled_back(world: RolloutWorld) -> None:
    with world.database.write() as session:
        session.execute(delete(Device))
    rollout = world.started(**ALL_AT_ONCE, dynamic=True, gates=None)
    world.tick(1)
    roll_back(world, rollout)
    world.tick(1)
    world.tick(1)
    assert world.view(rollout).state is RolloutState.ROLLED_BACK


def test_of_two_dynamic_rollouts_the_latest_has_a_device_that_comes(world: RolloutWorld) -> None:
    completed(world, dynamic=True, target_query="")
    world.now += 1
    query = "id=in=(d00,d01,new1)"
    later = world.started(**ALL_AT_ONCE, dynamic=True, release="pump/3", target_query=query)
    world.install(["d00", "d01"])
    world.tick(1)
    enrol(world, "new1")
    enrol(world, "new2")
    world.tick(120)
    assert has(world, "new1") == [later]
    assert (wanted(world, "new1"), wanted(world, "new2")) == ("pump/3", "pump/2")


def test_a_completed_rollout_is_undone_where_no_later_one_has_the_device(world: RolloutWorld) -> None:
    first = completed(world)
    second = world.started(**ALL_AT_ONCE, release="pump/3", target_query="id=in=(d00,d01)")
    with pytest.raises(ConflictError, match=f"are in the unfinished rollout {second}"):
        roll_back(world, first)
    world.install(["d00", "d01"])
    world.tick(1)
    roll_back(world, first)
    assert {wanted(world, device) for device in ("d00", "d01")} == {"pump/3"}
    assert {wanted(world, device) for device in world.devices[2:]} == {"pump/1"}


def test_everybody_goes_back_to_the_release_that_a_person_names(world: RolloutWorld) -> None:
    first = completed(world, release="pump/3")
    for release, words in (("fan/1", "is not of family 'pump'"), ("pump", "not of the form")):
        with pytest.raises(UnacceptableError, match=words):
            roll_back(world, first, release)
    with pytest.raises(ConflictError, match="pump/3 is what the rollout takes back"):
        roll_back(world, first, "pump/3")
    with pytest.raises(UnacceptableError, match="goes with rollback, not with pause"):
        carry_out_verb(
            world.database,
            world.publisher,
            first,
            Verb.PAUSE,
            caller=ANN,
            now=world.now,
            rollback_to="pump/2",
        )
    roll_back(world, first, "pump/2")
    world.tick(1)
    assert {wanted(world, device) for device in world.devices} == {"pump/2"}


def test_where_two_people_must_agree_nobody_alone_names_what_everybody_goes_back_to(
    world: RolloutWorld,
) -> None:
    rollout = completed(world)

    def back_to(release: str | None) -> None:
        carry_out_verb(
            world.database,
            world.publisher,
            rollout,
            Verb.ROLLBACK,
            caller=ANN,
            now=world.now,
            approved_families=("pump",),
            rollback_to=release,
        )

    with pytest.raises(ForbiddenError, match="nobody approved pump/3"):
        back_to("pump/3")
    assert {wanted(world, device) for device in world.devices} == {"pump/2"}
    with world.database.write() as session:
        session.get_one(Release, ("pump", 3)).approved_at = world.now
    back_to("pump/3")
    world.tick(1)
    assert {wanted(world, device) for device in world.devices} == {"pump/3"}


def test_what_was_withdrawn_is_not_tried_again(world: RolloutWorld) -> None:
    rollout = completed(world, success={"threshold_pct": 50})
    with world.database.write() as session:
        last = world.devices[-1]
        session.execute(
            update(RolloutExecution).where(RolloutExecution.device == last).values(state=InstallStatus.FAILED)
        )
    withdraw_release(world.database, "pump", 2, reason="it harms", actor="operator:ann", now=world.now)
    with pytest.raises(ConflictError, match="withdrawn"):
        carry_out_verb(world.database, world.publisher, rollout, Verb.RETRY_FAILED, caller=ANN, now=world.now)


def test_who_fails_when_the_release_was_withdrawn_is_not_told_to_try_it_again(world: RolloutWorld) -> None:
    rollout = world.started(**ALL_AT_ONCE, retry={"FAILED": 1})
    *most, last = world.devices
    world.install(most)
    world.report(last, InstallStatus.IN_PROGRESS)
    world.tick(1)
    assert world.view(rollout).state is RolloutState.COMPLETED
    withdraw_release(world.database, "pump", 2, reason="it harms", actor="operator:ann", now=world.now)
    told = world.desired(last)
    world.report(last, InstallStatus.FAILED)
    world.tick(60)
    now = world.desired(last)
    assert told is not None
    assert now is not None
    assert now.execution == told.execution, "a second attempt"


def test_a_device_of_another_family_is_no_rollouts_any_more(world: RolloutWorld) -> None:
    first = completed(world)
    with world.database.write() as session:
        assign(
            session, "d00", Assignment(family="fan", is_unreleased=True), actor="operator:ann", now=world.now
        )
    roll_back(world, first)
    assert (wanted(world, "d00"), wanted(world, "d01")) == (None, "pump/1")


def test_a_label_that_is_no_time_zone_is_refused_with_the_nearest(world: RolloutWorld) -> None:
    with world.database.write() as session:
        assign(session, "d00", Assignment(labels={"time_zone": "Asia/Tokyo"}), actor="operator:ann", now=1.0)
    with (
        pytest.raises(UnacceptableError, match="label time_zone: there is no time zone 'Tokio'"),
        world.database.write() as session,
    ):
        assign(session, "d00", Assignment(labels={"time_zone": "Tokio"}), actor="operator:ann", now=1.0)


def test_an_engine_that_is_started_again_tells_no_more_in_a_minute_than_the_plan_allows(
    world: RolloutWorld,
) -> None:
    rollout = world.started(**ALL_AT_ONCE, rate={"maximum_per_minute": 4})
    for _ in range(11):
        world.engine = RolloutEngine(world.database, world.publisher, now=lambda: world.now)
        world.tick(5)
    with world.database.read() as session:
        given = select(func.count()).where(
            RolloutTransition.rollout == rollout, RolloutTransition.state == "GIVEN"
        )
        assert session.scalar(given) == 4
    world.tick(5)
    with world.database.read() as session:
        assert session.scalar(given) == 5


def test_a_rollback_that_is_over_notes_who_comes_back_later(world: RolloutWorld) -> None:
    rollout = completed(world)
    with world.database.write() as session:
        device = session.get_one(type(make_device("x", 0.0)), "d00")
        device.online = False
    roll_back(world, rollout)
    world.install(world.devices[1:])
    world.tick(1)
    view = world.view(rollout)
    assert view.state is RolloutState.ROLLED_BACK
    assert view.reason == "every device is told to go back; 1 offline: will go back when heard (d00)"
    world.report("d00", InstallStatus.SUCCEEDED)
    world.tick(86_400)
    assert world.view(rollout).counts == {"ROLLED_BACK": 12}


def test_what_is_started_with_its_creation_is_what_would_be_read_and_is_not_read_under_the_lock(
    world: RolloutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def compare(session: Session, said: Said, known: Rollout | None = None) -> Answer:
        monkeypatch.setattr(saying, "find_rollout", find_rollout)
        read, _ = find_rollout(session, said.rollout_id)
        compared.append((known, read))
        monkeypatch.setattr(saying, "find_rollout", None)
        return decide_said(session, said, known)

    monkeypatch.setattr(operations, "decide_said", compare)
    plan = msgspec.convert(PLAN | {"groups": [{"count": 3}, {"percentage": 100}]}, RolloutPlan)
    create_rollout(world.database, plan, "ro-x", caller=ANN, now=world.now, starts=world.publisher)
    ((known, read),) = compared
    assert known == read
    assert list(known.executions) == list(read.executions), "also in the order in which they are told"
    assert len(world.publisher.announced) == 3
