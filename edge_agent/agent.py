"""The agent's loop: windows in, decisions out, everything else between two windows.

It owns the order of things and nothing else: what to decide is in `pipeline`, what to say in `telemetry`, when to learn
in `learner_supervisor`, what to run in `installation`. Single-threaded; link, installer and poll threads only wake it.

::

    while not stopped:
        window due?   ─► swap model if asked ─► pipeline.observe ─► anomaly, its end, drift
        a tick due?   ─► downlinks ─► install reports ─► learner ─► sight ─► status, health ─► post ─► deliver
        feed the watchdog, sleep until the next window, tick or wake-up

Each arrow is a stage behind the `fence`: nothing that fails in one (disk, broker, learner, installer, a mistake of ours, whatever
was received) keeps the next stage from being done, or the next window from being scored. Only the loop itself feeds the
watchdog (`edge_agent.loop_watch`), and only when it came round.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

import msgspec

from edge_agent.agent_ports import Clocks, Hands
from edge_agent.errors import RestartNeededError, SourceError, SourceSilentError
from edge_agent.fence import Fence
from edge_agent.findings import anomaly_event, drift_report
from edge_agent.health import Vitals
from edge_agent.judgement import Judged, Unjudged
from edge_agent.model_swap import ModelSwap
from edge_agent.pipeline import Pipeline
from edge_agent.reporting import StatusReporter
from edge_agent.score_log import ScoreLog
from edge_agent.shadowing import Shadowing
from edge_agent.sources.port import Source, SourceWindow
from edge_agent.telemetry import Downlink, Telemetry
from models.drift.monitor import DriftVerdict
from models.thresholds import Opened
from protocol.messages.commands import Commands
from protocol.messages.kinds import AgentState, DeathReason
from protocol.messages.payloads import (
    AnomalyClosed,
    AnomalyEvent,
    Birth,
    Death,
    Payload,
    TrainingInvitation,
)

__all__ = ["FAREWELL_S", "Agent"]

log = logging.getLogger(__name__)

TICK_S: Final = 0.25
"""Longest time between two looks at everything that is not a window; a message wakes the loop at once."""
SOURCE_RETRY_S: Final = 5.0
"""After a source failed: long enough to spare the log, short enough to notice a sensor that was plugged in again."""
FAREWELL_S: Final = 2.0
"""How long the last words may take; a device is often stopped because its power is going."""


class Agent:
    """Everything that watches one machine. `step` is one turn; `run` repeats it until `stop`."""

    def __init__(
        self,
        *,
        birth: Birth,
        source: Source,
        pipeline: Pipeline,
        telemetry: Telemetry,
        hands: Hands,
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
            hands: what acts on the fleet's words: which release to run, the training guest, commands.
            reporter: status and health.
            vitals: what the loop writes down of itself; its counters are shared with `telemetry`.
            score_log: every score, or None.
            clocks: time.
        """
        self._pipeline = pipeline
        self._telemetry = telemetry
        self._installation, self._learner, self._executor = hands.installation, hands.learner, hands.executor
        self._vitals = vitals
        self._counters = vitals.counters
        self._model = ModelSwap(hands.installation, pipeline, vitals)
        self._shadowing = Shadowing(hands.installation, pipeline)
        self._birth = birth
        self._source = source
        self._reporter = reporter
        self._score_log = score_log
        self._clocks = clocks
        self._fence = Fence(vitals.counters, clocks.monotonic)
        self._is_stopped = False
        self._posts: list[Payload] = []
        self._next_tick_s = self._source_retry_s = float("-inf")
        self._last_machine_s: float | None = None
        self._connections = 0
        self._last_problem = ""
        self._source_ended = False

    def stop(self) -> None:
        """End `run` after the present turn; safe from a signal handler."""
        self._is_stopped = True

    def run(self) -> None:
        """Watch until stopped, then say goodbye.

        Raises:
            RestartNeededError: the goodbye is said, and the supervisor shall start another process.
        """
        self._fence.attempt("start", partial(self._reporter.begin, self._vitals), None)
        self._fence.attempt("model swap", self._swap_model, None)
        self._posts.append(msgspec.structs.replace(self._birth, release=self._vitals.release))
        try:
            while not self._is_stopped:
                if self._clocks.wait(self.step()):
                    self._next_tick_s = float("-inf")
                self._clocks.came_round()
        except RestartNeededError as error:
            log.error("agent_gives_up reason=%s", error)  # noqa: TRY400 - one line, it is no mistake of this line
            self._farewell()
            raise
        self._farewell()

    def step(self) -> float:
        """One turn: at most one window and what is due besides.

        Returns:
            Seconds until there is something to do again, ≥ 0.

        Raises:
            RestartNeededError: see `run`.
        """
        clock_s = self._clocks.monotonic()
        window = self._next_window(clock_s) if clock_s >= self._source_retry_s else None
        if window is not None:
            self._watch(window)
        if self._posts or clock_s >= self._next_tick_s:
            self._next_tick_s = clock_s + TICK_S
            self._tick(clock_s)
        slack_s = self._source.next_due_s - self._clocks.monotonic()
        self._fence.run("shadowing", partial(self._shadowing.turn, clock_s, slack_s), None)
        due_s = max(self._source.next_due_s, self._source_retry_s)
        if due_s == float("inf") and not self._source_ended:
            log.warning(
                "source_ended windows=%d: the agent stays for updates and training", self._counters.windows
            )
            self._source_ended = True
        return max(0.0, min(due_s, self._next_tick_s) - self._clocks.monotonic())

    def _next_window(self, clock_s: float) -> SourceWindow | None:
        vitals = self._vitals
        try:
            window = self._source.next_window(clock_s)
        except RestartNeededError:
            raise
        except SourceSilentError as error:
            vitals.note_no_window(str(error), clock_s)
            return None
        except Exception as error:  # noqa: BLE001 - a sensor that fails in any way is a sensor that fails
            self._counters.source_errors += 1
            self._source_retry_s = clock_s + SOURCE_RETRY_S
            told = str(error) if isinstance(error, SourceError) else f"{type(error).__name__}: {error}"
            vitals.note_no_window(told, clock_s)
            self._complain("source_failed", told)
            return None
        if window is not None and vitals.source_problem:
            log.warning("source_delivers_again after_s=%.0f", clock_s - vitals.source_problem_since_s)
            vitals.source_problem = ""
        return window

    def _watch(self, window: SourceWindow) -> None:
        """Judge a window, and take the consequences: each behind the fence."""
        self._fence.attempt("model swap", self._swap_model, None)
        self._fence.attempt("count", partial(self._count, window), None)
        judgement = self._fence.run_always("judging", partial(self._pipeline.observe, window), None)
        if isinstance(judgement, Judged):
            self._fence.attempt("judgement", partial(self._judged, window, judgement), None)
        else:
            # A release on trial is to blame for what nobody expected: the one before judged.
            unjudged = judgement or Unjudged(
                error=f"judging failed: {self._fence.reason('judging')}", is_model_error=self._vitals.is_trial
            )
            self._fence.attempt("judgement", partial(self._unjudged, unjudged), None)

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
        vitals.interval.note(judged.score, judged.threshold)
        if judged.is_over:
            self._counters.windows_over_threshold += 1
            vitals.interval.over += 1
        if isinstance(judged.alarm, Opened):
            self._counters.anomalies += 1
            self._posts.append(anomaly_event(window, judged, judged.alarm, release))
        self._tell_drift(judged.drift)
        # The alarm is posted by now: what follows may fail.
        self._shadowing.see(judged)
        if self._model.error is None:
            self._installation.on_window(judged.score, judged.latency_us)
        else:
            # The release before goes on judging, but the one to be tried does not work here.
            self._counters.inference_errors += 1
            self._installation.on_window(None, 0.0, self._model.error)
        if self._score_log is not None:
            self._score_log.add(
                wall_s=self._clocks.wall(),
                machine_s=window.observed_at_s,
                score=judged.score,
                threshold=judged.threshold,
                release=release,
                episode=judged.episode,
            )

    def _unjudged(self, unjudged: Unjudged) -> None:
        if self._model.error is not None or unjudged.is_model_error:
            self._counters.inference_errors += 1
            self._installation.on_window(None, 0.0, self._model.error or unjudged.error)
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
        self._tell_drift(self._model.look())

    def _tell_drift(self, verdict: DriftVerdict | None) -> None:
        if verdict is not None:
            normal, machine_s = self._pipeline.normal, self._last_machine_s or 0.0
            self._posts.append(
                drift_report(
                    verdict,
                    self._vitals.release or "",
                    machine_s,
                    normal.drift.shapes(),
                    is_accepted=normal.is_drift_accepted,
                )
            )

    def _tick(self, clock_s: float) -> None:
        wall_s, attempt, run = self._clocks.wall(), self._fence.attempt, self._fence.run
        downlink = run("downlinks", partial(self._telemetry.receive, clock_s), Downlink())
        for invitation in downlink.invitations:
            attempt("invitation", partial(self._invite, invitation, wall_s), None)
        for desired in downlink.desired:
            self._posts += attempt("desired release", partial(self._installation.submit, desired), [])
        run("model swap", self._swap_model, None)
        attempt("commands", partial(self._obey, downlink.commands), None)
        run("recommissioning", self._pipeline.recommission_if_asked, None)
        self._posts += run("install reports", self._installation.poll, [])
        self._counters.training_bytes += run("learner", partial(self._learner.tick, wall_s), 0)
        run("sight", partial(self._pipeline.probe_sight, clock_s), None)
        if self._telemetry.connections != self._connections:
            # The broker may have told the world that this device was lost: contradict it at once.
            self._connections = self._telemetry.connections
            self._reporter.health_now()
        self._vitals.stage_problems = tuple(self._fence.problems())
        self._posts += run("status", partial(self._reporter.due, self._vitals, clock_s, wall_s), [])
        if self._score_log is not None:
            run("score log", self._score_log.flush, None)
        self._send(clock_s)

    def _invite(self, invitation: TrainingInvitation | None, wall_s: float) -> None:
        self._learner.invite(invitation, wall_s)

    def _obey(self, messages: tuple[Commands, ...]) -> None:
        self._posts += self._executor.hear(messages)
        self._posts += self._executor.turn()
        for recovered in self._executor.take_recovered():
            self._tell_drift(recovered)

    def _send(self, clock_s: float) -> None:
        attempt, post = self._fence.attempt, self._telemetry.post
        untold: list[AnomalyEvent | AnomalyClosed] = []
        posts, self._posts = [*attempt("anomalies", self._pipeline.take_untold, untold), *self._posts], []
        if not attempt("outbox", lambda: post(posts) is None, otherwise=False):
            for payload in posts:  # one of them is at fault: the others shall not wait for it
                attempt("event", partial(post, [payload]), None)
        attempt("memory of anomalies", self._pipeline.told, None)
        attempt("memory of commands", self._executor.told, None)
        self._fence.run("delivery", partial(self._telemetry.deliver, clock_s), None)

    def _farewell(self) -> None:
        vitals, attempt = self._vitals, self._fence.attempt
        vitals.state = AgentState.STOPPING
        clock_s, wall_s = self._clocks.monotonic(), self._clocks.wall()
        self._counters.training_bytes += attempt("learner", partial(self._learner.close, wall_s), 0)
        self._posts += attempt("install reports", self._installation.poll, [])
        self._posts += attempt("status", partial(self._reporter.finish, vitals, clock_s, wall_s), [])
        self._posts.append(Death(reason=DeathReason.SHUTDOWN))
        attempt("state", self._pipeline.save, None)
        if self._score_log is not None:
            attempt("score log", self._score_log.flush, None)
        attempt("sending", partial(self._send, clock_s), None)
        attempt("source", self._source.close, None)

    def _complain(self, event: str, problem: str) -> None:
        # Once per problem: a sensor that fails every window must not fill the log.
        if problem != self._last_problem:
            log.warning("%s error=%s", event, problem)
        self._last_problem = problem
