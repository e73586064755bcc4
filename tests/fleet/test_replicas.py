"""Two replicas on one PostgreSQL: each takes its share, one leads, and a kill -9 of either loses and doubles nothing."""

from __future__ import annotations

import random
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from databases import PostgresqlServer
from fleet_api_world import Fleet
from fleet_world import anomaly
from replica_world import Plant, Replica, plant
from sqlalchemy import func, select

from fleet.rollouts.states import RolloutState
from fleet.storage.event_tables import Anomaly, InstallRecord
from fleet.storage.rollout_tables import RolloutTransition
from service.roles import Role

pytestmark = pytest.mark.slow
PLAN: dict[str, Any] = {
    "name": "motor v2",
    "release": "motor/2",
    "success": {"threshold_pct": 100},
    "gates": None,
}


def scrape(fleet: Fleet, metric: str) -> float:
    lines = fleet.call("GET", "/metrics", Role.ADMIN).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(metric + "{"))


def start_rollout(fleet: Fleet, soak_s: float = 0) -> str:
    groups = [{"name": "canary", "percentage": 34, "soak_s": 0}, {"percentage": 100, "soak_s": soak_s}]
    made = fleet.call("POST", "/v1/rollouts", Role.OPERATOR, json=PLAN | {"groups": groups})
    assert made.status_code == 201, made.text
    rollout = str(made.json()["id"])
    answer = fleet.call("POST", f"/v1/rollouts/{rollout}:start", Role.OPERATOR)
    assert answer.status_code == 200, answer.text
    return rollout


def state_of(fleet: Fleet, rollout: str) -> str:
    answer = fleet.call("GET", f"/v1/rollouts/{rollout}")
    return str(answer.json().get("state")) if answer.status_code == 200 else ""


def check_nothing_is_doubled(world: Plant) -> None:
    with world.site.database.read() as session:
        moves = session.execute(
            select(
                RolloutTransition.rollout,
                RolloutTransition.subject,
                RolloutTransition.group,
                RolloutTransition.device,
                RolloutTransition.state,
            )
        )
        doubled = [move for move, times in Counter(moves).items() if times > 1]
        reports = Counter(session.execute(select(InstallRecord.device, InstallRecord.execution)))
    assert not doubled, "no step of a rollout was taken twice"
    assert set(reports.values()) <= {1}, "no device was told the same twice under another counter"
    for worker in world.workers:
        counters = [word.counter for word in worker.obeyed]
        assert counters == sorted(set(counters))


def test_each_replica_takes_its_share_and_what_a_follower_changes_reaches_the_devices_by_the_leader(
    tmp_path: Path, postgresql_url: str
) -> None:
    with plant(tmp_path, postgresql_url, workers=4) as world:
        for worker in world.workers:
            for _ in range(30):
                worker.say(anomaly())
        world.tend_until(lambda: all(worker.is_heard for worker in world.workers), "all to be acknowledged")
        fleet = world.publish_releases()
        shares = [
            scrape(world.at(fleet, one), "fedge_fleet_events_stored_total") for one in (world.a, world.b)
        ]
        assert sum(shares) == 120
        assert min(shares) > 20, "the broker hands each its share"

        assert (world.a.leads, world.b.leads) == (True, False)
        rollout = start_rollout(world.at(fleet, world.b))
        world.tend_until(lambda: state_of(fleet, rollout) == RolloutState.COMPLETED, "the rollout to be done")
        revoked = fleet.call("POST", "/v1/devices/press-0:revoke", Role.ADMIN, json={"confirm": "press-0"})
        assert revoked.status_code == 200, revoked.text
        assert world.site.connect("press-0").subscribe("fedge/v1/demo/press-0/desired") in {
            "lost",
            "128",
            "Unspecified error",
        }
        check_nothing_is_doubled(world)
        world.a.kill()
        world.tend_until(lambda: world.b.leads, "the other one to lead")
        for worker in world.workers[1:]:
            worker.say(anomaly())
        world.tend_until(
            lambda: all(w.is_heard for w in world.workers[1:]), "the one that is left to take all"
        )


def strike_at_random(world: Plant, draw: random.Random, stop: threading.Event) -> None:
    """Kill one of the two at any time, and start it again, until told to stop."""
    while not stop.wait(draw.uniform(0.2, 4.0)):
        victim = draw.choice([world.a, world.b])
        victim.kill()
        victim.start()


