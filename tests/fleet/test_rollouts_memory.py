"""An engine that holds rollouts in memory comes to what one that reads them anew comes to, whatever happened and whoever wrote."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from databases import Databases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rollout_world import RolloutWorld
from sqlalchemy import Engine, event, select, update

from fleet.erasure import erase_device
from fleet.errors import ConflictError
from fleet.rollouts import returning
from fleet.rollouts.decisions import decide
from fleet.rollouts.engine import RolloutEngine
from fleet.rollouts.observations import observe
from fleet.rollouts.states import RolloutState, Verb
from fleet.rollouts.store import find_rollout
from fleet.rollouts.tallies import tallies_of
from fleet.rollouts.verbs import carry_out
from fleet.storage.device_tables import Desired, Device, DeviceState
from fleet.storage.rollout_tables import RolloutRecord
from protocol.messages.kinds import AgentState, InstallStatus, InstallStep

PLANS: list[dict[str, Any]] = [
    {
        "groups": [{"percentage": 75, "soak_s": 10}, {"percentage": 100}],
        "timeout": {"queued_s": 60, "in_progress_s": 50, "step_s": 20, "health_s": 20, "rollback_s": 40},
        "retry": {"FAILED": 1},
        "abort": [{"failure_type": "ALL", "min_executed": 3, "threshold_pct": 90, "action": "pause"}],
    },
    {"release": "pump/3", "groups": [{"percentage": 100}], "limits": [], "rate": {"maximum_per_minute": 60}},
]
DEVICES = st.integers(0, 3)
STEPS = st.sampled_from([InstallStep.DOWNLOADING, InstallStep.TRIAL, InstallStep.COMMITTED])
STATUSES = st.sampled_from([*InstallStatus, *[InstallStatus.SUCCEEDED] * 6, *[InstallStatus.IN_PROGRESS] * 3])
OF_DEVICES = st.one_of(
    st.tuples(st.just("reports"), DEVICES, STATUSES, STEPS),
    st.tuples(st.just("trial"), DEVICES, st.booleans(), st.booleans()),
    st.tuples(st.just("health"), DEVICES, st.sampled_from([0.0, 0.0, 0.0, 0.9]), st.booleans()),
    st.tuples(st.sampled_from(["revokes", "erases"]), DEVICES),
    st.tuples(st.just("installs"), st.integers(1, 4)),
)
OF_PEOPLE = st.one_of(
    st.tuples(st.just("passes"), st.sampled_from([0.0, 1.0, 6.0, 11.0, 30.0, 70.0])),
    st.tuples(
        st.just("says"), st.sampled_from([Verb.PAUSE, Verb.RESUME, Verb.RESUME, Verb.TRIGGER_NEXT_GROUP])
    ),
    st.tuples(st.just("says"), st.sampled_from([Verb.ROLLBACK, Verb.CANCEL, Verb.RETRY_FAILED])),
    st.tuples(st.just("begins"), st.sampled_from(PLANS)),
    st.tuples(st.sampled_from(["dies", "is another"])),
)
ACTIONS = st.one_of(OF_DEVICES, OF_DEVICES, OF_PEOPLE)


class History:
    """A small fleet, and an engine that lives through what happens to it."""

    def __init__(self, url: str) -> None:
        self.world = RolloutWorld(url, devices=4)
        self.rollouts = [self.world.started(**PLANS[0])]

    def happen(self, kind: str, *what: Any) -> None:
        world = self.world
        match kind, *what:
            case "reports", int(pick), status, step:
                world.report(world.devices[pick], status, step=step)
            case "trial", int(pick), before, after:
                world.report(world.devices[pick], InstallStatus.IN_PROGRESS, step=InstallStep.TRIAL)
                for blind in (before, after):
                    self.check()
                    self.happen("health", pick, 0.0, blind)
            case "health", int(pick), rate, blind:
                state = AgentState.BLIND if blind else AgentState.WATCHING
                world.health(world.devices[pick], rate=rate, times=2, state=state)
            case "passes", seconds:
                world.now += seconds
            case "says", verb:
                with suppress(ConflictError):
                    world.say(self.rollouts[-1], verb)
            case "installs", number:
                world.install(d for d in world.devices[:number] if world.desired(d))
            case "begins", plan:
                with suppress(ConflictError):
                    self.rollouts.append(world.create(force=True, **plan))
                    world.say(self.rollouts[-1], Verb.APPROVE, actor="operator:bob")
                    world.say(self.rollouts[-1], Verb.START)
            case "revokes", pick:
                with world.database.write() as session:
                    name = world.devices[pick]
                    session.execute(update(Device).where(Device.id == name).values(state=DeviceState.REVOKED))
            case "erases", pick:
                with world.database.write() as session:
                    erase_device(session, world.devices[pick], actor="ann", now=world.now)
            case ("dies",):
                world.engine = RolloutEngine(world.database, world.publisher, now=lambda: world.now)
            case ("is another",):
                RolloutEngine(world.database, world.publisher, now=lambda: world.now).advance_all()

    def check(self) -> None:
        """What is held is what is stored, and who reads everything anew finds nothing left to do."""
        world = self.world
        for _ in range(
            3
        ):  # a rollout that takes devices from another has that one read anew in the next round
            world.engine.advance_all()
        held = world.engine._memory._held
        with world.database.read() as session:
            for rollout_id in session.scalars(select(RolloutRecord.id)).all():
                stored, record = find_rollout(session, rollout_id)
                if rollout_id in held:
                    assert (held[rollout_id].version, held[rollout_id].rollout) == (record.version, stored)
                elif stored.state in {RolloutState.RUNNING, RolloutState.ROLLING_BACK, RolloutState.PAUSED}:
                    raise AssertionError(f"{rollout_id} is {stored.state} and not held")
                assert tallies_of(session, record) == stored.index
                decision = decide(stored, observe(session, stored, world.now), world.now)
                assert stored.is_over or decision.steps == [], "it overlooked something"


@given(actions=st.lists(ACTIONS, min_size=4, max_size=15))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_an_engine_holds_is_what_another_would_read(databases: Databases, actions: list[Any]) -> None:
    with databases.fresh() as url, pytest.MonkeyPatch.context() as patch:
        patch.setattr(returning, "AT_ONCE", 2)
        history = History(url)
        try:
            history.check()
            for action in actions:
                history.happen(*action)
                history.check()
        finally:
            history.world.close()


def test_a_round_without_news_reads_nothing_of_any_device_and_writes_nothing(world: RolloutWorld) -> None:
    rollout = world.started(groups=[{"percentage": 100, "soak_s": 60}], limits=[])
    world.install(world.devices)
    world.tick()
    world.tick()
    assert world.view(rollout).groups[0].state == "SOAKING"
    asked: list[str] = []

    def note(*heard: Any) -> None:
        asked.append(heard[2])

    event.listen(Engine, "before_cursor_execute", note)
    for device in world.devices:
        world.health(device, rate=0.9)
    asked.clear()
    world.tick(1.0)
    event.remove(Engine, "before_cursor_execute", note)
    assert len(asked) <= 6, asked
    assert not any("FROM rollout_executions" in one or "UPDATE" in one for one in asked), asked


def test_a_decision_on_a_rollout_that_somebody_else_has_written_is_not_stored(
    world: RolloutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = world.started(groups=[{"percentage": 100}], limits=[])
    world.tick()
    world.install(world.devices)

    def decide_late(*arguments: Any) -> Any:
        monkeypatch.undo()
        decision = decide(*arguments)
        assert decision.steps
        world.say(rollout, Verb.ROLLBACK)  # a person, at another process, in between
        return decision

    monkeypatch.setattr("fleet.rollouts.engine.decide", decide_late)
    world.tick()
    assert world.view(rollout).state is RolloutState.ROLLING_BACK
    with world.database.read() as session:
        assert {row.release for row in session.scalars(select(Desired))} == {"pump/1"}
    world.tick()
    assert world.view(rollout).state is RolloutState.ROLLING_BACK


def test_a_device_that_is_back_after_an_hour_wakes_its_rollout_that_is_no_longer_held(
    world: RolloutWorld,
) -> None:
    rollout = world.started(groups=[{"percentage": 100}], success={"threshold_pct": 50}, limits=[])
    late = world.devices[-1]
    world.install(world.devices[:-1])
    world.tick()
    assert world.view(rollout).state is RolloutState.COMPLETED
    world.tick(3600)
    assert not world.engine._memory._held
    world.tick(1)
    world.report(late, InstallStatus.SUCCEEDED)
    world.tick(1)
    assert world.view(rollout).groups[0].counts == {"SUCCEEDED": 12}


def test_a_retry_that_waits_for_its_window_is_given_though_the_engine_died_meanwhile(
    world: RolloutWorld,
) -> None:
    rollout = world.started(
        groups=[{"percentage": 100}],
        success={"threshold_pct": 50},
        limits=[],
        retry={"FAILED": 1},
        schedule={"windows": [{"cron": "0 0 * * *", "duration_s": 3600}]},
    )
    *most, late = world.devices
    world.install(most)
    world.tick()
    assert world.view(rollout).state is RolloutState.COMPLETED
    world.tick(2 * 3600)
    world.report(most[0], InstallStatus.FAILED)
    world.tick()
    world.install([late])  # nobody is under way any more, and one waits for the night
    world.tick()
    assert world.view(rollout).counts == {"SUCCEEDED": 11, "FAILED": 1}
    world.engine = RolloutEngine(world.database, world.publisher, now=lambda: world.now)
    world.tick()
    world.tick(22 * 3600)
    assert world.view(rollout).counts == {"SUCCEEDED": 11, "QUEUED": 1}


@pytest.mark.parametrize("verb", [Verb.ROLLBACK, Verb.CANCEL])
def test_everybody_is_told_to_go_back_a_few_at_a_time_whoever_dies_in_between(
    world: RolloutWorld, monkeypatch: pytest.MonkeyPatch, verb: Verb
) -> None:
    monkeypatch.setattr(returning, "AT_ONCE", 5)
    rollout = world.started(groups=[{"percentage": 80}, {"percentage": 100}], limits=[])
    told = world.members(rollout, 0)
    world.say(rollout, verb)

    def back() -> list[str]:
        return [device for device in told if (row := world.desired(device)) and row.release == "pump/1"]

    assert len(back()) == 5
    assert world.view(rollout).state in {RolloutState.ROLLING_BACK, RolloutState.CANCELED}
    world.tick()
    assert len(back()) == 10
    world.install(told)  # who is back does not end it while others have not been told
    world.engine = RolloutEngine(world.database, world.publisher, now=lambda: world.now)  # killed, begun anew
    for _ in range(3):
        world.tick()
    assert back() == told
    assert len({row.counter for device in told if (row := world.desired(device))}) == 1, "told once"
    assert world.view(rollout).counts.get("QUEUED", 0) == 0, "nobody is left to be given it"
    if verb is Verb.ROLLBACK:
        world.install(told)
        world.tick()
        assert world.view(rollout).state is RolloutState.ROLLED_BACK


def test_what_a_person_says_is_decided_anew_where_the_rollout_was_written_meanwhile(
    world: RolloutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = world.started(
        groups=[{"percentage": 50}, {"percentage": 100}], success={"threshold_pct": 50}, limits=[]
    )
    decided: list[int] = []

    def carry_out_slowly(*arguments: Any, **named: Any) -> Any:
        decision = carry_out(*arguments, **named)
        decided.append(len(decided))
        if len(decided) <= 2:
            world.install(world.members(rollout, 0)[len(decided) : len(decided) + 1])
            world.tick()  # the engine notes a success while the person's word is being decided
        return decision

    monkeypatch.setattr("fleet.rollouts.saying.carry_out", carry_out_slowly)
    world.say(rollout, Verb.ROLLBACK)
    assert world.view(rollout).state is RolloutState.ROLLING_BACK
    assert len(decided) == 3
    back = [world.desired(device) for device in world.members(rollout, 0)]
    assert {row and row.release for row in back} == {"pump/1"}
