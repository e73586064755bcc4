"""The agent's loop: windows in, decisions out, everything else between two windows.

It owns the order of things and nothing else: what to decide is in `pipeline`, what to say in `telemetry`, when to learn
in `learner_supervisor`, what to run in `installation`. Single-threaded; link, installer and poll threads only wake it.

::

    while not stopped:
        window due?   ─► swap model if asked ─► pipeline.observe ─► anomaly, its end, drift
        a tick due?   ─► downlinks ─► install reports ─► learner ─► sight ─► post ─► deliver ─► status, health
        sleep until the next window, tick or wake-up

Invariant: nothing that fails in a tick (disk, broker, learner, installer) keeps the next window from being scored.
"""

from __future__ import annotations

import base64
import logging
from typing import Final

import msgspec
import numpy as np

from edge_agent.agent_ports import Clocks, Installation
from edge_agent.errors import SourceError
from edge_agent.health import Vitals
from edge_agent.judgement import Judged, Unjudged
from edge_agent.learner_supervisor import LearnerSupervisor
from edge_agent.pipeline import Pipeline
from edge_agent.reporting import StatusReporter
from edge_agent.score_log import ScoreLog
from edge_agent.sources.port import Source, SourceWindow
from edge_agent.telemetry import Telemetry
from models.drift.monitor import DriftPhase, DriftVerdict
from models.errors import ModelError
from models.thresholds import Opened
from protocol.limits import MAX_PAYLOAD_BYTES
from protocol.messages.kinds import AgentState, DeathReason, DriftState
from protocol.messages.payloads import (
    AnomalyEvent,
    Birth,
    Death,
    DriftReport,
    Payload,
)

__all__ = ["FAREWELL_S", "Agent"]

log = logging.getLogger(__name__)

TICK_S: Final = 0.25
"""Longest time between two looks at everything that is not a window; a message wakes the loop at once."""
SOURCE_RETRY_S: Final = 5.0
"""After a source failed: long enough to spare the log, short enough to notice a sensor that was plugged in again."""
FAREWELL_S: Final = 2.0
"""How long the last words may take; a device is often stopped because its power is going."""
_WINDOW_BYTES: Final = MAX_PAYLOAD_BYTES * 3 // 4 - 4096
"""A larger raw window does not fit a message as base64 beside the rest."""

_DRIFT_STATES: Final = {
    DriftPhase.HOME: DriftState.RECOVERED,
    DriftPhase.DRIFTING: DriftState.DRIFTED,
    DriftPhase.SETTLED: DriftState.SETTLED,
}


