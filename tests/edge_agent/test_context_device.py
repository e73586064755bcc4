"""A device whose machine has a cycle: what it learns of it, what it says where it has gone, what survives."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import pytest
from agent_world import FEATURES, SPEC
from context_world import DAY, SETTINGS, context_of, course, noise, opened, prior, reported, started
from test_agent_pipeline import Device

from edge_agent.detector_file import read_context
from edge_agent.judgement import Judged
from edge_agent.learner.__main__ import _as_judged
from edge_agent.settings import DetectionSettings, Settings, StatePaths, TrustSettings
from edge_agent.sources.settings import SimulatedSettings
from models.detection.prior import FleetPrior

__all__ = ["prior"]  # the fixture

pytestmark = pytest.mark.edge


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
