"""The pipeline: commissioning, judging, drift, model swaps, and what survives a restart."""

from __future__ import annotations

import errno
from pathlib import Path

import msgspec
import numpy as np
import pytest
from agent_world import ARCHITECTURE, SPEC, faulty, healthy, int8_model, make_bundle, manifest_of

from edge_agent.detection_memory import DetectionMemory
from edge_agent.judgement import Judged, Unjudged
from edge_agent.judges import NetworkJudge
from edge_agent.kept_rows import open_stores
from edge_agent.pipeline import Pipeline
from edge_agent.settings import BufferSettings, DetectionSettings, StatePaths
from edge_agent.sources.port import SourceWindow
from models.detection.prior import FleetPrior
from models.drift.monitor import DriftPhase, DriftVerdict
from models.errors import ModelFormatError
from models.standardiser import Standardiser
from models.thresholds import Closed, Opened
from protocol.manifest import FeatureSpec

pytestmark = pytest.mark.edge
SETTINGS = DetectionSettings(commissioning_windows=60, reference_windows=60)
V1 = "1" * 64
V2 = "2" * 64


class Device:
    """A pipeline with its files; `restart` is what a killed process leaves."""

    def __init__(
        self, directory: Path, settings: DetectionSettings = SETTINGS, spec: FeatureSpec = SPEC
    ) -> None:
        self.directory, self.settings = directory, settings
        self.paths = StatePaths(directory)
        self.index = 0
        self._wall_begins_s = 1_800_000_000.0
        self.stores = open_stores(self.paths, spec, BufferSettings())
        self.buffer = self.stores.buffer
        self.pipeline = Pipeline(
            spec,
            settings,
            memory=DetectionMemory(self.paths, spec),
            stores=self.stores,
            clock=lambda: 0.0,
            wall=self._wall,
        )

    def _wall(self) -> float:
        return self._wall_begins_s + self.index

    def accept(self) -> DriftVerdict | None:
        """A person calls everything that is set aside until now normal."""
        return self.pipeline.accept_normal(self._wall())

    def adopt(
        self,
        sha256: str = V1,
        *,
        version: int = 1,
        threshold: float = 4.0,
        is_trial: bool = False,
        prior: FleetPrior | None = None,
    ) -> None:
        manifest = manifest_of(make_bundle(version, threshold=threshold, prior=prior))
        self.pipeline.adopt(manifest, int8_model(), bundle_sha256=sha256, is_trial=is_trial, prior=prior)

    @property
    def kept(self) -> int:
        """Rows that may be learnt, now or in a moment, and those that are set aside."""
        return len(self.buffer) + self.pipeline.set_aside_windows + len(self.pipeline._rows._held)

    def watch(self, rows: np.ndarray) -> list[Judged | Unjudged]:
        return [self._observe(row) for row in rows]

    def _observe(self, row: np.ndarray) -> Judged | Unjudged:
        self.index += 1
        return self.pipeline.observe(
            SourceWindow(samples=row[None, :], observed_at_s=float(self.index), index=self.index)
        )

    def restart(self) -> Device:
        self.stores.flush()
        again = Device(self.directory, self.settings)
        again.index = self.index
        return again


def _alarms(judgements: list[Judged | Unjudged]) -> list[object]:
    return [j.alarm for j in judgements if isinstance(j, Judged) and j.alarm is not None]


@pytest.fixture
def device(tmp_path: Path) -> Device:
    made = Device(tmp_path)
    made.adopt()
    return made


def test_the_first_windows_fit_the_scale_and_then_every_window_is_judged(device: Device) -> None:
    judgements = device.watch(healthy(80) * 100 + 5)
    assert all(isinstance(j, Unjudged) for j in judgements[:60])
    assert all(isinstance(j, Judged) for j in judgements[60:])
    assert device.pipeline.is_commissioned
    assert (device.directory / "standardiser.json").exists()
    rows = device.buffer.newest(1000)
    assert len(rows) == 80
    assert abs(float(rows.rows.mean())) < 0.3
    assert rows.machine_s.tolist() == list(range(1, 81))


def test_the_scale_is_applied_exactly_as_the_standardiser_does(device: Device) -> None:
    device.watch(healthy(60) * 3 - 2)
    standardiser = device.pipeline.commissioning.standardiser
    assert isinstance(standardiser, Standardiser)
    for row in np.concatenate([healthy(20, 5), faulty(5) * 100, -faulty(5) * 100]):
        assert np.array_equal(device.pipeline.standardise(row), standardiser.apply(row))


