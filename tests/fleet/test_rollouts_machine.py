"""Whatever a fleet does, the engine keeps its invariants, on both databases; and the machine that says so finds faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import structlog
from databases import Databases, SqliteDatabases
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from rollout_machine import AnyFleet
from rollout_machine_parts import PLANS, QUERIES

from fleet.rollouts import decisions, desired_states, engine, giving, records, returning, saying, store
from fleet.rollouts.counts import Judgement, Outcome, judge_counts
from fleet.rollouts.executions import Index, Mark
from fleet.rollouts.states import GroupState, RolloutState, Verb
from fleet.rollouts.steps import Decision, MoveGroup
from protocol.messages.kinds import InstallStatus


def run(
    databases: Databases, examples: int, steps: int = 25, *, phases: tuple[Phase, ...] = tuple(Phase)
) -> None:
    machine = type("Machine", (AnyFleet,), {"databases": databases})
    run_state_machine_as_test(  # type: ignore[no-untyped-call] # hypothesis says nothing of it
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            phases=phases,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """What the engine logs of thousands of decisions is of no use here."""
    before = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=False
    )
    yield
    structlog.configure(**before)


def test_whatever_a_fleet_does_the_engine_keeps_its_invariants(databases: Databases) -> None:
    run(databases, examples=6 if isinstance(databases, SqliteDatabases) else 2)


def test_a_rollback_that_begins_at_the_very_end_has_its_time_and_is_over_then(databases: Databases) -> None:
    machine = type("Machine", (AnyFleet,), {"databases": databases})()
    machine.begins(plan=PLANS[0], whom=QUERIES[2], names=False)
    # with the limits of a plan by default: whose devices say no health has failed some seconds after its soak
    machine.another_rollout_begins(plan=PLANS[0], whom=QUERIES[1], version=3, is_seen=True)
    machine.devices_end_what_they_were_told(status=InstallStatus.SUCCEEDED, most=9)
    try:
        machine.ends()
        assert [one.state for one in machine.loaded()][1] is RolloutState.ROLLED_BACK
    finally:
        machine.teardown()


def test_a_rollback_that_does_not_end_in_its_time_is_found(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(returning, "_end", lambda _decision: None)
    machine = type("Machine", (AnyFleet,), {"databases": SqliteDatabases(tmp_path_factory.mktemp("ends"))})()
    machine.begins(plan=PLANS[2], whom="", names=False)
    machine.devices_end_what_they_were_told(status=InstallStatus.SUCCEEDED, most=9)
    machine.person_says(pick=0, verb=Verb.ROLLBACK, named=False)
    with pytest.raises(AssertionError, match="never ends"):
        machine.teardown()


def test_an_engine_that_begins_may_find_that_who_was_awaited_has_gone_and_nothing_else(
    databases: Databases,
) -> None:
    machine = type("Machine", (AnyFleet,), {"databases": databases})()
    try:
        machine.begins(plan=PLANS[2], whom="", names=False)
        machine.devices_end_what_they_were_told(status=InstallStatus.SUCCEEDED, most=9, is_seen=True)
        machine.person_says(pick=0, verb=Verb.ROLLBACK, named=False, is_seen=True)
        machine.device_comes_or_goes(pick=3, is_online=False)
        machine.time_passes(seconds=0.0)
        machine.world.report("d04", InstallStatus.SUCCEEDED, execution=machine.wanted()["d04"].execution)
        with pytest.raises(AssertionError, match="overlooked"):
            machine.an_engine_that_knows_nothing_finds_nothing()
    finally:
        machine.teardown()


@pytest.mark.long
def test_whatever_a_fleet_does_at_length(databases: Databases) -> None:
    run(databases, examples=150 if isinstance(databases, SqliteDatabases) else 50, steps=50)


Patch = pytest.MonkeyPatch


def give_to_everybody(patch: Patch) -> None:
    real = Decision.do

    def do(self: Decision, command: Any) -> None:
        real(self, command)
        if isinstance(command, MoveGroup) and command.state is GroupState.RUNNING:
            self._queue(list(self.rollout.executions.values()))

    patch.setattr(Decision, "do", do)


def forget_who_runs_it(patch: Patch) -> None:
    real = returning._give_back

    def give_back(decision: Any, observations: Any, executions: Any) -> None:
        real(decision, observations, [e for e in executions if e.state is not InstallStatus.SUCCEEDED])

    patch.setattr(returning, "_give_back", give_back)


def tell_as_many_as_there_are(patch: Patch) -> None:
    patch.setattr(giving, "slice_now", lambda *_: 1000)


def abort_never(patch: Patch) -> None:
    patch.setattr(decisions, "aborting_rule", lambda *_: None)


def count_from_one(patch: Patch) -> None:
    patch.setattr(desired_states, "next_counter", lambda known, now: 1)


def share_devices(patch: Patch) -> None:
    patch.setattr(saying, "_check_devices_are_free", lambda *_: None)


def let_nobody_go(patch: Patch) -> None:
    patch.setattr(store, "supersede", lambda *_: None)


def give_to_who_is_shut_out(patch: Patch) -> None:

    def take(self: Any, entries: Any) -> None:
        executions = self._decision.rollout.executions
        for entry in entries:
            if giving.mark_of(self._plan, executions[entry.device]) is not Mark.NONE:
                self._give(entry.device, giving.NOBODY, None)

    patch.setattr(giving._Turns, "take", take)
    patch.setattr(decisions, "shut_out", lambda *_: None)


def believe_any_attempt(patch: Patch) -> None:
    patch.setattr(decisions.Rollout, "given_id", lambda self, e: f"{self.id}:{e.device}:1")


def keep_giving_what_was_withdrawn(patch: Patch) -> None:
    def take_back(session: Any, release: Any, reason: str, now: float, **_: str) -> None:
        release.withdrawn_at, release.withdrawn_reason = now, reason

    patch.setattr(store, "take_back", take_back)


def give_what_another_has(patch: Patch) -> None:
    patch.setattr(records, "occupied_devices", lambda *_: {})
    patch.setattr(engine, "taken_elsewhere", lambda *_: False)


def pass_without_evidence(patch: Patch) -> None:
    def judge(counts: Any, criteria: Any) -> Judgement:
        found = judge_counts(counts, criteria)
        if found.outcome is Outcome.NO_EVIDENCE:
            return Judgement(outcome=Outcome.HOLDS, reason=found.reason)
        return found

    patch.setattr(decisions, "judge_counts", judge)


def miscount(patch: Patch) -> None:
    real = Index.count

    def count(self: Index, plan: Any, execution: Any, by: int) -> None:
        if by > 0 or execution.state is not InstallStatus.IN_PROGRESS:
            real(self, plan, execution, by)

    patch.setattr(Index, "count", count)


def wait_for_nobody(patch: Patch) -> None:
    patch.setattr(returning, "_give_back", lambda *_: None)


FAULTS: list[Callable[[Patch], None]] = [
    give_to_everybody,
    forget_who_runs_it,
    tell_as_many_as_there_are,
    abort_never,
    count_from_one,
    share_devices,
    let_nobody_go,
    give_to_who_is_shut_out,
    believe_any_attempt,
    keep_giving_what_was_withdrawn,
    give_what_another_has,
    pass_without_evidence,
    miscount,
    wait_for_nobody,
]


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_machine_finds_a_fault_that_is_put_in(
    fault: Callable[[Patch], None], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    with pytest.raises(BaseException):  # noqa: B017, PT011 - an assertion, or several in a group
        run(
            SqliteDatabases(tmp_path_factory.mktemp("faults")),
            examples=60,
            steps=30,
            phases=(Phase.generate,),
        )
