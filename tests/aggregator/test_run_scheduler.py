"""When runs start by themselves, with several families: none of them stands in another's way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import family_changes
import msgspec
import pytest
from structlog.testing import capture_logs

from aggregator.errors import FleetUnreachableError, RunConflictError, UnknownRunError
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.run_store import RunStore
from aggregator.rounds.runs import RunState, TrainingRun
from aggregator.run_scheduler import DISK_RETRY_S, JOIN_S, RunScheduler
from aggregator.triggers import DriftSummary

DRIFTING = DriftSummary(devices=4, drifted_since=(990.0,) * 4)
QUIET = DriftSummary(devices=4, drifted_since=())


class Fleet:
    """Implements `DriftSource`: a family's drift, or what the fleet answers instead; counts who was looked at."""

    def __init__(self) -> None:
        self.answers: dict[str, DriftSummary | Exception] = {}
        self.asked: list[str] = []

    def drift(self, family: str) -> DriftSummary:
        self.asked.append(family)
        answer = self.answers.get(family, DRIFTING)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Driver:
    """Implements `RunDriver`: ends a run and says so, or whatever `does` says."""

    def __init__(self, store: RunStore) -> None:
        self.store, self.driven, self.all_driven = store, list[str](), threading.Event()
        self.does: Callable[[], None] = lambda: None

    def advance(self, run_id: str) -> TrainingRun:
        self.does()
        self.driven.append(run_id)
        run = msgspec.structs.replace(self.store.get(run_id), state=RunState.COMPLETED, ended_at=1.0)
        self.store.save(run)
        if not self.store.unfinished():
            self.all_driven.set()
        return run


def family(name: str, **trigger: object) -> FamilySettings:
    return family_changes.family(name, secure_sum={"enabled": False}, rounds={"count": 7}, trigger=trigger)


class NoDoor:
    """Implements `Looking`: somebody else's door, and it may be that nobody answers there."""

    def __init__(self) -> None:
        self.looks = 0
        self.error: Exception | None = None

    def look(self) -> None:
        self.looks += 1
        if self.error:
            raise self.error


class World:
    """A scheduler over these families at second 1000."""

    def __init__(self, folder: Path, *families: FamilySettings) -> None:
        self.store, self.fleet, self.now = RunStore(folder / "a.sqlite"), Fleet(), 1000.0
        self.driver, self.door = Driver(self.store), NoDoor()
        numbers = iter(range(1, 100))
        self.scheduler = RunScheduler(
            store=self.store,
            families={each.name: each for each in families},
            driver=self.driver,
            drift=self.fleet,
            door=self.door,
            stopping=threading.Event(),
            now=lambda: self.now,
            new_id=lambda: f"run-{next(numbers)}",
            watch_every_s=60.0,
        )

    def started(self) -> list[tuple[str, str]]:
        return sorted((run.family, run.trigger) for run in self.store.unfinished())


THREE = (family("a", drift_share=0.5), family("b", drift_share=0.5), family("c", drift_share=0.5))


def test_a_fleet_that_does_not_answer_for_one_family_does_not_stop_the_look_at_the_others(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, *THREE)
    world.fleet.answers = {"a": FleetUnreachableError("away"), "b": QUIET}
    world.scheduler.look()
    assert world.fleet.asked == ["a", "b", "c"]
    assert world.started() == [("c", "drift")]


def test_a_family_that_starts_by_hand_only_is_not_looked_at_and_stops_nobody(tmp_path: Path) -> None:
    world = World(tmp_path, family("a"), *THREE[1:])
    world.scheduler.look()
    assert world.fleet.asked == ["b", "c"]
    assert world.started() == [("b", "drift"), ("c", "drift")]


def test_a_family_under_way_or_taken_by_a_person_in_the_same_moment_stops_nobody(tmp_path: Path) -> None:
    world = World(tmp_path, *THREE)
    world.scheduler.start_run("a", trigger="person", reason="", requested_by="anna")
    world.scheduler.look()
    assert world.started() == [("a", "person"), ("b", "drift"), ("c", "drift")]
    world.scheduler.look()
    assert len(world.store.recent()) == 3


@pytest.mark.parametrize(
    ("trigger", "drift", "kind"),
    [
        ({"drift_share": 0.5}, DRIFTING, "drift"),
        ({"schedule_every_s": 100.0}, QUIET, "schedule"),
        (
            {"precision_drift": True},
            DriftSummary(devices=4, drifted_since=(), precision_drifted_since=990.0),
            "precision",
        ),
    ],
)
def test_each_trigger_works_on_its_own(
    tmp_path: Path, trigger: dict[str, object], drift: DriftSummary, kind: str
) -> None:
    world = World(tmp_path, family("a", **trigger))
    world.fleet.answers["a"] = drift
    world.now = 1100.0
    world.scheduler.look()
    assert world.started() == [("a", kind)]
    (run,) = world.store.unfinished()
    assert (run.requested_by, run.rounds, run.created_at) == ("aggregator", 7, 1100.0)