def test_an_anomaly_opens_once_names_its_contributors_and_closes_once(device: Device) -> None:
    device.watch(healthy(100))
    spike = np.zeros((10, 6), np.float32)
    spike[:, 3] = 30.0
    judgements = device.watch(np.concatenate([spike, healthy(30, 2) * 0.3]))
    first, last = _alarms(judgements)
    assert isinstance(first, Opened)
    assert isinstance(last, Closed)
    opened = next(j for j in judgements if isinstance(j, Judged) and j.alarm is first)
    assert opened.contributors[0] == "feature-3"
    assert first.windows_over == 2
    assert opened.episode
    assert len(opened.contributors) == 3


def test_an_alarm_open_at_a_kill_is_not_published_again_after_the_restart(device: Device) -> None:
    device.watch(healthy(100))
    assert len(_alarms(device.watch(faulty(5)))) == 1
    again = device.restart()
    again.adopt()
    assert _alarms(again.watch(faulty(20))) == []
    closed = _alarms(again.watch(healthy(30, 2) * 0.3))
    assert [type(a) for a in closed] == [Closed]
    assert isinstance(_alarms(again.watch(faulty(5)))[0], Opened)


def test_an_anomaly_that_ended_while_the_agent_was_away_does_not_hide_the_next(device: Device) -> None:
    device.watch(healthy(100))
    device.watch(faulty(5))
    again = device.restart()
    again.adopt()
    again.watch(healthy(10, 2) * 0.3)
    assert isinstance(_alarms(again.watch(faulty(5)))[0], Opened)


def test_drift_is_told_once_when_it_begins_and_continues_over_a_restart(device: Device) -> None:
    device.watch(healthy(200))
    shifted = device.watch(healthy(200, 3) + 1.5)
    verdicts = [j.drift for j in shifted if isinstance(j, Judged) and j.drift is not None]
    assert [v.phase for v in verdicts] == [DriftPhase.DRIFTING, DriftPhase.SETTLED]
    assert verdicts[0].findings[0].sensor.startswith(("feature-", "score"))
    device.pipeline.save()
    again = device.restart()
    again.adopt()
    assert again.pipeline.normal.is_drifted
    assert all(j.drift is None for j in again.watch(healthy(50, 4) + 1.5) if isinstance(j, Judged))


def test_a_commit_makes_the_newest_windows_the_new_normal(device: Device) -> None:
    device.watch(healthy(200))
    device.watch(healthy(200, 3) * 0.5 + 0.8)
    assert device.pipeline.normal.is_drifted
    device.adopt(V2, version=2, is_trial=True)
    device.watch(healthy(10, 4) * 0.5 + 0.8)
    assert device.pipeline.normal.is_drifted
    device.accept()
    device.pipeline.commit()
    # its reference is taken where the machine has come to rest, and no other drift is found after that
    after = device.watch(healthy(200, 5) * 0.5 + 0.8)
    told = [j.drift for j in after if isinstance(j, Judged) and j.drift is not None]
    assert not device.pipeline.normal.is_drifted
    assert not any(verdict.drifted for verdict in told[1:])
    assert not told[-1].drifted


def test_a_release_committed_while_the_agent_was_down_ends_the_drift_too(device: Device) -> None:
    device.watch(healthy(200))
    device.watch(healthy(200, 3) * 0.5 + 0.8)
    assert device.pipeline.normal.is_drifted
    device.accept()
    device.pipeline.save()
    again = device.restart()
    manifest = manifest_of(make_bundle(2))
    again.pipeline.adopt(manifest, int8_model(), bundle_sha256=V2, is_trial=False)
    again.watch(healthy(200, 4) * 0.5 + 0.8)  # until the machine is known to rest
    assert not again.pipeline.normal.is_drifted


def test_a_trial_that_is_rolled_back_leaves_threshold_and_drift_as_they_were(device: Device) -> None:
    device.watch(healthy(200))
    threshold, score = device.pipeline.normal.threshold, device.pipeline.normal.drift_score()
    device.adopt(V2, version=2, threshold=0.5, is_trial=True)
    assert device.pipeline.normal.threshold != threshold
    device.watch(faulty(20))
    device.adopt(V1)
    assert device.pipeline.normal.threshold == threshold
    assert device.pipeline.normal.drift_score() == score


def test_another_model_starts_with_a_closed_alarm(device: Device) -> None:
    device.watch(healthy(100))
    device.watch(faulty(5))
    assert device.pipeline.alarm_is_open
    device.adopt(V2, version=2)
    assert not device.pipeline.alarm_is_open
    assert len(_alarms(device.watch(faulty(5)))) == 1


