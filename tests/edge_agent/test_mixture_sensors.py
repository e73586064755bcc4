"""Sensors under the mixture: constant, at rest, never seen to move, dead; and none of that is drift."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from agent_world import FEATURES, int8_model, make_bundle, manifest_of
from detection_fleets import Machine
from mixture_world import BUDGET, SETTINGS, alarms, fleet, lived, prior, started
from test_agent_pipeline import V1, Device

from edge_agent.fitting import RunningRelease, fit_judge
from edge_agent.judgement import Judged
from edge_agent.kept_promise import KeptPromise, Realised
from edge_agent.live_context import as_seen
from edge_agent.sample_buffer import BufferedRows
from models.detection.poisson import poisson_interval
from models.detection.prior import FleetPrior, fleet_prior
from models.detection.promise import Promise
from models.int8_model import Int8Model
from models.standardiser import fit_standardiser
from models.thresholds import Opened

__all__ = ["fleet", "prior"]  # the fixtures
pytestmark = pytest.mark.edge


def test_a_sensor_that_was_constant_takes_the_fleets_scale_and_is_watched(
    tmp_path: Path, fleet: list[Machine], prior: FleetPrior
) -> None:
    rows = lived(fleet[8])
    moved = 6 * np.sqrt(prior.scale.variance[2])
    rows[:, 2] = 5.0
    devices = [Device(tmp_path / name, SETTINGS) for name in ("mixture", "network")]
    devices[0].adopt(prior=prior)
    devices[1].adopt()
    rows[200:, 2] += moved
    found = []
    for device in devices:
        device.watch(rows[:200])
        judged = [j for j in device.watch(rows[200:230]) if isinstance(j, Judged)]
        found.append([j.contributors[0] for j in judged if isinstance(j.alarm, Opened)])
    assert found[0] == ["feature-2"]
    assert "feature-2" not in found[1]
    units = [device.pipeline.commissioning.units[2] for device in devices]
    assert units[0] == pytest.approx(prior.scale.variance[2] ** 0.5)
    assert units[1] == pytest.approx(moved), "in a network's release its first step is its unit"


def test_a_machine_that_was_at_rest_when_it_was_learnt_is_watched(
    tmp_path: Path, fleet: list[Machine], prior: FleetPrior
) -> None:
    rows = np.zeros((300, FEATURES), np.float32) + np.arange(FEATURES, dtype=np.float32)
    rows[260:, 3] += 9 * np.float32(prior.scale.variance[3] ** 0.5)
    device = Device(tmp_path, SETTINGS)
    device.adopt(prior=prior)
    assert alarms(device.watch(rows[:260])) == 0
    device.pipeline.save()
    again = device.restart()
    again.adopt(prior=prior)
    assert again.pipeline.normal.promise == device.pipeline.normal.promise
    assert alarms(again.watch(rows[260:])) == 1


def test_a_sensor_that_nobody_saw_move_is_judged_from_its_first_steps_on(
    tmp_path: Path, fleet: list[Machine]
) -> None:
    def with_flag(machine: Machine) -> Machine:
        healthy, later = machine.healthy.copy(), machine.later.copy()
        healthy[:, 2] = later[:, 2] = 5.0
        return Machine(healthy=healthy, later=later, scale=fit_standardiser(healthy))

    flagged = [with_flag(machine) for machine in fleet]
    prior = fleet_prior([machine.fitted for machine in flagged[:6]], SETTINGS.alarm_rules)
    assert prior.scale.freedom[2] == 0
    device = started(tmp_path, flagged[6], prior)
    rows = lived(flagged[6])[120:240]
    rows[20:22, 2] = 5.1  # two steps: its unit
    rows[60:80, 2] = 9.0
    judged = device.watch(rows)
    assert alarms(judged[:60]) == 0
    opened = [j for j in judged[60:80] if isinstance(j, Judged) and isinstance(j.alarm, Opened)]
    assert [j.contributors[0] for j in opened] == ["feature-2"]


def test_a_dead_sensor_keeps_the_rate_within_bounds(
    tmp_path: Path, fleet: list[Machine], prior: FleetPrior
) -> None:
    rows = lived(fleet[6])
    rows[200:, 1] = np.nan
    device = started(tmp_path, fleet[6], prior)
    judged = device.watch(rows[120:1200])
    assert all(isinstance(j, Judged) for j in judged)
    assert poisson_interval(alarms(judged))[0] / len(judged) <= 2 * BUDGET.rate
    named = [name for j in judged[80:] if isinstance(j, Judged) for name in j.contributors]
    assert named
    assert "feature-1" not in named


def test_another_fit_is_no_drift_of_the_score(fleet: list[Machine], prior: FleetPrior) -> None:
    rows = fleet[6].scale.apply(lived(fleet[6]))
    release = RunningRelease(
        name="pump/1",
        manifest=manifest_of(make_bundle()),
        model=Int8Model(int8_model()),
        bundle_sha256=V1,
        is_trial=False,
        prior=prior,
    )
    for learnt in (120, 960):
        times = np.arange(learnt, dtype=np.float64)
        kept = BufferedRows(rows=rows[:learnt], machine_s=times, wall_s=times)
        fit = fit_judge(release, as_seen(kept, fleet[6].unit, None), SETTINGS)
        live = [fit.judge.judge(row)[1] for row in rows[learnt : learnt + 300]]
        assert 0.7 < float(np.median(live)) < 1.4
        assert 0.7 < float(np.median(fit.scores)) < 1.4


def test_what_was_broken_is_over_when_windows_enough_show_that_a_promise_is_kept() -> None:
    promise = Promise(threshold=3.0, rate=0.001, supported=0.002, horizon_windows=48, fitted_on=240)
    for windows, opened, left in ((48, 0, 2), (3600, 0, 2), (3700, 0, 0), (9000, 3, 0), (9000, 9, 2)):
        realised = Realised(windows=windows, alarms=opened, elapsed=48, broken=2)
        realised.go_on(is_shown=KeptPromise(promise=promise, realised=realised).is_shown)
        assert (realised.elapsed, realised.broken) == (0, left), (windows, opened)
