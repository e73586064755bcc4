"""The state machine against a fleet that does anything: whatever happens, the invariants of `decisions` hold."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fleet.errors import ConflictError
from fleet.rollouts.decisions import MAXIMUM_RETURNS, SETTLE_S, decide
from fleet.rollouts.evidence import explain
from fleet.rollouts.plans import MAXIMUM_GROUPS, RolloutPlan, SuccessCriteria, Timeouts
from fleet.rollouts.progress import (
    Command,
    Decision,
    Execution,
    Figures,
    GiveBack,
    GiveRelease,
    Group,
    MoveExecution,
    MoveGroup,
    MoveRollout,
    Observations,
    Report,
    Rollout,
    Running,
    Withdraw,
)
from fleet.rollouts.states import GroupState, RolloutState, check_follows, may_follow
from fleet.rollouts.targets import assign_groups
from fleet.rollouts.verbs import Verb, carry_out, valid_verbs
from protocol.messages.kinds import InstallStatus
from protocol.names import DeviceId

ACTIVE = {GroupState.RUNNING, GroupState.SOAKING}


def make_rollout(devices: int = 4, **changes: Any) -> Rollout:
    body: dict[str, Any] = {
        "name": "r",
        "release": "pump/2",
        "groups": [{"percentage": 25, "soak_s": 10}, {"percentage": 100}],
    }
    plan = msgspec.convert(body | changes, RolloutPlan)
    names = [DeviceId(f"d{number}") for number in range(devices)]
    drawn = assign_groups("ro-1", names, [group.percentage for group in plan.groups])
    return Rollout(
        id="ro-1",
        plan=plan,
        state=RolloutState.READY,
        since=0.0,
        groups=tuple(
            Group(number=number, name=group.name, soak_s=group.soak_s)
            for number, group in enumerate(plan.groups)
        ),
        executions={
            device: Execution(device=device, group=number)
            for number, group in enumerate(drawn)
            for device in group
        },
    )


@dataclass
class World:
    """A rollout whose commands are carried out, and the desired state that each device would hold."""

    rollout: Rollout
    now: float = 0.0
    observations: Observations = field(default_factory=Observations)
    desired: dict[str, tuple[str | None, int]] = field(default_factory=dict)
    log: list[Command] = field(default_factory=list)

    def __post_init__(self) -> None:
        running = Running(release="pump/1", returnable="pump/1", at=0.0)
        self.observations = Observations(running=dict.fromkeys(self.rollout.executions, running))

    def take(self, decision: Decision) -> list[Command]:
        seen = Decision(self.rollout, self.now)
        for command in decision.commands:
            state = seen.rollout.state
            seen.do(command)
            match command:
                case GiveRelease():
                    assert state is RolloutState.RUNNING, "given the release outside RUNNING"
                    self._want(command.device, self.rollout.plan.release)
                case GiveBack():
                    self._want(command.device, command.release)
                case _:
                    pass
        assert seen.rollout == decision.rollout, "what the decision believes is not what its commands make"
        assert seen.steps == decision.steps
        self.rollout = decision.rollout
        self.log.extend(decision.commands)
        return decision.commands

    def _want(self, device: str, release: str | None) -> None:
        _, counter = self.desired.get(device, (None, 0))
        self.desired[device] = (release, counter + 1)

    def tick(self, seconds: float = 0.0) -> list[Command]:
        self.now += seconds
        return self.take(decide(self.rollout, self.observations, self.now))

    def say(self, verb: Verb) -> None:
        self.take(
            carry_out(
                self.rollout, verb, actor="bob", creator="ann", observations=self.observations, now=self.now
            )
        )

    def report(self, device: str, status: InstallStatus) -> None:
        execution = self.rollout.executions[DeviceId(device)]
        key = self.rollout.given_id(execution)
        if execution.returned_at is not None:
            key = self.rollout.returned_id(execution)
        reports = {**self.observations.reports, key: Report(status=status, at=self.now)}
        self.observations = replace(self.observations, reports=reports)


class AnyFleet(RuleBasedStateMachine):
    """Devices report anything at any time, people say any verb, time passes, health says anything."""

    @initialize(
        devices=st.integers(1, 7),
        retries=st.integers(0, 2),
        action=st.sampled_from(["rollback", "pause", "cancel", None]),
        previous=st.booleans(),
    )
    def start(self, devices: int, retries: int, action: str | None, previous: bool) -> None:
        rollout = make_rollout(
            devices,
            groups=[{"percentage": 10, "soak_s": 5}, {"percentage": 50}, {"percentage": 100, "soak_s": 5}],
            retry={"FAILED": retries, "TIMED_OUT": retries},
            abort=[{"min_executed": 2, "threshold_pct": 50, "action": action}] if action else [],
            success={"threshold_pct": 60, "metrics": [{"name": "drift_score", "value": 1.0}]},
            timeout={"queued_s": 50, "in_progress_s": 30, "step_s": 20, "health_s": 20, "rollback_s": 40},
        )
        self.world = World(rollout)
        self.before = dict.fromkeys(rollout.executions, "pump/1" if previous else None)
        self.world.observations = Observations(
            running={d: Running(release=r, returnable=r, at=0.0) for d, r in self.before.items()}
        )
        self.world.say(Verb.START)

    @rule(pick=st.integers(0, 6), status=st.sampled_from(InstallStatus))
    def device_reports(self, pick: int, status: InstallStatus) -> None:
        devices = sorted(self.world.rollout.executions)
        self.world.report(devices[pick % len(devices)], status)

    @rule(pick=st.integers(0, 6), drift=st.sampled_from([0.1, 0.1, 0.1, 5.0]))
    def device_sends_health(self, pick: int, drift: float) -> None:
        devices = sorted(self.world.rollout.executions)
        shown = Figures(reports=5, windows=50, windows_over=0, inference_p99_us=10.0, drift_score=drift)
        figures = {**self.world.observations.figures, devices[pick % len(devices)]: shown}
        self.world.observations = replace(self.world.observations, figures=figures)

    @rule(pick=st.integers(0, 6))
    def device_is_revoked(self, pick: int) -> None:
        devices = sorted(self.world.rollout.executions)
        revoked = self.world.observations.revoked | {devices[pick % len(devices)]}
        self.world.observations = replace(self.world.observations, revoked=revoked)

    @rule(seconds=st.sampled_from([0.0, 1.0, 6.0, 25.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.tick(seconds)
        assert decide(self.world.rollout, self.world.observations, self.world.now).steps == []

    @rule(verb=st.sampled_from([Verb.PAUSE, Verb.RESUME, Verb.RESUME, Verb.TRIGGER_NEXT_GROUP]))
    def person_steers(self, verb: Verb) -> None:
        if verb in valid_verbs(self.world.rollout.state):
            try:
                self.world.say(verb)
            except ConflictError:
                assert verb is Verb.TRIGGER_NEXT_GROUP

    @rule(verb=st.sampled_from([Verb.CANCEL, Verb.ROLLBACK]))
    def person_gives_up(self, verb: Verb) -> None:
        if verb in valid_verbs(self.world.rollout.state):
            self.world.say(verb)

    @invariant()
    def at_most_one_group_is_active(self) -> None:
        if hasattr(self, "world"):
            assert sum(group.state in ACTIVE for group in self.world.rollout.groups) <= 1

    @invariant()
    def a_rollback_leaves_every_touched_device_on_its_previous_release(self) -> None:
        if not hasattr(self, "world"):
            return
        rollout = self.world.rollout
        if rollout.state not in {RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK}:
            return
        gives = [command.device for command in self.world.log if isinstance(command, GiveRelease)]
        for device in set(gives):
            release, counter = self.world.desired[device]
            assert release == self.before[DeviceId(device)]
            assert counter > gives.count(DeviceId(device))
        assert any(isinstance(command, Withdraw) for command in self.world.log)

    @invariant()
    def a_canceled_rollout_wants_the_release_only_where_it_succeeded(self) -> None:
        if hasattr(self, "world") and self.world.rollout.state is RolloutState.CANCELED:
            for device, (release, _) in self.world.desired.items():
                succeeded = self.world.rollout.executions[DeviceId(device)].state is InstallStatus.SUCCEEDED
                assert succeeded == (release == "pump/2")


TestAnyFleet = AnyFleet.TestCase
TestAnyFleet.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)


@given(devices=st.integers(0, 60), salt=st.text(max_size=5), first=st.floats(0.1, 60))
def test_groups_share_out_every_device_once_and_always_the_same_way(
    devices: int, salt: str, first: float
) -> None:
    names = [DeviceId(f"d{number}") for number in range(devices)]
    groups = assign_groups(salt, names, [first, 75.0, 100.0])
    assert sorted(device for group in groups for device in group) == sorted(names)
    assert groups == assign_groups(salt, list(reversed(names)), [first, 75.0, 100.0])
    assert not devices or len(groups[0]) >= 1
    assert len(groups[0]) <= devices * first / 100 + 1


def test_another_rollout_draws_another_canary() -> None:
    names = [DeviceId(f"d{number}") for number in range(50)]
    canaries = {assign_groups(f"ro-{number}", names, [2.0, 100.0])[0] for number in range(20)}
    assert len(canaries) > 10


# The drawing of `fleet.rollouts.states` written out once more, arrow by arrow: whoever adds one there says it here too.
ROLLOUT_ARROWS = """
DRAFT → WAITING_FOR_APPROVAL READY CANCELED
WAITING_FOR_APPROVAL → READY CANCELED
READY → RUNNING CANCELED
RUNNING → PAUSED COMPLETED CANCELED ROLLING_BACK
PAUSED → RUNNING CANCELED ROLLING_BACK
ROLLING_BACK → ROLLED_BACK
"""
GROUP_ARROWS = """
SCHEDULED → RUNNING
RUNNING → SOAKING PASSED FAILED
SOAKING → PASSED FAILED
"""
EXECUTION_ARROWS = """
QUEUED → IN_PROGRESS DEFERRED SUCCEEDED FAILED REJECTED TIMED_OUT CANCELED ROLLED_BACK
IN_PROGRESS → DEFERRED SUCCEEDED FAILED REJECTED TIMED_OUT CANCELED ROLLED_BACK
DEFERRED → IN_PROGRESS SUCCEEDED FAILED REJECTED TIMED_OUT CANCELED ROLLED_BACK
SUCCEEDED → FAILED ROLLED_BACK
FAILED → QUEUED SUCCEEDED ROLLED_BACK
TIMED_OUT → QUEUED SUCCEEDED FAILED REJECTED ROLLED_BACK
REJECTED → ROLLED_BACK
"""


@pytest.mark.parametrize(
    ("states", "drawn"),
    [(RolloutState, ROLLOUT_ARROWS), (GroupState, GROUP_ARROWS), (InstallStatus, EXECUTION_ARROWS)],
    ids=["rollout", "group", "execution"],
)
def test_every_state_of_the_drawing_is_reached_only_by_its_arrows(
    states: type[RolloutState | GroupState | InstallStatus], drawn: str
) -> None:
    arrows = {
        (source, target)
        for source, _, *targets in map(str.split, drawn.strip().splitlines())
        for target in targets
    }
    assert {(a.value, b.value) for a in states for b in states if may_follow(a, b)} == arrows


def test_no_arrow_leads_from_one_drawing_into_another() -> None:
    assert not may_follow(RolloutState.READY, GroupState.RUNNING)
    assert not may_follow(GroupState.RUNNING, InstallStatus.FAILED)


def test_a_transition_that_the_drawing_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(ConflictError, match="rollout ro-1 is ROLLED_BACK and cannot become RUNNING"):
        check_follows("rollout ro-1", RolloutState.ROLLED_BACK, RolloutState.RUNNING)


@pytest.mark.parametrize("state", list(RolloutState))
@pytest.mark.parametrize("verb", list(Verb))
def test_a_verb_works_where_it_is_listed_and_is_refused_with_the_list_elsewhere(
    state: RolloutState, verb: Verb
) -> None:
    rollout = replace(make_rollout(), state=state)
    if state in {RolloutState.RUNNING, RolloutState.PAUSED}:
        started = make_rollout()
        world = World(started)
        world.say(Verb.START)
        rollout = replace(world.rollout, state=state)

    def said() -> list[Command]:
        return carry_out(
            rollout, verb, actor="bob", creator="ann", observations=Observations(), now=1.0
        ).commands

    if verb in valid_verbs(state):
        assert said()
    else:
        with pytest.raises(ConflictError, match=rf"rollout ro-1 is {state} and cannot {verb}; it obeys: "):
            said()


@pytest.mark.parametrize(
    ("action", "state"),
    [
        ("rollback", RolloutState.ROLLING_BACK),
        ("pause", RolloutState.PAUSED),
        ("cancel", RolloutState.CANCELED),
    ],
)
def test_an_abort_rule_acts_before_the_group_is_judged(action: str, state: RolloutState) -> None:
    world = World(
        make_rollout(
            20,
            groups=[{"percentage": 50}, {"percentage": 100}],
            abort=[{"failure_type": "REJECTED", "min_executed": 2, "threshold_pct": 50, "action": action}],
            success={"threshold_pct": 60},
        )
    )
    world.say(Verb.START)
    first, second = [e.device for e in world.rollout.of_group(0)][:2]
    world.report(first, InstallStatus.REJECTED)
    world.tick()
    world.report(second, InstallStatus.SUCCEEDED)
    world.tick()
    assert world.rollout.state is state


def test_a_resumed_rollout_is_paused_again_only_by_another_failure() -> None:
    world = World(
        make_rollout(
            20,
            groups=[{"percentage": 50}, {"percentage": 100}],
            abort=[{"threshold_pct": 10, "action": "pause"}],
            success={"threshold_pct": 60},
        )
    )
    world.say(Verb.START)
    first, second = [e.device for e in world.rollout.of_group(0)][:2]
    world.report(first, InstallStatus.REJECTED)
    world.tick(1)
    assert world.rollout.state is RolloutState.PAUSED
    world.now += 1
    world.say(Verb.RESUME)
    world.tick(1)
    assert world.rollout.state is RolloutState.RUNNING
    world.report(second, InstallStatus.REJECTED)
    world.tick(1)
    assert world.rollout.state is RolloutState.PAUSED


def test_a_device_that_failed_and_was_shut_out_is_not_tried_again() -> None:
    plan = {"groups": [{"percentage": 100}], "retry": {"FAILED": 1}, "success": {"threshold_pct": 50}}
    world = World(make_rollout(2, **plan))
    world.say(Verb.START)
    first, _ = sorted(world.rollout.executions)
    world.report(first, InstallStatus.FAILED)
    world.observations = replace(world.observations, revoked=frozenset({DeviceId(first)}))
    world.tick()
    assert world.rollout.executions[first].state is InstallStatus.FAILED
    assert world.desired[first][1] == 1, "it was given the release once more"


def test_a_deferred_device_does_not_hold_up_the_others() -> None:
    world = World(make_rollout(4, groups=[{"percentage": 100}], retry={"FAILED": 1}))
    world.say(Verb.START)
    devices = sorted(world.rollout.executions)
    world.report(devices[0], InstallStatus.DEFERRED)
    for device in devices[1:]:
        world.report(device, InstallStatus.SUCCEEDED)
    world.tick()
    assert world.rollout.state is RolloutState.COMPLETED


def test_a_silent_installation_times_out_and_a_late_success_still_counts() -> None:
    world = World(make_rollout(2, groups=[{"percentage": 100}], success={"threshold_pct": 50}))
    world.say(Verb.START)
    first, second = sorted(world.rollout.executions)
    world.report(first, InstallStatus.IN_PROGRESS)
    world.tick(1)
    commands = world.tick(601)
    assert [(c.device, c.state) for c in commands if isinstance(c, MoveExecution)] == [
        (first, InstallStatus.TIMED_OUT)
    ]
    world.report(second, InstallStatus.SUCCEEDED)
    world.tick()
    assert world.rollout.state is RolloutState.COMPLETED
    world.report(first, InstallStatus.SUCCEEDED)
    world.tick()
    assert {e.state for e in world.rollout.executions.values()} == {InstallStatus.SUCCEEDED}


def test_empty_groups_of_a_tiny_fleet_pass_at_once() -> None:
    world = World(make_rollout(1, groups=[{"percentage": 5}, {"percentage": 50}, {"percentage": 100}]))
    world.say(Verb.START)
    world.report("d0", InstallStatus.SUCCEEDED)
    commands = world.tick()
    assert [c.number for c in commands if isinstance(c, MoveGroup) and c.state is GroupState.PASSED] == [
        0,
        1,
        2,
    ]
    assert isinstance(commands[-1], MoveRollout)
    assert world.rollout.state is RolloutState.COMPLETED


# --- when exactly: each time limit on both sides -------------------------------------------------------------------------------

S = InstallStatus
LIMITS = {"queued_s": 100, "in_progress_s": 60, "step_s": 30, "health_s": 20, "rollback_s": 40}


def started(devices: int = 4, **changes: Any) -> tuple[World, list[str]]:
    """A rollout under way in one group, and its devices."""
    world = World(make_rollout(devices, **{"groups": [{"percentage": 100}], "timeout": LIMITS} | changes))
    world.say(Verb.START)
    return world, sorted(world.rollout.executions)


def moves(commands: list[Command]) -> list[tuple[str, InstallStatus, str]]:
    return [(c.device, c.state, c.reason) for c in commands if isinstance(c, MoveExecution)]


def test_the_patience_that_nobody_set_is_a_day_an_hour_ten_minutes_and_a_quarter_of_an_hour() -> None:
    assert (SETTLE_S, MAXIMUM_RETURNS, MAXIMUM_GROUPS) == (5.0, 3, 20)
    assert Timeouts() == Timeouts(
        queued_s=86_400.0, in_progress_s=3_600.0, step_s=600.0, health_s=900.0, rollback_s=600.0
    )
    assert SuccessCriteria() == SuccessCriteria(
        threshold_pct=95.0, min_devices=1, metrics=(), min_reports=2, min_windows=10, confidence=0.95
    )
    plan = make_rollout().plan
    assert [plan.retries(state) for state in (S.FAILED, S.TIMED_OUT, S.REJECTED)] == [0, 0, 0]
    assert (plan.require_approval, plan.force, plan.abort, plan.rollback_to) == (False, False, (), None)


def test_a_device_that_never_begins_times_out_after_that_time_and_not_with_it() -> None:
    world, (first, _) = started(2)
    world.now = 0.0
    assert (first, S.TIMED_OUT, "not begun within 100 s") not in moves(world.tick(100))
    assert (first, S.TIMED_OUT, "not begun within 100 s") in moves(world.tick(0.5))


def test_a_device_that_has_put_a_release_off_is_neutral_for_as_long_as_anything_is_heard_of_it() -> None:
    world, (first, second) = started(2)
    world.report(second, S.SUCCEEDED)
    world.report(first, S.DEFERRED)
    world.tick()
    assert world.rollout.state is RolloutState.COMPLETED, "the other device was enough"
    world, (first,) = started(1)
    world.report(first, S.DEFERRED)
    began = world.now
    world.tick()
    for _ in range(5):
        at = world.now + 90
        heard = Running(release="pump/1", returnable="pump/1", at=at)
        world.observations = replace(world.observations, running={DeviceId(first): heard})
        assert world.tick(90) == []
    assert world.now - began == 450
    assert world.tick(100) == []
    assert (first, S.TIMED_OUT, "put off, and then silent for 100 s") in moves(world.tick(0.5))


def test_an_installation_times_out_as_a_whole_and_by_its_silence() -> None:
    world, (first, second) = started(2)
    world.report(first, S.IN_PROGRESS)
    world.tick()
    assert moves(world.tick(30)) == []
    assert moves(world.tick(0.5)) == [(first, S.TIMED_OUT, "no progress for 30 s")]
    world, (first, second) = started(2)
    for _ in range(7):
        world.report(first, S.IN_PROGRESS)
        world.tick(10)
    assert moves(world.tick(0)) == []
    assert moves(world.tick(0.5)) == [(first, S.TIMED_OUT, "still installing after 60 s")]
    assert world.rollout.executions[DeviceId(second)].state is not S.TIMED_OUT


def test_a_failure_is_tried_again_as_often_as_the_plan_says_and_keeps_what_ran_before() -> None:
    world, (first, second) = started(2, retry={"FAILED": 2}, success={"threshold_pct": 50})
    for attempt in (1, 2, 3):
        execution = world.rollout.executions[DeviceId(first)]
        assert (execution.attempt, execution.previous, execution.state) == (attempt, "pump/1", S.QUEUED)
        world.report(first, S.FAILED)
        world.tick(1)
    assert world.rollout.executions[DeviceId(first)].state is S.FAILED
    assert world.rollout.executions[DeviceId(first)].attempt == 3
    assert world.rollout.executions[DeviceId(second)].attempt == 1


def test_a_group_soaks_for_its_time_and_waits_for_health_so_long_after_it() -> None:
    gate = {"metrics": [{"name": "drift_score", "value": 1.0}]}
    soak = [{"percentage": 100, "soak_s": 10}]
    well = Figures(reports=5, windows=50, windows_over=0, inference_p99_us=10.0, drift_score=0.1)
    world, devices = started(2, groups=soak, success=gate)
    for device in devices:
        world.report(device, S.SUCCEEDED)
    world.tick()
    assert world.rollout.groups[0].state is GroupState.SOAKING
    world.tick(30)
    assert world.rollout.groups[0].state is GroupState.SOAKING, (
        "20 s after the soak: still waiting for health"
    )
    world.tick(0.5)
    assert world.rollout.state is RolloutState.ROLLING_BACK
    assert world.rollout.groups[0].reason.startswith(
        "20 s after the soak, 2 of 2 devices have not shown enough"
    )
    world, devices = started(2, groups=soak, success=gate)
    for device in devices:
        world.report(device, S.SUCCEEDED)
    world.observations = replace(world.observations, figures={DeviceId(d): well for d in devices})
    world.tick()
    assert world.tick(9.5) == []
    world.tick(0.5)
    assert world.rollout.state is RolloutState.COMPLETED


@pytest.mark.parametrize(
    ("name", "label"), [("", "group 0 failed: "), ("canary", "group 0 (canary) failed: ")]
)
def test_a_rollback_names_the_group_that_failed(name: str, label: str) -> None:
    world, (first, second) = started(2, groups=[{"percentage": 100, "name": name}])
    world.report(first, S.FAILED)
    world.report(second, S.REJECTED)
    world.tick()
    (move,) = [c for c in world.log if isinstance(c, MoveRollout) and c.state is RolloutState.ROLLING_BACK]
    assert (move.reason, move.actor) == (f"{label}2 of 2 devices failed; 2 must succeed (95 %)", "fleet")


def test_the_next_group_begins_only_when_the_one_before_has_passed() -> None:
    world, devices = started(8, groups=[{"percentage": 25}, {"percentage": 50}, {"percentage": 100}])
    given = [sum(e.is_given for e in world.rollout.executions.values())]
    while world.rollout.state is RolloutState.RUNNING:
        for execution in world.rollout.executions.values():
            if execution.is_given:
                world.report(execution.device, S.SUCCEEDED)
        world.tick(1)
        given.append(sum(e.is_given for e in world.rollout.executions.values()))
    assert given == [2, 4, 8, 8]
    assert sorted(c.device for c in world.log if isinstance(c, GiveRelease)) == devices


def rolled_back(devices: int = 2, **changes: Any) -> tuple[World, list[str]]:
    world, names = started(devices, **changes)
    world.tick(1)
    world.say(Verb.ROLLBACK)
    return world, names


def test_a_rollback_is_over_when_every_device_is_back_or_nobody_waits_any_longer() -> None:
    world, (first, second) = rolled_back()
    world.report(first, S.SUCCEEDED)
    world.tick(1)
    assert world.rollout.state is RolloutState.ROLLING_BACK
    world.tick(39)
    assert world.rollout.state is RolloutState.ROLLING_BACK
    world.tick(0.5)
    assert world.rollout.state is RolloutState.ROLLED_BACK
    (last,) = [c for c in world.log if isinstance(c, MoveRollout) and c.state is RolloutState.ROLLED_BACK]
    assert last.reason == f"every device is told to go back; 1 have not confirmed: {second}"
    world, names = rolled_back()
    for device in names:
        world.report(device, S.SUCCEEDED)
    world.tick(1)
    assert world.rollout.state is RolloutState.ROLLED_BACK


def test_of_many_that_have_not_confirmed_five_are_named() -> None:
    for devices, more in ((5, ""), (6, ", …")):
        world, names = rolled_back(devices)
        world.tick(41)
        (last,) = [c for c in world.log if isinstance(c, MoveRollout) and c.state is RolloutState.ROLLED_BACK]
        assert last.reason.endswith(f"{devices} have not confirmed: {', '.join(names[:5])}{more}")


def test_a_device_that_cannot_go_back_is_told_three_times() -> None:
    world, (first, _) = rolled_back(timeout={**LIMITS, "rollback_s": 1000})
    for _ in range(6):
        world.report(first, S.FAILED)
        world.tick(1)
    assert sum(isinstance(c, GiveBack) and c.device == first for c in world.log) == 3
    assert world.rollout.state is RolloutState.ROLLING_BACK


def test_health_five_seconds_after_it_was_given_back_shows_that_a_device_never_left_its_release() -> None:
    world, (first, second) = rolled_back(timeout={**LIMITS, "rollback_s": 1000})

    def healthy(device: str, release: str, at: float) -> None:
        running = Running(release=release, returnable=release, at=at)
        world.observations = replace(
            world.observations, running={**world.observations.running, DeviceId(device): running}
        )

    healthy(first, "pump/1", world.now + 5.0)
    healthy(second, "pump/2", world.now + 9.0)
    world.tick(20)
    assert world.rollout.executions[DeviceId(first)].restored_at is None
    healthy(first, "pump/1", world.now - 20 + 5.5)
    world.tick(1)
    assert world.rollout.executions[DeviceId(first)].restored_at == world.now
    assert world.rollout.executions[DeviceId(second)].restored_at is None


def test_a_revoked_device_holds_up_neither_a_group_nor_a_rollback() -> None:
    world, (first, second) = started(2)
    world.observations = replace(world.observations, revoked=frozenset({DeviceId(first)}))
    world.report(second, S.SUCCEEDED)
    assert (first, S.CANCELED, "the device was revoked") in moves(world.tick(1))
    assert world.rollout.state is RolloutState.COMPLETED
    world, (first, second) = rolled_back()
    world.observations = replace(world.observations, revoked=frozenset({DeviceId(first)}))
    world.report(second, S.SUCCEEDED)
    world.tick(1)
    assert world.rollout.state is RolloutState.ROLLED_BACK


def test_a_cancel_leaves_those_who_run_the_release_and_sends_back_the_others() -> None:
    world, devices = started(
        8, groups=[{"percentage": 50}, {"percentage": 100}], success={"threshold_pct": 75}
    )
    ran, at_work, failed, silent = (e.device for e in world.rollout.executions.values() if e.is_given)
    world.report(ran, S.SUCCEEDED)
    world.report(at_work, S.IN_PROGRESS)
    world.report(failed, S.FAILED)
    world.tick(1)
    world.say(Verb.CANCEL)
    back = {c.device: c.release for c in world.log if isinstance(c, GiveBack)}
    assert back == dict.fromkeys((at_work, failed, silent), "pump/1")
    states = {device: world.rollout.executions[DeviceId(device)].state for device in devices}
    waiting = set(devices) - {ran, at_work, failed, silent}
    assert states == {ran: S.SUCCEEDED, failed: S.FAILED} | dict.fromkeys(
        {at_work, silent} | waiting, S.CANCELED
    )
    assert not any(isinstance(c, Withdraw) for c in world.log)


def test_a_device_that_ran_the_release_before_or_nothing_has_no_way_back() -> None:
    for before in ("pump/2", None):
        world = World(make_rollout(1, groups=[{"percentage": 100}]))
        running = Running(release=before, returnable=before, at=0.0)
        world.observations = Observations(running={DeviceId("d0"): running})
        world.say(Verb.START)
        assert world.rollout.executions[DeviceId("d0")].previous is None
        world.say(Verb.ROLLBACK)
        world.tick()
        assert world.rollout.state is RolloutState.ROLLED_BACK


def test_a_person_is_told_what_a_rollout_waits_for() -> None:
    world, (first, second) = started(2, groups=[{"percentage": 100, "soak_s": 10}])

    def waits_for(now: float | None = None) -> str:
        return explain(world.rollout, world.observations, world.now if now is None else now)

    assert waits_for() == "0 of 2 devices needed run the release"
    for state, words in (
        (RolloutState.WAITING_FOR_APPROVAL, "somebody other than its creator to approve it"),
        (RolloutState.READY, "a person to start it"),
    ):
        assert explain(replace(world.rollout, state=state), world.observations, world.now) == words
    world.report(first, S.SUCCEEDED)
    world.report(second, S.SUCCEEDED)
    world.tick(1)
    assert waits_for() == "10 s more of its soak; no metric is asked for"
    assert waits_for(world.now + 10) == "no metric is asked for"
    assert waits_for(world.now + 9.4) == "1 s more of its soak; no metric is asked for"
    world.say(Verb.PAUSE)
    assert waits_for() == "a person to resume, cancel or roll it back"
    world.say(Verb.ROLLBACK)
    assert waits_for() == "2 devices have not confirmed that they are back"
    world.report(first, S.SUCCEEDED)
    world.tick(1)
    assert waits_for() == "1 devices have not confirmed that they are back"
    world.report(second, S.SUCCEEDED)
    world.tick(1)
    assert waits_for() == ""
