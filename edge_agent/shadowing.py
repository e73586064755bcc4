"""A candidate judges the same live windows as the release that runs, in the time between them, and is compared with it.

::

    candidate ─► prepared in a thread ─► window: champion judges ─► time left? ─┬─ yes ─► candidate judges ─┬─► `Tally`
                                                                                └─ no ──► skipped           │
                                               now and then both judge it disturbed, too ◄──────────────────┘
    as many as were asked for ─► verdict          no window to compare for long ─► deferred, and given up in the end

It runs after everything that a window asks for is done, and only where several times what it takes are left before the
next is due: no window waits for it. Only calm windows are compared, for what a model says of an anomaly is no measure of
its false alarms. It changes nothing that detection knows.

What is counted and how it is judged: `edge_agent.installation.comparison`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.agent_ports import Installation
from edge_agent.installation.active import ActiveRelease
from edge_agent.installation.comparison import ShadowLimits, Tally
from edge_agent.judgement import Judged
from edge_agent.judges import Judge
from edge_agent.pipeline import Pipeline
from edge_agent.preparation import Preparation
from models.sight import disturb_each
from models.standardiser import CLIP
from protocol.messages.kinds import ShadowOutcome
from protocol.messages.payloads import ShadowReport

__all__ = ["Shadowing"]

Float = NDArray[np.float32]

log = logging.getLogger(__name__)

_SPARE: Final = 4.0
"""So many times the candidate's cost must be left before the next window: it is judged twice, and the rest is for surprises."""
_PLAINER: Final = np.float32(3.0)
_NO_WINDOWS: Final = "no window could be judged"
_BUSY_WINDOWS: Final = 20
"""Windows in a row without time for a second judge that show that there will be none."""
_EASING: Final = 0.9
"""With each window the cost is forgotten by so much: a judgement that something interrupted must not be the measure for ever."""


