"""A run leaves no folder behind, however it ends: refused, over, or ended by a signal, impatient hands included."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner
from waiting import wait_until

from simulations.cli import app
from simulations.endings import end_if_asked, temporary_folder, terminate_as_interrupt
from simulations.errors import ScenarioError, StoryError
from simulations.processes import Supervisor


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("arguments", [["nope"], ["demo", "--data", "pronostia=/nowhere"]])
def test_a_run_that_is_refused_leaves_no_folder(temporary: Path, arguments: list[str]) -> None:
    assert CliRunner().invoke(app, ["run", *arguments]).exit_code == 2
    assert not list(temporary.iterdir())


def test_only_a_story_that_broke_off_leaves_its_world_for_a_look(temporary: Path) -> None:
    for error in (ScenarioError("x"), KeyboardInterrupt(), RuntimeError("x")):
        with pytest.raises(type(error)), temporary_folder("x-", kept_after=(StoryError,)):
            raise error
        assert not list(temporary.iterdir())
    with pytest.raises(StoryError), temporary_folder("x-", kept_after=(StoryError,)) as folder:
        raise StoryError("in vain")
    assert list(temporary.iterdir()) == [folder]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_had_to_ignore_is_heard_at_the_next_turn(
    tmp_path: Path, number: signal.Signals
) -> None:
    """In a finaliser it becomes "Exception ignored in", and the story went on to its end, with status 0."""

    class Finalised:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)

    with terminate_as_interrupt(), Supervisor(tmp_path) as supervisor:
        Finalised()
        with pytest.raises(KeyboardInterrupt):
            supervisor.tick()
    end_if_asked()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("how", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT, signal.SIGTERM]])
def test_a_run_that_is_ended_by_a_signal_leaves_neither_a_folder_nor_a_process(
    tmp_path: Path, how: list[signal.Signals]
) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "simulations", "run", "quick", "--report", str(tmp_path / "report.html")]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        wait_until(lambda: list(tmp_path.glob("fedge-demo-*/logs/fleet.log")), "a world with a fleet")
        for each in how:
            child.send_signal(each)
        _, said = child.communicate()
    assert child.returncode == 130, said
    assert said.endswith("fedge-sim: interrupted; everything that was started is stopped\n")
    assert not list(tmp_path.glob("fedge-demo-*"))
    assert not [
        _read(one.with_name("cmdline"))
        for one in Path("/proc").glob("[0-9]*/environ")
        if str(tmp_path).encode() in _read(one)
    ]


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
