"""A device whose machine has a cycle, or several regimes: what it learns of them, what it says of one that it does not know, what survives."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import pytest
from agent_world import FEATURES, SPEC
from detection_fleets import machines
from test_agent_pipeline import Device

from edge_agent.detector_file import read_context
from edge_agent.judgement import Judged, Unjudged
from edge_agent.learner.__main__ import _as_judged
from edge_agent.settings import DetectionSettings, Settings, StatePaths, TrustSettings
from edge_agent.sources.settings import SimulatedSettings
from models.detection.context import Context
from models.detection.prior import FleetPrior, fleet_prior
from models.detection.promise import AlarmBudget
from models.thresholds import Closed, Opened

pytestmark = pytest.mark.edge

DAY = 48
SETTINGS = DetectionSettings(
    commissioning_windows=2 * DAY,
    commissioning_longest_windows=2 * DAY,
    reference_windows=120,
    period_s=float(DAY),
    budget=AlarmBudget(alarms_per_1000_windows=5.0),
)
Rows = np.ndarray


@pytest.fixture(scope="module")
def prior() -> FleetPrior:
    fleet = machines(count=6, learnt=240, later=1500, features=FEATURES, seed=3)
    return fleet_prior([machine.fitted for machine in fleet], SETTINGS.alarm_rules)


def noise(count: int, seed: int = 0) -> Rows:
    return np.random.default_rng(seed).normal(size=(count, FEATURES)).astype(np.float32)


def course(first: int, count: int) -> Rows:
    """A day of half of the sensors, three deviations up and down."""
    at = 2 * np.pi * (first + np.arange(count)) / DAY
    return np.outer(np.sin(at) + 0.5 * np.sin(2 * at), [3, -3, 2, 0, 0, 0]).astype(np.float32)


def started(directory: Path, rows: Rows, prior: FleetPrior, settings: DetectionSettings = SETTINGS) -> Device:
    device = Device(directory, settings)
    device.adopt(prior=prior)
    device.watch(rows)
    return device


def context_of(device: Device) -> Context | None:
    judge = device.pipeline.normal.judge
    assert judge is not None
    return judge.context


def opened(judgements: list[Judged | Unjudged]) -> int:
    return sum(isinstance(j, Judged) and isinstance(j.alarm, Opened) for j in judgements)


def reported(judgements: list[Judged | Unjudged]) -> int:
    return sum(isinstance(j, Judged) and j.drift is not None for j in judgements)


# --- a cycle of the machine's clock -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cycling(tmp_path_factory: pytest.TempPathFactory, prior: FleetPrior) -> Path:
    """The files of a device that has watched a machine with a daily course for twelve days."""
    device = started(tmp_path_factory.mktemp("cycling"), noise(12 * DAY) + course(0, 12 * DAY), prior)
    device.pipeline.save()
    device.stores.close()
    return device.directory


def resumed(directory: Path, to: Path, prior: FleetPrior) -> Device:
    """The device, after a restart, in a copy of its own."""
    shutil.copytree(directory, to, dirs_exist_ok=True)
    device = Device(to, SETTINGS)
    device.index = 12 * DAY
    device.adopt(prior=prior)
    return device


def test_a_daily_course_is_found_after_a_week_and_survives_a_restart(
    cycling: Path, tmp_path: Path, prior: FleetPrior
) -> None:
    device = resumed(cycling, tmp_path, prior)
    context = context_of(device)
    assert context is not None
    assert context.profile is not None
    assert context.regimes is None
    expected = context.profile.expected_rows(np.arange(1, DAY + 1, dtype=np.float64))
    truth = course(0, DAY) / np.std(noise(2 * DAY) + course(0, 2 * DAY), axis=0)
    assert np.abs(expected - truth).max() < 0.35
    assert not expected[:, 3:].any(), "what has no course is left as it is"
    judged = device.watch(noise(3 * DAY, 1) + course(12 * DAY, 3 * DAY))
    assert (opened(judged), reported(judged)) == (0, 0)
    assert device.pipeline.problems() == []


def test_a_course_makes_what_is_off_at_that_hour_visible(
    cycling: Path, tmp_path: Path, prior: FleetPrior
) -> None:
    device = resumed(cycling, tmp_path, prior)
    rows = noise(DAY, 1) + course(12 * DAY, DAY)
    # Within what the sensor shows in the course of a day, but not at this hour.
    at_rest = np.abs(course(12 * DAY, DAY)[:, 0]) < 1.0
    device.watch(rows[: np.flatnonzero(at_rest)[0]])
    stuck_high = rows + np.array([4, -4, 3, 0, 0, 0], np.float32)
    assert opened(device.watch(stuck_high[at_rest][:12])) == 1


def test_a_course_that_has_gone_is_switched_off_and_said(
    cycling: Path, tmp_path: Path, prior: FleetPrior
) -> None:
    device = resumed(cycling, tmp_path, prior)
    device.watch(noise(3 * DAY, 2))
    assert context_of(device) is None
    assert any("no profile" in problem and "has gone" in problem for problem in device.pipeline.problems())
    judged = device.watch(noise(3 * DAY, 3))
    assert (opened(judged), reported(judged)) == (0, 0)
    again = device.restart()
    again.adopt(prior=prior)
    assert context_of(again) is None
    assert any("no profile" in problem for problem in again.pipeline.problems())


def test_a_clock_that_begins_anew_ends_the_profile_at_once_and_a_week_on_it_finds_it_again(
    cycling: Path, tmp_path: Path, prior: FleetPrior
) -> None:
    device = resumed(cycling, tmp_path, prior)
    device.index = 0
    device._wall_begins_s += 12 * DAY  # the wall's clock goes on
    judged = device.watch(noise(3, 4) + course(30, 3))
    assert isinstance(judged[-1], Judged)
    assert context_of(device) is None
    assert any("began anew" in problem for problem in device.pipeline.problems())
    device.watch(noise(16 * DAY, 5) + course(33, 16 * DAY))
    context = context_of(device)
    assert context is not None
    assert context.profile is not None
    assert device.pipeline.problems() == []
    at = course(30, DAY)[:, 0]
    expected = context.profile.expected_rows(np.arange(1, DAY + 1, dtype=np.float64))[:, 0]
    assert np.corrcoef(at, expected)[0, 1] > 0.98


def test_a_slip_of_the_clock_ends_nothing(cycling: Path, tmp_path: Path, prior: FleetPrior) -> None:
    device = resumed(cycling, tmp_path, prior)
    at = device.index
    for slip in (-500_000, 10_000_000, 10_000_000):
        device.index = at + slip
        device.watch(noise(1, 8))
        device.index = at = at + 1
        device.watch(noise(1, 9) + course(at, 1))
        at = device.index
    assert context_of(device) is not None
    assert device.pipeline.problems() == []


def test_a_detector_whose_context_is_damaged_is_fitted_anew(
    cycling: Path, tmp_path: Path, prior: FleetPrior, caplog: pytest.LogCaptureFixture
) -> None:
    whole = json.loads(StatePaths(cycling).detector.read_text())
    context = whole["context"]
    damages = ({"table": "AAAA"}, {"spread": ""}, {"period_s": -1.0}, {"centres": context["table"]})
    for number, damage in enumerate(damages):
        paths = StatePaths(tmp_path / str(number))
        shutil.copytree(cycling, paths.root)
        content = json.dumps(whole | {"context": context | damage}).encode()
        paths.detector.write_bytes(content)
        known = json.loads(paths.detection.read_text())
        paths.detection.write_text(json.dumps(known | {"detector_sha256": sha256(content).hexdigest()}))
        caplog.clear()
        device = Device(paths.root, SETTINGS)
        device.adopt(prior=prior)
        assert "detector_refused" in caplog.text
        found = context_of(device)
        assert found is not None
        assert found.profile is not None


def test_a_machine_without_a_course_pays_nothing(tmp_path: Path, prior: FleetPrior) -> None:
    device = started(tmp_path, noise(12 * DAY), prior)
    assert context_of(device) is None
    row = noise(1)[0]
    judge = device.pipeline.normal.judge
    assert judge is not None
    assert judge.see(row, 0.0) is row


def test_what_a_fleet_is_told_is_of_the_rows_that_are_judged(
    cycling: Path, tmp_path: Path, prior: FleetPrior
) -> None:
    device = resumed(cycling, tmp_path, prior)
    kept = device.buffer.newest()
    context = read_context(device.paths.detector.read_bytes(), SPEC.fingerprint, FEATURES)
    assert context is not None
    live = context_of(device)
    assert live is not None
    np.testing.assert_array_equal(
        context.seen_rows(kept.rows, kept.machine_s), live.seen_rows(kept.rows, kept.machine_s)
    )
    judge = device.pipeline.normal.judge
    assert judge is not None
    for row, when, seen in zip(
        kept.rows[-50:], kept.machine_s[-50:], context.seen_rows(kept.rows, kept.machine_s)[-50:], strict=True
    ):
        np.testing.assert_allclose(judge.see(row, float(when)), seen, atol=1e-5)
    assert read_context(device.paths.detector.read_bytes(), "of other columns", FEATURES) is None
    assert read_context(b"{}", SPEC.fingerprint, FEATURES) is None


def test_the_learner_tells_of_rows_in_the_context_that_is_in_force(
    cycling: Path, tmp_path: Path, prior: FleetPrior
) -> None:
    device = resumed(cycling, tmp_path, prior)
    kept, judge = device.buffer.newest(), device.pipeline.normal.judge
    settings = Settings(
        state_dir=tmp_path,
        tenant="t",
        family="f",
        hardware="h",
        source=SimulatedSettings(),
        trust=TrustSettings(root=Path("root.json")),
    )
    told = _as_judged(settings, SPEC, kept)
    assert told is not None
    assert judge is not None
    assert judge.context is not None
    seen = [
        judge.see(row, float(when)) for row, when in zip(kept.rows[-60:], kept.machine_s[-60:], strict=True)
    ]
    np.testing.assert_allclose(told.seen[-60:], seen, atol=1e-5)
    np.testing.assert_allclose(told.unit, device.pipeline.commissioning.units * judge.context.spread)
    settings.paths.detector.unlink()
    plain = _as_judged(settings, SPEC, kept)
    assert plain is not None
    np.testing.assert_array_equal(plain.seen, kept.rows)


def test_a_drift_reference_spans_a_cycle_that_somebody_has_named(tmp_path: Path, prior: FleetPrior) -> None:
    """Else a device that learnt from the last two hours would be in drift for the rest of each day."""
    day = 300
    named = msgspec.structs.replace(SETTINGS, commissioning_windows=day, period_s=float(day))
    for directory, settings, most in (("named", named, 0), ("unnamed", _unnamed(named), 1)):
        at = 2 * np.pi * np.arange(4 * day) / day
        rows = noise(4 * day, 3) + np.outer(np.sin(at), [2, -2, 2, 0, 0, 0]).astype(np.float32)
        device = started(tmp_path / directory, rows[:day], prior, settings)
        reported_ = reported(device.watch(rows[day:]))
        assert (reported_ > 0) == bool(most), directory


def _unnamed(settings: DetectionSettings) -> DetectionSettings:
    return msgspec.structs.replace(settings, period_s=None, commissioning_longest_windows=300)


# --- regimes ----------------------------------------------------------------------------------------------------------

STEADY = DetectionSettings(
    commissioning_windows=120,
    commissioning_longest_windows=120,
    reference_windows=120,
    budget=AlarmBudget(alarms_per_1000_windows=5.0),
)
OTHER = np.array([4, -3, 0, 2, 0, 0], np.float32)
"""How far another regime lies from the first, in deviations."""


@pytest.fixture
def resting(tmp_path: Path, prior: FleetPrior) -> Device:
    """A device that has watched one regime for a thousand windows."""
    return started(tmp_path, noise(1000, 7), prior, STEADY)


def test_an_unknown_regime_is_one_finding_however_often_the_machine_comes_to_it(resting: Device) -> None:
    device, alarms, reports, kept = resting, [], [], len(resting.buffer)
    for visit in range(5):
        away = device.watch(noise(200, 10 + visit) + OTHER)
        alarms.append(opened(away))
        assert any("unknown regime since 2027-" in problem for problem in device.pipeline.problems())
        home = device.watch(noise(200, 20 + visit))
        assert not any("unknown regime" in problem for problem in device.pipeline.problems())
        alarms.append(opened(home))
        reports.append(reported(away) + reported(home))
        device.pipeline.save()
        device = _restarted(device)
    assert alarms == [1, *[0] * 9]
    assert reports[0] >= 2, "that it drifted, and that it is back"
    assert reports[1:] == [0, 0, 0, 0]
    learnt = device.buffer.newest().rows[kept:]
    assert (learnt @ OTHER > 0.5 * OTHER @ OTHER).mean() < 0.02, "its windows wait for a person"


def test_what_comes_back_after_a_week_is_told_again(resting: Device) -> None:
    device = resting
    told = [opened(device.watch(noise(200, 10) + OTHER)), opened(device.watch(noise(200, 20)))]
    for visit, days in enumerate((6, 6, 9)):  # each visit counts, and not the first
        device._wall_begins_s += days * 86_400
        device.pipeline.save()
        device = _restarted(device, wall_begins_s=device._wall_begins_s)
        told.append(opened(device.watch(noise(150, 11 + visit) + OTHER)))
        told.append(opened(device.watch(noise(200, 21 + visit))))
    assert told == [1, 0, 0, 0, 0, 0, 1, 0]


def test_an_anomaly_stays_open_in_an_unknown_regime_and_ends_at_home(resting: Device) -> None:
    resting.watch(noise(200, 10) + OTHER)
    assert resting.pipeline.alarm_is_open
    judged = resting.watch(noise(40, 11))
    (closed,) = (j.alarm for j in judged if isinstance(j, Judged) and isinstance(j.alarm, Closed))
    assert closed.windows > 190
    assert not resting.pipeline.alarm_is_open


def test_a_fault_in_an_unknown_regime_is_an_anomaly_of_its_own(resting: Device) -> None:
    resting.watch(noise(200, 10) + OTHER)
    resting.watch(noise(200, 11))
    assert opened(resting.watch(noise(60, 12) + OTHER)) == 0
    assert opened(resting.watch(noise(20, 13) + OTHER + np.array([0, 0, 0, 0, 9, 0], np.float32))) == 1


def test_what_creeps_is_told_before_it_can_be_a_regime(resting: Device) -> None:
    """Drift settles below the threshold first; that is no level from which an anomaly would not be one."""
    creep = np.linspace(0, 1, 2400)[:, None] * np.array([6, 0, 0, 0, 0, 0])
    judged = resting.watch((noise(2400, 30) + creep).astype(np.float32))
    first = next(i for i, j in enumerate(judged) if isinstance(j, Judged) and isinstance(j.alarm, Opened))
    assert creep[first, 0] < 3.2, "as soon as without a drift before it"
    assert opened(judged) <= 2, "and once more on its way on"
    assert resting.pipeline.alarm_is_open


def test_a_person_makes_a_regime_known_by_a_word(resting: Device, prior: FleetPrior) -> None:
    device = resting
    device.watch(noise(200, 10) + OTHER)
    device.accept()
    context = context_of(device)
    assert context is not None
    assert context.regimes is not None
    assert len(context.regimes.centres) == 2
    assert not any("unknown regime" in problem for problem in device.pipeline.problems())
    device.watch(noise(10, 12))  # whatever anomaly was open ends
    device.pipeline.save()
    device = _restarted(device)
    for visit in range(3):
        for rows in (noise(150, 40 + visit), noise(150, 50 + visit) + OTHER):
            judged = device.watch(rows)
            assert (opened(judged), reported(judged)) == (0, 0)
    between = opened(device.watch(noise(20, 60) + 0.5 * OTHER + np.array([0, 0, 9, 0, 0, 0], np.float32)))
    assert between == 1


def test_a_word_that_comes_while_the_machine_moves_is_learnt_where_it_comes_to_rest(
    resting: Device, prior: FleetPrior
) -> None:
    """Each word took another reference of six windows: drift, over, and drift again, thirteen times in five minutes."""
    device, normal = resting, resting.pipeline.normal
    told = reported(device.watch(noise(20, 10) + OTHER))
    assert (told, normal.drift.is_moving, normal.is_investigating) == (1, True, True)
    for _ in range(3):
        assert device.accept() is None
        told += reported(device.watch(noise(5, 11) + OTHER))
    assert (told, normal.is_drifted, normal.is_investigating) == (1, True, False)
    device.pipeline.save()
    device = _restarted(device)
    told += reported(device.watch(noise(100, 12) + OTHER))
    normal = device.pipeline.normal
    assert (told, normal.is_drifted, normal.is_drift_accepted) == (2, False, True), "learnt, and not back"
    context = context_of(device)
    assert context is not None
    assert context.regimes is not None
    for visit in range(2):
        for rows in (noise(150, 40 + visit), noise(150, 50 + visit) + OTHER):
            judged = device.watch(rows)
            assert (opened(judged), reported(judged)) == (0, 0)
    device.pipeline.save()
    device.paths.detector.unlink()  # as a cut between detector and reference leaves it: both are made anew
    device = _restarted(device)
    normal = device.pipeline.normal
    assert normal.is_drift_accepted, "a restart is no other release"
    device.pipeline.commit()
    assert not normal.is_drift_accepted, "another release's reference speaks of where the machine is"


def test_a_promise_is_not_broken_by_one_unknown_regime(resting: Device) -> None:
    resting.watch(noise(100, 10) + OTHER)
    promise = resting.pipeline.normal.promise
    assert promise is not None
    before = promise.realised.windows
    resting.watch(noise(600, 11) + OTHER)
    after = resting.pipeline.normal.promise
    assert after is not None
    assert after.realised.alarms <= 3
    assert after.realised.windows - before < 60


def _restarted(device: Device, wall_begins_s: float = 1_800_000_000.0) -> Device:
    again = device.restart()
    again._wall_begins_s = wall_begins_s
    again.adopt(prior=_prior_of(device))
    return again


def _prior_of(device: Device) -> FleetPrior:
    running = device.pipeline._running
    assert running is not None
    assert running.prior is not None
    return running.prior
