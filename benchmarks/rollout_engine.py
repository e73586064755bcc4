"""What rollouts cost the service where no device has to answer. One JSON object per figure.

    python benchmarks/rollout_engine.py [--devices 10000] [--records 100000] [--database sqlite|postgresql]

* ``round``: the engine looks, while a rollout of all devices is under way: without news, with one report, with one more health message;
* ``give``, ``give back``: all devices are told, in slices; ``longest write`` is for how long nobody else could write meanwhile;
* ``view``, ``list``, ``executions``, ``timeline``: reading that rollout, p95 of 50;
* ``preview``: which devices of `--records` a plan means;
* ``publish``: retained words, sealed and confirmed by a real Mosquitto, a second; and how many are said again when the fleet is back
  at a broker that kept them.

Both databases keep what they commit (SQLite: synchronous=FULL; PostgreSQL: fsync on).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "fleet")]

from databases import LASTING, PostgresqlDatabases, PostgresqlServer  # noqa: E402 - needs the path above
from mosquitto_broker import MosquittoBroker  # noqa: E402 - as above
from rollout_world import PLAN, RolloutWorld, make_device  # noqa: E402 - as above

from fleet.api.rollout_views import list_rollouts, view_executions, view_rollout, view_timeline  # noqa: E402 - as above
from fleet.instruction_key import InstructionKey  # noqa: E402 - as above
from fleet.instructions import Instructions  # noqa: E402 - as above
from fleet.leadership import SoleLeadership  # noqa: E402 - as above
from fleet.metrics import FleetMetrics  # noqa: E402 - as above
from fleet.migrations.upgrade import open_storage  # noqa: E402 - as above
from fleet.mqtt.outgoing import Outgoing  # noqa: E402 - as above
from fleet.mqtt.retained import RetainedPublisher  # noqa: E402 - as above
from fleet.rollouts.plans import RolloutPlan  # noqa: E402 - as above
from fleet.rollouts.states import Verb  # noqa: E402 - as above
from fleet.rollouts.target_devices import find_targets  # noqa: E402 - as above
from fleet.storage.base import Database  # noqa: E402 - as above
from fleet.storage.event_tables import InstallRecord  # noqa: E402 - as above
from protocol.messages.kinds import InstallStatus, InstallStep  # noqa: E402 - as above
from service.event_source import EventSource  # noqa: E402 - as above
from service.mqtt_client import MqttClient  # noqa: E402 - as above

TENANT = "bench"
ONE_GROUP: dict[str, Any] = {"groups": [{"percentage": 100, "soak_s": 3600}], "limits": [], "success": {}}


def tell(name: str, value: float, unit: str, bound: float | None = None) -> None:
    print(json.dumps({"name": name, "value": round(value, 4), "unit": unit, "bound": bound}), flush=True)


def timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def busy(action: Callable[[], object]) -> float:
    """Seconds of this thread's own work: a round is short, and what else runs on the machine is not its doing."""
    began = time.thread_time()
    action()
    return time.thread_time() - began


def p95(times: list[float]) -> float:
    return sorted(times)[int(0.95 * len(times))]


@contextmanager
def longest_write(database: Database) -> Iterator[list[float]]:
    """How long each write transaction held the lock."""
    held: list[float] = []
    write = database.write

    @contextmanager
    def watched() -> Iterator[Any]:
        with write() as session:
            began = time.perf_counter()
            yield session
        held.append(time.perf_counter() - began)

    database.write = watched  # type: ignore[method-assign] # for as long as it is watched
    try:
        yield held
    finally:
        database.write = write  # type: ignore[method-assign] # as above


def measure_engine(url: str, devices: int) -> None:
    world = RolloutWorld(url, devices=devices)
    rollout = world.create(**ONE_GROUP)
    with longest_write(world.database) as held:
        began = time.perf_counter()
        world.say(rollout, Verb.START)
        tell("start answered", time.perf_counter() - began, "s")
        while len(world.publisher.announced) < devices:
            world.tick(1.0)
        tell("give, without the rest between slices", time.perf_counter() - began, "s")
    tell("give: longest write", max(held), "s")
    world.tick()  # it reads what the person has written
    rounds = [busy(world.tick) for _ in range(20)]
    tell("round without news, p95", 1000 * p95(rounds), "ms CPU")
    for kind, speak in (
        ("report", lambda d: world.report(d, InstallStatus.IN_PROGRESS)),
        ("health message", world.health),
    ):
        rounds = []
        for device in world.devices[:20]:
            speak(device)
            rounds.append(busy(world.tick))
        tell(f"round with one {kind}, p95", 1000 * p95(rounds), "ms CPU")
    all_succeed(world, rollout)
    tell("round in which all have succeeded", timed(world.tick), "s")
    measure_views(world, rollout)
    world.publisher.announced.clear()
    with longest_write(world.database) as held:
        began = time.perf_counter()
        world.say(rollout, Verb.ROLLBACK)
        tell("rollback answered", time.perf_counter() - began, "s")
        while len(world.publisher.announced) < devices:
            world.tick()
        tell("give back, without the rest between slices", time.perf_counter() - began, "s", 60.0)
    tell("give back: longest write", max(held), "s")
    world.close()


