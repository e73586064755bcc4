"""The status file and the status command carry every field, a counter that is zero like any other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from agent_loop_world import CONFIG, World

from edge_agent.cli import main
from edge_agent.health import Counters, Readings, health_of
from edge_agent.status import Status, read_status
from protocol.messages.envelope import Event, decode, encode
from protocol.messages.kinds import InstallStep
from protocol.messages.payloads import Health

NOTHING_READ = Readings(
    drift_score=0.0,
    drifted=False,
    outbox_events=0,
    buffered_windows=0,
    training_run=None,
    install_step=InstallStep.IDLE,
    memory_pss_bytes=0,
)


@pytest.fixture
def fresh(tmp_path: Path) -> World:
    """A device that has counted nothing yet, after its first turn."""
    world = World(tmp_path)
    world.installation.now = None
    world.turn()
    return world


def test_the_status_file_of_a_device_that_has_counted_nothing_names_every_counter(fresh: World) -> None:
    found = json.loads(fresh.paths.status.read_bytes())
    assert set(found) == set(Status.__struct_fields__)
    assert set(found["health"]) == set(Health.__struct_fields__)
    assert (found["health"]["anomalies"], found["health"]["training_run"]) == (0, None)
    assert found["health"]["install_step"] == "IDLE"
    assert set(json.loads(fresh.paths.counters.read_bytes())) == set(Counters.__struct_fields__)
    assert read_status(fresh.paths.status).health.anomalies == 0


def test_the_status_command_prints_every_counter_for_programs(
    fresh: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "agent.toml").write_text(CONFIG)
    assert main(["status", "--config", str(tmp_path / "agent.toml"), "--json"]) == 1, (
        "this world's kernel is not ours"
    )
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {*Status.__struct_fields__, "running", "process"}
    assert set(found["health"]) == set(Health.__struct_fields__)
    assert (found["running"], found["process"]) == (False, "gone")


@pytest.mark.parametrize(
    ("missing", "problems"),
    [
        (("x" * 201, "y"), ()),
        (tuple(map(str, range(40))), ()),
        ((), ("p" * 5000,) * 20),
        ((), ("line\n\0" * 200,)),
    ],
)
def test_no_name_or_sentence_is_too_long_for_a_health_message(
    fresh: World, missing: tuple[str, ...], problems: tuple[str, ...]
) -> None:
    """The fleet refuses the whole message for one text beyond its bounds, and the device would fall silent."""
    health = health_of(fresh.vitals, replace(NOTHING_READ, missing=missing, problems=problems), 1.0)
    assert decode(encode(Event(source="a", boot_id="b", sequence=1, time=1.0, data=health))).data == health


def test_a_figure_that_is_its_default_does_not_travel_with_every_health_message(fresh: World) -> None:
    health = health_of(fresh.vitals, replace(NOTHING_READ, memory_pss_bytes=7), 1.0)
    told = msgspec.to_builtins(health)
    assert told["memory_pss_bytes"] == 7
    assert {"anomaly_rate", "score_mean", "drift_score", "clipped_share", "commissioned_share"}.isdisjoint(
        told
    )
    assert "interval_judged" in told, "without it the fleet takes the sender for an older agent"
