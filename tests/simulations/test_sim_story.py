"""The whole story in small, with processes killed at their worst moments: it still ends, and no anomaly is lost.

Four devices instead of twelve (scenarios/quick.toml); everything else is as in `make demo`. The anomalies that must not be
lost are counted from the agents' own logs, not from the outbox that has to keep them.
"""

from __future__ import annotations

import os
import re
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from simulations.mosquitto import BrokerChoice
from simulations.playing import Outcome, open_world_and_play
from simulations.processes import Supervisor
from simulations.record import Record

pytestmark = pytest.mark.slow
OPENED = re.compile(r"anomaly_opened")


class Killer:
    """Kills one process once, when the story has reached a moment."""

    def __init__(self, world: Path, victim: str, moment: Callable[[Record], bool]) -> None:
        self.world = world
        self.victim = victim
        self.moment = moment
        self.killed: int | None = None

    def __call__(self, record: Record, supervisor: Supervisor) -> None:
        if self.killed is not None or not self.moment(record):
            return
        if self.victim == "learner":
            pids = sorted(self.world.glob("devices/*/state/learner/pid"))
            if pids and (text := pids[0].read_text().strip()):
                os.kill(int(text), signal.SIGKILL)
                self.killed = int(text)
        elif supervisor.processes[self.victim].pid is not None:
            self.killed = supervisor.kill(self.victim)


def in_chapter(letter: str) -> Callable[[Record], bool]:
    return lambda record: record.chapter is not None and record.chapter.letter == letter


def a_run_is_open(record: Record) -> bool:
    return any(t.state in {"INVITING", "ROUND"} for t in record.trainings.values())


def version_2_is_spreading(record: Record) -> bool:
    return any(r.release.endswith("/2") and r.state == "RUNNING" for r in record.rollouts.values())


def play(world: Path, broker: BrokerChoice, on_tick: Callable[[Record, Supervisor], None]) -> Outcome:
    with (world.parent / "screen.txt").open("w") as screen:
        return open_world_and_play(
            "quick",
            world,
            Console(file=screen, width=140),
            broker=broker,
            report_path=world.parent / "report.html",
            picture_path=world.parent / "picture.svg",
            on_tick=on_tick,
        )


def opened_by_agents(world: Path) -> Counter[str]:
    return Counter(
        {
            p.stem.removeprefix("agent-"): len(OPENED.findall(p.read_text()))
            for p in world.glob("logs/agent-*.log")
        }
    )


def stored_by_fleet(world: Path) -> Counter[str]:
    with sqlite3.connect(world / "fleet" / "data" / "fleet.sqlite") as database:
        return Counter(device for (device,) in database.execute("SELECT device FROM anomalies"))


def test_the_story_ends_and_no_anomaly_is_lost_when_each_kind_of_process_is_killed(tmp_path: Path) -> None:
    the_load_changes = in_chapter("c")  # alarms follow, or do not: drift may be confirmed before the first
    moments = {
        "agent-d02": the_load_changes,
        "broker": the_load_changes,
        "aggregator": a_run_is_open,
        "learner": a_run_is_open,
        "fleet": version_2_is_spreading,
    }
    world = tmp_path / "world"
    killers = [Killer(world, victim, moment) for victim, moment in moments.items()]

    def on_tick(record: Record, supervisor: Supervisor) -> None:
        for killer in killers:
            killer(record, supervisor)

    outcome = play(world, BrokerChoice.MOSQUITTO, on_tick)
    assert [killer.victim for killer in killers if killer.killed is None] == [], "their moment never came"
    # A learner is its agent's child: the supervisor of the story does not see it die.
    assert sorted(name for _, name in outcome.record.deaths) == sorted(moments.keys() - {"learner"})
    figures = outcome.figures
    assert (figures.faults_caught, figures.faults_missed) == (1, 0)
    assert figures.final_release.endswith("/2")
    opened, stored = opened_by_agents(world), stored_by_fleet(world)
    assert opened.total() > 0
    assert not opened - stored, "an anomaly that an agent opened never reached the fleet"
    assert not stored - opened, "an anomaly was stored twice"
