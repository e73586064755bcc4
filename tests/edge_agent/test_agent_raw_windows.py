"""The convolutional family on a device: raw windows in, an alarm for what only the waveform shows, drift, and learning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from agent_world import FAMILY, RELEASE_KEY, TRUSTED
from raw_window_world import (
    ARCHITECTURE,
    SAMPLES,
    SPEC,
    THRESHOLD,
    TRAINING,
    UNITS,
    int8_model,
    parameters,
    vibration,
)

from edge_agent.detection_memory import DetectionMemory
from edge_agent.errors import ReleaseRefusedError
from edge_agent.installation.acceptance import Requirements, check_fit
from edge_agent.judgement import Judged, Unjudged
from edge_agent.kept_rows import open_stores
from edge_agent.pipeline import Pipeline
from edge_agent.settings import BufferSettings, DetectionSettings, StatePaths
from edge_agent.sources.port import SourceWindow
from models.bundles import ModelBundle, bundle_files, make_golden_vectors, read_bundle
from models.drift.reference import fit_reference
from models.errors import BundleContentError
from models.features import passthrough_spec, raw_spec
from models.int8_model import Int8Model
from models.local_training import assess, fit
from models.thresholds import Opened
from models.training_model import TrainingModel
from protocol.bundle import VerifiedBundle, entries_for, open_bundle, pack_bundle
from protocol.manifest import FeatureSpec, Manifest, ThresholdSpec
from protocol.names import release_id
from protocol.training import TrainingSettings

pytestmark = pytest.mark.edge
SETTINGS = DetectionSettings(commissioning_windows=60, reference_windows=200)


def verified(features: FeatureSpec = SPEC) -> VerifiedBundle:
    """A signed release of the trained model, opened as a device does."""
    model = Int8Model(int8_model(), "conv-autoencoder")
    rows = np.random.default_rng(0).normal(size=(100, ARCHITECTURE.feature_count)).astype(np.float32)
    files = bundle_files(
        int8_model=int8_model(),
        training_model=TRAINING.read_bytes(),
        parameters=parameters(),
        reference=fit_reference(rows, np.ones(100)),
        golden=make_golden_vectors(model, ARCHITECTURE.feature_count),
    )
    manifest = Manifest(
        family=FAMILY,
        version=1,
        created_at=1.0,
        model=ARCHITECTURE.to_manifest(),
        features=features,
        threshold=ThresholdSpec(score=THRESHOLD, quantile=0.99, margin=1.1, fitted_on=100),
        files=entries_for(files),
    )
    return open_bundle(pack_bundle(manifest, files, RELEASE_KEY), TRUSTED)


def bundle() -> ModelBundle:
    return read_bundle(verified())


class Device:
    """A pipeline that runs the release, with its files."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.index = directory, 0
        stores = open_stores(StatePaths(directory), SPEC, BufferSettings())
        self.buffer = stores.buffer
        self.pipeline = Pipeline(
            SPEC,
            SETTINGS,
            memory=DetectionMemory(StatePaths(directory), SPEC),
            stores=stores,
            clock=lambda: 0.0,
            wall=lambda: float(self.index),
        )
        release = bundle()
        self.pipeline.adopt(
            release.manifest, release.int8_model, bundle_sha256=release.sha256, is_trial=False
        )

    def watch(self, windows: np.ndarray) -> list[Judged | Unjudged]:
        judged = []
        for samples in windows:
            self.index += 1
            window = SourceWindow(samples=samples, observed_at_s=float(self.index), index=self.index)
            judged.append(self.pipeline.observe(window))
        return judged


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """Commissioned, and some hundred windows old."""
    made = Device(tmp_path)
    made.watch(vibration(300))
    return made


def opened(judged: list[Judged | Unjudged]) -> list[Judged]:
    return [j for j in judged if isinstance(j, Judged) and isinstance(j.alarm, Opened)]


def test_a_healthy_machine_is_judged_window_by_window_without_an_alarm(device: Device) -> None:
    judged = device.watch(vibration(500, 3))
    assert all(isinstance(j, Judged) for j in judged)
    assert opened(judged) == []
    assert not device.pipeline.normal.is_drifted


