"""From a window to a decision: features → this machine's scale → judge → alarm and drift.

Decisions only: no clock but those handed in, no network, no disk (memory and stores are handed in). One
window at a time, one thread. A window that cannot be judged is an `Unjudged`, never an exception: sensors fail, and
watching goes on.

::

    window ─► features ─┬─ the first, and when asked: `Commissioning` finds the scale
                        └─► standardise ─► gaps filled ─► `Judge` in its context ─┬─ statistic ─► Episodes ─► Opened | Closed
                                 │  (nothing missing)   ▲       └─ score ─► DriftMonitor ─► drifted | recovered
                                 └─► `KeptRows`         └─ now and then the latest window, disturbed ─► sight

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
from edge_agent.fitting import RunningRelease
from edge_agent.gaps import Gaps
from edge_agent.judgement import Judged, Unjudged
from edge_agent.judges import Judge
from edge_agent.kept_rows import KeptRows, RowStores
from edge_agent.live_sight import LiveSight
from edge_agent.own_normal import OwnNormal
from edge_agent.settings import DetectionSettings
from edge_agent.sources.port import SourceWindow
from models.architecture import Kind
from models.columns import describe_difference
from models.detection.prior import FleetPrior
from models.detection.promise import AlarmBudget
from models.drift.monitor import DriftVerdict
from models.errors import FeatureError, ModelError
from models.features import make_extractor
from models.int8_model import Int8Model, WindowModel
from models.sensors import SensorView
from models.thresholds import Closed, Opened
from protocol.manifest import FeatureSpec, Manifest
from protocol.messages.payloads import AnomalyClosed, AnomalyEvent

__all__ = ["Pipeline"]

Float = NDArray[np.float32]
_CONTRIBUTORS: Final = 3
"""Sensors named in an anomaly: enough to tell a bearing from a load change, few enough to read."""


class Pipeline:
    """All detection state of one device.

    Attributes:
        commissioning: this machine's own scale.
        standardise: raw features (F,) in that scale.
        normal: what this device calls normal: judge and drift.
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
        open_model: Callable[[bytes, Kind, str], WindowModel] = lambda data, kind, _: Int8Model(data, kind),
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
        self.normal = OwnNormal(self._sensors, settings, memory, self._rows, self.commissioning, wall)
        if self.commissioning.is_complete:  # in an earlier process, which did not come to take it up
            self._take_up_scale(self.commissioning.fitted_rows())
        self._episodes = Episodes(settings, memory.remembered.episodes, new_id)
        self._gaps = Gaps(self._sensors, lambda count: self._rows.newest(count).rows)
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
        return self._running is not None and self.normal.judge is not None

    @property
    def missing(self) -> tuple[str, ...]:
        """Sensors that have delivered nothing usable for some windows now."""
        return self._gaps.missing

    @property
    def sight(self) -> float | None:
        """The share of disturbed windows that were over the threshold in force, in [0, 1]; None before there were ten."""
        return self._sight.share

    @property
    def set_aside_windows(self) -> int:
        """Windows that wait for somebody to say whether they are normal."""
        return self._rows.set_aside

    def problems(self) -> list[str]:
        """What a person should know of release, threshold and scale, the gravest first."""
        normal = self.normal.problems(self._running)
        # Of a device that commissions it is said anyway.
        gaps = self._gaps.problem if self.is_commissioned else ""
        return [text for text in (self._misfit, *normal, *self.commissioning.problems(), gaps) if text]

    def adopt(
        self,
        manifest: Manifest,
        int8_model: bytes,
        *,
        bundle_sha256: str,
        is_trial: bool,
        prior: FleetPrior | None = None,
    ) -> DriftVerdict | None:
        """Judge by this release from the next window on; with a `prior`, by the mixture.

        Returns:
            As `commit`, where the release is committed already and was not known here.

        Raises:
            ModelError: the model cannot be loaded, or is one of other columns; the one before stays in use.
        """
        self._misfit = describe_difference(manifest.features, self._columns)
        if self._misfit:
            made_for = f"{manifest.release} was made for other features than this source gives"
            self._misfit = f"{made_for}: {self._misfit}"
            raise FeatureError(self._misfit)
        model = self._open_model(int8_model, manifest.model.kind, bundle_sha256)
        if self._running is not None or self._episodes.release not in {"", manifest.release}:
            self._end_episode()
        self._running = running = RunningRelease(
            name=manifest.release,
            manifest=manifest,
            model=model,
            bundle_sha256=bundle_sha256,
            is_trial=is_trial,
            prior=prior,
        )
        if not self.is_commissioned:
            return None
        recovered = self.normal.settle(running)
        self._renew_estimates()
        return recovered

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
        recovered = self.normal.commit(running)
        self._renew_estimates()
        return recovered

    def retire(self) -> None:
        """There is no release any more: a first one was undone. Windows are kept for commissioning, not judged."""
        self._end_episode()
        self._running = self.normal.judge = None
        self._renew_estimates()
        self._misfit = ""

    def accept_normal(self, until_s: float) -> DriftVerdict | None:
        """Windows set aside up to `until_s` (Unix seconds) are normal, says a person: they may be learnt; returns as `OwnNormal.accept`."""
        recovered = self.normal.accept(until_s, self._running)
        self._renew_estimates()
        return recovered

    def set_budget(self, budget: AlarmBudget) -> str:
        """Keep another budget of false alarms from the next window on; returns why not, or empty."""
        before = self.normal.judge
        refusal = self.normal.set_budget(budget, self._running)
        if self.normal.judge is not before:
            self._renew_estimates()
        return refusal

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
        self.normal.drift.save()
        self._remember()

    def flush(self) -> None:
        """Hand rows to the kernel; raises StorageError where the disk refuses."""
        self._stores.flush()

    def probe_sight(self, clock_s: float) -> None:
        """Measure the sight on the latest window, if it is time for it; `clock_s` is any monotonic seconds.

        By the device's clock and not the machine's: what a probe costs is the device's time.
        """
        if self._running is not None and self.normal.judge is not None:
            self._sight.probe(clock_s, self.normal.judge)

    def take_untold(self) -> list[AnomalyEvent | AnomalyClosed]:
        """What of anomalies is still to be told: ends, and what an earlier process did not come to tell."""
        return self._episodes.take_untold()

    def told(self) -> None:
        """Everything taken from here is in the outbox."""
        if self._episodes.told():
            self._remember()

    def _judge(
        self, window: SourceWindow, row: Float, missing: NDArray[np.bool_] | None
    ) -> Judged | Unjudged:
        running = self._running
        judge = self.normal.judge_at(window.observed_at_s, running) if running is not None else None
        if running is None or judge is None:
            return Unjudged()
        started = self._clock()
        kept, row = row, judge.see(row, window.observed_at_s)
        try:
            statistic, score = judge.judge(row)
        except ModelError as error:
            return Unjudged(error=f"inference failed: {error}", is_model_error=True)
        latency_us = (self._clock() - started) * 1e6
        if not math.isfinite(statistic):
            return Unjudged(error=f"inference failed: the score is {statistic}", is_model_error=True)
        threshold = judge.threshold.value
        alarm = self._episodes.update(statistic, threshold, window, running.name)
        self.normal.note(alarm.windows if isinstance(alarm, Closed) else self._episodes.windows)
        self._sight.see(row, missing, is_over=not statistic <= threshold)
        drift = None if running.is_trial else self._watch_drift(row, score, missing, running)
        is_opening = isinstance(alarm, Opened)
        if alarm is not None:
            self._remember()
        elif not (running.is_trial or self._episodes.is_open) and self.normal.keep_promise(running):
            self._renew_estimates()
        return Judged(
            score=statistic,
            threshold=threshold,
            latency_us=latency_us,
            may_alarm=judge.may_alarm(score),
            alarm=alarm,
            episode=self._episodes.id if is_opening else "",
            contributors=self._blame(judge, row, missing) if is_opening else (),
            drift=drift,
            row=kept,
            seen=row,
            machine_s=window.observed_at_s,
            is_calm=alarm is None and not self._episodes.is_open and self.normal.is_calm,
        )

    def _blame(self, judge: Judge, row: Float, missing: NDArray[np.bool_] | None) -> tuple[str, ...]:
        parts = judge.blame(row, missing)
        return () if parts is None else self._sensors.blame(parts, _CONTRIBUTORS)

    def _watch_drift(
        self, row: Float, score: float, missing: NDArray[np.bool_] | None, running: RunningRelease
    ) -> DriftVerdict | None:
        sensors = self._sensors
        columns = sensors.watch(row) if missing is None else sensors.watch_all_but(row, missing)
        return self.normal.watch(columns, score, running, is_alarm_open=self._episodes.is_open)

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
            is_over=judged is not None and judged.may_alarm,
            # Of the window that ends an alarm, too, nobody knows what it is.
            is_suspect=self._episodes.is_open
            or not self.normal.is_calm
            or (judged is not None and judged.alarm is not None),
        )

    def _end_episode(self) -> None:
        """Another model is another opinion: what it calls an anomaly is a new one."""
        self._episodes.end()
        self._remember()

    def _renew_estimates(self) -> None:
        """Rows or judge are others now."""
        self._sight.reset()
        self._gaps.forget()
        if (judge := self.normal.judge) is not None:
            self._episodes.open_after(judge.opens_after_windows)

    def _remember(self) -> None:
        # Of a model on trial nothing but its alarms is.
        running = self._running
        judge = {} if running is None or running.is_trial else self.normal.remembered
        self._memory.remember(episodes=self._episodes.remembered, **judge)
