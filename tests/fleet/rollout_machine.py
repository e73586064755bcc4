"""A fleet that does anything, over the real engine and a real database: `AnyFleet`, and the faults that it must find.

Devices obey, lie, repeat themselves, speak of an earlier boot, fall silent, are shut out and enrol; clocks step; the engine
is killed between its decision and the publishing; people say any verb at any time; another rollout wants the same devices.
The invariants are read from the database alone, by rules of their own: none of the code under test judges itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import wraps
from typing import Any

from databases import Databases
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from rollout_machine_parts import BAD, BEGUN, LIMITS, OWNING, PLANS, Actor, DeadlyPublisher, Killed, S
from rollout_world import ANN, RolloutWorld, make_boot, make_device
from sqlalchemy import select, update

from fleet.errors import ConflictError, UnacceptableError
from fleet.rollouts.engine import RolloutEngine
from fleet.rollouts.progress import Rollout
from fleet.rollouts.saying import carry_out_verb
from fleet.rollouts.states import GroupState, RolloutState, Verb
from fleet.rollouts.store import find_rollout
from fleet.storage.device_tables import Desired, Device, DeviceState
from fleet.storage.rollout_tables import DesiredCounter, RolloutTransition
from protocol.messages.kinds import InstallStatus
from protocol.names import DeviceId


def happens(**strategies: Any) -> Callable[[Callable[..., None]], Any]:
    """A rule after which the engine may have a look, and what was read of the rollouts is read again."""

    def decorate(deed: Callable[..., None]) -> Any:
        @wraps(deed)
        def done(self: AnyFleet, *, is_seen: bool = False, **chosen: Any) -> None:
            self.seen.clear()
            deed(self, **chosen)
            if is_seen:
                self.world.tick()
            self.seen.clear()

        return rule(**strategies, is_seen=st.booleans())(done)

    return decorate


class AnyFleet(RuleBasedStateMachine):
    """See the module's text. A subclass says on which `databases`."""

    databases: Databases

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.world = RolloutWorld(self.stack.enter_context(self.databases.fresh()), devices=6)
        self.actors = {name: Actor() for name in self.world.devices}
        self.rollouts: list[str] = []
        self.counters: dict[str, int] = {}
        self.content: dict[tuple[str, int], tuple[str, str]] = {}
        self.seen: dict[str, Any] = {}
        self.true_s, self.gifts, self.told = 0.0, Counter[str](), Counter[str]()
        self.told_at: list[tuple[str, float]] = []
        self.late = 0

    def teardown(self) -> None:
        """Whatever happened, a rollback is over in its time, and nothing is left in the middle."""
        try:
            self.ends()
        finally:
            self.world.close()
            self.stack.close()

    def ends(self) -> None:
        if not self.rollouts:
            return
        # a clock that was set back makes every time limit longer by as much
        self.world.now = max(self.world.now, *(rollout.since for rollout in self.loaded()))
        for seconds in (0.0, LIMITS["rollback_s"] + 1.0, 1.0):
            self.world.tick(seconds)
        self.seen.clear()
        assert all(one.state is not RolloutState.ROLLING_BACK for one in self.loaded()), (
            "a rollback that never ends"
        )

    # --- what happens -------------------------------------------------------------------------------------------------

    @initialize(plan=st.sampled_from(PLANS), names=st.booleans())
    def begins(self, plan: dict[str, Any], names: bool) -> None:
        way_back = {"rollback_to": "pump/1"} if names else {}
        self.rollouts.append(
            self.world.started(**(plan | way_back | {"timeout": LIMITS, "limits": []} | self._criteria(plan)))
        )

    @staticmethod
    def _criteria(plan: dict[str, Any]) -> dict[str, Any]:
        return {"success": plan.get("success", {"threshold_pct": 60})}

    def device(self, pick: int) -> str:
        return sorted(self.actors)[pick % len(self.actors)]

    @happens(
        pick=st.integers(0, 9),
        status=st.sampled_from([S.SUCCEEDED, S.SUCCEEDED, S.IN_PROGRESS, S.IN_PROGRESS, *S]),
    )
    def device_obeys(self, pick: int, status: InstallStatus) -> None:
        name = self.device(pick)
        actor, wanted = self.actors[name], self.world.desired(name)
        if wanted is None or wanted.counter < actor.obeyed or actor.revoked_at_counter is not None:
            return
        actor.obeyed = wanted.counter
        if status is S.SUCCEEDED:
            actor.runs = wanted.release
            self.store(name, release=wanted.release)
        actor.said.append((wanted.execution, status))
        self.world.report(name, status, execution=wanted.execution)

    @happens(
        pick=st.integers(0, 9), whose=st.integers(0, 9), back=st.integers(0, 30), status=st.sampled_from(S)
    )
    def device_lies(self, pick: int, whose: int, back: int, status: InstallStatus) -> None:
        ids = [said for said, _ in self.actors[self.device(whose)].said] or ["ro-1:nobody:1"]
        execution = ids[-1 - back % len(ids)]
        self.actors[self.device(pick)].said.append((execution, status))
        self.world.report(self.device(pick), status, execution=execution)

    @happens(pick=st.integers(0, 9), back=st.integers(0, 30))
    def device_speaks_of_an_earlier_boot(self, pick: int, back: int) -> None:
        said = self.actors[self.device(pick)].said
        if said:
            execution, status = said[back % len(said)]
            self.world.report(self.device(pick), status, execution=execution, boot_id="boot-0")

    @happens(pick=st.integers(0, 9))
    def device_sends_health(self, pick: int) -> None:
        actor = self.actors[self.device(pick)]
        self.world.health(self.device(pick), release=actor.runs or "pump/1")

    @happens(pick=st.integers(0, 9), is_online=st.booleans())
    def device_comes_or_goes(self, pick: int, is_online: bool) -> None:
        if self.actors[self.device(pick)].revoked_at_counter is None:
            self.store(self.device(pick), online=is_online)

    @happens(pick=st.integers(0, 9))
    def device_is_revoked(self, pick: int) -> None:
        name = self.device(pick)
        if self.actors[name].revoked_at_counter is None:
            self.store(name, state=DeviceState.REVOKED, revoked_at=self.world.now, online=False)
            self.actors[name].revoked_at_counter = self.gifts[name]

    @happens()
    def device_enrols(self) -> None:
        if len(self.actors) < 9:
            name = f"new{len(self.actors)}"
            with self.world.database.write() as session:
                session.add(make_device(name, self.world.now))
                session.add_all(make_boot(name, number, self.world.now) for number in (0, 1, 2))
            self.actors[name] = Actor()

    @happens(seconds=st.sampled_from([0.0, 1.0, 6.0, 25.0, 61.0, 61.0, 310.0]))
    def time_passes(self, seconds: float) -> None:
        self.true_s += seconds
        self.world.tick(seconds)
        self.world.tick()
        self.seen.clear()
        self.note_gifts()
        cold = RolloutEngine(self.world.database, self.world.publisher, now=lambda: self.world.now)
        assert cold.advance_all() == 0, (
            "an engine that knows nothing finds something that the other one overlooked"
        )
        for rollout in self.loaded():
            assert not self.should_abort(rollout), "an abort rule that did not act at once"

    @happens(seconds=st.sampled_from([-3600.0, -10.0, 10.0, 3600.0]))
    def clock_steps(self, seconds: float) -> None:
        self.world.now += seconds
        self.told_at.clear()  # a minute is no minute any more

    @happens()
    def engine_dies_before_it_publishes(self) -> None:
        engine = RolloutEngine(self.world.database, DeadlyPublisher(), now=lambda: self.world.now)
        with suppress(Killed):
            engine.advance_all()
        self.world.engine = RolloutEngine(
            self.world.database, self.world.publisher, now=lambda: self.world.now
        )
        self.world.engine.announce_all()

    @happens(
        pick=st.integers(0, 3),
        verb=st.sampled_from([Verb.ROLLBACK, Verb.CANCEL, *(v for v in Verb if v is not Verb.APPROVE)]),
        named=st.booleans(),
    )
    def person_says(self, pick: int, verb: Verb, named: bool) -> None:
        rollout = self.rollouts[pick % len(self.rollouts)]
        to = "pump/1" if named and verb is Verb.ROLLBACK else None
        try:
            carry_out_verb(
                self.world.database,
                self.world.publisher,
                rollout,
                verb,
                caller=ANN,
                now=self.world.now,
                rollback_to=to,
            )
        except ConflictError:
            return

    @precondition(lambda self: len(self.rollouts) < 3)
    @happens(few=st.booleans(), plan=st.sampled_from(PLANS))
    def another_rollout_begins(self, few: bool, plan: dict[str, Any]) -> None:
        query = {"target_query": "id=in=(d00,d01,d02)"} if few else {}
        try:
            made = self.world.create(
                **(plan | query | {"release": "pump/3", "timeout": LIMITS} | self._criteria(plan))
            )
        except (ConflictError, UnacceptableError):
            return
        self.rollouts.append(made)
        self.person_says(pick=len(self.rollouts) - 1, verb=Verb.START, named=False)

    # --- what always holds --------------------------------------------------------------------------------------------

    @invariant()
    def at_most_one_group_is_active_and_nobody_of_a_later_one_has_the_release(self) -> None:
        for rollout in self.loaded():
            active = [g for g in rollout.groups if g.state in {GroupState.RUNNING, GroupState.SOAKING}]
            assert len(active) <= 1
            for execution in rollout.executions.values():
                assert not execution.is_given or rollout.groups[execution.group].state in BEGUN, (
                    "exposed too early"
                )

    @invariant()
    def a_device_shall_run_one_thing_and_it_is_what_its_latest_rollout_says(self) -> None:
        owners: Counter[str] = Counter()
        loaded = {rollout.id: rollout for rollout in self.loaded()}
        for rollout in loaded.values():
            if rollout.state in OWNING:
                owners.update(rollout.executions.keys())
        assert not [device for device, number in owners.items() if number > 1], "two rollouts have one device"
        for device in self.actors:
            holders = [
                rollout
                for rollout in loaded.values()
                if (execution := rollout.executions.get(DeviceId(device)))
                and execution.is_given
                and execution.superseded_by is None
            ]
            assert len(holders) <= 1, "two rollouts say what a device shall run"
            wanted = self.wanted().get(device)
            for rollout in holders:
                execution = rollout.executions[DeviceId(device)]
                if execution.returned_at is None:
                    expected: tuple[str, str] | None = (rollout.given_id(execution), rollout.plan.release)
                else:
                    back = rollout.rollback_to or rollout.plan.rollback_to or execution.previous
                    expected = None if back is None else (rollout.returned_id(execution), back)
                assert (None if wanted is None else (wanted.execution, wanted.release)) == expected

    @invariant()
    def a_counter_only_grows_and_never_says_two_things(self) -> None:
        with self.world.database.read() as session:
            counters = {row.device: row.counter for row in session.scalars(select(DesiredCounter))}
        for device, counter in counters.items():
            assert counter >= self.counters.get(device, 0), "a counter went back"
        self.counters = counters
        for row in self.wanted().values():
            assert row.counter == counters[row.device]
            says = (row.execution, row.release)
            assert self.content.setdefault((row.device, row.counter), says) == says, "one counter, two things"

    @invariant()
    def what_is_undone_is_undone_everywhere(self) -> None:
        for rollout in self.loaded():
            held = [e for e in rollout.executions.values() if e.is_given and e.superseded_by is None]
            if rollout.state in {RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK}:
                assert all(e.returned_at is not None for e in held), (
                    "somebody was left on what was taken back"
                )
            if rollout.state is RolloutState.CANCELED:
                assert all(e.returned_at is not None or e.state is S.SUCCEEDED for e in held)
            if rollout.state is RolloutState.ROLLED_BACK:
                self.nobody_who_was_there_was_forgotten(rollout)

    def nobody_who_was_there_was_forgotten(self, rollout: Rollout) -> None:
        silent = sum(e.is_returning and e.is_awaited for e in rollout.executions.values())
        (reason,) = self.lines(rollout.id, subject="rollout", state="ROLLED_BACK")[-1:]
        assert not silent or "online have not confirmed" in reason.reason, (
            "over while somebody was waited for"
        )

    @invariant()
    def a_device_succeeded_only_by_its_own_word_on_its_present_attempt(self) -> None:
        for rollout in self.loaded():
            for device, execution in rollout.executions.items():
                if execution.state is S.SUCCEEDED:
                    assert (rollout.given_id(execution), S.SUCCEEDED) in self.actors[device].said

    @invariant()
    def nobody_who_was_shut_out_is_given_a_release(self) -> None:
        self.note_gifts()
        for device, actor in self.actors.items():
            assert actor.revoked_at_counter in {None, self.gifts[device]}, (
                "given to a device that was shut out"
            )

    @invariant()
    def no_group_passes_without_evidence(self) -> None:
        for rollout_id in self.rollouts:
            for line in self.lines(rollout_id, subject="group", state="PASSED"):
                unseen = line.reason.startswith(("0 of", "all ")) or "never said a word" in line.reason
                assert not unseen, f"passed on no evidence: {line.reason}"

    # --- how it is seen -----------------------------------------------------------------------------------------------

    def loaded(self) -> list[Rollout]:
        if "rollouts" not in self.seen:
            with self.world.database.read() as session:
                self.seen["rollouts"] = [find_rollout(session, rollout)[0] for rollout in self.rollouts]
        found: list[Rollout] = self.seen["rollouts"]
        return found

    def wanted(self) -> dict[str, Desired]:
        if "wanted" not in self.seen:
            with self.world.database.read() as session:
                self.seen["wanted"] = {row.device: row for row in session.scalars(select(Desired))}
        found: dict[str, Desired] = self.seen["wanted"]
        return found

    def lines(self, rollout: str, **columns: str) -> list[RolloutTransition]:
        if rollout not in self.seen:
            with self.world.database.read() as session:
                query = select(RolloutTransition).filter_by(rollout=rollout).order_by(RolloutTransition.id)
                self.seen[rollout] = list(session.scalars(query))
        return [
            line
            for line in self.seen[rollout]
            if all(getattr(line, name) == value for name, value in columns.items())
        ]

    def store(self, device: str, **columns: Any) -> None:
        with self.world.database.write() as session:
            session.execute(update(Device).where(Device.id == device).values(**columns))

    def note_gifts(self) -> None:
        """Count who was told what, and hold each rollout to its rate by the true time."""
        gifts: Counter[str] = Counter()
        for rollout in self.loaded():
            lines = self.lines(rollout.id, state="GIVEN")
            gifts.update(line.device for line in lines if line.device)
            new = len(lines) - self.told[rollout.id]
            self.told[rollout.id] += new
            self.told_at += [(rollout.id, self.true_s)] * new
            minute = sum(told == rollout.id and at > self.true_s - 60 for told, at in self.told_at)
            assert minute <= rollout.plan.rate.maximum_per_minute, (
                "more were told in a minute than the plan allows"
            )
        self.gifts = gifts

    @staticmethod
    def should_abort(rollout: Rollout) -> bool:
        """Whether an abort rule strikes that does not pause: counted anew, execution by execution."""
        if rollout.state is not RolloutState.RUNNING:
            return False
        ended = [
            e.state
            for e in rollout.executions.values()
            if e.is_given
            and e.superseded_by is None
            and e.state in BAD | {S.SUCCEEDED}
            and not (
                e.state in {S.FAILED, S.TIMED_OUT}
                and e.allowed >= 0
                and e.attempt < max(e.allowed, 1 + rollout.plan.retries(e.state))
            )
        ]
        bad = sum(state in BAD for state in ended)
        return any(
            rule.action != "pause"
            and bad
            and len(ended) >= rule.min_executed
            and 100 * bad >= rule.threshold_pct * len(ended)
            for rule in rollout.plan.abort
        )
