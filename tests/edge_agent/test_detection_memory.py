"""What detection remembers over a restart, and what it does with a file that it cannot use."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_agent.detection_memory import DetectionMemory, Progress, RecommissionRequest, Remembered, read_scale
from edge_agent.episodes import Episode, RememberedEpisodes
from edge_agent.settings import StatePaths
from models.drift.monitor import DriftMonitor, DriftSettings
from models.drift.reference import fit_reference
from models.features import passthrough_spec
from models.standardiser import Standardiser
from models.thresholds import PersonalThreshold
from protocol.messages.payloads import AnomalyClosed

pytestmark = pytest.mark.edge
SCALE = Standardiser(mean=(1.0, -2.0), std=(0.5, 3.0), fitted_on=100)
SENSORS = ("a", "b")
COLUMNS = passthrough_spec(SENSORS)


@pytest.fixture
def memory(tmp_path: Path) -> DetectionMemory:
    return DetectionMemory(StatePaths(tmp_path), COLUMNS)


def monitor(windows: int = 20) -> DriftMonitor:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 2))
    made = DriftMonitor(fit_reference(rows, np.abs(rows[:, 0])), DriftSettings(), sensors=SENSORS)
    for row in rows[:windows]:
        made.update(row, float(abs(row[0])))
    return made


def test_a_new_device_remembers_nothing_and_says_nothing(
    memory: DetectionMemory, caplog: pytest.LogCaptureFixture
) -> None:
    assert memory.load_standardiser() is None
    assert memory.load_remembered() == Remembered(
        bundle_sha256="", threshold=None, episodes=RememberedEpisodes()
    )
    assert memory.load_remembered().is_drift_accepted is False
    assert memory.load_drift(SENSORS, DriftSettings())[0] is None
    assert caplog.records == []


def test_the_learner_reads_the_scale_of_its_own_columns_and_changes_nothing(
    memory: DetectionMemory, tmp_path: Path
) -> None:
    path = StatePaths(tmp_path).standardiser
    assert read_scale(path, COLUMNS) is None
    memory.save_standardiser(SCALE)
    found = read_scale(path, COLUMNS)
    assert found is not None
    assert (found.mean, found.std, found.unscaled) == (SCALE.mean, SCALE.std, SCALE.unscaled)
    assert read_scale(path, passthrough_spec(("a", "c"))) is None
    for damaged in (b"", b"\xff", b'{"mean": [1]}'):
        path.write_bytes(damaged)
        assert read_scale(path, COLUMNS) is None
        assert path.read_bytes() == damaged


def test_what_was_saved_is_there_after_a_restart(memory: DetectionMemory, tmp_path: Path) -> None:
    threshold = PersonalThreshold(value=1.5, wanted=1.25, fitted_on=99)
    episode = Episode(
        id="e1", release="pump/1", window_index=7, observed_at_s=1.0, score=2.0, threshold=1.0, windows=5
    )
    ended = AnomalyClosed(
        episode="e0", release="pump/1", observed_at_s=0, lasted_s=0, windows=1, windows_over=1, peak_score=2
    )
    remembered = Remembered(
        bundle_sha256="ab" * 32,
        threshold=threshold,
        episodes=RememberedEpisodes(episode=episode, is_told=False, ended=ended),
    )
    memory.save_standardiser(SCALE)
    memory.save_remembered(remembered)
    memory.save_drift(monitor(), "of a context")
    again = DetectionMemory(StatePaths(tmp_path), COLUMNS)
    assert again.load_standardiser() == SCALE
    assert again.load_remembered() == remembered
    found, context = again.load_drift(SENSORS, DriftSettings())
    assert found is not None
    assert found.state() == monitor().state()
    assert context == "of a context"


@pytest.mark.parametrize(
    "scale",
    [
        {"mean": (1.0,), "std": (1.0,)},
        {"mean": (1.0, 2.0, 3.0), "std": (1.0, 1.0, 1.0)},
        {"mean": (1.0, 2.0), "std": (1.0,)},
        {"mean": (1.0,), "std": (1.0, 1.0)},
        {"std": (1.0, 0.0)},
        {"std": (-1.0, 1.0)},
        {"std": (0.0, 0.0)},
        {"unscaled": (2,)},
        {"unseen": (-1,)},
    ],
)
def test_a_scale_that_does_not_fit_the_source_is_not_used(
    memory: DetectionMemory, caplog: pytest.LogCaptureFixture, scale: dict
) -> None:
    memory.save_standardiser(msgspec.structs.replace(SCALE, **scale))
    assert memory.load_standardiser() is None
    assert "the source delivers 2; commissioning again" in caplog.text


def test_a_scale_that_is_not_finite_is_not_used(memory: DetectionMemory, tmp_path: Path) -> None:
    for number in ("1e999", "-1e999"):
        text = f'{{"mean": [1.0, {number}], "std": [1.0, 1.0], "fitted_on": 1}}'
        StatePaths(tmp_path).standardiser.write_text(text)
        assert memory.load_standardiser() is None
    assert math.isinf(float("1e999"))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"mean": 1}'])
def test_a_damaged_file_is_reported_in_one_line_and_treated_as_missing(
    memory: DetectionMemory, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    paths = StatePaths(tmp_path)
    for path in (paths.standardiser, paths.drift):
        path.write_bytes(content)
    paths.detection.write_bytes(content if content != b'{"mean": 1}' else b'{"episodes": 1}')
    assert memory.load_standardiser() is None
    assert memory.load_remembered() == Remembered()
    assert memory.load_drift(SENSORS, DriftSettings())[0] is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    assert all("starting without it" in record.message for record in caplog.records)


def test_the_drift_of_other_sensors_or_settings_begins_anew(
    memory: DetectionMemory, caplog: pytest.LogCaptureFixture
) -> None:
    memory.save_drift(monitor())
    assert memory.load_drift(("a",), DriftSettings())[0] is None
    assert memory.load_drift(("a", "b", "c"), DriftSettings())[0] is None
    assert caplog.records == []
    assert memory.load_drift(SENSORS, DriftSettings(run_length=5000.0))[0] is None
    assert "starting a new reference" in caplog.text


def test_a_disk_that_refuses_is_said_once_until_it_works_again(
    memory: DetectionMemory, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    def save() -> int:
        caplog.clear()
        memory.save_remembered(Remembered())
        return len(caplog.records)

    works = os.fsync
    monkeypatch.setattr("os.fsync", full)
    assert [save(), save(), save()] == [1, 0, 0]
    monkeypatch.setattr("os.fsync", works)
    assert save() == 0
    monkeypatch.setattr("os.fsync", full)
    assert [save(), save()] == [1, 0]


def test_a_scale_may_leave_out_the_first_sensor(memory: DetectionMemory, tmp_path: Path) -> None:
    scale = msgspec.structs.replace(SCALE, unscaled=(0,))
    memory.save_standardiser(scale)
    assert DetectionMemory(StatePaths(tmp_path), COLUMNS).load_standardiser() == scale


def test_commissioning_goes_on_after_a_restart_with_the_same_columns_only(
    memory: DetectionMemory, tmp_path: Path
) -> None:
    progress = Progress(stride=3, is_again=True, why="asked for")
    memory.save_progress(progress)
    assert DetectionMemory(StatePaths(tmp_path), COLUMNS).load_progress() == progress
    others = DetectionMemory(StatePaths(tmp_path), passthrough_spec(("a", "c")))
    assert others.load_progress() == Progress()
    memory.save_progress(None)
    assert DetectionMemory(StatePaths(tmp_path), COLUMNS).load_progress() == Progress()


def test_a_request_stays_until_it_is_met_and_one_that_cannot_be_read_goes(
    memory: DetectionMemory, tmp_path: Path
) -> None:
    path = StatePaths(tmp_path).recommission
    path.write_bytes(msgspec.json.encode(RecommissionRequest(is_afresh=True)))
    assert memory.find_request() == RecommissionRequest(is_afresh=True)
    assert path.exists()
    memory.drop_request()
    assert not path.exists()
    path.write_bytes(b"{")
    assert DetectionMemory(StatePaths(tmp_path), COLUMNS).find_request() is None
    assert not path.exists()


def test_a_file_that_cannot_be_removed_is_said_with_the_reason(
    memory: DetectionMemory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = StatePaths(tmp_path).recommission
    (path / "in the way").mkdir(parents=True)
    memory.drop_request()
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == f"state_not_removed path={path} error=Is a directory"
