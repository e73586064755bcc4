"""The loop feeds its watchdogs, and nothing else does: systemd's over a real socket, and a timer that ends a process that hangs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from agent_world import ROOT, healthy, make_bundle, write_device
from waiting import died, wait_until

from edge_agent.loop_watch import (
    FEED_EVERY_S,
    HANG_S,
    START_S,
    LoopWatch,
    Supervisor,
    hang_limit_s,
    supervisor_of,
)

READ_UNIT = (ROOT / "deploy/systemd/fedge-agent.service").read_text()


class Watched:
    """A loop watch whose supervisor, timer and clock are a test's."""

    def __init__(self, watchdog_s: float | None = None, limit_s: float = HANG_S) -> None:
        self.now_s = 0.0
        self.said: list[str] = []
        self.armed: list[float] = []
        supervisor = Supervisor(tell=self.said.append, watchdog_s=watchdog_s)
        self.watch = LoopWatch(supervisor, self.armed.append, lambda: self.now_s, limit_s)


@pytest.mark.edge
def test_a_start_asks_for_its_time_and_is_ready_with_the_first_turn_of_the_loop() -> None:
    watched = Watched()
    watched.watch.starting("trying what runs the model")
    assert watched.said == ["EXTEND_TIMEOUT_USEC=300000000\nSTATUS=trying what runs the model"]
    assert watched.armed == [START_S]
    watched.watch.came_round(lambda: "watching")
    assert watched.said[1:] == ["READY=1\nWATCHDOG=1\nSTATUS=watching"]
    watched.watch.stopping()
    assert watched.said[-1].startswith("STOPPING=1\n")


@pytest.mark.edge
def test_turns_feed_both_watchdogs_in_half_of_their_time_and_cost_nothing_in_between() -> None:
    watched = Watched(watchdog_s=4.0)
    for _ in range(1000):
        watched.watch.came_round(lambda: "watching")
        watched.now_s += 0.01
    assert len(watched.armed) == len(watched.said) == 5
    often = Watched()
    for _ in range(1000):
        often.watch.came_round(lambda: "watching")
        often.now_s += 0.1
    assert len(often.armed) == 100 / FEED_EVERY_S


@pytest.mark.edge
def test_nothing_is_fed_while_the_loop_does_not_come_round() -> None:
    watched = Watched(watchdog_s=4.0)
    watched.watch.came_round(lambda: "watching")
    watched.now_s += 1000
    assert len(watched.armed) == len(watched.said) == 1


@pytest.mark.edge
def test_a_fit_that_takes_long_on_purpose_is_given_its_time_by_both() -> None:
    limit_s = hang_limit_s(100_000)
    assert limit_s > HANG_S + 20 * 8, "20 s here, eight times as long on a small board"
    watched = Watched(watchdog_s=180.0, limit_s=limit_s)
    watched.watch.came_round(lambda: "watching")
    assert watched.armed == [limit_s]
    assert f"WATCHDOG_USEC={(limit_s + 60) * 1e6:.0f}" in watched.said[0].splitlines()
    usual = Watched(watchdog_s=180.6, limit_s=hang_limit_s(120))
    usual.watch.came_round(lambda: "watching")
    assert "WATCHDOG_USEC" not in usual.said[0], "the unit's own is enough"


@pytest.mark.edge
@pytest.mark.parametrize("text", ["a\nREADY=1\nMAINPID=1", "x" * 10_000, "", "é\0\r"])
def test_a_status_is_one_short_line_whatever_it_says(text: str) -> None:
    watched = Watched()
    watched.watch.came_round(lambda: text)
    lines = watched.said[0].splitlines()
    assert [line.partition("=")[0] for line in lines] == ["READY", "WATCHDOG", "STATUS"]
    assert len(lines[-1]) <= 210


