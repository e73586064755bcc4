"""A trial under way in the loop: windows in, at most one verdict out, and a word where no windows come."""

from __future__ import annotations

from edge_agent.installation.events import TrialEnded, TrialSilent
from edge_agent.installation.journal import Baseline
from edge_agent.installation.trial import Failed, Trial, TrialLimits

__all__ = ["TrialWatch"]


class TrialWatch:
    """The trial of the bundle `sha256` since `now_s`, monotonic seconds."""

    def __init__(self, sha256: str, limits: TrialLimits, baseline: Baseline | None, now_s: float) -> None:
        self._sha256, self._limits = sha256, limits
        self._trial = Trial(limits, baseline)
        self._heard_s = now_s
        self._is_judged = self._is_silent = False

    def note(
        self, score: float | None, latency_us: float, error: str | None, now_s: float
    ) -> TrialEnded | None:
        """Take one window, as `Trial.observe`; the verdict comes once, and what follows it is not looked at."""
        if self._is_judged:
            return None
        if score is not None and error is None:
            self._heard_s = now_s
        verdict = self._trial.observe(score, latency_us, error)
        if verdict is None:
            return None
        self._is_judged = True
        return TrialEnded(
            sha256=self._sha256, failure=verdict.reason if isinstance(verdict, Failed) else None
        )

    def silence(self, now_s: float) -> TrialSilent | None:
        """Once, where no window was judged for long: a trial shall not keep the fleet waiting."""
        silent_s = now_s - self._heard_s
        if self._is_judged or self._is_silent or silent_s < self._limits.deferred_after_s:
            return None
        self._is_silent = True
        return TrialSilent(sha256=self._sha256, silent_s=silent_s)
