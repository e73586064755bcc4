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

import dataclasses
import math
import secrets
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.commissioning import Commissioning, StandardisedRow
from edge_agent.detection_memory import DetectionMemory
from edge_agent.episodes import Episodes
from edge_agent.gaps import Gaps
from edge_agent.judgement import Judged, Unjudged
from edge_agent.kept_rows import KeptRows, RowStores
from edge_agent.live_sight import LiveSight
from edge_agent.own_normal import OwnNormal, RunningRelease
from edge_agent.settings import DetectionSettings
from edge_agent.sources.port import SourceWindow
from models.architecture import Kind
from models.columns import describe_difference
from models.drift.monitor import DriftVerdict
from models.errors import FeatureError, ModelError
from models.features import make_extractor
from models.int8_model import Int8Model, WindowModel
from models.sensors import SensorView
from models.thresholds import Opened, PersonalThreshold
from protocol.manifest import FeatureSpec, Manifest
from protocol.messages.payloads import AnomalyClosed, AnomalyEvent, NormalAcceptance

__all__ = ["Pipeline"]

Float = NDArray[np.float32]
_CONTRIBUTORS: Final = 3
"""Sensors named in an anomaly: enough to tell a bearing from a load change, few enough to read."""


class Pipeline:
    """All detection state of one device.

    Attributes:
        commissioning: this machine's own scale.
        standardise: raw features (F,) in that scale.
        normal: what this device calls normal: threshold and drift.
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
        self._rows = KeptRows(
            stores,
            depth=settings.opens_after_windows + 1,
            accepting_until_s=memory.remembered.accepting_until_s,
        )
        self._running: RunningRelease | None = None
        self.normal = OwnNormal(self._sensors, settings, memory, self._rows, wall)
        if self.commissioning.is_complete:  # in an earlier process, which did not come to take it up
            self._take_up_scale(self.commissioning.fitted_rows())
        self._episodes = Episodes(settings, memory.remembered.episodes, new_id)
        self._gaps = Gaps(self._sensors, self._rows.newest)
        self._sight = LiveSight(self._sensors, settings.sight_probes_per_minute, self.normal.recent_rows)
        self._misfit = ""

    @property
    def is_commissioned(self) -> bool:
        """Does it know this machine's scale?"""
        return self.commissioning.is_done

    @property
    def has_model(self) -> bool:
        """Is there a model to score with?"""
        return self._running is not None

    @property
    def alarm_is_open(self) -> bool:
        """Is an anomaly going on?"""
        return self._episodes.is_open

    @property
    def is_watching(self) -> bool:
        """Is there all that a window needs to be judged?"""
        return self._running is not None and self.normal.threshold is not None

    @property
    def missing(self) -> tuple[str, ...]:
        """Sensors that have delivered nothing usable for some windows now."""
        return self._gaps.missing

    @property
    def threshold(self) -> PersonalThreshold | None:
        """The one in force; None while there is no model to have one."""
        return self.normal.threshold

    @property
    def is_drifted(self) -> bool:
        """The last drift verdict."""
        return self.normal.is_drifted

    @property
    def sight(self) -> float | None:
        """The share of disturbed windows that were over the threshold in force, in [0, 1]; None before there were ten."""
        return self._sight.share

    @property
    def accepted(self) -> int:
        """Counter of the last acceptance that was obeyed."""
        return self._memory.remembered.accepted

    @property
    def set_aside_windows(self) -> int:
        """Windows that wait for somebody to say whether they are normal."""
        return self._rows.set_aside

    def problems(self) -> list[str]:
        """What a person should know of release, threshold and scale, the gravest first."""
        does_not_fit = self.normal.misfit(self._running) if self._running is not None else ""
        scale = self.commissioning.problems()
        # Of a device that commissions it is said anyway.
        gaps = self._gaps.problem if self.is_commissioned else ""
        return [text for text in (self._misfit, does_not_fit, *scale, gaps) if text]

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
        if self._running is not None or self._episodes.release not in {"", manifest.release}:
            self._end_episode()
        self._renew_estimates()
        self._running = running = RunningRelease(
            name=manifest.release,
            manifest=manifest,
            model=model,
            bundle_sha256=bundle_sha256,
            is_trial=is_trial,
        )
        return self.normal.settle(running) if self.is_commissioned else None

    def commit(self) -> DriftVerdict | None:
        """The release has proved itself: its normal becomes this device's normal.

        Returns:
            The verdict of the renewed drift monitor if drift was reported before: it has ended.
        """
        if self._running is None:
            return None
        self._running = running = dataclasses.replace(self._running, is_trial=False)
        if not self.is_commissioned:
            return None
        self._renew_estimates()
        return self.normal.commit(running)

    def retire(self) -> None:
        """There is no release any more: a first one was undone. Windows are kept for commissioning, not judged."""
        self._end_episode()
        self._renew_estimates()
        self._running = self.normal.threshold = None
        self._misfit = ""

    def accept_normal(self, acceptance: NormalAcceptance) -> DriftVerdict | None:
        """Windows set aside until then are normal, says a person: they may be learnt.

        Returns:
            As `commit`, where one had to wait for this word.
        """
        recovered = self.normal.accept(acceptance, self._running)
        self._renew_estimates()
        return recovered

    def recommission_if_asked(self) -> None:
        """Look whether a person asked for another commissioning."""
        request = self._memory.find_request()
        if request is not None:
            self.commissioning.restart(is_afresh=request.is_afresh)
            self._memory.drop_request()

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
            if self._gaps.is_recent:
                self._gaps.none()
            judgement = self._judge(window, row, None)
            self._keep(row, window, judgement)
            return judgement
        missing = np.isnan(row)
        self._gaps.note(missing)
        filled = self._gaps.fill(row, missing)
        if filled is None:
            return Unjudged(error=self._gaps.tell(missing))
        judgement = self._judge(window, filled, missing)
        # Not kept, but what was measured may lie at the end of the scale, and may complete an alarm.
        self.commissioning.clipping.update(filled)
        if self._episodes.is_open:
            self._rows.suspect_held()
        return judgement

    def save(self) -> None:
        """Let the drift monitor's state, and how far an anomaly is, survive a restart."""
        self.normal.save()
        self._remember_episodes()

    def flush(self) -> None:
        """Hand rows to the kernel; raises StorageError where the disk refuses."""
        self._stores.flush()

    def probe_sight(self, clock_s: float) -> None:
        """Measure the sight on the latest window, if it is time for it; `clock_s` is any monotonic seconds.

        By the device's clock and not the machine's: what a probe costs is the device's time.
        """
        if self._running is not None and self.normal.threshold is not None:
            self._sight.probe(clock_s, self._running.model, self.normal.threshold.value)

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
        running, in_force = self._running, self.normal.threshold
        if running is None or in_force is None:
            return Unjudged()
        started = self._clock()
        try:
            output, score = running.model.infer_and_score(row)
        except ModelError as error:
            return Unjudged(error=f"inference failed: {error}", is_model_error=True)
        latency_us = (self._clock() - started) * 1e6
        if not math.isfinite(score):
            return Unjudged(error=f"inference failed: the score is {score}", is_model_error=True)
        threshold = in_force.value
        alarm = self._episodes.update(score, threshold, window, running.name)
        self._sight.see(row, missing, is_over=not score <= threshold)
        drift = None if running.is_trial else self._watch_drift(row, score, missing, running)
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
        self, row: Float, score: float, missing: NDArray[np.bool_] | None, running: RunningRelease
    ) -> DriftVerdict | None:
        sensors = self._sensors
        columns = sensors.watch(row) if missing is None else sensors.watch_all_but(row, missing)
        return self.normal.watch(columns, score, running)

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
            self._take_up_scale(rows)
            self._renew_estimates()
        return Unjudged() if is_first else None

    def _take_up_scale(self, rows: list[StandardisedRow]) -> None:
        self.normal.begin_anew(rows, self._running)
        self.commissioning.taken_up()

    def _keep(self, row: Float, window: SourceWindow, judgement: Judged | Unjudged) -> None:
        self.commissioning.clipping.update(row)
        judged = judgement if isinstance(judgement, Judged) else None
        self._rows.keep(
            (row, window.observed_at_s, self._wall()),
            is_over=judged is not None and judged.is_over,
            # Of the window that ends an alarm, too, nobody knows what it is.
            is_suspect=self._episodes.is_open
            or self.normal.is_investigating
            or (judged is not None and judged.alarm is not None),
        )

    def _end_episode(self) -> None:
        """Another model is another opinion: what it calls an anomaly is a new one."""
        self._episodes.end()
        self._remember_episodes()

    def _renew_estimates(self) -> None:
        """Rows, model or threshold are others now."""
        self._sight.reset()
        self._gaps.forget()

    def _remember_episodes(self) -> None:
        self._memory.remember(episodes=self._episodes.remembered)