class Shadowing:
    """The comparison under way, if there is one. The loop's thread only.

    Args:
        installation: names the candidate, and is told what came of it.
        pipeline: judges for the champion.
        limits: see `ShadowLimits`.
        timer: seconds, for what a judgement costs.
    """

    def __init__(
        self,
        installation: Installation,
        pipeline: Pipeline,
        limits: ShadowLimits | None = None,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._installation, self._pipeline = installation, pipeline
        self._limits, self._timer = limits or ShadowLimits(), timer
        self._candidate: ActiveRelease | None = None
        self._run: _Run | None = None
        self._latest: Judged | None = None
        self._since_s = 0.0
        self._has_said = self._is_over = False

    def see(self, judged: Judged) -> None:
        """The champion has judged a window."""
        if self._run is not None:
            self._latest = judged

    def turn(self, clock_s: float, slack_s: float) -> None:
        """Go on with the comparison.

        Args:
            clock_s: monotonic seconds.
            slack_s: until the next window is due; below 0 the loop is late already.
        """
        candidate = self._installation.candidate()
        if candidate is not self._candidate:
            self._candidate, self._run, self._latest = candidate, None, None
            self._since_s, self._has_said, self._is_over = clock_s, False, False
        if self._candidate is None or self._is_over:
            return
        if self._run is None:
            self._begin(self._candidate, clock_s)
            return
        latest, self._latest = self._latest, None
        told = self._run.turn(latest, clock_s, slack_s)
        if told is not None:
            self._tell(told)

    def _begin(self, candidate: ActiveRelease, clock_s: float) -> None:
        """Begin as soon as there is somebody to compare it with: while a device commissions, nobody judges."""
        pipeline, champion = self._pipeline, self._installation.active()
        waited_s, limits = clock_s - self._since_s, self._limits
        if champion is not None and pipeline.is_watching:
            normal, sensors = pipeline.normal, len(candidate.bundle.manifest.features.names)
            self._run = _Run(
                Tally(champion.release, candidate.release, limits, sensors),
                pipeline,
                normal.fitter.prepare(candidate.bundle, normal.settings, normal.drift.settings),
                limits,
                self._timer,
                clock_s,
            )
            return
        why = (
            "no release judges here" if pipeline.is_commissioned else "this machine's scale is not known yet"
        )
        if champion is None or waited_s >= limits.give_up_after_s:
            note = f"{why}: there is nothing to compare it with"
            self._tell(ShadowReport(outcome=ShadowOutcome.SKIPPED, note=note))
        elif waited_s >= limits.deferred_after_s and not self._has_said:
            self._has_said = True
            self._tell(f"{why}: the comparison with the release that runs waits")

    def _tell(self, told: ShadowReport | str) -> None:
        if self._candidate is None:
            return
        self._installation.on_shadow(self._candidate.ref.sha256, told)
        if isinstance(told, ShadowReport):
            self._run, self._is_over = None, True
            log.info(
                "shadowing_ended release=%s outcome=%s %s",
                self._candidate.release,
                told.outcome.value,
                told.note,
            )


class _CandidateError(Exception):
    """The candidate could not judge."""


class _Run:
    """One candidate's comparison since `clock_s`; `turn` gives its end, or once, a sentence, why it waits."""

    def __init__(
        self,
        tally: Tally,
        pipeline: Pipeline,
        preparation: Preparation,
        limits: ShadowLimits,
        timer: Callable[[], float],
        clock_s: float,
    ) -> None:
        self._tally, self._pipeline, self._preparation = tally, pipeline, preparation
        self._limits, self._timer = limits, timer
        self._started_s = self._compared_s = clock_s
        self._judge: Judge | None = None
        self._cost_s = 0.0
        self._probes = 0
        self._busy = self._unlike = 0
        self._has_said = False
        self._in_the_way = _NO_WINDOWS

    def turn(self, latest: Judged | None, clock_s: float, slack_s: float) -> ShadowReport | str | None:
        if self._judge is None:
            return self._take_up(clock_s)
        try:
            if latest is not None and self._has_time(latest, slack_s):
                self._compare(latest, self._judge)
                self._compared_s, self._in_the_way, self._busy = clock_s, _NO_WINDOWS, 0
        except _CandidateError as error:
            return self._tally.failed(str(error))
        silent_s = clock_s - self._compared_s
        return self._end(clock_s - self._started_s, silent_s) or self._wait(silent_s)

    def _take_up(self, clock_s: float) -> ShadowReport | None:
        """Wait until the candidate is ready."""
        done, error = self._preparation.done, self._preparation.error
        if done is not None:
            self._judge, self._cost_s = done.fit.judge, done.cost_s
            self._pipeline.normal.fitter.take(done)
            self._started_s = self._compared_s = clock_s
        elif not error and clock_s - self._started_s >= self._limits.ready_within_s:
            error = f"it was not ready within {self._limits.ready_within_s:.0f} s"
        return self._tally.failed(error) if error else None

    def _end(self, waited_s: float, silent_s: float) -> ShadowReport | None:
        limits, tally = self._limits, self._tally
        if (
            tally.is_full
            or waited_s >= limits.give_up_after_s
            or self._unlike >= limits.unlike_windows
            or (self._busy >= _BUSY_WINDOWS and silent_s >= limits.busy_after_s)
        ):
            return tally.verdict(self._in_the_way)
        return None

    def _wait(self, silent_s: float) -> str | None:
        if silent_s < self._limits.deferred_after_s or self._has_said:
            return None
        self._has_said = True
        return f"{self._in_the_way} for {silent_s:.0f} s: the comparison with the release that runs waits"

    def _has_time(self, latest: Judged, slack_s: float) -> bool:
        """Is the window calm, and is there time to judge it twice more?"""
        if not latest.is_calm:
            self._in_the_way = "an anomaly or a drift goes on"
            self._unlike += 1
            return False
        if slack_s < _SPARE * self._cost_s:
            self._tally.skipped += 1
            self._busy += 1
            self._cost_s *= _EASING
            self._in_the_way = "there is no time for a second judge"
            return False
        return True

    def _compare(self, latest: Judged, judge: Judge) -> None:
        """Judge a window by the candidate, too, and where nothing is wrong with it, disturbed once more by both."""
        started = self._timer()
        seen = judge.see(latest.row, latest.machine_s)
        statistic = _asked(lambda: judge.judge(seen)[0])
        taken_s = self._timer() - started
        self._cost_s = max(taken_s, _EASING * self._cost_s)
        is_over = not statistic <= judge.threshold.value
        self._tally.add(
            scores=(latest.score, statistic),
            over=(latest.is_over, is_over),
            latencies_us=(latest.latency_us, taken_s * 1e6),
        )
        champion = self._pipeline.normal.judge
        if latest.is_over or champion is None or self._is_champion_provisional:
            return
        shift = self._disturbed(latest.seen) - latest.seen
        self._probes += 1
        is_seen = not champion.probe(_shifted(latest.seen, shift)) <= champion.threshold.value
        if not is_seen:  # what the champion does not see either is no measure: something plainer, then
            shift = _PLAINER * shift
            is_seen = not champion.probe(_shifted(latest.seen, shift)) <= champion.threshold.value
        also_seen = not _asked(lambda: judge.probe(_shifted(seen, shift))) <= judge.threshold.value
        self._tally.add_probe(champion_sees=is_seen, candidate_sees=also_seen)

    @property
    def _is_champion_provisional(self) -> bool:
        """Is the champion's level one that this device's windows do not support? It sees more because it promises less."""
        kept = self._pipeline.normal.promise
        return kept is not None and kept.promise.is_provisional

    def _disturbed(self, row: Float) -> Float:
        disturbed: Float = disturb_each(row[None, :], sensors=self._tally.sensors, first=self._probes)[0]
        return disturbed


def _shifted(row: Float, shift: Float) -> Float:
    shifted: Float = np.clip(row + shift, -CLIP, CLIP)
    return shifted


def _asked(judge: Callable[[], float]) -> float:
    try:
        statistic = judge()
    except Exception as error:  # noqa: BLE001 - whatever a candidate does is its failure, and never the loop's
        raise _CandidateError(f"{type(error).__name__}: {error}") from None
    if not math.isfinite(statistic):
        raise _CandidateError(f"it gave the score {statistic}; a score is a finite number")
    return statistic
