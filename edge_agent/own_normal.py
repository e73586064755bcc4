"""What this device calls normal: who judges it and by what threshold, its drift reference, and whose word it has for either.

A release brings a network with a threshold, or what its fleet knows; a device makes its own judge of it and of its own
rows, and fits a drift reference on them, when the release is committed. Rows of an alarm, or of a drift that no person has looked
into, are never among them (`edge_agent.kept_rows`); a release that is committed while such a drift goes on owes its
reference until the drift is accepted or over, because one of older rows would only find the same drift once more.

::

    adopted ─► settle ─┬─ on trial, or known: the judge alone
                       └─ else: commit ─► judge, and reference unless a drift is under investigation
    accepted ─► rows may be learnt ─► the reference that was owed
    at the horizon of what was promised ─┬─ twice as many rows as then ─► another judge of them; the reference stays
                                         └─ kept, and no drift ─► the promise goes on

A judge that is fitted again follows what creeps; the drift reference does not, and so finds it: then nothing is fitted.
It is fitted again while rows double, and not for ever. Rows over the threshold are never among them, so that
each fit would see a calmer machine than there is, and would promise a little more than it keeps.

Invariants: a model on trial changes nothing that is remembered; the judge in force is that of the release that runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from edge_agent.commissioning import Commissioning, StandardisedRow
from edge_agent.detection_memory import DetectionMemory
from edge_agent.fitting import (
    FEWEST_ROWS,
    MOST_ROWS,
    Fit,
    RunningRelease,
    fit_judge,
    fit_monitor,
    network_judge,
)
from edge_agent.judges import Judge, MixtureJudge
from edge_agent.kept_promise import KeptPromise, Realised
from edge_agent.kept_rows import KeptRows
from edge_agent.settings import DetectionSettings
from models.detection.promise import AlarmBudget
from models.drift.monitor import DriftPhase, DriftSettings, DriftVerdict
from models.sensors import SensorView
from models.thresholds import PersonalThreshold
from protocol.messages.payloads import SensorShape

__all__ = ["OwnNormal"]

log = logging.getLogger(__name__)

Float = NDArray[np.float32]


class OwnNormal:
    """Judge and drift of one device. One thread.

    Args:
        sensors: what a row speaks of.
        settings: limits.
        memory: what survives a restart.
        rows: the rows that may be learnt.
        scale: in which they are.
        wall: Unix seconds.

    Attributes:
        judge: the one in force; None while there is no model to judge with.
        is_drifted: the machine is not where its reference was taken.
    """

    def __init__(
        self,
        sensors: SensorView,
        settings: DetectionSettings,
        memory: DetectionMemory,
        rows: KeptRows,
        scale: Commissioning,
        wall: Callable[[], float],
    ) -> None:
        self._sensors, self._settings, self._memory = sensors, settings, memory
        self._rows, self._scale, self._wall = rows, scale, wall
        self._rules = settings.alarm_rules
        self._drift_settings = DriftSettings(run_length=settings.drift_run_length)
        self._drift = memory.load_drift(sensors.watched, self._drift_settings)
        self.is_drifted = self._drift is not None and self._drift.is_away
        self._told = self._drift_state()
        self.judge: Judge | None = None
        self._realised = Realised()
        self._note_accepted()

    @property
    def threshold(self) -> PersonalThreshold | None:
        """The one in force; None while there is no model to have one."""
        return self.judge.threshold if self.judge is not None else None

    @property
    def promise(self) -> KeptPromise | None:
        """What is promised of false alarms, and what came of it; None where a network judges, which promises nothing."""
        if not isinstance(self.judge, MixtureJudge):
            return None
        return KeptPromise(promise=self.judge.promise, realised=self._realised)

    @property
    def is_investigating(self) -> bool:
        """Is there drift that no person has called normal?"""
        return self.is_drifted and not self._memory.remembered.is_drift_accepted

    def drift_score(self) -> float:
        """Largest statistic ÷ threshold over all detectors, and at least 1 until the machine is back; 0 without a reference."""
        score = self._drift.verdict().score if self._drift is not None else 0.0
        return max(score, 1.0) if self.is_drifted else score

    @property
    def drift_severity(self) -> float | None:
        """How far from its reference the machine has come to rest, in standard deviations; None where it has not."""
        return self._drift.verdict().severity if self._drift is not None else None

    def drift_shapes(self) -> tuple[SensorShape, ...]:
        """PSI and KS of the sensors whose distribution differs most; empty without a reference."""
        return self._drift.shapes() if self._drift is not None else ()

    def problems(self, release: RunningRelease | None) -> list[str]:
        """What a person should know of release and promise, a sentence each, or empty."""
        return [self._misfit(release) if release is not None else "", self._promise_problem()]

    def _misfit(self, release: RunningRelease) -> str:
        """Were most of this machine's windows anomalies to the release when it was committed?"""
        known, threshold = self._memory.remembered, self.threshold
        if threshold is None or known.bundle_sha256 != release.bundle_sha256:
            return ""
        if 2 * threshold.fitted_on >= known.scored:
            return ""
        name = release.manifest.release
        return f"{name} does not fit this machine: {threshold.fitted_on} of {known.scored} windows usable"

    def _promise_problem(self) -> str:
        """Should a person see to the promise?"""
        promise = self.promise
        if promise is None:
            return ""
        if not promise.is_kept:
            return f"more alarms than promised; if they were false, fedge-agent recommission ({promise.text})"
        if promise.horizon_left == 0 and self.is_investigating:
            return (
                "what was promised of false alarms held until the drift: mend the machine, or call it normal"
            )
        if isinstance(self.judge, MixtureJudge) and (unheard := self.judge.unheard):
            return unheard
        return ""

    def settle(self, release: RunningRelease) -> DriftVerdict | None:
        """Find the judge for a release just adopted, and a reference where it is committed but has none yet.

        Returns:
            As `commit`.
        """
        kept = self._kept_judge(release)
        if kept is not None and (release.is_trial or self._drift is not None):
            known = self._memory.remembered
            is_same = kept.threshold == known.threshold
            self._put_in_force(kept, replace(known.realised) if is_same else Realised())
            if not is_same and not release.is_trial:  # another budget than when it was kept
                self._remember_judge(release.bundle_sha256, kept)
        elif release.is_trial:
            self._put_in_force(self._fit(release).judge, Realised())
        else:
            return self.commit(release)
        return None

    def commit(self, release: RunningRelease) -> DriftVerdict | None:
        """The release has proved itself: its normal becomes this device's normal.

        Returns:
            The verdict of the renewed monitor if drift was reported before: it has ended.
        """
        is_owed = self.is_investigating
        fit = self._learn(release, is_reference_owed=is_owed)
        if is_owed:
            return None
        monitor = fit_monitor(self._sensors, fit, self._drift_settings)
        if monitor is None:  # the old reference, if any, stays
            return None
        self._drift = monitor
        self._told = self._drift_state()
        self._memory.save_drift(monitor)
        if not self.is_drifted:
            return None
        self._note_drift(is_drifted=False)
        return monitor.verdict()

    def note(self, alarm_windows: int) -> None:
        """A window was judged; so many windows the alarm has that it is in, 0 outside one."""
        self._realised.note(alarm_windows, self._rules)

    def keep_promise(self, release: RunningRelease) -> bool:
        """Between alarms: at the horizon of a committed release's promise, learn anew or go on; returns whether another judge is in force."""
        judge = self.judge
        if release.prior is None or self.is_investigating:
            return False
        if isinstance(judge, MixtureJudge) and self._realised.elapsed < judge.promise.horizon_windows:
            return False  # nearly always
        promise = self.promise
        fitted_on = promise.promise.fitted_on if promise is not None else FEWEST_ROWS // 2
        if min(self._rows.learnable, MOST_ROWS) >= 2 * fitted_on:
            self._learn(release, is_reference_owed=self._memory.remembered.is_reference_owed)
            return True
        if promise is not None and promise.is_kept:
            self._realised.elapsed = 0
        return False

    def set_budget(self, budget: AlarmBudget, release: RunningRelease | None) -> str:
        """Keep another budget from the next window on, with nothing forgotten but what was counted against the promise before.

        The threshold moves along the curve that was kept; another shortest event is another detector, fitted on the rows that
        may be learnt.

        Returns:
            Why not, in a sentence: most values could open no alarm any more. Then all stays as it was.
        """
        before, judge = self._settings, self.judge
        if budget == before.budget:
            return ""
        self._settings = replace(before, budget=budget)
        if release is None or not isinstance(judge, MixtureJudge):
            return ""  # a network promises nothing, and what is fitted later keeps this budget
        if budget.shortest_event_windows == before.budget.shortest_event_windows:
            renewed: Judge = judge.with_budget(budget)
        else:
            renewed = self._fit(release).judge
        if isinstance(renewed, MixtureJudge) and renewed.unheard and not judge.unheard:
            self._settings = before
            return renewed.unheard
        self._put_in_force(renewed, Realised())
        if not release.is_trial:
            self._remember_judge(release.bundle_sha256, renewed)
        return ""

    def accept(self, until_s: float, release: RunningRelease | None) -> DriftVerdict | None:
        """Windows set aside up to `until_s` are normal, says a person: they may be learnt. Said again, it changes nothing.

        Returns:
            As `commit`, where one had to wait for this word.
        """
        known = self._memory.remembered
        # Remembered first: after a power cut `KeptRows` finishes what was begun.
        self._memory.remember(
            accepting_until_s=until_s,
            is_drift_accepted=known.is_drift_accepted or (self.is_drifted and known.drift_since_s <= until_s),
        )
        moved = self._rows.accept(until_s)
        self._note_accepted()
        log.info("normal_accepted until_s=%.0f windows=%d", until_s, moved)
        if release is None or release.is_trial or self.is_investigating:
            return None
        if known.is_reference_owed:
            return self.commit(release)
        if moved and release.prior is not None:  # a person's word is worth as much as twice the rows
            self._learn(release, is_reference_owed=False)
        return None

    def begin_anew(self, rows: list[StandardisedRow], release: RunningRelease | None) -> None:
        """The scale is another: what was learnt in the one before means nothing; these rows, oldest first, are normal."""
        self._rows.restart(rows)
        # If drift was reported, the monitor that begins now says with its first window that it has ended.
        was_drifted, self.is_drifted, self._drift = self.is_drifted, False, None
        self._told = self._drift_state()
        self._memory.remember(drift_since_s=0.0, is_drift_accepted=False, detector_sha256="")
        if release is not None and release.is_trial:
            self._put_in_force(self._fit(release).judge, Realised())
        elif release is not None:
            self.commit(release)
        self.is_drifted = was_drifted and self._drift is not None

    def watch(self, columns: Float, score: float, release: RunningRelease) -> DriftVerdict | None:
        """Look for drift in one window's watched columns, scored by `release`; the verdict if it turned with it.

        A reference that a release owes since drift stood in its way is paid when that ends by itself: a sensor was mended.
        """
        if self._drift is None:
            return None
        self._drift.update(columns, score)
        if self._drift_state() == self._told and self._drift.is_away == self.is_drifted:
            return None
        self._told = self._drift_state()
        if self._drift.is_away != self.is_drifted:
            self._note_drift(is_drifted=self._drift.is_away)
        verdict = self._drift.verdict()
        if not self.is_drifted and self._memory.remembered.is_reference_owed:
            self.commit(release)
        return verdict

    def save(self) -> None:
        """Let the drift monitor's state survive a restart."""
        if self._drift is not None:
            self._memory.save_drift(self._drift)

    @property
    def remembered(self) -> dict[str, object]:
        """What of the committed release's judge shall survive a kill now."""
        if not isinstance(self.judge, MixtureJudge):
            return {}
        return {"realised": replace(self._realised), "time_scales": self.judge.scales.state}

    def recent_rows(self) -> Float:
        """The newest rows (n, F) that may be learnt, as many as make a reference."""
        return self._rows.newest(self._settings.reference_windows)

    def _drift_state(self) -> tuple[DriftPhase, int]:
        drift = self._drift
        return (DriftPhase.HOME, 0) if drift is None else (drift.phase, drift.reports)

    def _note_drift(self, *, is_drifted: bool) -> None:
        self.is_drifted = is_drifted
        self._memory.remember(drift_since_s=self._wall() if is_drifted else 0.0, is_drift_accepted=False)

    def _note_accepted(self) -> None:
        if not self._rows.is_accepting:
            self._memory.remember(accepting_until_s=0.0)

    def _kept_judge(self, release: RunningRelease) -> Judge | None:
        """The judge of a release that was committed here, as it was; None: fit one."""
        known = self._memory.remembered
        if known.bundle_sha256 != release.bundle_sha256 or known.threshold is None:
            return None
        if known.detector_sha256:
            return self._memory.load_detector(release.bundle_sha256, self._settings)
        return network_judge(release, known.threshold, self._settings)

    def _fit(self, release: RunningRelease) -> Fit:
        rows = self.recent_rows() if release.prior is None else self._rows.newest(MOST_ROWS)
        return fit_judge(release, rows, self._scale.units, self._settings)

    def _learn(self, release: RunningRelease, *, is_reference_owed: bool) -> Fit:
        """Fit a committed release's judge on the newest rows, and remember it; what came of the promise before is told."""
        if (before := self.promise) is not None and before.realised.windows:
            log.info("promise_ended %s", before.text)
        if release.prior is not None:
            self._scale.take_fleet_scale(release.prior.scale)
        fit = self._fit(release)
        judge = fit.judge
        self._put_in_force(judge, Realised())
        self._memory.remember(
            bundle_sha256=release.bundle_sha256,
            threshold=judge.threshold,
            scored=fit.scored,
            is_reference_owed=is_reference_owed,
            detector_sha256=self._memory.save_detector(judge, release.bundle_sha256, self._settings)
            if isinstance(judge, MixtureJudge)
            else "",
            realised=Realised(),
            time_scales=(),
        )
        return fit

    def _remember_judge(self, bundle_sha256: str, judge: Judge) -> None:
        """Another threshold of a committed release, in force from now on."""
        if isinstance(judge, MixtureJudge):
            sha256 = self._memory.save_detector(judge, bundle_sha256, self._settings)
            self._memory.remember(
                threshold=judge.threshold,
                detector_sha256=sha256,
                realised=Realised(),
                time_scales=judge.scales.state,
            )

    def _put_in_force(self, judge: Judge, realised: Realised) -> None:
        self.judge, self._realised = judge, realised
        self._rows.depth = judge.builds_up_windows
