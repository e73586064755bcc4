"""What always holds of rollouts, whatever a fleet does: read from the database alone, by rules that are none of the code under test."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Any

from databases import Databases
from hypothesis.stateful import RuleBasedStateMachine, invariant
from rollout_machine_parts import BAD, BEGUN, OWNING, Actor, S
from rollout_world import RolloutWorld
from sqlalchemy import select, update

from fleet.rollouts.progress import Rollout
from fleet.rollouts.states import GroupState, RolloutState
from fleet.rollouts.store import find_rollout
from fleet.storage.device_tables import Desired, Device
from fleet.storage.rollout_tables import DesiredCounter, RolloutTransition
from protocol.names import DeviceId


def given_id(rollout: Rollout, device: str) -> str:
    """What a device calls its present attempt, by a rule of our own."""
    return f"{rollout.id}:{device}:{rollout.executions[DeviceId(device)].attempt}"


class LawfulFleet(RuleBasedStateMachine):
    """A world and its laws, without anything that happens. A subclass says on which `databases`, and what happens."""

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
                    expected: tuple[str, str] | None = (given_id(rollout, device), rollout.plan.release)
                else:
                    back = rollout.rollback_to or rollout.plan.rollback_to or execution.previous
                    returned_id = f"{rollout.id}:{device}:back{execution.returns}"
                    expected = None if back is None else (returned_id, back)
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
                    assert (given_id(rollout, device), S.SUCCEEDED) in self.actors[device].said

    @invariant()
    def nobody_who_was_shut_out_is_given_a_release(self) -> None:
        self.note_gifts()
        for device, actor in self.actors.items():
            assert actor.revoked_at_counter in {None, self.gifts[device]}, (
                "given to a device that was shut out"
            )

    @invariant()
    def nobody_gives_what_was_withdrawn_nor_to_a_device_that_another_has(self) -> None:
        loaded = {rollout.id: rollout for rollout in self.loaded()}
        lines = sorted((line for one in loaded for line in self.lines(one)), key=lambda line: line.id)
        withdrawn: set[str] = set()
        owning: set[str] = set()
        for line in lines:
            rollout = loaded[line.rollout]
            if line.state == "WITHDRAWN":
                withdrawn.add(rollout.plan.release)
            elif line.subject == "rollout":
                (owning.add if line.state in OWNING else owning.discard)(rollout.id)
            elif line.state == "GIVEN":
                assert rollout.plan.release not in withdrawn, "given after it was withdrawn"
                others = [one for one in owning - {rollout.id} if line.device in loaded[one].executions]
                joined = {
                    one
                    for one in others
                    for at in self.lines(one, device=line.device, state="JOINED")
                    if at.id > line.id
                }
                assert set(others) <= joined, "given to a device that another rollout has"

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

    def lines(self, rollout: str, **columns: str | None) -> list[RolloutTransition]:
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