@pytest.mark.long
@pytest.mark.parametrize("victim", ["leader", "follower", "database", "stopped leader"])
def test_whoever_is_killed_during_ingest_rollout_and_rollback_nothing_is_lost_or_doubled_and_it_goes_on(
    tmp_path: Path, server: PostgresqlServer, victim: str
) -> None:
    said = Counter[str]()
    with plant(tmp_path, f"postgresql+psycopg://fedge@/fleet?host={server.folder}") as world:

        def chatter(times: int) -> None:
            for worker in world.workers:
                for _ in range(times):
                    worker.say(anomaly())
                    said[worker.machine.name] += 1

        def strike() -> Replica:
            """Kill one and start it again; which replica can be asked meanwhile."""
            leader, follower = (world.a, world.b) if world.a.leads else (world.b, world.a)
            if victim == "database":
                server.stop(signal.SIGQUIT)
                chatter(5)
                server.start()
                return follower
            if victim == "stopped leader":
                assert leader.child is not None
                leader.child.send_signal(signal.SIGSTOP)
                chatter(5)
                world.tend_until(lambda: follower.leads, "the other one to lead")
                leader.child.send_signal(signal.SIGCONT)
                return follower
            killed, other = (leader, follower) if victim == "leader" else (follower, leader)
            killed.kill()
            chatter(5)
            killed.start()
            return other

        fleet = world.publish_releases()
        chatter(40)
        world.tend_until(lambda: world.workers[0].client.acked, "the first acknowledgement")
        world.at(fleet, strike())
        world.tend_until(lambda: world.a.leads != world.b.leads, "one of them to lead")

        # the last group soaks for as long as this takes: a rollout that is under way goes back
        rollout = start_rollout(fleet, soak_s=3600)
        chatter(10)
        world.tend_until(lambda: any(worker.obeyed for worker in world.workers), "the first desired state")
        world.at(fleet, strike())
        world.tend_until(lambda: all(w.runs("motor/2") for w in world.workers), "all to run the new release")

        confirmed = {"confirm": rollout}
        answer = fleet.call("POST", f"/v1/rollouts/{rollout}:rollback", Role.OPERATOR, json=confirmed)
        assert answer.status_code == 200, answer.text
        chatter(10)
        world.at(fleet, strike())
        world.tend_until(
            lambda: state_of(fleet, rollout) == RolloutState.ROLLED_BACK, "the rollback to be done"
        )
        world.tend_until(
            lambda: all(worker.is_heard for worker in world.workers), "everything to be acknowledged"
        )

        check_nothing_is_doubled(world)
        assert all(worker.runs("motor/1") for worker in world.workers)
        with world.site.database.read() as session:
            stored = session.execute(select(Anomaly.device, func.count()).group_by(Anomaly.device))
            assert dict(stored.all()) == said


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
def test_replicas_killed_at_any_time_again_and_again_lose_nothing_and_double_nothing(
    tmp_path: Path, server: PostgresqlServer, seed: int
) -> None:
    said = Counter[str]()
    with plant(tmp_path, f"postgresql+psycopg://fedge@/fleet?host={server.folder}") as world:
        fleet = world.publish_releases()

        def ask(method: str, path: str, *good: int, **arguments: Any) -> Any:
            """Of whichever replica answers, as a load balancer would; what it has done already it says again."""

            def answered() -> Any:
                for worker in world.workers:
                    if said[worker.machine.name] < 400:
                        worker.say(anomaly())
                        said[worker.machine.name] += 1
                for one in (world.a, world.b):
                    try:
                        answer = world.at(fleet, one).call(method, path, Role.OPERATOR, **arguments)
                    except httpx.HTTPError:
                        continue
                    if answer.status_code in good:
                        return answer
                return None

            return world.tend_until(answered, f"an answer to {method} {path}")

        def is_state(state: RolloutState) -> bool:
            return bool(ask("GET", f"/v1/rollouts/{rollout}", 200).json()["state"] == state)

        stop = threading.Event()
        striker = threading.Thread(target=strike_at_random, args=(world, random.Random(seed), stop))
        striker.start()
        try:
            groups = [{"name": "canary", "percentage": 34}, {"percentage": 100, "soak_s": 3600}]
            headers = {"Idempotency-Key": f"once-{seed}"}
            made = ask("POST", "/v1/rollouts", 200, 201, json=PLAN | {"groups": groups}, headers=headers)
            rollout = str(made.json()["id"])
            ask("POST", f"/v1/rollouts/{rollout}:start", 200, 409)
            world.tend_until(
                lambda: all(w.runs("motor/2") for w in world.workers), "all to run the new release"
            )
            ask("POST", f"/v1/rollouts/{rollout}:rollback", 200, 409, json={"confirm": rollout})
            world.tend_until(lambda: is_state(RolloutState.ROLLED_BACK), "the rollback to be done")
        finally:
            stop.set()
            striker.join()
        world.tend_until(
            lambda: all(worker.is_heard for worker in world.workers), "everything to be acknowledged"
        )
        check_nothing_is_doubled(world)
        assert all(worker.runs("motor/1") for worker in world.workers)
        with world.site.database.read() as session:
            stored = session.execute(select(Anomaly.device, func.count()).group_by(Anomaly.device))
            assert dict(stored.all()) == said
