"""Whether an agent lives is read off its process: neither a date nor an id that was given again is believed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from agent_loop_world import World
from msgspec.structs import replace
from waiting import wait_until

from edge_agent.process_sight import (
    STALE_AFTER_S,
    STARTING_S,
    ProcessSight,
    ProcessState,
    ThisProcess,
    announce_start,
    started_ticks,
)
from edge_agent.status import Status
from protocol.messages.kinds import AgentState

pytestmark = pytest.mark.edge
PID, STARTED = 4711, 815


@pytest.fixture
def status(tmp_path: Path) -> Status:
    world = World(tmp_path)
    world.turn()
    return replace(world.status(), pid=PID, process_started=STARTED, kernel_boot="k1", written_boot_s=1000.0)


def proc_of(folder: Path, *, state: str = "S", started: int = STARTED, name: str = "python") -> Path:
    """A /proc with one process and with ourselves."""
    for pid in (str(PID), "self"):
        (folder / pid).mkdir(parents=True, exist_ok=True)
        fields = [state, *(str(n) for n in range(4, 22)), str(started), "0"]
        (folder / pid / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")
    return folder


@pytest.mark.parametrize(
    ("boot_s", "expected"),
    [
        (1000.0, ProcessState.RUNS),
        (1014.0, ProcessState.RUNS),
        (1000.0 + STALE_AFTER_S, ProcessState.HANGS),
        (900.0, ProcessState.HANGS),
    ],
)
def test_a_process_that_lives_and_does_not_write_hangs(
    status: Status, tmp_path: Path, boot_s: float, expected: ProcessState
) -> None:
    sight = ProcessSight(boot_s=boot_s, kernel_boot="k1", proc=proc_of(tmp_path / "proc"))
    for date_s in (0.0, -1e9, status.written_at_s, 4e9, 1e18):
        assert sight.state(replace(status, written_at_s=date_s)) is expected
    assert ("hangs: process 4711 lives" in sight.told(status)) is (expected is ProcessState.HANGS)


@pytest.mark.parametrize(
    "process",
    [{"state": "Z"}, {"state": "X"}, {"started": STARTED + 1}, {"name": "a) S 1 (b", "started": 1}],
    ids=["not buried", "dead", "another with its id", "one with a strange name"],
)
def test_a_process_that_is_another_or_dead_is_gone(
    status: Status, tmp_path: Path, process: dict[str, str]
) -> None:
    sight = ProcessSight(boot_s=1000.5, kernel_boot="k1", proc=proc_of(tmp_path / "proc", **process))  # type: ignore[arg-type] # of proc_of
    assert sight.state(status) is ProcessState.GONE
    assert sight.told(status) == "not running, last seen 0 s ago"


def test_a_process_of_another_start_of_the_device_is_gone(status: Status, tmp_path: Path) -> None:
    sight = ProcessSight(boot_s=1000.5, kernel_boot="k2", proc=proc_of(tmp_path / "proc"))
    assert sight.told(status) == "not running, last seen a restart of the device ago"


def test_an_agent_that_writes_rarely_is_given_three_times_as_long(status: Status, tmp_path: Path) -> None:
    proc = proc_of(tmp_path / "proc")
    rarely = ProcessSight(boot_s=1080.0, kernel_boot="k1", status_every_s=30.0, proc=proc)
    assert rarely.state(status) is ProcessState.RUNS


def test_an_agent_that_starts_is_said_to_and_given_its_time(tmp_path: Path) -> None:
    world = World(tmp_path)
    path = world.paths.status
    process = ThisProcess(pid=PID, started_ticks=STARTED, clock=world.clock)
    announce_start(path, process)
    assert not path.exists(), "a first start has nothing to say it with"
    world.turn()
    announce_start(path, process)
    found = world.status()
    assert (found.pid, found.health.state, found.kernel_boot) == (PID, AgentState.STARTING, "k1")
    proc = proc_of(tmp_path / "proc")
    assert ProcessSight(boot_s=STARTING_S - 1, kernel_boot="k1", proc=proc).state(found) is ProcessState.RUNS
    assert ProcessSight(boot_s=STARTING_S + 1, kernel_boot="k1", proc=proc).state(found) is ProcessState.HANGS


def test_what_a_full_disk_has_to_do_with_it_is_said(status: Status, tmp_path: Path) -> None:
    sight = ProcessSight(
        boot_s=1100.0, kernel_boot="k1", disk_problem="its disk is full", proc=proc_of(tmp_path / "proc")
    )
    assert sight.told(status).endswith("for 100 s (its disk is full)")


def test_real_processes_are_told_apart() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        mine, its = started_ticks(os.getpid()), started_ticks(child.pid)
        assert mine is not None
        assert its is not None
        assert mine <= its
        child.kill()
        wait_until(lambda: started_ticks(child.pid) is None, "its death, though nobody has buried it")
    finally:
        child.kill()
        child.wait()
    assert started_ticks(child.pid) is None
    assert started_ticks(2**40) is None
