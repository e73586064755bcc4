"""A process that has nearly used up what it may have says so while it still can."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest
from agent_loop_world import World, world
from agent_world import healthy

from edge_agent.errors import RestartNeededError
from edge_agent.own_resources import OwnResources, _memory_limit

__all__ = ["world"]  # the fixture
pytestmark = pytest.mark.edge
MB = 1_000_000


@pytest.fixture
def resources(tmp_path: Path) -> OwnResources:
    for number in range(20):
        (tmp_path / str(number)).touch()
    return OwnResources(most_bytes=256 * MB, most_files=1024, first_bytes=50 * MB, files=tmp_path)


def test_there_is_enough_of_everything(resources: OwnResources) -> None:
    assert resources.exhausted(200 * MB) == ""
    assert replace(resources, most_bytes=None).exhausted(2000 * MB) == ""
    assert OwnResources.from_kernel(50 * MB).exhausted(60 * MB) == ""


def test_what_is_nearly_used_up_is_said(resources: OwnResources) -> None:
    assert resources.exhausted(220 * MB) == "220 of 256 MB of memory are used, 50 at first"
    assert replace(resources, most_files=22).exhausted(0) == "20 of 22 files are open"


def test_a_process_that_is_large_from_the_beginning_leaks_nothing(resources: OwnResources) -> None:
    assert replace(resources, most_bytes=60 * MB).exhausted(58 * MB) == ""


def test_no_file_to_look_with_is_an_answer(resources: OwnResources, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert resources.exhausted(0) == "1024 of 1024 files are open"


def test_the_limit_of_memory_is_that_of_the_tightest_group(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    group = tmp_path / "fs" / "system.slice" / "fedge-agent.service"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group.parent / "memory.max").write_text(f"{256 * MB}\n")
    own.write_text("0::/system.slice/fedge-agent.service\n")
    assert _memory_limit(tmp_path / "fs", own) == 256 * MB
    old = tmp_path / "fs" / "memory" / "fedge"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text(f"{64 * MB}\n")
    own.write_text("9:cpu:/\n4:memory:/fedge\n")
    assert _memory_limit(tmp_path / "fs", own) == 64 * MB
    (old / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert _memory_limit(tmp_path / "fs", own) is None
    assert _memory_limit(tmp_path / "fs", tmp_path / "none") is None


def test_an_agent_that_leaks_says_goodbye_and_asks_for_another_process(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.watch(healthy(5))
    monkeypatch.setattr(OwnResources, "exhausted", lambda _self, _bytes: "900 of 1024 files are open")
    world.now_s += 20
    with pytest.raises(RestartNeededError, match="something leaks"):
        world.agent.run()
    assert world.counters.has_said_farewell
