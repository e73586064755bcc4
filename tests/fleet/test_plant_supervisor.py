"""What keeps a plant's processes alive, with small programs in the services' places."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from waiting import wait_until

from fleet.plant.lives import Life, end_lives, find_lives, life_of, mark
from fleet.plant.plant_log import PlantLog
from fleet.plant.supervisor import Service, Supervisor
from service.errors import StartError


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    end_lives(find_lives(tmp_path).values(), grace_s=0.0)


def supervisor(folder: Path, *, asked: Callable[[], bool] = lambda: False) -> Supervisor:
    return Supervisor(folder, PlantLog(folder), is_asked_to_end=asked)


def service(name: str, program: str, *, answers: Callable[[], bool] = lambda: True) -> Service:
    return Service(name=name, command=[sys.executable, "-c", program], environment={}, answers=answers)


def life_in(folder: Path, name: str) -> Life:
    """The life of a service; a process shows its environment a moment after it was started."""
    return wait_until(lambda: find_lives(folder).get(name), f"the {name}")  # type: ignore[return-value]


def members(group: int) -> list[int]:
    """Who runs in a process group."""
    pids = [int(place.name) for place in Path("/proc").iterdir() if place.name.isdigit()]
    found = []
    for pid in pids:
        with suppress(ProcessLookupError):
            if os.getpgid(pid) == group and life_of(pid) is not None:
                found.append(pid)
    return found


SLEEPS = "import time; time.sleep(600)"
WITH_CHILD = (
    "import subprocess, time; subprocess.Popen(['sleep', '600']); print('two', flush=True); time.sleep(600)"
)


def test_who_dies_is_started_again_and_again_later_each_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[int] = []

    def pause(attempt: int, **_: float) -> float:
        pauses.append(attempt)
        return 0.0

    monkeypatch.setattr("fleet.plant.supervisor.backoff_s", pause)
    mine = supervisor(folder)
    mine.bring_up(service("broker", SLEEPS), None)
    for _ in range(3):
        killed = life_in(folder, "broker")
        os.kill(killed.pid, signal.SIGKILL)

        def is_back(killed_pid: int = killed.pid) -> bool:
            mine.look_after()
            return "broker" in (found := find_lives(folder)) and found["broker"].pid != killed_pid

        wait_until(is_back, "another life")
    assert pauses == [1, 2, 3]
    mine.end_all()
    assert find_lives(folder) == {}


def test_what_a_service_has_started_ends_with_it(folder: Path) -> None:
    mine, log = supervisor(folder), PlantLog(folder)
    mine.bring_up(service("fleet", WITH_CHILD, answers=lambda: "two" in log.path.read_text()), None)
    group = life_in(folder, "fleet").pid
    assert len(members(group)) == 2
    mine.end_all()
    wait_until(lambda: not members(group), "the group to be gone")


def test_who_ends_at_its_start_is_quoted(folder: Path) -> None:
    mine = supervisor(folder)
    with pytest.raises(StartError, match="the fleet ended at its start: no luck today"):
        mine.bring_up(service("fleet", "raise SystemExit('no luck today')", answers=lambda: False), None)


def test_a_wait_ends_where_the_end_is_asked_for(folder: Path) -> None:
    mine = supervisor(folder, asked=lambda: True)
    assert not mine.bring_up(service("fleet", SLEEPS, answers=lambda: False), None)
    mine.end_all()
    assert find_lives(folder) == {}


def test_who_runs_already_is_taken_over_and_a_stranger_is_not(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    supervisor(other).bring_up(service("broker", SLEEPS), None)
    former = supervisor(folder)
    former.bring_up(service("broker", SLEEPS), None)
    running = life_in(folder, "broker")
    mine = supervisor(folder)
    mine.bring_up(service("broker", SLEEPS), running)
    assert find_lives(folder) == {"broker": running}
    mine.end_all()
    assert find_lives(folder) == {}
    strangers = find_lives(other)
    assert set(strangers) == {"broker"}
    end_lives(strangers.values(), grace_s=0.0)


def test_a_process_that_takes_no_hint_is_ended_all_the_same(folder: Path) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    mine, log = supervisor(folder), PlantLog(folder)
    mine.bring_up(service("broker", deaf, answers=lambda: "deaf" in log.path.read_text()), None)
    end_lives(find_lives(folder).values(), grace_s=0.1)
    assert find_lives(folder) == {}


def test_a_log_that_grows_is_cut_into_pieces_and_none_of_its_writers_loses_it(tmp_path: Path) -> None:
    log = PlantLog(tmp_path, most_bytes=100)
    writer = log.open()
    for number in range(8):
        os.write(writer, f"{number}\n".encode() * 60)
        assert log.rotate()
    os.write(writer, b"after\n")
    os.close(writer)
    assert not log.rotate()
    assert log.path.read_text() == "after\n"
    pieces = sorted(tmp_path.glob("plant.log.*"))
    assert [piece.read_text()[0] for piece in pieces] == ["7", "6", "5", "4", "3"]


def test_a_terminal_is_shown_each_whole_line_once(tmp_path: Path) -> None:
    log, terminal = PlantLog(tmp_path, most_bytes=10), io.StringIO()
    writer = log.open()
    os.write(writer, b"before\n")
    log.begin_here()
    os.write(writer, b"one\ntw")
    log.show(terminal)
    os.write(writer, b"o\n")
    log.show(terminal)
    log.show(terminal)
    log.rotate()
    os.write(writer, b"three\n")
    log.show(terminal)
    os.close(writer)
    assert terminal.getvalue() == "one\ntwo\nthree\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may start a process of somebody else")
def test_a_strangers_process_with_the_mark_of_a_service_is_neither_taken_over_nor_ended(folder: Path) -> None:
    marked = {**os.environ, **mark(folder, "broker")}
    stranger = subprocess.Popen(["sleep", "60"], env=marked, user=65_534, start_new_session=True)
    try:
        environment = Path(f"/proc/{stranger.pid}/environ")
        wait_until(lambda: b"FEDGE_UP=broker:" in environment.read_bytes(), "its environment")
        assert find_lives(folder) == {}
    finally:
        stranger.kill()
        stranger.wait()
