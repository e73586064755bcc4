"""From a window to a decision: features → this machine's scale → int8 model → score → alarm and drift.

Decisions only: no clock but the one handed in, no network, no disk (`Memory` and `SampleBuffer` are handed in). One
window at a time, one thread. A window that cannot be judged is an `Unjudged`, never an exception: sensors fail, and
watching goes on.

::

    window ─► features ─┬─ first N: fit the standardiser (commissioning)
                        └─► standardise ─► buffer
                                 └─► Int8Model ─► score ─┬─► AlarmState (personal threshold) ─► Opened | Closed
                                                         └─► DriftMonitor ─► drifted | recovered

Invariants: an anomaly opens once, also across a restart; a model on trial touches neither the drift monitor nor what
is remembered, so that a rollback returns to exactly what was; a commit makes the newest buffered windows the new
normal, because those are what the model was trained on.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.commissioning import Commissioning
from edge_agent.detection_memory import DetectionMemory, Remembered
from edge_agent.own_normal import calm_rows, fit_monitor, fit_threshold, score_rows
from edge_agent.sample_buffer import BufferedRows
from edge_agent.settings import DetectionSettings
from edge_agent.sources.port import SourceWindow
from models.architecture import Kind
from models.drift.monitor import DriftMonitor, DriftSettings, DriftVerdict
from models.errors import ModelError
from models.features import make_extractor
from models.int8_model import Int8Model, WindowModel
from models.sensors import SensorView
from models.thresholds import AlarmState, Closed, Opened, PersonalThreshold
from protocol.manifest import FeatureSpec, Manifest
from runtime.errors import StorageError

__all__ = ["Judged", "Pipeline", "RowStore", "Unjudged"]

Float = NDArray[np.float32]
_CONTRIBUTORS: Final = 3
"""Sensors named in an anomaly: enough to tell a bearing from a load change, few enough to read."""


class RowStore(Protocol):
    """Where standardised rows are kept; `SampleBuffer` is one."""

    def append(self, row: Float, machine_s: float) -> None:
        """Keep one row."""

    def newest(self, count: int) -> BufferedRows:
        """The last rows."""

    def clear(self) -> None:
        """Forget every row: they are in a scale that is no more."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What became of one window that was scored.

    Attributes:
        score: anomaly score, ≥ 0.
        threshold: the one in force.
        latency_us: inference with its score, µs.
        alarm: an alarm that opened or closed with this window.
        windows_over: windows over the threshold since the alarm began to build.
        contributors: the sensors that deviate most, worst first; only when an alarm opened.
        drift: the verdict if drift began or ended with this window.
    """

    score: float
    threshold: float
    latency_us: float
    alarm: Opened | Closed | None = None
    windows_over: int = 0
    contributors: tuple[str, ...] = ()
    drift: DriftVerdict | None = None

    @property
    def is_over(self) -> bool:
        """Does the score exceed the threshold? NaN does."""
        return not self.score <= self.threshold


@dataclass(frozen=True, kw_only=True)
class Unjudged:
    """A window without a score: still commissioning, no release yet, or (`error`) it or the model is unusable."""

    error: str | None = None
    is_model_error: bool = False


class Pipeline:
    """All detection state of one device.

    Attributes:
        standardise: raw features (F,) in this machine's own scale.
        is_drifted: the last drift verdict.
        threshold: the one in force; None while there is no model to have one.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        settings: DetectionSettings,
        *,
        memory: DetectionMemory,
        buffer: RowStore,
        clock: Callable[[], float],
        open_model: Callable[[bytes, Kind, str], WindowModel] = lambda content, kind, _: Int8Model(
            content, kind
        ),
    ) -> None:
        """Continue from what is remembered.

        Args:
            spec: what the source delivers and how it becomes features.
            settings: limits.
            memory: what survives a restart.
            buffer: where standardised windows go.
            clock: monotonic seconds, for latencies.
            open_model: makes a model of its bytes, kind and bundle's SHA-256; raises ModelError.
        """
        self._settings = settings
        self._memory = memory
        self._buffer = buffer
        self._clock = clock
        self._open_model = open_model
        self._sensors = SensorView(spec)
        self._extractor = make_extractor(spec)
        self._commissioning = Commissioning(self._sensors, settings, memory)
        self.standardise = self._commissioning.standardise
        self._remembered = memory.load_remembered()
        self._alarm = AlarmState(
            opens_after_windows=settings.opens_after_windows,
            closes_after_windows=settings.closes_after_windows,
            closes_below_share=settings.closes_below_share,
        )
        # An alarm that was open when the process died is the same anomaly, not a new one.
        self._is_continuing = self._remembered.alarm_open
        self._calm = 0
        self._windows_over = 0
        self._model: WindowModel | None = None
        self._manifest: Manifest | None = None
        self._bundle_sha256 = ""
        self.threshold: PersonalThreshold | None = None
        self._is_trial = False
        self._drift: DriftMonitor | None = memory.load_drift(self._sensors.watched, self._drift_settings())
        self.is_drifted = self._drift is not None and self._drift.verdict().drifted

    @property
    def is_commissioned(self) -> bool:
        """Does it know this machine's scale?"""
        return self._commissioning.is_done

    @property
    def has_model(self) -> bool:
        """Is there a model to score with?"""
        return self._model is not None

    @property
    def alarm_is_open(self) -> bool:
        """Is an anomaly going on?"""
        return self._alarm.is_open

    def drift_score(self) -> float:
        """Largest statistic ÷ threshold over all detectors; 0 without a reference."""
        return self._drift.verdict().score if self._drift is not None else 0.0

    def adopt(
        self, manifest: Manifest, int8_model: bytes, *, bundle_sha256: str, is_trial: bool
    ) -> DriftVerdict | None:
        """Score with this release from the next window on.

        Returns:
            As `commit`, where the release is committed already and was not known here.

        Raises:
            ModelError: the model cannot be loaded; the one before stays in use.
        """
        model = self._open_model(int8_model, manifest.model.kind, bundle_sha256)
        if self._model is not None:
            # Another model is another opinion: what it calls an anomaly is a new one.
            self._alarm.reset()
            self._is_continuing, self._windows_over = False, 0
            self._remember(alarm_open=False)
        self._model, self._manifest = model, manifest
        self._bundle_sha256, self._is_trial = bundle_sha256, is_trial
        return self._settle(manifest) if self.is_commissioned else None

    def retire(self) -> None:
        """There is no release any more: a first one was undone. Windows are kept for commissioning, not judged."""
        self._model = self._manifest = self.threshold = None

    def _settle(self, manifest: Manifest) -> DriftVerdict | None:
        """Find the threshold for the model just adopted, and a reference where it is committed but has none yet."""
        known = self._remembered
        is_known = known.bundle_sha256 == self._bundle_sha256
        if is_known and known.threshold is not None and (self._is_trial or self._drift is not None):
            self.threshold = known.threshold
        elif self._is_trial:
            self.threshold = self._fit_threshold(manifest, self._score_rows(self._recent_rows()))
        else:
            return self.commit()
        return None

    def commit(self) -> DriftVerdict | None:
        """The release has proved itself: its normal becomes this device's normal.

        Returns:
            The verdict of the renewed monitor if drift was reported before: it has ended.
        """
        self._is_trial = False
        if self._manifest is None or not self.is_commissioned:
            return None
        rows = self._recent_rows()
        scores = self._score_rows(rows)
        self.threshold = self._fit_threshold(self._manifest, scores)
        calm = calm_rows(self._manifest.threshold, scores)
        is_renewed = self._renew_reference(rows[calm], scores[calm])
        self._remember(bundle_sha256=self._bundle_sha256, threshold=self.threshold)
        if not (is_renewed and self.is_drifted):
            return None
        self.is_drifted = False
        return self._drift.verdict() if self._drift is not None else None

    def observe(self, window: SourceWindow) -> Judged | Unjudged:
        """Judge one window."""
        try:
            features = self._extractor.extract(window.samples)
        except ModelError as error:
            return Unjudged(error=str(error))
        if not self.is_commissioned:
            self._commission(features, window.observed_at_s)
            return Unjudged()
        row = self.standardise(features)
        self._keep(row, window.observed_at_s)
        if self._model is None or self.threshold is None:
            return Unjudged()
        started = self._clock()
        try:
            output, score = self._model.infer_and_score(row)
        except ModelError as error:
            return Unjudged(error=f"inference failed: {error}", is_model_error=True)
        latency_us = (self._clock() - started) * 1e6
        if not math.isfinite(score):
            return Unjudged(error=f"inference failed: the score is {score}", is_model_error=True)
        threshold = self.threshold.value
        alarm = self._debounce(score, threshold)
        is_blamable = isinstance(alarm, Opened) and output.shape == row.shape
        return Judged(
            score=score,
            threshold=threshold,
            latency_us=latency_us,
            alarm=alarm,
            windows_over=self._windows_over,
            contributors=self._sensors.blame(row, output, _CONTRIBUTORS) if is_blamable else (),
            drift=self._watch_drift(row, score),
        )

    def save(self) -> None:
        """Let the drift monitor's state survive a restart."""
        if self._drift is not None:
            self._memory.save_drift(self._drift)

    def _debounce(self, score: float, threshold: float) -> Opened | Closed | None:
        is_over = not score <= threshold
        self._windows_over = (
            self._windows_over + 1 if is_over else (self._windows_over if self._alarm.is_open else 0)
        )
        change = self._alarm.update(score, threshold)
        if self._is_continuing:
            self._calm = 0 if is_over else self._calm + 1
            if isinstance(change, Opened):
                self._is_continuing = False
                return None
            if self._calm >= self._settings.closes_after_windows:
                self._is_continuing = False
                self._remember(alarm_open=False)
        elif change is not None:
            self._remember(alarm_open=isinstance(change, Opened))
        if isinstance(change, Closed):
            self._windows_over = 0
            self._remember(alarm_open=False)
        return change

    def _watch_drift(self, row: Float, score: float) -> DriftVerdict | None:
        if self._drift is None or self._is_trial:
            return None
        self._drift.update(self._sensors.watch(row), score)
        verdict = self._drift.verdict()
        if verdict.drifted == self.is_drifted:
            return None
        self.is_drifted = verdict.drifted
        return verdict

    def _commission(self, features: Float, machine_s: float) -> None:
        rows = self._commissioning.gather(features, machine_s)
        if not rows:
            return
        self._buffer.clear()  # rows of before a damaged scale file would be taught beside rows that mean something else
        for row, at_s in rows:
            self._keep(row, at_s)
        if self._manifest is not None:
            self._settle(self._manifest)

    def _keep(self, row: Float, machine_s: float) -> None:
        # A full disk costs training rows, never a judgement; the loop's own flush tells people.
        with contextlib.suppress(StorageError):
            self._buffer.append(row, machine_s)

    def _recent_rows(self) -> Float:
        return self._buffer.newest(self._settings.reference_windows).rows

    def _score_rows(self, rows: Float) -> NDArray[np.float64]:
        return np.empty(0) if self._model is None else score_rows(self._model, rows)

    def _fit_threshold(self, manifest: Manifest, scores: NDArray[np.float64]) -> PersonalThreshold:
        return fit_threshold(manifest.threshold, scores, is_personal=self._settings.personal_threshold)

    def _renew_reference(self, rows: Float, scores: NDArray[np.float64]) -> bool:
        monitor = fit_monitor(self._sensors, rows, scores, self._drift_settings())
        if monitor is None:  # the old reference, if any, stays
            return False
        self._drift = monitor
        self._memory.save_drift(monitor)
        return True

    def _drift_settings(self) -> DriftSettings:
        return DriftSettings(run_length=self._settings.drift_run_length)

    def _remember(
        self,
        *,
        bundle_sha256: str | None = None,
        threshold: PersonalThreshold | None = None,
        alarm_open: bool | None = None,
    ) -> None:
        known = self._remembered
        renewed = Remembered(
            bundle_sha256=known.bundle_sha256 if bundle_sha256 is None else bundle_sha256,
            threshold=known.threshold if threshold is None else threshold,
            alarm_open=known.alarm_open if alarm_open is None else alarm_open,
        )
        if renewed != known:
            self._remembered = renewed
            self._memory.save_remembered(renewed)