def test_a_run_is_as_it_was_asked_for_and_waits_for_its_turn(tmp_path: Path) -> None:
    world = World(tmp_path, *THREE)
    run = world.scheduler.start_run(
        "b", trigger="person", reason="new bearings", requested_by="anna", rounds=2
    )
    assert (run.id, run.family, run.rounds, run.state) == ("run-1", "b", 2, RunState.INVITING)
    assert (run.reason, run.requested_by, run.created_at, run.updated_at) == (
        "new bearings",
        "anna",
        1000.0,
        1000.0,
    )
    other = world.scheduler.start_run("c", trigger="person", reason="", requested_by="anna")
    assert other.rounds == 7
    assert run.seed == int.from_bytes(b"un-1", "big")
    assert run.seed != other.seed


def test_a_family_nobody_configured_is_refused_with_those_that_are(tmp_path: Path) -> None:
    world = World(tmp_path, *THREE)
    with pytest.raises(UnknownRunError, match=r"'d' is not configured here; valid are a, b, c"):
        world.scheduler.start_run("d", trigger="person", reason="", requested_by="anna")
    world.scheduler.start_run("a", trigger="person", reason="", requested_by="anna")
    with pytest.raises(RunConflictError, match="'a' is already training in run 'run-1'"):
        world.scheduler.start_run("a", trigger="person", reason="", requested_by="anna")


def test_all_that_was_left_unfinished_is_driven_the_oldest_first_and_then_what_comes(tmp_path: Path) -> None:
    world = World(tmp_path, family("a"), family("b"), family("c"))
    for name in "abc":
        world.scheduler.start_run(name, trigger="person", reason="", requested_by="anna")
    world.scheduler.start()
    try:
        assert world.driver.all_driven.wait(60)
        assert world.driver.driven == ["run-1", "run-2", "run-3"]
        world.driver.all_driven.clear()
        world.scheduler.start_run("a", trigger="person", reason="", requested_by="anna")
        assert world.driver.all_driven.wait(60)
        assert world.driver.driven[3:] == ["run-4"]
    finally:
        world.scheduler.stop()


def test_a_full_disk_is_tried_again_every_ten_seconds_and_a_stop_waits_five() -> None:
    # Often enough for a person who has just made room, rarely enough for a log that is read.
    assert (DISK_RETRY_S, JOIN_S) == (10.0, 5.0)


def test_a_stopped_scheduler_begins_nothing_more(tmp_path: Path) -> None:
    world = World(tmp_path, family("a"), family("b"))
    for name in "ab":
        world.scheduler.start_run(name, trigger="person", reason="", requested_by="anna")
    world.driver.does = world.scheduler._stopping.set
    world.scheduler.start()
    world.scheduler.stop()
    assert world.driver.driven in ([], ["run-1"])


def test_a_fleet_that_is_away_is_said_once_until_it_is_back(tmp_path: Path) -> None:
    world = World(tmp_path, *THREE[:2])

    def warnings() -> int:
        with capture_logs() as lines:
            world.scheduler.look()
        return sum(line["event"] == "drift_not_seen" for line in lines)

    world.fleet.answers = {"a": FleetUnreachableError("away"), "b": FleetUnreachableError("away")}
    assert [warnings(), warnings()] == [1, 0]
    world.fleet.answers = {"a": QUIET, "b": QUIET}
    assert warnings() == 0
    world.fleet.answers["b"] = FleetUnreachableError("away")
    assert warnings() == 1


def test_a_door_that_cannot_be_compared_keeps_nobody_from_watching_drift(tmp_path: Path) -> None:
    world = World(tmp_path, family("a", drift_share=0.5))
    world.door.error = FleetUnreachableError("away")
    with capture_logs() as logs:
        world.scheduler.look()
        world.scheduler.look()
        assert (world.door.looks, world.fleet.asked) == (2, ["a", "a"])
        world.door.error = None
        world.scheduler.look()
        world.door.error = FleetUnreachableError("away once more")
        world.scheduler.look()
    said = [line["reason"] for line in logs if line["event"] == "door_not_compared"]
    assert said == ["away", "away once more"], "once each time, and not at each look"