def test_a_committed_threshold_is_remembered_and_not_fitted_again_on_an_anomaly(device: Device) -> None:
    device.watch(healthy(200))
    threshold = device.pipeline.normal.threshold
    device.watch(faulty(60))
    again = device.restart()
    again.adopt()
    assert again.pipeline.normal.threshold == threshold


def test_the_published_threshold_stands_where_a_personal_one_is_not_wanted(tmp_path: Path) -> None:
    device = Device(tmp_path, DetectionSettings(commissioning_windows=60, personal_threshold=False))
    device.adopt(threshold=4.0)
    device.watch(healthy(100))
    assert device.pipeline.normal.threshold is not None
    assert device.pipeline.normal.threshold.value == 4.0


def test_commissioning_before_a_release_is_not_lost(tmp_path: Path) -> None:
    device = Device(tmp_path)
    assert all(isinstance(j, Unjudged) for j in device.watch(healthy(100)))
    device.adopt()
    assert all(isinstance(j, Judged) for j in device.watch(healthy(10, 2)))


def test_a_window_of_another_shape_is_told_and_skipped(device: Device) -> None:
    device.watch(healthy(100))
    (narrow,) = device.watch(np.zeros((1, 5), np.float32))
    assert isinstance(narrow, Unjudged)
    assert narrow.error
    assert isinstance(device.watch(healthy(1))[0], Judged)


def test_a_model_that_cannot_be_loaded_leaves_the_one_before_in_use(device: Device) -> None:
    device.watch(healthy(100))
    manifest = manifest_of(make_bundle(2))
    with pytest.raises(ModelFormatError):
        device.pipeline.adopt(manifest, b"garbage", bundle_sha256=V2, is_trial=True)
    assert isinstance(device.watch(healthy(1))[0], Judged)


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_the_models_fault(device: Device, score: float) -> None:
    device.watch(healthy(100))

    class Sick:
        def infer_and_score(self, x: np.ndarray) -> tuple[np.ndarray, float]:
            return x, score

    threshold = device.pipeline.normal.threshold
    assert threshold is not None
    device.pipeline.normal.judge = NetworkJudge(Sick(), threshold, opens_after_windows=2)
    (unjudged,) = device.watch(healthy(1))
    assert isinstance(unjudged, Unjudged)
    assert unjudged.is_model_error


@pytest.mark.parametrize("name", ["standardiser.json", "detection.json", "drift.state"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"{}"])
def test_a_damaged_file_is_told_and_replaced(
    device: Device, name: str, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    device.watch(healthy(100))
    device.pipeline.save()
    (device.directory / name).write_bytes(content)
    again = device.restart()
    again.adopt()
    again.watch(healthy(70, 2))
    assert isinstance(again.watch(healthy(1, 3))[0], Judged)
    assert content == b"{}" or "unreadable" in caplog.text
    assert again.pipeline.normal.threshold is not None


def test_a_scale_of_another_machine_is_refused(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    device.watch(healthy(100))
    other = FeatureSpec(kind="passthrough", names=("a", "b"))
    assert not Device(device.directory, spec=other).pipeline.is_commissioned
    assert "state_foreign" in caplog.text
    assert ARCHITECTURE.feature_count == 6


def test_a_disk_that_refuses_every_row_stops_neither_commissioning_nor_a_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(tmp_path, DetectionSettings(commissioning_windows=80, reference_windows=60))

    def refuse(_number: int, _records: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(device.buffer, "_write", refuse)
    device.watch(healthy(100))
    assert device.pipeline.is_commissioned
    device.adopt()
    device.adopt(V2, version=2)
    assert device.pipeline.commit() is None
    assert isinstance(device.watch(healthy(1))[0], Judged)
    device.buffer.close()


def test_drift_thresholds_are_fitted_to_the_devices_own_healthy_windows(tmp_path: Path) -> None:
    device = Device(tmp_path, DetectionSettings(commissioning_windows=200, reference_windows=200))
    device.adopt()
    rows = healthy(200)
    rows[np.isin(np.arange(200) // 10, (3, 9, 16))] += 3.0  # now and then it does something else for a while
    device.watch(rows)
    saved = msgspec.json.decode((tmp_path / "drift.state").read_bytes())
    assert max(saved["reference"]["swing"]) > 0.5


def test_a_new_scale_forgets_the_rows_of_the_one_before(device: Device) -> None:
    device.watch(healthy(100))
    (device.directory / "standardiser.json").write_text("damaged")
    again = device.restart()
    assert len(again.buffer) == 100
    again.watch(healthy(60, seed=5))
    assert len(again.buffer) == 60, "only the rows that this commissioning saw"
