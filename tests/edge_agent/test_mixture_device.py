"""A device that the mixture judges: what it promises of false alarms, whether that is kept, and what survives what.

A fleet of generated machines (tests/models/detection_fleets.py) makes the prior; machines of the same kind that are not
in it go through the pipeline, window by window.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from agent_loop_world import SIGHT, World
from agent_world import FEATURES, int8_model, make_bundle, manifest_of
from detection_fleets import Machine, machines
from test_agent_pipeline import V1, V2, Device

from edge_agent.commands.status_table import print_status
from edge_agent.fitting import RunningRelease, fit_judge
from edge_agent.judgement import Judged, Unjudged
from edge_agent.judges import MixtureJudge
from edge_agent.kept_promise import KeptPromise, Realised
from edge_agent.live_context import as_seen
from edge_agent.sample_buffer import BufferedRows
from edge_agent.settings import DetectionSettings
from models.detection.detector import fit_detector
from models.detection.openings import AlarmRules, count_openings
from models.detection.poisson import poisson_interval
from models.detection.prior import FleetPrior, fleet_prior
from models.detection.promise import AlarmBudget, Promise
from models.int8_model import Int8Model
from models.standardiser import fit_standardiser
from models.thresholds import AlarmState, Closed, Opened
from protocol.messages.payloads import Health

pytestmark = pytest.mark.edge

BUDGET = AlarmBudget(alarms_per_1000_windows=5.0)
SETTINGS = DetectionSettings(
    commissioning_windows=120, commissioning_longest_windows=120, reference_windows=120, budget=BUDGET
)


@pytest.fixture(scope="module")
def fleet() -> list[Machine]:
    return machines(count=9, learnt=240, later=1500, features=FEATURES, seed=3)


@pytest.fixture(scope="module")
def prior(fleet: list[Machine]) -> FleetPrior:
    return fleet_prior([machine.fitted for machine in fleet[:6]], SETTINGS.alarm_rules)


def lived(machine: Machine) -> np.ndarray:
    """All its healthy windows, from the first on."""
    return np.concatenate([machine.healthy, machine.later]).astype(np.float32)


def started(
    directory: Path, machine: Machine, prior: FleetPrior, settings: DetectionSettings = SETTINGS
) -> Device:
    """A device that has just commissioned and committed a release for the mixture."""
    device = Device(directory, settings)
    device.adopt(prior=prior)
    device.watch(lived(machine)[:120])
    return device


def scores(judgements: list[Judged | Unjudged]) -> list[float]:
    return [j.score for j in judgements if isinstance(j, Judged)]


def alarms(judgements: list[Judged | Unjudged]) -> int:
    return sum(isinstance(j, Judged) and isinstance(j.alarm, Opened) for j in judgements)


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


# --- what survives ----------------------------------------------------------------------------------------------------


def test_a_restart_goes_on_with_the_same_scores_threshold_and_counters(
    tmp_path: Path, fleet: list[Machine], prior: FleetPrior
) -> None:
    rows = lived(fleet[6])
    device = started(tmp_path / "one", fleet[6], prior)
    device.watch(rows[120:300])
    device.pipeline.save()
    device.stores.flush()
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    again = Device(tmp_path / "two", SETTINGS)
    again.adopt(prior=prior)
    before, after = device.pipeline.normal.promise, again.pipeline.normal.promise
    assert before is not None
    assert before == after
    assert scores(device.watch(rows[300:400])) == scores(again.watch(rows[300:400]))


@pytest.mark.parametrize("content", [b"", b"{}", b'{"fingerprint": "x"}'])
def test_a_damaged_detector_is_fitted_anew(
    tmp_path: Path, fleet: list[Machine], prior: FleetPrior, content: bytes
) -> None:
    device = started(tmp_path, fleet[6], prior)
    (tmp_path / "detector.json").write_bytes(content)
    again = device.restart()
    again.adopt(prior=prior)
    before, after = device.pipeline.normal.promise, again.pipeline.normal.promise
    assert before is not None
    assert after is not None
    assert after.promise == before.promise
    assert after.realised.windows == 0


def test_a_device_that_lost_its_rows_is_judged_by_the_network_until_it_has_enough(
    tmp_path: Path, fleet: list[Machine], prior: FleetPrior
) -> None:
    device = started(tmp_path, fleet[6], prior)
    device.buffer.clear()
    (tmp_path / "detector.json").unlink()
    again = device.restart()
    again.adopt(prior=prior)
    assert again.pipeline.normal.promise is None
    rows = np.clip(lived(fleet[6]), *np.quantile(lived(fleet[6]), [0.1, 0.9], axis=0)).astype(np.float32)
    judged = again.watch(rows[120:220])
    assert all(isinstance(j, Judged) for j in judged)
    promise = again.pipeline.normal.promise
    assert promise is not None
    assert promise.promise.fitted_on >= 20


def test_another_budget_is_another_promise(tmp_path: Path, fleet: list[Machine], prior: FleetPrior) -> None:
    device = started(tmp_path, fleet[6], prior)
    strict = msgspec.structs.replace(SETTINGS, budget=AlarmBudget(alarms_per_1000_windows=1.0))
    device.stores.flush()
    again = Device(tmp_path, strict)
    again.adopt(prior=prior)
    before, after = device.pipeline.normal.threshold, again.pipeline.normal.threshold
    assert before is not None
    assert after is not None
    assert after.value > before.value


def test_a_budget_that_changes_while_it_watches_moves_the_threshold_and_forgets_no_window(
    tmp_path: Path, fleet: list[Machine], prior: FleetPrior
) -> None:
    device = started(tmp_path / "changed", fleet[6], prior)
    rows = lived(fleet[6])
    device.watch(rows[120:160])
    strict = msgspec.structs.replace(SETTINGS, budget=AlarmBudget(alarms_per_1000_windows=1.0))
    kept, normal = len(device.buffer), device.pipeline.normal
    assert normal.judge is not None
    scales = normal.judge.scales.state  # type: ignore[attr-defined] # the mixture's
    assert device.pipeline.set_budget(strict.budget) == ""
    always = started(tmp_path / "always", fleet[6], prior, strict).pipeline.normal
    assert normal.threshold == always.threshold, (
        "on the curve that was kept, as if it had been so from the first day"
    )
    assert normal.judge.scales.state == scales  # type: ignore[attr-defined] # as above
    assert len(device.buffer) == kept
    promise = normal.promise
    assert promise is not None
    assert (promise.promised_per_1000, promise.realised.windows) == (1.0, 0)
    device.watch(rows[160:200])
    device.pipeline.save()
    device.stores.flush()
    again = Device(tmp_path / "changed", strict)
    again.adopt(prior=prior)
    assert again.pipeline.normal.threshold == always.threshold
    assert again.pipeline.normal.promise is not None
    assert again.pipeline.normal.promise.realised.windows == 40


def test_another_shortest_event_is_another_detector_of_the_same_rows(
    tmp_path: Path, fleet: list[Machine], prior: FleetPrior
) -> None:
    device = started(tmp_path, fleet[6], prior)
    kept = len(device.buffer)
    single = AlarmBudget(alarms_per_1000_windows=5.0, shortest_event_windows=1)
    assert device.pipeline.set_budget(single) == ""
    judge = device.pipeline.normal.judge
    assert isinstance(judge, MixtureJudge)
    assert (judge.detector.form.averages, len(device.buffer)) == ((), kept)
    assert all(isinstance(j, Judged) for j in device.watch(lived(fleet[6])[120:140]))


def test_a_budget_that_would_make_it_deaf_is_refused_and_all_stays_as_it_was(
    tmp_path: Path, fleet: list[Machine], prior: FleetPrior
) -> None:
    device = started(tmp_path, fleet[6], prior)
    before = device.pipeline.normal.threshold
    assert "open no alarm" in device.pipeline.set_budget(AlarmBudget(alarms_per_1000_windows=1e-9))
    assert device.pipeline.normal.threshold == before
    assert device.pipeline.set_budget(AlarmBudget(alarms_per_1000_windows=4.0)) == ""


def test_a_rollback_from_a_trial_returns_to_exactly_what_was(
    tmp_path: Path, fleet: list[Machine], prior: FleetPrior
) -> None:
    rows = lived(fleet[7])
    rows[:120, 2] = rows[0, 2]  # constant at first: on trial it does not take the fleet's scale
    rows[120:, 2] = rows[0, 2]
    twins = [Device(tmp_path / name, SETTINGS) for name in ("tried", "never")]
    for device in twins:
        device.adopt(V1)
        device.watch(rows[:200])
    tried, never = twins
    tried.adopt(V2, version=2, is_trial=True, prior=prior)
    on_trial = scores(tried.watch(rows[200:230]))
    tried.adopt(V1)
    assert on_trial != scores(never.watch(rows[200:230]))
    assert scores(tried.watch(rows[230:330])) == scores(never.watch(rows[230:330]))
    names = ("detection.json", "standardiser.json")
    assert [(tmp_path / "tried" / n).read_bytes() for n in names] == [
        (tmp_path / "never" / n).read_bytes() for n in names
    ]
    assert not (tmp_path / "tried" / "detector.json").exists()


def test_a_rollback_to_the_mixture_finds_its_counters_again(
    tmp_path: Path, fleet: list[Machine], prior: FleetPrior
) -> None:
    device = started(tmp_path, fleet[6], prior)
    device.watch(lived(fleet[6])[120:160])
    before = device.pipeline.normal.promise
    assert before is not None
    counted, threshold = msgspec.structs.replace(before.realised), device.pipeline.normal.threshold
    device.adopt(V2, version=2, is_trial=True)
    device.watch(lived(fleet[6])[160:180])
    device.adopt(V1, prior=prior)
    after = device.pipeline.normal.promise
    assert after is not None
    assert after.realised == counted
    assert device.pipeline.normal.threshold == threshold


# --- sensors ----------------------------------------------------------------------------------------------------------


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
    assert all("feature-1" not in j.contributors for j in judged[80:] if isinstance(j, Judged))


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
    for windows, alarms, left in ((48, 0, 2), (3600, 0, 2), (3700, 0, 0), (9000, 3, 0), (9000, 9, 2)):
        realised = Realised(windows=windows, alarms=alarms, elapsed=48, broken=2)
        realised.go_on(is_shown=KeptPromise(promise=promise, realised=realised).is_shown)
        assert (realised.elapsed, realised.broken) == (0, left), (windows, alarms)


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
