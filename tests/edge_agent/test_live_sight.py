"""Sight on a device: measured between windows, on windows that are not over the threshold, under the model in force."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from agent_loop_world import World, world
from agent_world import faulty, healthy

from edge_agent.judges import NetworkJudge
from edge_agent.live_sight import LiveSight
from models.errors import ExecutionError
from models.features import passthrough_spec
from models.sensors import SensorView
from models.thresholds import PersonalThreshold
from protocol.messages.payloads import Health

__all__ = ["world"]  # the fixture
pytestmark = pytest.mark.edge
Float = np.ndarray


class Model:
    """Scores a row by its largest value, and remembers which it was given."""

    def __init__(self, score: float | None = None) -> None:
        self.score = score
        self.rows: list[Float] = []

    def infer_and_score(self, x: Float) -> tuple[Float, float]:
        self.rows.append(x)
        return x, float(np.abs(x).max()) if self.score is None else self.score


def judge_by(model: Model) -> NetworkJudge:
    """At a threshold of 1."""
    return NetworkJudge(model, PersonalThreshold(value=1.0, wanted=1.0, fitted_on=100), opens_after_windows=2)


@pytest.fixture
def sight() -> LiveSight:
    return LiveSight(
        SensorView(passthrough_spec(("a", "b", "c"))), 10.0, lambda: np.zeros((30, 3), np.float32)
    )


ROW = np.zeros(3, np.float32)


def test_a_window_is_disturbed_at_most_once_and_ten_a_minute(sight: LiveSight) -> None:
    model = Model()
    for tenth in range(1200):  # two minutes, ten windows and as many looks a second
        sight.see(ROW, None, is_over=False)
        sight.probe(tenth / 10, judge_by(model))
    assert len(model.rows) == 20
    for later_s in (1e4, 2e4, 3e4):
        sight.probe(later_s, judge_by(model))
    assert len(model.rows) == 21, "the latest window was disturbed already"


def test_a_slow_machine_gives_one_probe_a_window(sight: LiveSight) -> None:
    model = Model()
    for second in range(600):
        if second % 60 == 0:
            sight.see(ROW, None, is_over=False)
        sight.probe(float(second), judge_by(model))
    assert len(model.rows) == 10


def test_windows_over_the_threshold_are_left_alone(sight: LiveSight) -> None:
    sight.see(ROW, None, is_over=False)
    sight.see(ROW + 9, None, is_over=True)
    model = Model()
    sight.probe(0.0, judge_by(model))
    assert model.rows == []
    assert sight.share is None


def test_a_model_that_cannot_score_is_no_probe(sight: LiveSight) -> None:
    class Broken(Model):
        def infer_and_score(self, x: Float) -> tuple[Float, float]:
            raise ExecutionError("no")

    sight.see(ROW, None, is_over=False)
    sight.probe(0.0, judge_by(Broken()))
    assert sight.share is None


def test_a_missing_sensor_is_a_blind_spot(sight: LiveSight) -> None:
    model = Model()
    for i in range(12):
        sight.see(ROW, np.array([False, True, False]), is_over=False)
        sight.probe(i * 10.0, judge_by(model))
    assert len(model.rows) == 9
    assert sight.share == 6 / 12, "neither it nor the common direction, in which nothing varies here"


def watch_long(world: World, rows: Float) -> None:
    for row in rows:
        world.watch(row[None, :])
        world.now_s += 6.0


def test_the_fleet_hears_how_much_a_device_sees(world: World) -> None:
    world.watch(healthy(60))
    assert world.status().health.sight is None
    watch_long(world, healthy(60, 2))
    health = world.said(Health)[-1]
    assert isinstance(health, Health)
    assert health.sight is not None
    assert 0.0 < health.sight < 1.0
    assert world.counters.windows == 120, "a probe is no window"
    assert world.counters.anomalies == 0


def test_a_deaf_threshold_shows_where_no_other_figure_does(world: World) -> None:
    world.watch(healthy(60))
    pipeline = world.agent._pipeline
    judge = pipeline.normal.judge
    assert isinstance(judge, NetworkJudge)
    judge.threshold = msgspec.structs.replace(judge.threshold, value=63.0)
    pipeline._renew_estimates()
    watch_long(world, healthy(40, 2))
    health = world.said(Health)[-1]
    assert isinstance(health, Health)
    assert (health.sight, health.anomaly_rate) == (0.0, 0.0)


def test_another_release_begins_to_be_measured_anew(world: World) -> None:
    world.watch(healthy(60))
    watch_long(world, healthy(20, 2))
    assert world.agent._pipeline.sight is not None
    world.installation.give(2, is_trial=False, generation=2)
    world.source.rows += list(faulty(1))
    world.agent._swap_model()
    assert world.agent._pipeline.sight is None
