"""A sensor that delivers nothing: the rest stay watched, it is said, and nothing that was not measured is learnt."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from agent_loop_world import SIGHT, World, world
from agent_world import FEATURES, NAMES, faulty, healthy, make_bundle, manifest_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_agent_pipeline import Device

from edge_agent.commands.status_table import print_status
from edge_agent.detection_memory import DetectionMemory
from edge_agent.judgement import Judged, Unjudged
from edge_agent.kept_rows import open_stores
from edge_agent.pipeline import Pipeline
from edge_agent.settings import BufferSettings, DetectionSettings, StatePaths
from edge_agent.sources.port import SourceWindow
from models.features import vibration_spec
from models.thresholds import Opened
from protocol.messages.kinds import AgentState, DriftState
from protocol.messages.payloads import AnomalyEvent, DriftReport, Health

__all__ = ["world"]  # the fixture
pytestmark = pytest.mark.edge


def without(rows: np.ndarray, *sensors: int) -> np.ndarray:
    gappy = rows.copy()
    gappy[:, list(sensors)] = np.nan
    return gappy


def share_over(judged: list[Judged | Unjudged]) -> float:
    return float(np.mean([j.is_over for j in judged if isinstance(j, Judged)]))


@pytest.fixture
def device(tmp_path: Path) -> Device:
    made = Device(tmp_path)
    made.adopt()
    made.watch(healthy(150))
    return made


def test_one_dead_sensor_and_another_far_off_is_an_alarm_and_not_508_windows_unjudged(world: World) -> None:
    world.watch(healthy(150))
    rows = without(healthy(508, 2), 1)
    rows[:, 4] += 12.0
    world.watch(rows)
    (anomaly,) = world.said(AnomalyEvent)
    assert isinstance(anomaly, AnomalyEvent)
    assert anomaly.window_index <= 152
    assert anomaly.contributors[0] == "feature-4"
    world.now_s += 11
    world.turn()
    health = world.said(Health)[-1]
    assert isinstance(health, Health)
    assert (health.unjudged_windows, health.missing, health.state) == (0, ("feature-1",), AgentState.WATCHING)
    assert health.windows_over_threshold >= 500
    assert any("feature-1" in problem and "the rest is watched" in problem for problem in health.problems)
    assert world.status().last_score is not None


def test_a_missing_sensor_is_a_finding_of_drift_and_the_only_one(world: World) -> None:
    world.watch(healthy(200))
    world.watch(without(healthy(300, 3), 2))
    report, settled = world.said(DriftReport)
    assert isinstance(report, DriftReport)
    assert isinstance(settled, DriftReport)
    assert (settled.state, settled.findings) == (DriftState.SETTLED, ())
    assert {(f.detector, f.sensor) for f in report.findings} == {("missing", "feature-2")}


@pytest.mark.parametrize("gone", range(FEATURES))
def test_healthy_windows_with_a_dead_sensor_are_not_over_more_often_than_whole_ones(
    device: Device, gone: int
) -> None:
    rows = healthy(1000, 5)
    whole = share_over(device.watch(rows))
    judged = device.watch(without(rows, gone))
    assert all(isinstance(j, Judged) for j in judged)
    assert share_over(judged) <= whole + 0.003


@pytest.mark.parametrize("gone", range(FEATURES))
def test_an_estimate_is_nobodys_fault(device: Device, gone: int) -> None:
    off = (gone + 1) % FEATURES
    rows = without(healthy(3, 8), gone)
    rows[:, off] += 20.0
    (alarm,) = [j for j in device.watch(rows) if isinstance(j, Judged) and isinstance(j.alarm, Opened)]
    assert f"feature-{off}" in alarm.contributors
    assert f"feature-{gone}" not in alarm.contributors


def test_what_was_not_measured_is_not_kept_and_estimates_come_from_before(device: Device) -> None:
    before = device.kept
    device.watch(without(healthy(200, 6), 3))
    assert device.kept == before
    assert np.isfinite(device.buffer.newest(1000).rows).all()
    device.watch(healthy(5, 7))
    assert device.kept == before + 5


def test_a_sensor_that_comes_back_is_no_longer_missing(device: Device) -> None:
    device.watch(without(healthy(2, 6), 3))
    assert device.pipeline.missing == (), "two windows are a glitch"
    device.watch(without(healthy(3, 6), 3, 5))
    assert device.pipeline.missing == ("feature-3", "feature-5")
    device.watch(without(healthy(1, 6), 5))
    assert device.pipeline.missing == ("feature-5",)
    device.watch(healthy(1, 6))
    assert device.pipeline.missing == ()


def test_a_release_that_came_while_a_sensor_was_dead_gets_its_reference_when_it_is_mended(
    device: Device,
) -> None:
    device.watch(without(healthy(60, 3), 2))
    assert device.pipeline.normal.is_drifted
    device.adopt("2" * 64, version=2, is_trial=True)
    device.watch(without(healthy(10, 4), 2))
    before = (device.directory / "drift.state").read_bytes()
    assert device.pipeline.commit() is None
    assert (device.directory / "drift.state").read_bytes() == before, "not while something is wrong"
    judged = device.watch(healthy(60, 5))
    (ended,) = [j.drift for j in judged if isinstance(j, Judged) and j.drift is not None]
    assert not ended.drifted
    assert (device.directory / "drift.state").read_bytes() != before
    assert not device.pipeline.normal.is_drifted


def test_with_more_than_half_missing_nothing_is_judged_until_they_are_back(world: World) -> None:
    world.watch(healthy(150))
    world.watch(without(healthy(11, 2), 0, 1, 2, 3))
    assert world.vitals.state is AgentState.WATCHING
    assert world.vitals.last_score is None, "the last score is not of this window"
    world.watch(without(healthy(1, 2), 0, 1, 2, 3))
    assert world.vitals.state is AgentState.BLIND
    world.watch(without(healthy(29, 3), 0, 1, 2, 3))
    world.now_s += 11
    world.turn()
    health, status = world.said(Health)[-1], world.status()
    assert isinstance(health, Health)
    assert (health.state, health.unjudged_windows) == (AgentState.BLIND, 41)
    assert health.missing == ("feature-0", "feature-1", "feature-2", "feature-3")
    assert health.problems[0].startswith("blind: the last 41 windows could not be judged: 4 of 6 sensors")
    assert "feature-0" in status.problems[0]
    assert status.last_score is None
    world.watch(healthy(1, 9))
    world.now_s += 11
    world.turn()
    health = world.said(Health)[-1]
    assert isinstance(health, Health)
    assert (health.state, health.unjudged_windows, health.missing) == (AgentState.WATCHING, 41, ())
    assert not any("blind" in problem for problem in health.problems)


def test_half_of_the_sensors_are_enough(device: Device) -> None:
    assert {type(j) for j in device.watch(without(healthy(5, 2), 0, 2, 4))} == {Judged}


def test_rates_of_an_interval_count_judged_windows(world: World) -> None:
    world.watch(healthy(150))
    world.now_s += 11
    world.turn()
    rows = np.concatenate([faulty(10), without(healthy(30, 2), 0, 1, 2, 3, 4, 5), healthy(10, 3)])
    world.watch(rows)
    world.now_s += 11
    world.turn()
    health = world.said(Health)[-1]
    assert isinstance(health, Health)
    assert (health.interval_windows, health.judged) == (50, 20)
    assert health.anomaly_rate == 0.5
    assert health.score_mean > 4.0


def test_windows_of_commissioning_and_of_a_device_without_a_release_are_not_unjudged(world: World) -> None:
    world.watch(healthy(60))
    release, world.installation.now = world.installation.now, None
    world.watch(without(healthy(20), *range(FEATURES)))
    assert world.vitals.state is AgentState.WAITING_FOR_RELEASE
    assert world.counters.unjudged_windows == 0
    world.installation.now = release


def test_a_sensor_that_is_dead_from_the_start_is_told_while_commissioning_waits(world: World) -> None:
    world.watch(without(healthy(30), 2))
    world.now_s += 2
    world.turn()
    assert world.vitals.state is AgentState.COMMISSIONING
    assert any("feature-2" in problem for problem in world.status().problems)


def test_the_status_table_says_what_is_missing_and_what_was_not_judged(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.watch(healthy(100))
    world.watch(without(healthy(20, 2), 1))
    world.watch(without(healthy(20, 2), *range(FEATURES)))
    world.now_s += 2
    world.turn()
    print_status(world.status(), SIGHT)
    shown = " ".join(capsys.readouterr().out.split())
    assert "blind" in shown
    assert "20 not judged" in shown
    assert "none against" in shown
    assert "0 restarts, 0 after a crash" in shown


class MeanSquare:
    """Scores a row by its mean square: enough of a model for features that the golden one does not take."""

    def infer_and_score(self, x: np.ndarray) -> tuple[np.ndarray, float]:
        return np.zeros_like(x), float(np.square(x).mean())


def test_a_dead_channel_of_vibration_leaves_the_other_watched(tmp_path: Path) -> None:
    rng, spec = np.random.default_rng(0), vibration_spec(12_800.0, 512, channels=2)
    pipeline = Pipeline(
        spec,
        DetectionSettings(commissioning_windows=60),
        memory=DetectionMemory(StatePaths(tmp_path), spec),
        stores=open_stores(StatePaths(tmp_path), spec, BufferSettings()),
        clock=lambda: 0.0,
        wall=lambda: 0.0,
        open_model=lambda *_: MeanSquare(),
    )
    pipeline.adopt(
        msgspec.structs.replace(manifest_of(make_bundle()), features=spec),
        b"",
        bundle_sha256="0" * 64,
        is_trial=False,
    )

    def watch(count: int, *, loud: float = 1.0, dead: tuple[int, ...] = ()) -> list[Judged | Unjudged]:
        windows = rng.normal(size=(count, 512, 2)).astype(np.float32) * np.float32(loud)
        windows[:, 100, list(dead)] = np.nan
        return [
            pipeline.observe(SourceWindow(samples=window, observed_at_s=0.0, index=0)) for window in windows
        ]

    watch(160)
    healthy_scores = watch(50, dead=(1,))
    assert all(isinstance(j, Judged) and not j.is_over for j in healthy_scores)
    assert pipeline.missing == ("ch2",)
    judged = watch(10, loud=3.0, dead=(1,))
    assert sum(isinstance(j, Judged) and isinstance(j.alarm, Opened) for j in judged) == 1
    assert {type(j) for j in watch(3, dead=(0, 1))} == {Unjudged}
    assert pipeline.missing == ("ch1", "ch2")


@settings(max_examples=15, deadline=None)
@given(st.floats(0.0, 0.4), st.integers(0, 2**31))
def test_values_that_flicker_neither_alarm_nor_break_anything(
    tmp_path_factory: pytest.TempPathFactory, share: float, seed: int
) -> None:
    device = Device(tmp_path_factory.mktemp("flicker"))
    device.adopt()
    device.watch(healthy(150))
    rows = healthy(200, seed % 1000)
    whole = share_over(device.watch(rows))
    kept, rng = device.kept, np.random.default_rng(seed)
    gaps = rng.random(rows.shape) < share
    rows[gaps] = rng.choice([np.nan, np.inf, -np.inf], size=int(gaps.sum()))
    judged = device.watch(rows)
    is_judged = [isinstance(j, Judged) for j in judged]
    assert is_judged == (2 * gaps.sum(axis=1) <= FEATURES).tolist()
    assert device.kept == kept + int((~gaps.any(axis=1)).sum())
    assert share_over(judged) <= whole + 0.02


@pytest.mark.parametrize("gone", [range(4), range(6)])
def test_a_device_that_cannot_be_commissioned_does_not_say_that_it_goes_on(world: World, gone: range) -> None:
    world.watch(without(healthy(100), *gone))
    world.now_s += 11
    world.turn()
    health = world.said(Health)[-1]
    assert isinstance(health, Health)
    assert (health.state, health.commissioned_share) == (AgentState.COMMISSIONING, 0)
    assert health.problems[0].endswith("commissioning waits")


@pytest.mark.parametrize("judged_of_twelve", [1, 6, 10])
def test_windows_without_a_score_now_and_then_are_said_though_blindness_is_never_reached(
    world: World, judged_of_twelve: int
) -> None:
    world.watch(healthy(150))
    rows = healthy(480, 2)
    rows[np.arange(480) % 12 >= judged_of_twelve] = np.nan
    world.watch(rows)
    world.now_s += 11
    world.turn()
    health = world.said(Health)[-1]
    assert isinstance(health, Health)
    assert health.state is AgentState.WATCHING
    assert any("of recent windows could not be judged: 6 of 6 sensors" in p for p in health.problems)
    assert not any("the rest is watched" in problem for problem in health.problems)
    world.watch(healthy(200, 3))
    world.now_s += 11
    world.turn()
    assert world.status().problems == ()


def test_a_sensor_that_lacks_every_second_value_is_judged_and_it_is_said_until_it_is_whole_again(
    world: World,
) -> None:
    world.watch(healthy(150))
    rows = healthy(120, 2)
    rows[::2, 3] = np.nan
    world.watch(rows)
    world.now_s += 11
    world.turn()
    status = world.status()
    assert status.health.unjudged_windows == 0
    (problem,) = status.problems
    assert "missing in more than a quarter of recent windows" in problem
    assert problem.startswith(NAMES[3])
    world.watch(healthy(70, 3))
    world.now_s += 11
    world.turn()
    assert world.status().problems == ()


def test_sensors_that_take_turns_to_be_silent_are_judged_and_it_is_said_that_nothing_is_learnt(
    world: World,
) -> None:
    world.watch(healthy(150))
    learnt = len(world.buffer)
    rows = healthy(200, 2)
    rows[np.arange(200), np.arange(200) % FEATURES] = np.nan
    world.watch(rows)
    world.now_s += 11
    world.turn()
    status = world.status()
    assert (status.health.missing, status.health.buffered_windows) == ((), learnt)
    assert any("nothing is learnt" in problem for problem in status.problems)
    world.watch(healthy(1, 3))
    world.now_s += 11
    world.turn()
    assert world.status().problems == ()
