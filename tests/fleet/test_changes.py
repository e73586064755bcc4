"""What changes is read by one statement a second and told to everybody who listens, each as far as it keeps up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from fleet_world import NOW, TENANT, Machine, anomaly, closed, enrol_directly
from rollout_world import RolloutWorld
from sqlalchemy import event, update

from fleet import audit
from fleet.changes import hub as hub_module
from fleet.changes import query
from fleet.changes.change import Change, ChangeKind, Marks
from fleet.changes.hub import ChangeHub
from fleet.changes.query import present_marks, read_changes
from fleet.erasure import erase_device
from fleet.errors import TooOftenError
from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.rollouts.states import Verb
from fleet.storage.base import Database
from fleet.storage.device_tables import Device
from fleet.storage.outages import DatabaseAwayError
from service.errors import UnauthenticatedError
from service.roles import Caller, Role

EVE = Caller(name="eve", role=Role.VIEWER)


class Tokens:
    """Implements `TokenHolders`."""

    def __init__(self) -> None:
        self.void: set[str] = set()

    def find_caller(self, token: str) -> Caller:
        if token in self.void:
            raise UnauthenticatedError(f"{token} was revoked")
        return EVE


def here(database: Database) -> Marks:
    with database.read() as session:
        return present_marks(session)


def since(database: Database, marks: Marks) -> list[Change]:
    with database.read() as session:
        return [change for _, change in read_changes(session, marks).changes]


def test_a_rollout_tells_of_itself_and_its_groups_and_not_of_each_device(world: RolloutWorld) -> None:
    before = here(world.database)
    rollout = world.started()
    told = [one for one in since(world.database, before) if one.kind is ChangeKind.ROLLOUT]
    assert {one.name for one in told} == {rollout}
    assert {one.family for one in told} == {"pump"}
    assert [(one.what, one.state) for one in told][-1] == ("group", "RUNNING")
    assert not [one for one in since(world.database, here(world.database)) if one.kind is ChangeKind.ROLLOUT]


def test_a_device_is_told_once_as_it_is_whoever_changed_it_and_not_when_only_a_message_came(
    database: Database,
) -> None:
    before = here(database)
    machine = Machine(name="press-1")
    enrol_directly(database, machine)
    with database.write() as session:  # past the mapper, as what is fast does
        session.execute(update(Device).values(online=True))
        session.execute(update(Device).values(agent_state="blind", drifted=True))
    (told,) = since(database, before)
    assert (told.kind, told.name, told.online, told.agent_state, told.drifted) == (
        ChangeKind.DEVICE,
        "press-1",
        True,
        "blind",
        True,
    )
    after = here(database)
    with database.write() as session:
        session.execute(update(Device).values(last_seen=NOW, online=True))
    assert since(database, after) == []


def test_anomalies_their_ends_alarms_and_audit_lines_are_told_in_one_statement(database: Database) -> None:
    machine = Machine(name="press-1")
    enrol_directly(database, machine)
    before = here(database)
    events = [anomaly(episode="e1"), closed("e1")]
    EventStore(database, TENANT, FleetMetrics()).store([machine.arrival(one) for one in events])
    with database.write() as session:
        for action in ("identity_conflict", "settings_set"):
            audit.record(session, at=NOW, actor="fleet", action=action, subject="press-1")
    statements: list[str] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def note(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        if "SELECT" in statement:
            statements.append(statement)

    told = since(database, before)
    event.remove(database.engine, "before_cursor_execute", note)
    assert len(statements) == 1
    assert {(one.kind.value, one.what) for one in told} >= {
        ("anomaly", "open"),
        ("anomaly", "ended"),
        ("alarm", "identity_conflict"),
        ("audit", "settings_set"),
    }


def test_of_more_than_is_told_at_once_the_latest_are_told_and_that_others_were_skipped(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "AT_ONCE", 5)
    monkeypatch.setattr(query, "_statement", query._statement.__wrapped__)
    machine = Machine(name="press-1")
    enrol_directly(database, machine)
    before = here(database)
    EventStore(database, TENANT, FleetMetrics()).store(
        [machine.arrival(anomaly(window_index=n)) for n in range(12)]
    )
    with database.read() as session:
        batch = read_changes(session, before)
    assert [one.kind for _, one in batch.changes].count(ChangeKind.ANOMALY) == 5
    assert batch.skipped == [ChangeKind.ANOMALY]
    assert batch.marks == here(database)


def test_after_an_erasure_new_rows_are_told_and_that_old_ones_are_gone(database: Database) -> None:
    store, machines = EventStore(database, TENANT, FleetMetrics()), [Machine(name="d0"), Machine(name="d1")]
    for machine in machines:
        enrol_directly(database, machine)
    store.store([machines[1].arrival(anomaly()) for _ in range(5)])
    marks = here(database)
    with database.write() as session:
        erase_device(session, "d1", actor="operator:ann", now=NOW)
    with database.read() as session:
        batch = read_changes(session, marks)
    assert set(batch.skipped) == {ChangeKind.ANOMALY, ChangeKind.DRIFT}
    store.store([machines[0].arrival(anomaly()) for _ in range(5)])
    with (
        database.read() as session
    ):  # who was away meanwhile: SQLite has given the numbers of the five once more
        assert ChangeKind.ANOMALY in read_changes(session, marks).skipped
    assert ("d0", "open") in {(one.name, one.what) for one in since(database, batch.marks)}


def test_who_may_hear_alarms_alone_is_told_that_some_were_skipped_among_audit_lines(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "AT_ONCE", 2)
    monkeypatch.setattr(query, "_statement", query._statement.__wrapped__)
    before = here(database)
    write_audit(database, "a", "b", "c")
    with database.read() as session:
        assert read_changes(session, before).skipped == [ChangeKind.AUDIT, ChangeKind.ALARM]


Story = Callable[[ChangeHub, Tokens], Awaitable[None]]


def play(database: Database, monkeypatch: pytest.MonkeyPatch, story: Story) -> None:
    monkeypatch.setattr(hub_module, "EVERY_S", 0.01)

    async def main() -> None:
        tokens = Tokens()
        hub = ChangeHub(database, tokens, lambda: NOW)
        task = asyncio.create_task(hub.run())
        while hub._marks is None:
            await asyncio.sleep(0.001)
        await story(hub, tokens)
        task.cancel()

    asyncio.run(main())


async def next_change(told: AsyncIterator[tuple[Marks, Change | None]]) -> tuple[Marks, Change]:
    async for marks, change in told:
        if change is not None:
            return marks, change
    raise AssertionError("nothing more came")


def write_audit(database: Database, *subjects: str) -> None:
    with database.write() as session:
        for subject in subjects:
            audit.record(session, at=NOW, actor="fleet", action="settings_set", subject=subject)


def test_everybody_hears_it_and_who_comes_back_goes_on_where_it_was(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(hub: ChangeHub, _tokens: Tokens) -> None:
        heard = [await hub.listen(f"t{n}", EVE, None) for n in range(3)]
        await asyncio.to_thread(write_audit, database, "a", "b")
        for _, told in heard:
            assert [(await next_change(told))[1].name for _ in range(2)] == ["a", "b"]
        _, fresh = await hub.listen("t", EVE, None)
        await asyncio.to_thread(write_audit, database, "c", "d", "e")
        marks, change = await next_change(fresh)
        assert change.name == "c"
        _, again = await hub.listen("t", EVE, Marks.parse(str(marks)))
        assert [(await next_change(again))[1].name for _ in range(2)] == ["d", "e"]
        for listener, _ in heard:
            hub.leave(listener)
        assert len(hub) == 2

    play(database, monkeypatch, story)


def test_who_is_too_slow_whose_token_is_void_and_everybody_at_the_stop_is_ended_and_told_why(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "WAITING", 10)

    async def story(hub: ChangeHub, tokens: Tokens) -> None:
        slow, told_slowly = await hub.listen("t1", EVE, None)
        _, void = await hub.listen("t2", EVE, None)
        tokens.void.add("t2")
        last = await next_change(void)
        assert (last[1].kind, last[1].reason) == (ChangeKind.END, "t2 was revoked")
        for n in range(4):
            await asyncio.to_thread(write_audit, database, *(f"s{n}-{m}" for m in range(5)))
            while hub._marks != here(database):
                await asyncio.sleep(0.001)
        assert len(slow._waiting) <= 10
        heard: list[Any] = [await next_change(told_slowly) for _ in range(11)]
        assert heard[-1][1].kind is ChangeKind.END
        assert "too slow" in heard[-1][1].reason
        _, on = await hub.listen("t1", EVE, heard[-1][0])
        assert (await next_change(on))[1].name == "s2-0", "what it missed is told when it comes back"
        hub.close()
        reasons = [change.reason async for _, change in on if change and change.kind is ChangeKind.END]
        assert reasons == ["the service stops; come back"]

    play(database, monkeypatch, story)


def test_one_caller_has_some_places_and_a_database_that_is_away_ends_nobody(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "LISTENERS_OF_CALLER", 2)

    async def story(hub: ChangeHub, _tokens: Tokens) -> None:
        _, told = await hub.listen("t1", EVE, None)
        await hub.listen("t1", EVE, None)
        with pytest.raises(TooOftenError, match="2 times already"):
            await hub.listen("t1", EVE, None)
        read, failed = hub._read, asyncio.Event()
        loop = asyncio.get_running_loop()

        def away() -> Any:
            loop.call_soon_threadsafe(failed.set)
            raise DatabaseAwayError("away")

        hub._read = away  # type: ignore[method-assign]
        await asyncio.to_thread(write_audit, database, "meanwhile")
        await failed.wait()
        hub._read = read  # type: ignore[method-assign]
        assert (await next_change(told))[1].name == "meanwhile"

    play(database, monkeypatch, story)


def test_verbs_are_told_as_they_are_said(world: RolloutWorld) -> None:
    rollout = world.started()
    before = here(world.database)
    world.say(rollout, Verb.PAUSE)
    told = [one for one in since(world.database, before) if one.kind is ChangeKind.ROLLOUT]
    assert [(one.state, one.was, one.actor) for one in told] == [("PAUSED", "RUNNING", "operator:ann")]
