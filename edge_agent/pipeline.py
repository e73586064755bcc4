"""From a window to a decision: features → this machine's scale → int8 model → score → alarm and drift.

Decisions only: no clock but those handed in, no network, no disk (memory and stores are handed in). One
window at a time, one thread. A window that cannot be judged is an `Unjudged`, never an exception: sensors fail, and
watching goes on.

::

    window ─► features ─┬─ the first, and when asked: `Commissioning` finds the scale
                        └─► standardise ─► gaps filled ─► Int8Model ─► score ─┬─► Episodes ─► Opened | Closed
                                 │  (nothing missing)      ▲                  └─► DriftMonitor ─► drifted | recovered
                                 └─► `KeptRows`            └─ now and then the latest window, disturbed ─► sight

Invariants: an anomaly opens once and ends once, also across a restart; what was not measured is never kept; a model on
trial touches neither the drift monitor nor what is remembered, so that a rollback returns to exactly what was; a commit
makes the newest windows that may be learnt the new normal, because those are what the model was trained on: never those
of an alarm, nor of a drift that no person has accepted. No window is judged in a scale or by a model of other columns.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Callable
from typing import Final

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from edge_agent.commissioning import Commissioning, StandardisedRow
from edge_agent.detection_memory import DetectionMemory, Remembered
from edge_agent.episodes import Episodes
from edge_agent.gaps import Gaps
from edge_agent.judgement import Judged, Unjudged
from edge_agent.kept_rows import KeptRows, RowStores
from edge_agent.live_sight import LiveSight
from edge_agent.own_normal import calm_rows, fit_monitor, fit_threshold, score_rows
from edge_agent.settings import DetectionSettings
from edge_agent.sources.port import SourceWindow
from models.architecture import Kind
from models.columns import describe_difference
from models.drift.monitor import DriftMonitor, DriftSettings, DriftVerdict
from models.errors import FeatureError, ModelError
from models.features import make_extractor
from models.int8_model import Int8Model, WindowModel
from models.sensors import SensorView
from models.thresholds import Opened, PersonalThreshold
from protocol.manifest import FeatureSpec, Manifest
from protocol.messages.payloads import AnomalyClosed, AnomalyEvent, NormalAcceptance

__all__ = ["Pipeline"]

log = logging.getLogger(__name__)

Float = NDArray[np.float32]
_CONTRIBUTORS: Final = 3
"""Sensors named in an anomaly: enough to tell a bearing from a load change, few enough to read."""


class Pipeline:
    """All detection state of one device.

    Attributes:
        commissioning: this machine's own scale.
        standardise: raw features (F,) in that scale.
        is_drifted: the last drift verdict.
        threshold: the one in force; None while there is no model to have one.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        settings: DetectionSettings,
        *,
        memory: DetectionMemory,
        stores: RowStores,
        clock: Callable[[], float],
        wall: Callable[[], float],
        open_model: Callable[[bytes, Kind, str], WindowModel] = lambda content, kind, _: Int8Model(
            content, kind
        ),
        new_id: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        """Continue from what is remembered.

        Args:
            spec: what the source delivers and how it becomes features.
            settings: limits.
            memory: what survives a restart.
            stores: where rows go.
            clock: monotonic seconds, for latencies.
            wall: Unix seconds, for what a person says of a time.
            open_model: makes a model of its bytes, kind and bundle's SHA-256; raises ModelError.
            new_id: a fresh name for an anomaly.
        """
        self._columns = spec
        self._settings = settings
        self._memory = memory
        self._stores = stores
        self._clock, self._wall = clock, wall
        self._open_model = open_model
        self._sensors = SensorView(spec)
        self._extractor = make_extractor(spec)
        self.commissioning = Commissioning(self._sensors, settings, memory, stores.gathered, clock)
        self.standardise = self.commissioning.standardise
        self._remembered = memory.load_remembered()
        self._rows = KeptRows(
            stores,
            depth=settings.opens_after_windows + 1,
            accepted_until_s=self._remembered.accepted_until_s,
        )
        self._episodes = Episodes(settings, self._remembered.episodes, new_id)
        self._gaps = Gaps(self._sensors, self._rows.newest)
        self._sight = LiveSight(self._sensors, settings.sight_probes_per_minute, self._recent_rows)
        self._model: WindowModel | None = None
        self._manifest: Manifest | None = None
        self._release = ""
        self._bundle_sha256 = ""
        self.threshold: PersonalThreshold | None = None
        self._misfit = ""
        self._is_trial = False
        self._drift: DriftMonitor | None = memory.load_drift(self._sensors.watched, self._drift_settings())
        self.is_drifted = self._drift is not None and self._drift.verdict().drifted

    @property
    def is_commissioned(self) -> bool:
        """Does it know this machine's scale?"""
        return self.commissioning.is_done

    @property
    def has_model(self) -> bool:
        """Is there a model to score with?"""
        return self._model is not None

    @property
    def alarm_is_open(self) -> bool:
        """Is an anomaly going on?"""
        return self._episodes.is_open

    @property
    def is_watching(self) -> bool:
        """Is there all that a window needs to be judged?"""
        return self._model is not None and self.threshold is not None

    @property
    def missing(self) -> tuple[str, ...]:
        """Sensors that have delivered nothing usable for some windows now."""
        return self._gaps.missing

    @property
    def sight(self) -> float | None:
        """The share of disturbed windows that were over the threshold in force, in [0, 1]; None before the first."""
        return self._sight.share

    @property
    def accepted(self) -> int:
        """Counter of the last acceptance that was obeyed."""
        return self._remembered.accepted

    @property
    def set_aside_windows(self) -> int:
        """Windows that wait for somebody to say whether they are normal."""
        return self._rows.set_aside

    def problems(self) -> list[str]:
        """What a person should know of release, threshold and scale, the gravest first."""
        found = [self._misfit] if self._misfit else []
        threshold, scored = self.threshold, self._remembered.scored
        is_fitted_here = self._remembered.bundle_sha256 == self._bundle_sha256 and threshold is not None
        if is_fitted_here and threshold is not None and 2 * threshold.fitted_on < scored:
            found.append(
                f"{self._release} does not fit this machine: {threshold.fitted_on} of {scored} windows usable"
            )
        return found + self.commissioning.problems()

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
            ModelError: the model cannot be loaded, or is one of other columns; the one before stays in use.
        """
        difference = describe_difference(manifest.features, self._columns)
        self._misfit = (
            f"{manifest.release} was made for other features than this source gives: {difference}"
            if difference
            else ""
        )
        if difference:
            raise FeatureError(self._misfit)
        model = self._open_model(int8_model, manifest.model.kind, bundle_sha256)
        if self._model is not None or self._episodes.release not in {"", manifest.release}:
            self._end_episode()
        self._renew_estimates()
        self._model, self._manifest, self._release = model, manifest, manifest.release
        self._bundle_sha256, self._is_trial = bundle_sha256, is_trial
        return self._settle(manifest) if self.is_commissioned else None

    def retire(self) -> None:
        """There is no release any more: a first one was undone. Windows are kept for commissioning, not judged."""
        self._end_episode()
        self._renew_estimates()
        self._model = self._manifest = self.threshold = None
        self._misfit = ""

    def accept_normal(self, acceptance: NormalAcceptance) -> DriftVerdict | None:
        """Windows set aside until then are normal, says a person: they may be learnt.

        Returns:
            As `commit`, where one had to wait for this word.
        """
        known = self._remembered
        if acceptance.counter <= known.accepted:
            return None
        # Remembered first: after a power cut `KeptRows` finishes what was begun.
        self._remember(replace(known, accepted=acceptance.counter, accepted_until_s=acceptance.until_s))
        moved = self._rows.accept(acceptance.until_s)
        log.info("normal_accepted counter=%d windows=%d", acceptance.counter, moved)
        is_due = known.is_reference_due and not self._is_investigating
        return self.commit() if is_due and not self._is_trial else None

    def recommission_if_asked(self) -> None:
        """Look whether a person asked for another commissioning."""
        request = self._memory.take_request()
        if request is not None:
            self.commissioning.restart(is_afresh=request.is_afresh)

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
        # What this device now sees is not among its rows: a reference of those would only find the drift once more.
        is_waiting = self._is_investigating
        calm = calm_rows(self._manifest.threshold, scores)
        is_renewed = not is_waiting and self._renew_reference(rows[calm], scores[calm])
        self._remember(
            replace(
                self._remembered,
                bundle_sha256=self._bundle_sha256,
                threshold=self.threshold,
                scored=len(scores) if self._settings.personal_threshold else 0,
                is_reference_due=is_waiting,
            )
        )
        self._renew_estimates()
        if not (is_renewed and self.is_drifted):
            return None
        self._note_drift(is_drifted=False)
        return self._drift.verdict() if self._drift is not None else None

    def observe(self, window: SourceWindow) -> Judged | Unjudged:
        """Judge one window."""
        try:
            features = self._extractor.extract(window.samples)
        except ModelError as error:
            return Unjudged(error=str(error))
        if self.commissioning.is_gathering:
            unjudged = self._commission(features, window)
            if unjudged is not None:
                return unjudged
        row = self.standardise(features)
        # One sum of squares finds any gap; a row is clipped, so that nothing overflows.
        if math.isfinite(row.dot(row)):
            if self._gaps.is_any:
                self._gaps.none()
            judgement = self._judge(window, row, None)
            self._keep(row, window, judgement)
            return judgement
        missing = np.isnan(row)
        self._gaps.note(missing)
        filled = self._gaps.fill(row, missing)
        if filled is None:
            return Unjudged(error=self._gaps.tell(missing))
        return self._judge(window, filled, missing)

    def save(self) -> None:
        """Let the drift monitor's state, and how far an anomaly is, survive a restart."""
        if self._drift is not None:
            self._memory.save_drift(self._drift)
        self._remember_episodes()

    def flush(self) -> None:
        """Hand rows to the kernel; raises StorageError where the disk refuses."""
        self._stores.flush()

    def probe_sight(self, clock_s: float) -> None:
        """Measure the sight on the latest window, if it is time for it; `clock_s` is any monotonic seconds.

        By the device's clock and not the machine's: what a probe costs is the device's time.
        """
        if self._model is not None and self.threshold is not None:
            self._sight.probe(clock_s, self._model, self.threshold.value)

    def take_untold(self) -> list[AnomalyEvent | AnomalyClosed]:
        """What of anomalies is still to be told: ends, and what an earlier process did not come to tell."""
        return self._episodes.take_untold()

    def told(self) -> None:
        """Everything taken from here is in the outbox."""
        if self._episodes.told():
            self._remember_episodes()

    def _judge(
        self, window: SourceWindow, row: Float, missing: NDArray[np.bool_] | None
    ) -> Judged | Unjudged:
        model = self._model
        if model is None or self.threshold is None:
            return Unjudged()
        started = self._clock()
        try:
            output, score = model.infer_and_score(row)
        except ModelError as error:
            return Unjudged(error=f"inference failed: {error}", is_model_error=True)
        latency_us = (self._clock() - started) * 1e6
        if not math.isfinite(score):
            return Unjudged(error=f"inference failed: the score is {score}", is_model_error=True)
        threshold = self.threshold.value
        alarm = self._episodes.update(score, threshold, window, self._release)
        self._sight.see(row, missing, is_over=not score <= threshold)
        drift = self._watch_drift(row, score, missing)
        if alarm is None:
            return Judged(score=score, threshold=threshold, latency_us=latency_us, drift=drift)
        self._remember_episodes()
        is_blamable = isinstance(alarm, Opened) and output.shape == row.shape
        return Judged(
            score=score,
            threshold=threshold,
            latency_us=latency_us,
            alarm=alarm,
            episode=self._episodes.id,
            contributors=self._blame(row, output, missing) if is_blamable else (),
            drift=drift,
        )

    def _blame(self, row: Float, output: Float, missing: NDArray[np.bool_] | None) -> tuple[str, ...]:
        # An estimate is nobody's fault.
        expected = row if missing is None else np.where(missing, output, row)
        return self._sensors.blame(expected, output, _CONTRIBUTORS)

    def _watch_drift(
        self, row: Float, score: float, missing: NDArray[np.bool_] | None
    ) -> DriftVerdict | None:
        if self._drift is None or self._is_trial:
            return None
        sensors = self._sensors
        self._drift.update(
            sensors.watch(row) if missing is None else sensors.watch_all_but(row, missing), score
        )
        verdict = self._drift.verdict()
        if verdict.drifted == self.is_drifted:
            return None
        self._note_drift(is_drifted=verdict.drifted)
        return verdict

    @property
    def _is_investigating(self) -> bool:
        """Is there drift that no person has called normal?"""
        return self.is_drifted and self._remembered.accepted_until_s < self._remembered.drift_since_s

    def _note_drift(self, *, is_drifted: bool) -> None:
        self.is_drifted = is_drifted
        self._remember(replace(self._remembered, drift_since_s=self._wall() if is_drifted else 0.0))

    def _commission(self, features: Float, window: SourceWindow) -> Unjudged | None:
        """Gather the window; None where it can be judged all the same, in the scale so far or in the one it completed."""
        is_first = not self.is_commissioned
        missing = np.isnan(features)
        if is_first and missing.any():
            self._gaps.note(missing)
            if 2 * np.count_nonzero(missing) > len(missing):
                return Unjudged(error=self._gaps.tell(missing))
        elif is_first:
            self._gaps.none()
        rows = self.commissioning.gather(features, window.observed_at_s, self._wall())
        if rows:
            self._begin_anew(rows)
        return Unjudged() if is_first else None

    def _begin_anew(self, rows: list[StandardisedRow]) -> None:
        """The scale is another: what was learnt in the one before means nothing, and these rows (oldest first) are normal."""
        self._rows.restart(rows)
        self._remember(replace(self._remembered, drift_since_s=0.0))
        self._renew_estimates()
        if self._manifest is not None and self._is_trial:
            self.threshold = self._fit_threshold(self._manifest, self._score_rows(self._recent_rows()))
        # If drift was reported, the monitor that begins now says with its first window that it has ended.
        was_drifted = self.is_drifted
        self.is_drifted, self._drift = False, None
        if not self._is_trial:
            self.commit()
        self.is_drifted = was_drifted and self._drift is not None

    def _keep(self, row: Float, window: SourceWindow, judgement: Judged | Unjudged) -> None:
        self.commissioning.clipping.update(row)
        is_judged = isinstance(judgement, Judged)
        self._rows.keep(
            (row, window.observed_at_s, self._wall()),
            is_over=is_judged and judgement.is_over,
            is_suspect=self._episodes.is_open
            or self._is_investigating
            or (is_judged and judgement.alarm is not None),
        )

    def _recent_rows(self) -> Float:
        return self._rows.newest(self._settings.reference_windows)

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

    def _end_episode(self) -> None:
        """Another model is another opinion: what it calls an anomaly is a new one."""
        self._episodes.end()
        self._remember_episodes()

    def _renew_estimates(self) -> None:
        """Rows, model or threshold are others now."""
        self._sight.reset()
        self._gaps.forget()

    def _remember_episodes(self) -> None:
        self._remember(replace(self._remembered, episodes=self._episodes.remembered))

    def _remember(self, renewed: Remembered) -> None:
        if renewed != self._remembered:
            self._remembered = renewed
            self._memory.save_remembered(renewed)
