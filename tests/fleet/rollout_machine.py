"""A fleet that does anything, over the real engine and a real database: `AnyFleet`, and the faults that it must find.

Devices obey, lie, repeat themselves, speak of an earlier boot, fall silent, are shut out and enrol; clocks step; the engine
is killed between its decision and the publishing; people say any verb at any time; another rollout wants the same devices.
The invariants are read from the database alone, by rules of their own: none of the code under test judges itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from rollout_machine_laws import LawfulFleet
from rollout_machine_parts import (
    LIMITS,
    PLANS,
    QUERIES,
    Actor,
    DeadlyPublisher,
    Killed,
    S,
)
from rollout_world import ANN, make_boot, make_device

from fleet.errors import ConflictError, UnacceptableError
from fleet.rollouts.engine import RolloutEngine
from fleet.rollouts.saying import carry_out_verb
from fleet.rollouts.states import RolloutState, Verb
from fleet.storage.device_tables import DeviceState
from protocol.messages.kinds import InstallStatus


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


class AnyFleet(LawfulFleet):
    """See the module's text. A subclass says on which `databases`."""

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
        # one that begins in the last of these moments has its time, too; each rollout goes back once
        for _ in range(1 + len(self.rollouts)):
            for seconds in (0.0, LIMITS["rollback_s"] + 1.0, 1.0):
                self.world.tick(seconds)
            self.seen.clear()
            began_at = [one.since for one in self.loaded() if one.state is RolloutState.ROLLING_BACK]
            if not began_at:
                return
            assert self.world.now - min(began_at) < LIMITS["rollback_s"], "a rollback that never ends"
        raise AssertionError("rollbacks begin without end")

    # --- what happens -------------------------------------------------------------------------------------------------

    @initialize(plan=st.sampled_from(PLANS), names=st.booleans(), whom=st.sampled_from(QUERIES))
    def begins(self, plan: dict[str, Any], names: bool, whom: str) -> None:
        way_back = {"target_query": whom} | ({"rollback_to": "pump/1"} if names else {})
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
        if wanted is not None and wanted.counter >= actor.obeyed and actor.revoked_at_counter is None:
            self.obey(name, status)

    def has_news(self, name: str) -> bool:
        actor, wanted = self.actors[name], self.world.desired(name)
        return wanted is not None and wanted.counter > actor.obeyed and actor.revoked_at_counter is None

    def obey(self, name: str, status: InstallStatus) -> None:
        actor, wanted = self.actors[name], self.world.desired(name)
        assert wanted is not None
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

    @happens(status=st.sampled_from([S.SUCCEEDED, S.SUCCEEDED, S.FAILED]), most=st.integers(1, 9))
    def devices_end_what_they_were_told(self, status: InstallStatus, most: int) -> None:
        """So that rollouts come to their end, and to their retries: one device at a time they hardly ever do."""
        waiting = [name for name in sorted(self.actors) if self.has_news(name)]
        for name in waiting[:most]:
            self.obey(name, status)

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
        self.an_engine_that_knows_nothing_finds_nothing()
        for rollout in self.loaded():
            assert not self.should_abort(rollout), "an abort rule that did not act at once"

    def an_engine_that_knows_nothing_finds_nothing(self) -> None:
        """But that who is awaited has gone, which the other one looks at ever less often: a rollback may be over by that."""
        before = {rollout: len(self.lines(rollout)) for rollout in self.rollouts}
        RolloutEngine(self.world.database, self.world.publisher, now=lambda: self.world.now).advance_all()
        self.seen.clear()
        for rollout, known in before.items():
            found = [line.state for line in self.lines(rollout)[known:]]
            gone = found.count("NOT_AWAITED")
            assert found in (["NOT_AWAITED"] * gone, ["NOT_AWAITED"] * gone + ["ROLLED_BACK"] * bool(gone)), (
                "an engine that knows nothing finds something that the other one overlooked"
            )

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

    @precondition(lambda self: any(one.index.number(states={S.SUCCEEDED}) for one in self.loaded()))
    @happens()
    def person_takes_back_what_devices_run(self) -> None:
        runs = [one.id for one in self.loaded() if one.index.number(states={S.SUCCEEDED})]
        self.person_says(pick=self.rollouts.index(runs[-1]), verb=Verb.ROLLBACK, named=False)

    @precondition(lambda self: len(self.rollouts) < 4)
    @happens(whom=st.sampled_from(QUERIES), plan=st.sampled_from(PLANS), version=st.sampled_from([2, 3, 3]))
    def another_rollout_begins(self, whom: str, plan: dict[str, Any], version: int) -> None:
        asked = {"target_query": whom, "release": f"pump/{version}", "timeout": LIMITS}
        try:
            made = self.world.create(**(plan | asked | self._criteria(plan)))
        except (ConflictError, UnacceptableError):
            return
        self.rollouts.append(made)
        self.person_says(pick=len(self.rollouts) - 1, verb=Verb.START, named=False)
