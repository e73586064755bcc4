"""Who judges on this device now, and what came of what that promised: in force, and remembered over restarts.

Nothing is fitted or decided here: `edge_agent.own_normal` says when another judge takes over.
"""

from __future__ import annotations

from msgspec.structs import replace

from edge_agent.detection_memory import DetectionMemory
from edge_agent.judges import Judge, MixtureJudge
from edge_agent.kept_promise import KeptPromise, Realised
from edge_agent.settings import DetectionSettings
from models.detection.context import Context
from models.thresholds import PersonalThreshold

__all__ = ["JudgeInForce"]


class JudgeInForce:
    """One thread.

    Args:
        memory: what survives a restart.
        settings: limits.

    Attributes:
        judge: the one in force; None while there is no model to judge with.
        settings: limits.
    """

    def __init__(self, memory: DetectionMemory, settings: DetectionSettings) -> None:
        self._memory, self.settings = memory, settings
        self.judge: Judge | None = None
        self._realised = Realised()

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
    def unheard(self) -> str:
        """A sentence where most values alone can open no alarm under the budget in force, else empty."""
        return self.judge.unheard if isinstance(self.judge, MixtureJudge) else ""

    @property
    def remembered(self) -> dict[str, object]:
        """What of the committed release's judge shall survive a kill now."""
        if not isinstance(self.judge, MixtureJudge):
            return {}
        return {"realised": replace(self._realised), "time_scales": self.judge.scales.state}

    @property
    def _context(self) -> Context | None:
        return self.judge.context if self.judge is not None else None

    def _remember_judge(self, bundle_sha256: str, judge: Judge, **also: object) -> None:
        """Another judge of a committed release, or another threshold, in force from now on."""
        sha256, state = "", tuple[float, ...]()
        if isinstance(judge, MixtureJudge):
            sha256 = self._memory.save_detector(judge, bundle_sha256, self.settings)
            state = judge.scales.state
        self._memory.remember(
            bundle_sha256=bundle_sha256,
            threshold=judge.threshold,
            detector_sha256=sha256,
            realised=Realised(),
            time_scales=state,
            **also,
        )

    def _put_in_force(self, judge: Judge, realised: Realised) -> None:
        self.judge, self._realised = judge, realised
