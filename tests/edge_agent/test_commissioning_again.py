"""What commissioning settles and what starts it again: glitches, constant sensors, a person, and what health says of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from agent_loop_world import SIGHT, World, judged, world
from agent_world import healthy
from test_agent_pipeline import V2, Device, device

from edge_agent.commands.recommissioning import ask_for_commissioning
from edge_agent.commands.status_table import print_status
from edge_agent.detection_memory import RecommissionRequest
from edge_agent.settings import DetectionSettings, load_agent_settings
from models.standardiser import CLIP
from models.thresholds import Opened
from protocol.messages.kinds import AgentState
from runtime.durable_files import write_durably

__all__ = ["device", "world"]  # the fixtures
pytestmark = pytest.mark.edge


def test_a_glitch_in_the_first_windows_deafens_nothing(tmp_path: Path) -> None:
    made = Device(tmp_path)
    made.adopt()
    rows = healthy(60)
    rows[11, 3] = -127.0
    made.watch(rows)
    shifted = healthy(1, 2)
    shifted[0, 3] = 12
    assert made.pipeline.standardise(shifted[0])[3] == CLIP


def test_a_constant_sensor_does_not_alarm_for_ever_at_its_first_step(tmp_path: Path) -> None:
    made = Device(tmp_path)
    made.adopt()
    rows = healthy(360)
    rows[:, 4] = 21.5
    made.watch(rows[:100])
    rows[100:, 4] = 21.501
    after = judged(made.watch(rows[100:]))
    assert not any(isinstance(j.alarm, Opened) for j in after)
    assert made.pipeline.commissioning.problems() == []


def test_health_says_how_far_commissioning_is_and_how_much_is_at_the_end_of_the_scale(world: World) -> None:
    world.watch(healthy(30))
    world.now_s += 11
    world.turn()
    health = world.status().health
    assert health.commissioned_share == pytest.approx(0.45, abs=0.02)
    assert health.state is AgentState.COMMISSIONING
    world.watch(healthy(330, 2))
    night = healthy(700, 3)
    night[:, 2] += 12
    world.watch(night)
    world.now_s += 11
    world.turn()
    health = world.status().health
    assert health.commissioned_share == 1
    assert health.clipped_share == pytest.approx(1 / 6, abs=0.03)
    assert any("feature-2 at the end of the scale" in problem for problem in health.problems)


def test_a_person_asks_for_another_commissioning_while_the_agent_runs(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load_agent_settings(world.paths.root.parent / "agent.toml")
    world.watch(healthy(330, 2))
    night = healthy(400, 3)
    night[:, 2] += 12
    world.watch(night[:300])
    assert "the agent does not run" in ask_for_commissioning(settings, is_afresh=False)
    world.watch(night[300:330])
    assert not world.paths.recommission.exists()
    print_status(world.status(), SIGHT)
    assert "% commissioned" in capsys.readouterr().out
    world.watch(night[330:])
    pipeline = world.agent._pipeline
    assert pipeline.commissioning.share == 1
    assert np.abs(pipeline.standardise(night[0])).max() < CLIP
    assert np.abs(pipeline.standardise(healthy(1)[0])).max() < CLIP
    assert len(world.buffer) < 100
    assert (world.paths.outdated / "1" / "standardiser.json").exists()
    world.watch(night[:200])
    world.now_s += 11
    world.turn()
    assert not any("end of the scale" in problem for problem in world.status().problems)


def test_an_agent_that_did_not_run_commissions_again_with_its_next_start(tmp_path: Path) -> None:
    before = Device(tmp_path)
    before.adopt()
    before.watch(healthy(100))
    write_durably(before.paths.recommission, msgspec.json.encode(RecommissionRequest(is_afresh=True)))
    after = before.restart()
    after.adopt()
    after.pipeline.recommission_if_asked()
    assert len(judged(after.watch(healthy(59, 4) + 5))) == 59
    assert after.pipeline.commissioning.is_gathering
    after.watch(healthy(1, 5) + 5)
    assert not after.pipeline.commissioning.is_gathering
    assert abs(float(after.pipeline.standardise(healthy(1, 6)[0] + 5).mean())) < 2
    assert np.mean([j.is_over for j in judged(after.watch(healthy(50, 7) + 5))]) < 0.1


@pytest.mark.parametrize("content", [b"", b"garbage", b"[]"])
def test_a_request_that_cannot_be_read_is_taken_away(device: Device, content: bytes) -> None:
    device.watch(healthy(100))
    device.paths.recommission.write_bytes(content)
    device.pipeline.recommission_if_asked()
    assert not device.paths.recommission.exists()
    assert not device.pipeline.commissioning.is_gathering


def test_a_release_that_does_not_fit_this_machine_is_said_with_its_figures(tmp_path: Path) -> None:
    """7 of 120 windows usable was silence on 4dec79f."""
    made = Device(tmp_path, DetectionSettings(commissioning_windows=120, reference_windows=120))
    made.adopt(threshold=1e-3)
    made.watch(healthy(120))
    (problem,) = made.pipeline.problems()
    assert problem.startswith("pump/1 does not fit this machine: ")
    assert problem.endswith(" of 120 windows usable")
    again = made.restart()
    again.adopt(threshold=1e-3)
    assert problem in again.pipeline.problems()
    again.adopt(V2, version=2)
    assert again.pipeline.problems() == []