@pytest.mark.edge
@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({}, None),
        ({"NOTIFY_SOCKET": "/nowhere/socket", "WATCHDOG_USEC": "180000000"}, 180.0),
        ({"NOTIFY_SOCKET": "@abstract", "WATCHDOG_USEC": "180000000", "WATCHDOG_PID": "7"}, 180.0),
        ({"NOTIFY_SOCKET": "@abstract", "WATCHDOG_USEC": "180000000", "WATCHDOG_PID": "8"}, None),
        ({"NOTIFY_SOCKET": "@abstract", "WATCHDOG_USEC": "soon"}, None),
        ({"NOTIFY_SOCKET": "vsock:2:1", "WATCHDOG_USEC": "180000000"}, None),
    ],
)
def test_what_systemd_says_is_read_and_not_left_to_children(
    environment: dict[str, str], watchdog_s: float | None
) -> None:
    found = supervisor_of(environment, 7)
    assert found.watchdog_s == watchdog_s
    assert environment == {}
    found.tell("READY=1")  # nobody listens, and nobody minds


@contextmanager
def started(folder: Path, code: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs the agent after `code`; ended by its own pid whatever happens."""
    with (folder / "agent.log").open("ab") as log:
        child = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"{code}\nimport sys, edge_agent.app as app, pathlib\nsys.exit(app.run(pathlib.Path({str(folder / 'agent.toml')!r})))",
            ],
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", **environment},
        )
        try:
            yield child
        finally:
            child.kill()
            child.wait()


@pytest.mark.slow
def test_a_real_agent_tells_its_supervisor_when_it_watches_that_it_lives_and_that_it_stops(
    tmp_path: Path,
) -> None:
    write_device(tmp_path, rows=healthy(100), bundle=make_bundle())
    said: list[str] = []
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)

        def heard(words: str) -> bool:
            try:
                while True:
                    said.append(listener.recv(65_536).decode())
            except BlockingIOError:
                return any(words in message for message in said)

        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        with started(tmp_path, "", environment) as agent:
            unless = lambda: died(agent, tmp_path / "agent.log")  # noqa: E731 - said three times
            wait_until(lambda: heard("READY=1"), "the first turn", unless=unless)
            assert "EXTEND_TIMEOUT_USEC" in said[0]
            wait_until(lambda: heard("STATUS=watching, release pump/1"), "a status", unless=unless)
            agent.send_signal(signal.SIGTERM)
            wait_until(lambda: heard("STOPPING=1"), "the goodbye")
            assert agent.wait() == 0
    assert sum("WATCHDOG=1" in message for message in said) >= 2


DRIVER = """
import ctypes, time
import numpy as np
from edge_agent.sources.port import SourceWindow
from models.features import passthrough_spec

class Driver:
    spec = passthrough_spec([f"feature-{i}" for i in range(6)])
    next_due_s = 0.0
    index = 0
    def next_window(self, now):
        self.index += 1
        if self.index == 100:
            ctypes.PyDLL(None).sleep(3600)  # C code that keeps Python's lock
        return SourceWindow(samples=np.zeros((1, 6), np.float32), observed_at_s=float(self.index), index=self.index - 1)
    def close(self):
        pass

def make(*, speed):
    return Driver()
"""


@pytest.mark.slow
def test_a_driver_that_keeps_pythons_lock_ends_the_process_which_says_where_it_hung(tmp_path: Path) -> None:
    config = write_device(tmp_path, rows=healthy(100), bundle=make_bundle())
    text = config.read_text()
    start, end = text.index("[source]"), text.index("[detection]")
    config.write_text(f'{text[:start]}[source]\nkind = "plugin"\nfactory = "stubborn:make"\n{text[end:]}')
    (tmp_path / "stubborn.py").write_text(DRIVER)
    began_s = time.monotonic()
    with started(tmp_path, "import edge_agent.loop_watch as watch; watch.HANG_S = 1.0", {}) as agent:
        wait_until(lambda: agent.poll() is not None, "its end")
    assert agent.returncode == 1
    assert time.monotonic() - began_s > 1.0
    log = (tmp_path / "agent.log").read_text()
    assert "Timeout (0:00:0" in log
    assert "stubborn.py" in log


def test_the_unit_starts_the_agent_for_ever_and_its_watchdog_bites_after_the_timer() -> None:
    keys = dict(
        line.split("=", 1) for line in READ_UNIT.splitlines() if "=" in line and not line.startswith("#")
    )
    assert (keys["Restart"], keys["StartLimitIntervalSec"], keys["Type"]) == ("always", "0", "notify")
    assert float(keys["WatchdogSec"]) >= hang_limit_s(0) + 60
    assert float(keys["TimeoutStartSec"]) >= START_S
    assert "time-sync" not in keys["After"], "detection waits for no clock"