def all_succeed(world: RolloutWorld, rollout: str) -> None:
    with world.database.write() as session:
        session.add_all(
            InstallRecord(
                device=device,
                boot_id="boot-1",
                sequence=1_000_000,
                sent_at=world.now,
                received_at=world.now,
                execution=f"{rollout}:{device}:1",
                release="pump/2",
                counter=1,
                step=InstallStep.COMMITTED,
                status=InstallStatus.SUCCEEDED,
                progress=1.0,
                reason="",
                active_release="pump/2",
            )
            for device in world.devices
        )


def measure_views(world: RolloutWorld, rollout: str) -> None:
    with world.database.read() as session:
        calls: dict[str, Callable[[], object]] = {
            "view": lambda: view_rollout(session, rollout, world.now).model_dump_json(),
            "list": lambda: list_rollouts(session, state=None, families=None, before=None, limit=100),
            "executions": lambda: view_executions(session, rollout, 0, after="", limit=100),
            "timeline": lambda: view_timeline(session, rollout, after=0, limit=100, subject=None),
        }
        for name, call in calls.items():
            tell(f"{name}, p95", 1000 * p95([timed(call) for _ in range(50)]), "ms", 100.0)


def measure_preview(url: str, records: int) -> None:
    database = open_storage(url)
    world = RolloutWorld(url, devices=0)
    with database.write() as session:
        session.add_all(make_device(f"r{number:06}", world.now) for number in range(records))
    plan = msgspec.convert(PLAN | {"target_query": "hardware=in=(rpi4,rpi5)"}, RolloutPlan)

    def preview() -> None:
        with database.read() as session:
            find_targets(session, plan, "ro-1")

    tell(f"preview over {records} records", min(timed(preview) for _ in range(3)), "s", 1.0)
    world.close()
    database.close()


async def publish(database: Database, folder: Path, port: int, devices: list[str]) -> None:
    outgoing, metrics = Outgoing(), FleetMetrics()
    publisher = RetainedPublisher(
        outgoing,
        Instructions(
            InstructionKey(folder),
            tenant=TENANT,
            messages=EventSource("fleet", boot_id="f1", now=time.time),
            now=time.time,
        ),
        database=database,
        tenant=TENANT,
        metrics=metrics,
        life="a1",
        leadership=SoleLeadership(database),
    )

    def said() -> float:
        return metrics.registry.get_sample_value("fedge_fleet_desired_published_total") or 0.0

    async def session(words: int, seconds: float) -> float:
        """Hold a connection until so many words are confirmed, or for so long; how long it took."""
        before, began = said(), time.perf_counter()
        async with MqttClient(
            "127.0.0.1", port, client_id="fleet", tls=None, keepalive_s=20, timeout_s=15.0
        ) as client:
            await publisher.begin(client)
            running = asyncio.create_task(publisher.run(client))
            while said() - before < words and time.perf_counter() - began < seconds:
                await asyncio.sleep(0.01)
            took = time.perf_counter() - began
            await asyncio.sleep(2.0)  # for the mark behind them
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
        return took

    outgoing.announce(devices)
    tell("publish", len(devices) / await session(len(devices), 300.0), "words/s", 10_000 / 60)
    before = said()
    await session(1, 5.0)
    tell("said again at a broker that kept everything", said() - before, "words", 0.0)


def measure_publishing(url: str, devices: int, folder: Path) -> None:
    world = RolloutWorld(url, devices=devices)
    rollout = world.create(**ONE_GROUP)
    world.say(rollout, Verb.START)
    while len(world.publisher.announced) < devices:
        world.tick(1.0)
    with MosquittoBroker(folder, tls=False) as broker:
        asyncio.run(publish(world.database, folder, broker.port, world.devices))
    world.close()


@contextmanager
def fresh_databases(kind: str, folder: Path) -> Iterator[Callable[[], str]]:
    if kind == "sqlite":
        numbers = iter(range(100))

        def make() -> str:
            url = f"sqlite:///{folder}/{next(numbers)}.sqlite"
            open_storage(url).close()
            return url

        yield make
        return
    server = PostgresqlServer(LASTING)
    try:
        server.start()
        databases = PostgresqlDatabases(server.folder)
        yield lambda: databases.fresh().__enter__()
    finally:
        server.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        fresh_databases(options.database, Path(folder)) as fresh,
    ):
        measure_engine(fresh(), options.devices)
        measure_publishing(fresh(), options.devices, Path(folder))
        measure_preview(fresh(), options.records)


if __name__ == "__main__":
    main()
