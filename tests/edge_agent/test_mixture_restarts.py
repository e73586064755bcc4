"""What a device that the mixture judges keeps: over restarts, damage, other settings and rollbacks."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from detection_fleets import Machine
from mixture_world import SETTINGS, fleet, lived, prior, scores, started
from test_agent_pipeline import V1, V2, Device

from edge_agent.judgement import Judged
from edge_agent.judges import MixtureJudge
from models.detection.prior import FleetPrior
from models.detection.promise import AlarmBudget

__all__ = ["fleet", "prior"]  # the fixtures
pytestmark = pytest.mark.edge


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
