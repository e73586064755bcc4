"""The supervisor: what dies comes back, what is started is stopped, also when the test fails."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from waiting import wait_until

from simulations.addresses import free_ports
from simulations.errors import ProcessFailedError
from simulations.processes import MAXIMUM_RESTARTS, Supervisor


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "fedge_sleeper.py").write_text("import time\nprint('up', flush=True)\ntime.sleep(60)\n")
    (tmp_path / "fedge_failing.py").write_text("raise SystemExit('no luck today')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "fedge_sleeper"


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_process_comes_back_under_a_new_pid(tmp_path: Path, sleeper: str) -> None:
    with Supervisor(tmp_path / "logs") as supervisor:
        process = supervisor.start("one", sleeper)
        killed = supervisor.kill("one")
        supervisor.wait_until(lambda: process.restarts == 1 and process.pid is not None, "a second life")
        assert process.pid != killed
        assert process.exit_codes == [-signal.SIGKILL]


def test_a_held_process_stays_away_until_it_is_resumed(tmp_path: Path, sleeper: str) -> None:
    with Supervisor(tmp_path / "logs") as supervisor:
        process = supervisor.start("one", sleeper)
        supervisor.hold("one", signal.SIGKILL)
        assert supervisor.tick() == []
        assert (process.pid, process.restarts) == (None, 0)
        supervisor.resume("one")
        assert process.pid is not None


def test_everything_is_stopped_at_the_end_even_after_an_error(tmp_path: Path, sleeper: str) -> None:
    pids = []
    with pytest.raises(RuntimeError), Supervisor(tmp_path / "logs") as supervisor:  # noqa: PT012 - the block is the subject
        pids = [supervisor.start(name, sleeper).pid for name in ("one", "two")]
        raise RuntimeError("the test fails here")
    assert not any(is_alive(pid) for pid in pids if pid)


def test_what_a_process_has_left_behind_ends_with_it(tmp_path: Path, sleeper: str) -> None:
    (tmp_path / "fedge_parent.py").write_text(
        "import subprocess, sys\n"
        "left = subprocess.Popen([sys.executable, '-m', 'fedge_sleeper'])\n"
        "print(left.pid, flush=True)\nleft.wait()\n"
    )
    with Supervisor(tmp_path / "logs") as supervisor:
        supervisor.start("one", "fedge_parent")
        log = tmp_path / "logs" / "one.log"
        supervisor.wait_until(lambda: "\n" in log.read_text(), "a grandchild")
        left = int(log.read_text().partition("\n")[0])
        assert is_alive(left)
    wait_until(lambda: not is_alive(left) or is_defunct(left), "the grandchild to end")


def is_defunct(pid: int) -> bool:
    """Ended, and not waited for by whoever inherited it."""
    return "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]


@pytest.mark.slow
def test_a_process_that_keeps_dying_is_given_up_with_its_last_words(tmp_path: Path, sleeper: str) -> None:
    now = 0.0
    with Supervisor(tmp_path / "logs", clock=lambda: now) as supervisor:
        process = supervisor.start("bad", "fedge_failing")
        with pytest.raises(ProcessFailedError, match="no luck today"):  # noqa: PT012 - a loop until it gives up
            for _ in range(MAXIMUM_RESTARTS * 400):
                supervisor.tick()
                now += 1.0
                time.sleep(0.01)
        assert process.restarts == MAXIMUM_RESTARTS


def test_a_command_that_fails_is_quoted(tmp_path: Path, sleeper: str) -> None:
    with (
        Supervisor(tmp_path / "logs") as supervisor,
        pytest.raises(ProcessFailedError, match="no luck today"),
    ):
        supervisor.run("bad", "fedge_failing")


def test_free_ports_are_distinct() -> None:
    ports = free_ports(5)
    assert len(set(ports)) == 5
