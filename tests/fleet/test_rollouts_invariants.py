"""The state machine against a fleet that does anything: whatever happens, the invariants of `decisions` hold."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from rollout_decisions_world import World, make_rollout

from fleet.errors import ConflictError
from fleet.rollouts.decisions import decide
from fleet.rollouts.progress import Figures, Running
from fleet.rollouts.states import GroupState, RolloutState, Verb
from fleet.rollouts.steps import GiveRelease, Withdraw
from fleet.rollouts.verbs import valid_verbs
from protocol.messages.kinds import InstallStatus
from protocol.names import DeviceId

ACTIVE = {GroupState.RUNNING, GroupState.SOAKING}


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
            success={"threshold_pct": 60},
            limits=[{"metric": "drift_score", "value": 1.0}],
            timeout={"queued_s": 50, "in_progress_s": 30, "step_s": 20, "health_s": 20, "rollback_s": 40},
        )
        self.world = World(rollout)
        self.before = dict.fromkeys(rollout.executions, "pump/1" if previous else None)
        self.world.know({d: Running(release=r, returnable=r, at=0.0) for d, r in self.before.items()})
        self.world.say(Verb.START)

    @rule(pick=st.integers(0, 6), status=st.sampled_from(InstallStatus))
    def device_reports(self, pick: int, status: InstallStatus) -> None:
        devices = sorted(self.world.rollout.executions)
        self.world.report(devices[pick % len(devices)], status)

    @rule(pick=st.integers(0, 6), drift=st.sampled_from([0.1, 0.1, 0.1, 5.0]))
    def device_sends_health(self, pick: int, drift: float) -> None:
        devices = sorted(self.world.rollout.executions)
        shown = Figures(reports=5, windows=50, windows_over=0, inference_p99_us=10.0, drift_score=drift)
        self.world.show(devices[pick % len(devices)], shown)

    @rule(pick=st.integers(0, 6))
    def device_is_revoked(self, pick: int) -> None:
        devices = sorted(self.world.rollout.executions)
        self.world.revoke(devices[pick % len(devices)])

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
