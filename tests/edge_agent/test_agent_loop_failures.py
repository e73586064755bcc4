"""The agent's loop with fakes at its ports: what a failing part, or a restart, does to the rest."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from agent_loop_world import World, world
from agent_world import faulty, healthy

from edge_agent.errors import SourceError
from edge_agent.health import Counters
from edge_agent.status import load_counters
from protocol.messages.kinds import AgentState
from protocol.messages.payloads import AnomalyEvent, Health
from runtime.errors import StorageError

__all__ = ["world"]  # the fixture
pytestmark = pytest.mark.edge


def test_a_source_that_fails_is_counted_and_asked_again_later(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.source.error = SourceError("sensor unplugged")
    for _ in range(20):
        world.turn()
    assert world.counters.source_errors == 1
    assert caplog.text.count("sensor unplugged") == 1
    assert "no windows come: sensor unplugged" in world.status().problems
    world.source.error = None
    world.now_s += 5
    world.watch(healthy(5))
    assert world.counters.windows == 5
    world.now_s += 2
    world.turn()
    assert not any("no windows" in problem for problem in world.status().problems)


def test_a_source_that_delivers_nothing_for_a_minute_makes_the_device_blind_until_it_does(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.watch(healthy(100))
    for number in range(500):
        world.source.error = SourceError(f"read {number} of 2048 bytes")
        world.turn()
    world.now_s += 15
    for _ in range(15):
        world.turn()
    health = world.said(Health)[-1]
    assert isinstance(health, Health)
    assert health.state is AgentState.BLIND
    assert any(p.startswith("blind: no windows come: read 499 of") for p in health.problems)
    world.source.error = None
    world.now_s += 5
    world.watch(healthy(3))
    assert world.vitals.state is AgentState.WATCHING
    assert "source_delivers_again" in caplog.text


def test_a_model_that_cannot_be_loaded_is_told_to_the_installer_with_every_window(world: World) -> None:
    world.watch(healthy(100))
    world.installation.give(2, is_trial=True, generation=2, model=b"\0" * 4 + b"TFL3" + b"\0" * 100)
    world.installation.windows.clear()
    world.watch(healthy(5))
    errors = [error for _, error in world.installation.windows]
    assert len(errors) == 5
    assert all("pump/2 cannot be used" in (error or "") for error in errors)
    world.watch(faulty(5))
    (anomaly,) = world.said(AnomalyEvent)
    assert isinstance(anomaly, AnomalyEvent)
    assert anomaly.release == "pump/1", "the model before goes on judging"


def test_a_disk_that_takes_no_rows_does_not_stop_the_watch(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.watch(healthy(100))
    world.buffer.flush_error = StorageError("No space left on device")
    world.watch(faulty(20))
    assert len(world.said(AnomalyEvent)) == 1
    assert "No space left" in caplog.text


def test_counters_continue_after_a_restart(world: World, tmp_path: Path) -> None:
    world.watch(healthy(100))
    world.now_s += 10
    world.turn()
    world.outbox.close()
    again = World(tmp_path)
    again.watch(healthy(10))
    assert again.counters.windows == 110
    assert again.counters.machine_time_s == 99 + 9


class KilledError(Exception):
    """Ends the agent's loop without a farewell."""


def run_for(world: World, turns: int, *, is_killed: bool = False) -> None:
    """`Agent.run` for so many turns."""
    left, step = [turns], world.agent.step

    def counted() -> float:
        left[0] -= 1
        if left[0] < 0:
            if is_killed:
                raise KilledError
            world.agent.stop()
        return step()

    world.agent.step = counted  # type: ignore[method-assign] # the only way to stop after so many turns
    with contextlib.suppress(KilledError):
        world.agent.run()


def test_starts_after_the_first_are_counted_and_those_without_a_farewell_as_crashes(tmp_path: Path) -> None:
    found = []
    for boot, is_killed in enumerate([False, False, True, True, False, True]):
        device = World(tmp_path, f"b{boot}")
        device.source.rows += list(healthy(3))
        run_for(device, 5, is_killed=is_killed)
        health = max((h for h in device.said(Health) if isinstance(h, Health)), key=lambda h: h.restarts)
        found.append((health.restarts, health.crashes))
    assert found == [(0, 0), (1, 0), (2, 0), (3, 1), (4, 2), (5, 2)]


def test_counters_of_an_older_agent_begin_to_count_starts_without_a_crash(
    world: World, tmp_path: Path
) -> None:
    world.paths.counters.write_bytes(b'{"windows": 7}')
    again = World(tmp_path, "b2")
    run_for(again, 3)
    assert (again.counters.windows, again.counters.restarts, again.counters.crashes) == (7, 0, 0)


def test_damaged_counters_begin_at_zero(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world.paths.counters.write_bytes(b'{"windows": "x"}')
    assert load_counters(world.paths.counters) == Counters()
    assert "counting from zero" in caplog.text
