"""The engine behind the real ingest: encoded messages in, desired states out."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from fleet_world import TENANT, Machine, arrival
from rollout_world import DEVICE_KEY, RolloutWorld
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.rollouts.engine import RolloutEngine
from fleet.rollouts.memory import Memory
from fleet.rollouts.news import News
from fleet.rollouts.states import RolloutState, Verb
from fleet.storage.outages import DatabaseAwayError
from protocol.messages.kinds import AgentState, InstallStatus, InstallStep
from protocol.messages.payloads import Health, InstallReport, Payload


class Devices:
    """Every device of the world, speaking through the fleet's own ingest."""

    def __init__(self, world: RolloutWorld) -> None:
        self._world = world
        self._store = EventStore(world.database, TENANT, FleetMetrics())
        self._machines = {name: Machine(name=name, key=DEVICE_KEY) for name in world.devices}

    def send(self, device: str, *payloads: Payload) -> None:
        machine = self._machines[device]
        self._store.store([arrival(machine.event(payload, at=self._world.now)) for payload in payloads])

    def install(self, device: str) -> None:
        """What an agent says of the desired state it holds."""
        desired = self._world.desired(device)
        assert desired is not None
        steps = [
            (InstallStep.DOWNLOADING, InstallStatus.IN_PROGRESS),
            (InstallStep.COMMITTED, InstallStatus.SUCCEEDED),
        ]
        reports = [
            InstallReport(
                execution=desired.execution,
                release=desired.release,
                counter=desired.counter,
                step=step,
                status=status,
                active_release=desired.release if status is InstallStatus.SUCCEEDED else None,
            )
            for step, status in steps
        ]
        self.send(device, *reports)

    def watch(self, device: str, rate: float, times: int = 4) -> None:
        desired = self._world.desired(device)
        assert desired is not None
        said = Health(
            state=AgentState.WATCHING,
            release=desired.release,
            uptime_s=1.0,
            interval_windows=20,
            anomaly_rate=rate,
        )
        self.send(device, *[said] * times)


def test_messages_of_devices_carry_a_rollout_through_and_a_bad_one_back(world: RolloutWorld) -> None:
    devices = Devices(world)
    good = world.started()
    for number in range(3):
        for device in world.members(good, number):
            devices.install(device)
        world.tick(0.25)
        for device in world.members(good, number):
            devices.watch(device, rate=0.05)
        world.tick(11)
    assert world.view(good).state is RolloutState.COMPLETED
    bad = world.started(release="pump/3")
    canary = world.members(bad, 0)
    for device in canary:
        devices.install(device)
        devices.watch(device, rate=0.95)
    world.tick(0.25)
    assert world.view(bad).state is RolloutState.ROLLING_BACK
    for device in canary:
        devices.install(device)
    world.tick(0.25)
    assert world.view(bad).state is RolloutState.ROLLED_BACK
    assert {row.release for d in world.devices if (row := world.desired(d))} == {"pump/2"}


async def _run_until(engine: RolloutEngine, world: RolloutWorld, rollout: str, state: RolloutState) -> None:
    running = asyncio.create_task(engine.run())
    try:
        while world.view(rollout).state is not state:
            engine.wake()
            await asyncio.sleep(0)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


def test_the_task_announces_at_its_start_and_moves_rollouts_on_when_woken(world: RolloutWorld) -> None:
    rollout = world.started(groups=[{"percentage": 100}], success={}, limits=[])
    world.publisher.announced.clear()
    world.install(world.devices)
    engine = RolloutEngine(world.database, world.publisher, now=lambda: world.now, tick_s=3600.0)
    engine.wake()  # before it runs: without effect, without harm
    asyncio.run(_run_until(engine, world, rollout, RolloutState.COMPLETED))
    assert world.publisher.announced == world.devices
    engine.wake()  # after it ended


@pytest.mark.parametrize(
    "fault",
    [OperationalError("select", {}, Exception("disk I/O error")), ValueError("no such time zone any more")],
    ids=["database", "plan"],
)
def test_a_broken_rollout_does_not_stop_the_others(
    world: RolloutWorld, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    first = world.started(target_query="id=in=(d00,d01)", groups=[{"percentage": 100}], success={}, limits=[])
    second = world.started(
        target_query="id=in=(d02,d03)", groups=[{"percentage": 100}], success={}, limits=[]
    )
    world.install(["d00", "d01", "d02", "d03"])
    advance = world.engine.advance

    def fail_on_first(memory: Memory, rollout_id: str, news: News) -> bool:
        if rollout_id == first:
            raise fault
        return advance(memory, rollout_id, news)

    monkeypatch.setattr(world.engine, "advance", fail_on_first)
    world.tick(0.25)
    assert world.view(first).state is RolloutState.RUNNING
    assert world.view(second).state is RolloutState.COMPLETED


def test_an_operators_rollback_tells_the_devices_at_once(world: RolloutWorld) -> None:
    rollout = world.started()
    world.publisher.announced.clear()
    world.say(rollout, Verb.ROLLBACK)
    assert world.publisher.announced == sorted(world.members(rollout, 0))


async def _cancel_together_with_a_wake_up(engine: RolloutEngine) -> None:
    running = asyncio.create_task(engine.run())
    await asyncio.sleep(0.2)  # by now it waits to be woken
    engine.wake()
    await asyncio.sleep(0)  # the event is set, its waiter not yet told
    running.cancel()
    await asyncio.wait([running])  # an engine that went on would hold up the end of the service for ever


def test_a_wake_up_at_the_moment_of_the_end_does_not_keep_the_engine_alive(
    world: RolloutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = RolloutEngine(world.database, world.publisher, now=lambda: world.now, tick_s=3600.0)
    monkeypatch.setattr(engine, "advance_all", lambda: 0)
    asyncio.run(_cancel_together_with_a_wake_up(engine))


def test_while_the_database_is_away_the_engine_says_nothing_of_it_and_goes_on_afterwards(
    world: RolloutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise DatabaseAwayError("the database is away")

    rollout = world.started(groups=[{"percentage": 100}], limits=[], success={})
    world.install(world.devices)
    with capture_logs() as logs:
        for kind in ("read", "write"):
            with monkeypatch.context() as patched:
                patched.setattr(world.database, kind, away)
                world.tick(1)
        assert world.view(rollout).state is RolloutState.RUNNING
        assert [one for one in logs if one["log_level"] == "error"] == []
    world.tick(60)
    assert world.view(rollout).state is RolloutState.COMPLETED