class Agent:
    """Everything that watches one machine. `step` is one turn; `run` repeats it until `stop`."""

    def __init__(
        self,
        *,
        birth: Birth,
        source: Source,
        pipeline: Pipeline,
        telemetry: Telemetry,
        installation: Installation,
        learner: LearnerSupervisor,
        reporter: StatusReporter,
        vitals: Vitals,
        score_log: ScoreLog | None,
        clocks: Clocks,
    ) -> None:
        """Put the parts together.

        Args:
            birth: what this device is; its release is filled in.
            source: where windows come from.
            pipeline: what judges them.
            telemetry: the road to the fleet.
            installation: which release to run.
            learner: the training guest.
            reporter: status and health.
            vitals: what the loop writes down of itself; its counters are shared with `telemetry`.
            score_log: every score, or None.
            clocks: time.
        """
        self._pipeline = pipeline
        self._telemetry = telemetry
        self._installation = installation
        self._learner = learner
        self._vitals = vitals
        self._counters = vitals.counters
        self._birth = birth
        self._source = source
        self._reporter = reporter
        self._score_log = score_log
        self._clocks = clocks
        self._is_stopped = False
        self._posts: list[Payload] = []
        self._next_tick_s = self._source_retry_s = float("-inf")
        self._last_machine_s: float | None = None
        self._generation: int | None = None
        self._model_error: str | None = None
        self._connections = 0
        self._last_problem = ""
        self._source_ended = False

    def stop(self) -> None:
        """End `run` after the present turn; safe from a signal handler."""
        self._is_stopped = True

    def run(self) -> None:
        """Watch until stopped, then say goodbye."""
        self._reporter.begin(self._vitals)
        self._swap_model()
        self._posts.append(msgspec.structs.replace(self._birth, release=self._vitals.release))
        while not self._is_stopped:
            if self._clocks.wait(self.step()):
                self._next_tick_s = float("-inf")
        self._farewell()

    def step(self) -> float:
        """One turn: at most one window and what is due besides.

        Returns:
            Seconds until there is something to do again, ≥ 0.
        """
        clock_s = self._clocks.monotonic()
        self._watch(clock_s)
        if self._posts or clock_s >= self._next_tick_s:
            self._next_tick_s = clock_s + TICK_S
            self._tick(clock_s)
        due_s = max(self._source.next_due_s, self._source_retry_s)
        if due_s == float("inf") and not self._source_ended:
            log.warning(
                "source_ended windows=%d: the agent stays for updates and training", self._counters.windows
            )
            self._source_ended = True
        return max(0.0, min(due_s, self._next_tick_s) - self._clocks.monotonic())

    def _watch(self, clock_s: float) -> None:
        if clock_s < self._source_retry_s:
            return
        try:
            window = self._source.next_window(clock_s)
        except SourceError as error:
            self._counters.source_errors += 1
            self._source_retry_s = clock_s + SOURCE_RETRY_S
            self._vitals.source_problem = str(error)
            self._complain("source_failed", str(error))
            return
        if window is None:
            return
        self._vitals.source_problem = ""
        self._swap_model()
        self._count(window)
        judgement = self._pipeline.observe(window)
        if isinstance(judgement, Judged):
            self._judged(window, judgement)
        else:
            self._unjudged(judgement)

    def _count(self, window: SourceWindow) -> None:
        counters = self._counters
        counters.windows += 1
        self._vitals.interval.windows += 1
        counters.raw_bytes += window.streaming_bytes
        if self._last_machine_s is not None:
            counters.machine_time_s += max(0.0, window.observed_at_s - self._last_machine_s)
        self._last_machine_s = window.observed_at_s

    def _judged(self, window: SourceWindow, judged: Judged) -> None:
        release = self._vitals.release or ""
        vitals = self._vitals
        if vitals.state is AgentState.BLIND:
            log.warning("blindness_ended windows=%d", vitals.unjudged_run)
        vitals.note_judged(is_judged=True)
        vitals.state, vitals.is_unusable = AgentState.WATCHING, False
        vitals.last_score = judged.score
        vitals.latencies.add(judged.latency_us)
        vitals.interval.judged += 1
        if self._model_error is None:
            self._installation.on_window(judged.score, judged.latency_us)
        else:
            # The release before goes on judging, but the one to be tried does not work here.
            self._counters.inference_errors += 1
            self._installation.on_window(None, 0.0, self._model_error)
        vitals.interval.score_sum += judged.score
        if judged.is_over:
            self._counters.windows_over_threshold += 1
            vitals.interval.over += 1
        if isinstance(judged.alarm, Opened):
            self._counters.anomalies += 1
            self._posts.append(_anomaly(window, judged, judged.alarm, release))
            log.warning(
                "anomaly_opened release=%s score=%.4g threshold=%.4g", release, judged.score, judged.threshold
            )
        if judged.drift is not None:
            self._report_drift(judged.drift, release, window.observed_at_s)
        if self._score_log is not None:
            self._score_log.add(
                wall_s=self._clocks.wall(),
                machine_s=window.observed_at_s,
                score=judged.score,
                threshold=judged.threshold,
                release=release,
            )

    def _unjudged(self, unjudged: Unjudged) -> None:
        if self._model_error is not None or unjudged.is_model_error:
            self._counters.inference_errors += 1
            self._installation.on_window(None, 0.0, self._model_error or unjudged.error)
        elif unjudged.error is not None:
            self._counters.source_errors += 1
        if unjudged.error is not None:
            self._complain("window_not_judged", unjudged.error)
        self._vitals.last_score, self._vitals.is_unusable = None, unjudged.error is not None
        self._vitals.state = self._unjudged_state(unjudged)

    def _unjudged_state(self, unjudged: Unjudged) -> AgentState:
        vitals, pipeline = self._vitals, self._pipeline
        if not pipeline.is_watching or unjudged.error is None:
            vitals.unjudged_run = 0
            if not pipeline.has_model:
                return AgentState.WAITING_FOR_RELEASE
            return AgentState.WATCHING if pipeline.is_commissioned else AgentState.COMMISSIONING
        self._counters.unjudged_windows += 1
        vitals.note_judged(is_judged=False)
        vitals.unjudged_reason = unjudged.error
        if vitals.unjudged_run < vitals.blind_after_windows:
            return AgentState.WATCHING
        if vitals.state is not AgentState.BLIND:
            log.warning("blind windows=%d error=%s", vitals.unjudged_run, unjudged.error)
        return AgentState.BLIND

    def _swap_model(self) -> None:
        active = self._installation.active()
        if active is None:
            if self._generation is not None:
                log.warning("release_retired release=%s", self._vitals.release)
                self._generation = self._vitals.release = None
                self._vitals.is_trial = False
                self._pipeline.retire()
            return
        was_trial, self._vitals.is_trial = self._vitals.is_trial, active.is_trial
        if active.generation != self._generation:
            self._generation = active.generation
            self._vitals.latencies.clear()
            try:
                recovered = self._pipeline.adopt(
                    active.bundle.manifest,
                    active.bundle.int8_model,
                    bundle_sha256=active.bundle.sha256,
                    is_trial=active.is_trial,
                    prior=active.bundle.prior,
                )
                self._model_error, self._vitals.release = None, active.release
                log.info("release_adopted release=%s trial=%s", active.release, active.is_trial)
                if recovered is not None:
                    self._report_drift(recovered, active.release, self._last_machine_s or 0.0)
            except ModelError as error:
                self._model_error = f"{active.release} cannot be used: {error}"
                self._complain("release_not_adopted", self._model_error)
        elif was_trial and not active.is_trial:
            log.info("release_committed release=%s", active.release)
            recovered = self._pipeline.commit()
            if recovered is not None:
                self._report_drift(recovered, active.release, self._last_machine_s or 0.0)

    def _tick(self, clock_s: float) -> None:
        wall_s = self._clocks.wall()
        downlink = self._telemetry.receive()
        for invitation in downlink.invitations:
            if invitation is not None and wall_s >= invitation.expires_at:
                log.info("invitation_ignored run=%s reason=expired", invitation.run_id)
            else:
                self._learner.invite(invitation, wall_s)
        for desired in downlink.desired:
            self._installation.submit(desired)
        self._swap_model()
        for acceptance in downlink.normal:
            recovered = self._pipeline.accept_normal(acceptance)
            if recovered is not None:
                self._report_drift(recovered, self._vitals.release or "", self._last_machine_s or 0.0)
        self._pipeline.recommission_if_asked()
        self._posts += self._installation.poll()
        self._counters.training_bytes += self._learner.tick(wall_s)
        self._pipeline.probe_sight(clock_s)
        if self._telemetry.connections != self._connections:
            # The broker may have told the world that this device was lost: contradict it at once.
            self._connections = self._telemetry.connections
            self._reporter.health_now()
        self._posts += self._reporter.due(self._vitals, clock_s, wall_s)
        if self._score_log is not None:
            self._score_log.flush()
        self._send(clock_s, wall_s)

    def _send(self, clock_s: float, wall_s: float) -> None:
        posts, self._posts = [*self._pipeline.take_untold(), *self._posts], []
        self._telemetry.post(posts, wall_s)
        self._pipeline.told()
        self._telemetry.deliver(clock_s)

    def _report_drift(self, verdict: DriftVerdict, release: str, machine_s: float) -> None:
        state = _DRIFT_STATES[verdict.phase] if not verdict.is_further else DriftState.CHANGED
        log.warning("drift_%s release=%s score=%.3g", state.value, release, verdict.score)
        self._posts.append(
            DriftReport(
                release=release,
                state=state,
                drift_score=verdict.score,
                observed_at_s=machine_s,
                windows=verdict.windows,
                findings=verdict.findings,
                severity=verdict.severity,
                shapes=self._pipeline.normal.drift_shapes(),
            )
        )

    def _farewell(self) -> None:
        self._vitals.state = AgentState.STOPPING
        clock_s, wall_s = self._clocks.monotonic(), self._clocks.wall()
        self._counters.training_bytes += self._learner.close(wall_s)
        self._posts += self._installation.poll()
        self._posts += self._reporter.finish(self._vitals, clock_s, wall_s)
        self._posts.append(Death(reason=DeathReason.SHUTDOWN))
        self._pipeline.save()
        if self._score_log is not None:
            self._score_log.flush()
        self._send(clock_s, wall_s)
        self._source.close()

    def _complain(self, event: str, problem: str) -> None:
        # Once per problem: a sensor that fails every window must not fill the log.
        if problem != self._last_problem:
            log.warning("%s error=%s", event, problem)
        self._last_problem = problem


def _anomaly(window: SourceWindow, judged: Judged, opened: Opened, release: str) -> AnomalyEvent:
    raw = np.ascontiguousarray(window.samples, "<f4")
    fits = raw.nbytes <= _WINDOW_BYTES
    return AnomalyEvent(
        release=release,
        score=judged.score,
        threshold=judged.threshold,
        window_index=window.index,
        observed_at_s=window.observed_at_s,
        windows_over=opened.windows_over,
        contributors=judged.contributors,
        episode=judged.episode,
        window=base64.b64encode(raw.tobytes()).decode() if fits else "",
        window_shape=raw.shape if fits else (),
    )
