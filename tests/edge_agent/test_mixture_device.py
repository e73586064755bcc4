"""A device that the mixture judges: what it promises of false alarms, whether that is kept, and when it learns anew."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest
from agent_loop_world import SIGHT, World
from detection_fleets import Machine
from mixture_world import BUDGET, SETTINGS, alarms, fleet, lived, prior, scores, started
from test_agent_pipeline import Device

from edge_agent.commands.status_table import print_status
from edge_agent.judgement import Judged
from edge_agent.judges import MixtureJudge
from edge_agent.kept_promise import Realised
from models.detection.detector import fit_detector
from models.detection.openings import AlarmRules, count_openings
from models.detection.poisson import poisson_interval
from models.detection.prior import FleetPrior, fleet_prior
from models.detection.promise import AlarmBudget
from models.thresholds import AlarmState, Closed, Opened
from protocol.messages.payloads import Health

__all__ = ["fleet", "prior"]  # the fixtures
pytestmark = pytest.mark.edge


# --- the promise ------------------------------------------------------------------------------------------------------


def test_machines_outside_the_fleet_keep_the_budget_from_their_first_day(
    tmp_path: Path, fleet: list[Machine], prior: FleetPrior
) -> None:
    opened = windows = in_alarm = 0
    for i, machine in enumerate(fleet[6:]):
        device = started(tmp_path / str(i), machine, prior)
        for row in lived(machine)[120:1120]:
            (judged,) = device.watch(row[None, :])
            assert isinstance(judged, Judged)
            assert device.pipeline.alarm_is_open or not judged.is_over, "one window over the threshold opens"
            opened += isinstance(judged.alarm, Opened)
            in_alarm += device.pipeline.alarm_is_open
            windows += 1
    low, _ = poisson_interval(opened)
    assert low / windows <= 2 * BUDGET.rate
    assert in_alarm / windows <= 5 * BUDGET.rate * BUDGET.windows_in_alarm


def test_what_the_data_cannot_support_is_said_before(tmp_path: Path, fleet: list[Machine]) -> None:
    few = fleet_prior([machine.fitted for machine in fleet[:2]], SETTINGS.alarm_rules)
    wanted = msgspec.structs.replace(SETTINGS, budget=AlarmBudget(alarms_per_1000_windows=0.2))
    device = started(tmp_path, fleet[7], few, wanted)
    promise = device.pipeline.normal.promise
    assert promise is not None
    assert promise.promise.is_provisional
    assert "provisional" in promise.text
    assert promise.horizon_left == 24


def test_a_device_that_hears_no_sensor_alone_says_so(
    tmp_path: Path, fleet: list[Machine], prior: FleetPrior
) -> None:
    device = started(tmp_path / "one", fleet[7], prior)
    assert device.pipeline.problems() == []
    deaf = {age: dataclasses.replace(c, rate=np.ones_like(c.rate)) for age, c in prior.curves.items()}
    device = started(tmp_path / "two", fleet[7], dataclasses.replace(prior, curves=deaf))
    assert any("6 of 6 values, each alone at the end" in problem for problem in device.pipeline.problems())


def test_a_network_promises_nothing(tmp_path: Path, fleet: list[Machine]) -> None:
    device = Device(tmp_path, SETTINGS)
    device.adopt()
    device.watch(lived(fleet[6])[:200])
    assert device.pipeline.normal.promise is None
    assert not (tmp_path / "detector.json").exists()


def test_openings_and_time_in_alarm_are_counted_as_the_curve_counts_them() -> None:
    rng = np.random.default_rng(5)
    rules = AlarmRules()
    calm_and_long = np.concatenate([rng.exponential(size=2000), np.full(200, 9.0), rng.exponential(size=300)])
    expected = count_openings(calm_and_long, rules, np.array([4.0]))
    alarm, realised = AlarmState(opens_after_windows=1), Realised()
    for statistic in calm_and_long.tolist():
        change = alarm.update(statistic, 4.0)
        ongoing = alarm.windows if alarm.is_open else 0
        realised.note(change.windows if isinstance(change, Closed) else ongoing, rules)
    assert expected.openings[0] > 20
    assert (realised.alarms, realised.in_alarm) == (expected.openings[0], expected.in_alarm[0])


def test_status_and_health_say_what_is_promised_and_what_came_of_it(
    tmp_path: Path, fleet: list[Machine], prior: FleetPrior, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path)
    world.installation.give(1, is_trial=False, generation=1, prior=prior)
    world.watch(lived(fleet[6])[:260])
    world.now_s += 11
    world.turn()
    status, health = world.status(), world.said(Health)[-1]
    assert isinstance(health, Health)
    assert (health.promised_per_1000, health.is_promise_provisional) == (1.0, True)
    assert health.supported_per_1000 is not None
    assert health.realised_windows > 30
    assert health.realised_low_per_1000 <= 1000 * health.realised_alarms / health.realised_windows
    assert health.realised_high_per_1000 is not None
    assert 0 < health.promise_horizon_left < 60
    assert "at most 1 false alarm in 1,000 windows" in status.promise
    print_status(status, SIGHT)
    assert "at most 1 false alarm" in " ".join(capsys.readouterr().out.split())


# --- learning anew ----------------------------------------------------------------------------------------------------


def test_a_device_learns_anew_when_its_rows_have_doubled_and_else_goes_on(
    tmp_path: Path, fleet: list[Machine], prior: FleetPrior, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    device = started(tmp_path, fleet[6], prior)
    rows = lived(fleet[6])
    device.watch(rows[120:200])
    promise = device.pipeline.normal.promise
    assert promise is not None
    assert (promise.promise.fitted_on, promise.realised.windows) == (120, 80)
    assert 0 < promise.horizon_left <= 24, "kept, so it goes on from horizon to horizon"
    device.watch(rows[200:400])
    promise = device.pipeline.normal.promise
    assert promise is not None
    assert 240 <= promise.promise.fitted_on <= 400
    assert promise.realised.windows < 170
    assert "promise_ended" in caplog.text


def test_a_promise_that_is_not_kept_is_a_problem_and_is_remembered_when_the_device_learns_anew(
    tmp_path: Path, fleet: list[Machine], prior: FleetPrior
) -> None:
    strict = msgspec.structs.replace(SETTINGS, budget=AlarmBudget())
    device = started(tmp_path, fleet[6], prior, strict)
    rows = lived(fleet[6])[120:240]
    is_off = np.arange(120) % 40 < 3
    device.watch(rows + np.outer(is_off, 12 * rows.std(axis=0)).astype(np.float32))
    promise = device.pipeline.normal.promise
    assert promise is not None
    assert promise.realised.alarms == 3
    assert not promise.is_kept
    assert (promise.horizon_left, promise.promise.fitted_on) == (0, 120)
    assert any("more alarms than promised" in problem for problem in device.pipeline.problems())
    learnt = [int(second) - 121 for second in device.buffer.newest(4096).machine_s if second > 120]
    assert learnt
    assert not is_off[learnt].any(), "no window of an alarm may be learnt"
    device.watch(lived(fleet[6])[240:390])  # twice as many rows: it learns anew
    device.pipeline.save()
    restarted = Device(tmp_path, strict)
    restarted.adopt(prior=prior)
    for one in (device, restarted):
        promise = one.pipeline.normal.promise
        assert promise is not None
        assert promise.promise.fitted_on >= 240
        assert promise.is_kept
        assert promise.broken == 1
        assert "before it 1 not kept" in promise.text
        assert any(
            "1 promises about false alarms were not kept before" in each for each in one.pipeline.problems()
        )


def test_windows_that_built_a_slow_alarm_up_are_not_learnt(
    tmp_path: Path, fleet: list[Machine], prior: FleetPrior
) -> None:
    """No window alone is over when an average opens the alarm; those before it belong to it all the same."""
    device = started(tmp_path, fleet[6], prior)
    rows = lived(fleet[6])
    shift = 0.8 * rows[:120].std(axis=0) * np.array([1, -1, 1, -1, 1, -1], np.float32)
    device.watch(rows[120:160])
    judged = device.watch(rows[160:200] + shift)
    opening = next(i for i, j in enumerate(judged) if isinstance(j, Judged) and j.alarm is not None)
    assert opening > 3
    assert not any(isinstance(j, Judged) and j.is_over for j in judged[:opening])
    assert [second for second in device.buffer.newest(4096).machine_s if second > 160] == []


def test_an_estimate_is_nobodys_fault(fleet: list[Machine], prior: FleetPrior) -> None:
    machine = fleet[6]
    detector = fit_detector(machine.rows, machine.unit, prior, BUDGET, AlarmRules())
    judge, row = MixtureJudge(detector), np.array([0, 5, 0, 0, 0, 0], np.float32)
    missing = np.array([False, True, False, False, False, False])
    whole, filled = judge.blame(row, None), judge.blame(row, missing)
    assert whole is not None
    assert filled is not None
    assert whole.argmax() == 1
    assert filled[1] == 0


def test_windows_that_a_person_calls_normal_are_learnt_at_once(
    tmp_path: Path, fleet: list[Machine], prior: FleetPrior
) -> None:
    device = started(tmp_path, fleet[6], prior)
    rows = lived(fleet[6])
    louder = rows.mean(axis=0) + 4 * (rows - rows.mean(axis=0))
    assert alarms(device.watch(louder[120:220].astype(np.float32))) > 0
    assert device.pipeline.set_aside_windows > 40
    device.accept()
    promise = device.pipeline.normal.promise
    assert promise is not None
    assert promise.promise.fitted_on > 160
    assert (
        np.mean(
            np.array(scores(device.watch(louder[220:320].astype(np.float32)))) > promise.promise.threshold
        )
        < 0.2
    )
