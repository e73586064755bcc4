"""What this device calls normal: who judges it and by what threshold, its drift reference, and whose word it has for either.

A release brings a network with a threshold, or what its fleet knows; a device makes its own judge of it and of its own
rows, and fits a drift reference on them, when the release is committed. Rows of an alarm, or of a drift that no person has looked
into, are never among them (`edge_agent.kept_rows`); a release that is committed while such a drift goes on owes its
reference until the drift is accepted or over, because one of older rows would only find the same drift once more.

::

    adopted ─► settle ─┬─ on trial, or known: the judge alone
                       └─ else: commit ─► judge, and reference unless a drift is under investigation
    accepted ─► rows may be learnt ─► the reference that was owed
    at the horizon of what was promised ─┬─ twice as many rows as then, or a week of a cycle ─► another judge of them
                                         └─ kept, and no drift ─► the promise goes on

A judge that is fitted again follows what creeps; the drift reference does not, and finds it: then nothing is fitted. Both see rows
in one context (`edge_agent.context_search`), found with a reference; another one takes another reference. It is fitted again
while rows double, and not for ever: without rows over the threshold each fit sees a calmer machine than there is.

Invariants: a model on trial changes nothing that is remembered; the judge in force is that of the release that runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from edge_agent.commissioning import Commissioning, StandardisedRow
from edge_agent.context_search import ContextSearch
from edge_agent.detection_memory import DetectionMemory
from edge_agent.drift_watch import DriftWatch
from edge_agent.fitting import (
    FEWEST_ROWS,
    MOST_ROWS,
    Fit,
    RunningRelease,
    kept_judge,
)
from edge_agent.judge_in_force import JudgeInForce
from edge_agent.judges import Judge, MixtureJudge
from edge_agent.kept_promise import Realised
from edge_agent.kept_rows import KeptRows
from edge_agent.live_context import as_seen
from edge_agent.normal_problems import broken_promise, misfit, unknown_regime
from edge_agent.preparation import Fitter
from edge_agent.settings import DetectionSettings
from edge_agent.unknown_regimes import UnknownRegimes
from models.detection.promise import AlarmBudget
from models.drift.monitor import DriftSettings, DriftVerdict
from models.sensors import SensorView

__all__ = ["OwnNormal"]

log = logging.getLogger(__name__)

Float = NDArray[np.float32]


class OwnNormal(JudgeInForce):
    """Judge and drift of one device. One thread.

    Args:
        sensors: what a row speaks of.
        settings: limits.
        memory: what survives a restart.
        rows: the rows that may be learnt.
        scale: in which they are.
        wall: Unix seconds.

    Attributes:
        drift: what is watched for it.
        is_drifted: the machine is not where its reference was taken.
        fitter: fits what judges.
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
        super().__init__(memory, settings)
        self._rows, self._scale, self._wall = rows, scale, wall
        self._rules = settings.alarm_rules
        self.drift = DriftWatch(sensors, DriftSettings(run_length=settings.drift_run_length), memory)
        self.is_drifted, self._told = self.drift.is_away, self.drift.state
        self._search = ContextSearch(memory, rows, settings.period_s, most_rows=MOST_ROWS, wall=wall)
        self.fitter = Fitter(memory, rows, scale, self._search)
        self._unknown = UnknownRegimes(memory, len(sensors.watched))
        self._note_accepted()

    @property
    def is_investigating(self) -> bool:
        """Is there drift that no person has called normal?"""
        return self.is_drifted and not self.is_drift_accepted

    @property
    def is_drift_accepted(self) -> bool:
        """Has a person called normal where the machine drifted to, since this release was committed?"""
        return self._memory.remembered.is_drift_accepted

    @property
    def is_calm(self) -> bool:
        """Is the machine at none but known levels, and without a drift that nobody has called normal?"""
        return not (self.is_investigating or self.is_in_unknown_regime)

    def drift_score(self) -> float:
        """Largest statistic ÷ threshold over all detectors, and at least 1 until the machine is back; 0 without a reference."""
        return max(self.drift.score, 1.0) if self.is_drifted else self.drift.score

    def problems(self, release: RunningRelease | None) -> list[str]:
        """What a person should know of release and promise, a sentence each, or empty."""
        known, judge = self._memory.remembered, self.judge
        is_unknown = self.is_in_unknown_regime or (self.drift.is_resting and self.is_investigating)
        return [
            misfit(release, known, self.threshold) if release is not None else "",
            unknown_regime(known, self._rows.set_aside) if is_unknown else "",
            broken_promise(self.promise, is_investigating=self.is_investigating)
            or (judge.unheard if isinstance(judge, MixtureJudge) else ""),
            known.profile_lost,
        ]

    def settle(self, release: RunningRelease) -> DriftVerdict | None:
        """Find the judge for a release just adopted, and a reference where it is committed but has none yet.

        Returns:
            As `commit`.
        """
        kept = kept_judge(release, self._memory, self.settings)
        # Detector and reference differ in their context where the power went between the one and the other.
        if kept is not None and (release.is_trial or self.drift.is_pair(kept)):
            known = self._memory.remembered
            is_same = kept.threshold == known.threshold
            self._put_in_force(kept, replace(known.realised) if is_same else Realised())
            if not is_same and not release.is_trial:  # another budget than when it was kept
                self._remember_judge(release.bundle_sha256, kept)
        elif release.is_trial:
            self._put_in_force(self._fit(release, finds_context=self.judge is None).judge, Realised())
        elif release.bundle_sha256 == self._memory.remembered.bundle_sha256:
            return self._commit_again(release)
        else:
            return self.commit(release)
        return None

    def commit(self, release: RunningRelease) -> DriftVerdict | None:
        """The release has proved itself: its normal becomes this device's normal.

        Returns:
            The verdict of the renewed monitor if drift was reported before: it has ended.
        """
        is_owed = self.is_investigating or self.drift.is_moving
        # A reference that stays is of rows in the context that it was taken in.
        fit = self._learn(release, is_reference_owed=is_owed, finds_context=not is_owed)
        if is_owed:
            return self._refer_to_if_other(fit)
        self._memory.remember(is_word_waiting=False, is_drift_accepted=False)
        return self._refer_to(fit)

    def _commit_again(self, release: RunningRelease) -> DriftVerdict | None:
        """As `commit`, of the release that is committed: what a person said of its drift still holds."""
        is_accepted = self.is_drift_accepted
        recovered = self.commit(release)
        self._memory.remember(is_drift_accepted=is_accepted)
        return recovered

    def _refer_to_if_other(self, fit: Fit) -> DriftVerdict | None:
        """A new drift reference where windows are seen in another context than that of the old one's; as `commit`."""
        return None if self.drift.is_pair(fit.judge) else self._refer_to(fit)

    def _refer_to(self, fit: Fit) -> DriftVerdict | None:
        """A new drift reference; as `commit`."""
        if (monitor := self.drift.refer_to(fit)) is None:
            return None
        self._told = self.drift.state
        self._unknown.forget(self.judge)
        if not self.is_drifted:
            return None
        self._note_drift(is_drifted=False)
        return monitor.verdict()

    def judge_at(self, machine_s: float, release: RunningRelease) -> Judge | None:
        """Who judges a window at this time of the machine's clock: another, once a profile says nothing any more."""
        if self._search.is_new_clock(machine_s):
            self._lose_profile(release, "the machine's clock began anew")
        elif self.judge is not None and self.judge.is_lost:
            self._lose_profile(release, "the machine's cycle has gone")
        return self.judge

    @property
    def is_in_unknown_regime(self) -> bool:
        """Was the latest window of a level that people were told of, and that nobody has called normal?"""
        return self.judge is not None and self.judge.beside is not None

    def note(self, alarm_windows: int) -> None:
        """A window was judged; so many windows the alarm has that it is in, 0 outside one."""
        self.fitter.grow_older()
        if not self._unknown.visit(self.judge, self._wall):  # of one nothing was promised: it is one finding
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
        if min(self._rows.learnable, MOST_ROWS) >= 2 * fitted_on or (
            self._may_find_profile and self._search.has_more_periods()
        ):
            owed = self._memory.remembered.is_reference_owed
            fit = self._learn(release, is_reference_owed=owed, finds_context=self._may_find_profile)
            self._realised.broken = promise.broken if promise is not None else 0
            self._refer_to_if_other(fit)
            return True
        if promise is not None and promise.is_kept:
            self._realised.go_on(is_shown=promise.is_shown)
        return False

    def set_budget(self, budget: AlarmBudget, release: RunningRelease | None) -> str:
        """Keep another budget from the next window on; nothing is forgotten but what was counted against the promise before.

        The threshold moves along the curve that was kept; another shortest event is another detector of the rows that are kept.
        Returns why not, in a sentence, where most values could open no alarm any more: then all stays as it was.
        """
        before, judge = self.settings, self.judge
        if budget == before.budget:
            return ""
        self.settings = replace(before, budget=budget)
        if release is None or not isinstance(judge, MixtureJudge):
            return ""  # a network promises nothing, and what is fitted later keeps this budget
        is_same = budget.shortest_event_windows == before.budget.shortest_event_windows
        renewed = judge.with_budget(budget) if is_same else self._fit(release, finds_context=False).judge
        if isinstance(renewed, MixtureJudge) and renewed.unheard and not judge.unheard:
            self.settings = before
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
        self.fitter.take(None)
        self._memory.remember(is_vouched=known.is_vouched or moved > 0)
        self._note_accepted()
        log.info("normal_accepted until_s=%.0f windows=%d", until_s, moved)
        if release is None or release.is_trial or self.is_investigating:
            return None
        if not self.drift.is_moving:
            return self._obey(release, is_news=moved > 0)
        if moved:
            self._memory.remember(is_word_waiting=True)
            if release.prior is not None:
                self._learn(release, is_reference_owed=known.is_reference_owed, finds_context=False)
        return None

    def _obey(self, release: RunningRelease, *, is_news: bool) -> DriftVerdict | None:
        """A person has called normal where the machine is at rest; `is_news`: rows of there may be learnt now. As `commit`."""
        known, recovered = self._memory.remembered, None
        if known.is_reference_owed:
            recovered = self._commit_again(release)
        elif is_news and release.prior is not None:  # a person's word is worth as much as twice the rows
            self._unknown.forget(self.judge)
            fit = self._learn(release, is_reference_owed=False, finds_context=True)
            recovered = self._refer_to_if_other(fit)
        self._memory.remember(is_word_waiting=False, is_drift_accepted=known.is_drift_accepted)
        return recovered

    def begin_anew(self, rows: list[StandardisedRow], release: RunningRelease | None) -> None:
        """The scale is another: what was learnt in the one before means nothing; these rows, oldest first, are normal."""
        self._rows.restart(rows)
        # If drift was reported, the monitor that begins now says with its first window that it has ended.
        was_drifted, self.is_drifted = self.is_drifted, False
        self.drift.forget()
        self._told = self.drift.state
        self._memory.remember(
            drift_since_s=0.0, is_drift_accepted=False, is_word_waiting=False, detector_sha256=""
        )
        self._search.forget()
        self._unknown.forget(self.judge)
        if release is not None and release.is_trial:
            self._put_in_force(self._fit(release, finds_context=True).judge, Realised())
        elif release is not None:
            self.commit(release)
        self.is_drifted = was_drifted and self.drift.monitor is not None

    def watch(
        self, columns: Float, score: float, release: RunningRelease, *, is_alarm_open: bool
    ) -> DriftVerdict | None:
        """Look for drift in one window's watched columns, scored by `release`; the verdict if it turned with it.

        A reference that a release owes since drift stood in its way is paid when that ends by itself: a sensor was mended.
        """
        monitor, judge = self.drift.monitor, self.judge
        if monitor is None:
            return None
        if judge is not None and judge.beside is not None and not monitor.is_away:
            # It was told, and is no drift a second time.
            columns, score = np.where(np.isfinite(columns), judge.beside[0], columns), judge.beside[1]
        monitor.update(columns, score)
        if monitor.is_away:
            is_told = is_alarm_open and self.drift.is_resting and self.is_investigating
            self._unknown.follow(columns, judge, is_told=is_told)
        if self.drift.state == self._told and monitor.is_away == self.is_drifted:
            return None
        self._told = self.drift.state
        if not self.drift.is_resting:
            self._unknown.leave()
        if monitor.is_away != self.is_drifted:
            self._note_drift(is_drifted=monitor.is_away)
        verdict, known = monitor.verdict(), self._memory.remembered
        if self.drift.is_moving or self.is_investigating or release.is_trial:
            return verdict
        if known.is_word_waiting:
            return self._obey(release, is_news=True) or verdict
        if known.is_reference_owed:
            return self.commit(release) or verdict
        return verdict

    def recent_rows(self) -> Float:
        """The newest rows (n, F) that may be learnt, as many as make a reference, as the judge in force sees them."""
        kept = self._rows.newest(self.settings.reference_windows)
        return as_seen(kept, self._scale.units, self._context).seen

    @property
    def _may_find_profile(self) -> bool:
        """A context is kept as a scale is, but for a profile that it lacks; and while the machine is away, its reference's."""
        return not self.is_drifted and (self._context is None or self._context.profile is None)

    def _lose_profile(self, release: RunningRelease, why: str) -> None:
        """Learn without it. Whether the machine is away or not, the reference is of rows that no window is seen like again."""
        if not self._search.lose(self._context, why):
            return
        if release.is_trial:
            self._put_in_force(self._fit(release, finds_context=True).judge, Realised())
        else:
            owed = self._memory.remembered.is_reference_owed
            self._refer_to(self._learn(release, is_reference_owed=owed, finds_context=True))

    def _note_drift(self, *, is_drifted: bool) -> None:
        self.is_drifted = is_drifted
        self._memory.remember(drift_since_s=self._wall() if is_drifted else 0.0, is_drift_accepted=False)

    def _note_accepted(self) -> None:
        if not self._rows.is_accepting:
            self._memory.remember(accepting_until_s=0.0)

    def _fit(self, release: RunningRelease, *, finds_context: bool) -> Fit:
        return self.fitter.fit(release, self.settings, self._context, finds_context=finds_context)

    def _learn(self, release: RunningRelease, *, is_reference_owed: bool, finds_context: bool) -> Fit:
        """Fit a committed release's judge on the newest rows, and remember it; what came of the promise before is told."""
        if (before := self.promise) is not None and before.realised.windows:
            log.info("promise_ended %s", before.text)
        if release.prior is not None:
            self._scale.take_fleet_scale(release.prior.scale)
        fit = self._fit(release, finds_context=finds_context)
        self._put_in_force(fit.judge, Realised())
        self._remember_judge(
            release.bundle_sha256, fit.judge, scored=fit.scored, is_reference_owed=is_reference_owed
        )
        return fit

    def _put_in_force(self, judge: Judge, realised: Realised) -> None:
        super()._put_in_force(judge, realised)
        if isinstance(judge, MixtureJudge):
            judge.unknown_levels = self._unknown.levels
        self._rows.depth = judge.builds_up_windows