def test_a_fault_that_only_the_waveform_shows_raises_an_alarm_at_once(device: Device) -> None:
    healthy, faulty = vibration(500, 3), vibration(500, 4, lag=2.5)
    for per_channel in (np.mean, np.std):
        np.testing.assert_allclose(
            per_channel(faulty, axis=(0, 1)), per_channel(healthy, axis=(0, 1)), rtol=0.03
        )
    judged = device.watch(faulty[:10])
    assert [judged.index(j) for j in opened(judged)] == [1]


def test_an_alarm_names_the_channel_that_went_wrong_and_no_sample_of_it(device: Device) -> None:
    (alarm,) = opened(device.watch(vibration(10, 4, hiss=1.0)))
    assert alarm.contributors == ("fan end", "drive end")


def test_each_channel_keeps_its_own_scale_and_a_restart_remembers_it(device: Device) -> None:
    standardiser = device.pipeline.commissioning.standardiser
    assert standardiser is not None
    assert len(standardiser.mean) == len(standardiser.std) == 2
    np.testing.assert_allclose(standardiser.mean, UNITS[1], atol=0.1 * UNITS[0].max())
    assert standardiser.std[0] / standardiser.std[1] == pytest.approx(15, rel=0.1)
    rows = device.buffer.newest(200).rows.reshape(-1, 2)
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=0.15)
    np.testing.assert_allclose(rows.std(axis=0), 1, atol=0.1)
    device.pipeline.save()
    again = Device(device.directory)
    assert again.pipeline.is_commissioned
    assert all(isinstance(j, Judged) for j in again.watch(vibration(5, 8)))


def test_a_changed_load_is_drift_of_the_channels_spread(device: Device) -> None:
    judged = device.watch(vibration(300, 5, load=1.3))
    began = [j.drift for j in judged if isinstance(j, Judged) and j.drift is not None]
    assert began[0].drifted
    told = {finding.sensor for verdict in began for finding in verdict.findings}
    assert told & {"drive end spread", "fan end spread"}
    assert told <= {"drive end spread", "fan end spread", "drive end level", "fan end level", "score"}


def test_a_window_that_lacks_a_sample_is_judged_and_not_learnt_from(device: Device) -> None:
    torn, kept = vibration(50, 6), len(device.buffer)
    torn[1, 4, 0] = np.nan
    torn[2, 5:9, 1] = np.inf
    judged = device.watch(torn)
    assert all(isinstance(j, Judged) for j in judged)
    assert opened(judged) == []
    assert len(device.buffer) == kept + 48


def test_a_dead_channel_is_filled_from_the_other_and_both_dead_are_not_judged(device: Device) -> None:
    torn = vibration(40, 6)
    torn[:, :, 1] = np.nan
    assert all(isinstance(j, Judged) for j in device.watch(torn))
    assert device.pipeline.missing == ("fan end",) == SPEC.names[1:2]
    torn[:, :, 0] = np.nan
    assert {type(j) for j in device.watch(torn)} == {Unjudged}


def test_the_device_learns_from_the_rows_it_kept(device: Device) -> None:
    device.watch(vibration(200, 7, lag=1.6))
    device.pipeline.accept_normal(1e9)
    rows = device.buffer.newest(200).rows
    release = bundle()
    model = TrainingModel(release.training_model, release.architecture)
    result = fit(
        model,
        release.parameters,
        rows,
        TrainingSettings(epochs=10, batch_size=16, learning_rate=0.2),
        rng=np.random.default_rng(0),
    )
    assert result.loss_after < 0.5 * result.loss_before
    told = assess(model, result.parameters, release.parameters, rows, quantile=0.999)
    assert told["candidate_loss"] < 0.5 * told["champion_loss"]
    assert len(told["feature_sum"]) == ARCHITECTURE.feature_count


def test_the_release_fits_sources_of_the_same_windows_and_no_others() -> None:
    manifest = verified().manifest

    def fits(features: FeatureSpec) -> None:
        check_fit(manifest, release_id(FAMILY, 1), Requirements(family=FAMILY, features=features))

    fits(SPEC)
    with pytest.raises(ReleaseRefusedError, match="window_samples 12 there, 24 here"):
        fits(raw_spec(SPEC.names, 24, sample_rate_hz=1000.0))
    with pytest.raises(ReleaseRefusedError, match="kind 'raw' there, 'passthrough' here"):
        fits(passthrough_spec(SPEC.names))


def test_a_release_whose_windows_are_not_the_models_is_refused() -> None:
    with pytest.raises(BundleContentError, match="names 26 features, its model takes 24"):
        read_bundle(verified(raw_spec(SPEC.names, SAMPLES + 1)))
