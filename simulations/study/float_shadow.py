"""Float beside int8: the windows that an agent judged, by the same judges before quantisation, and where an alarm would have opened.

The judges are those that the agent fitted while it ran in int8; what another alarm would have kept out of learning is not played again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_agent.judgement import Judged
from edge_agent.judges import Judge, MixtureJudge
from edge_agent.settings import DetectionSettings
from models import reference_model
from models.bundles import ModelBundle
from models.detection.time_scales import TimeScales
from models.thresholds import AlarmState, Closed, Opened

__all__ = ["FloatShadow"]

AT_ONCE = 4096
"""Windows that are scored together."""


class FloatShadow:
    """Follows one agent; openings are numbers of windows."""

    def __init__(self, bundle: ModelBundle, settings: DetectionSettings) -> None:
        self._bundle = bundle
        self._alarm = AlarmState(
            opens_after_windows=settings.opens_after_windows,
            closes_after_windows=settings.closes_after_windows,
            closes_below_share=settings.closes_below_share,
        )
        self._judge: Judge | None = None
        self._scales: TimeScales | None = None
        self._waiting: list[tuple[int, Judged, bool]] = []
        self._episodes: list[tuple[int, int]] = []
        self._opened: int | None = None

    def note(self, number: int, judged: Judged, judge: Judge | None) -> None:
        """One more window, and who judged it."""
        if judge is not self._judge:
            self._settle()
            self._judge = judge
            self._scales = judge.detector.make_time_scales() if isinstance(judge, MixtureJudge) else None
            if judge is not None:
                self._alarm.open_after(judge.opens_after_windows)
        # Of a level that people were told of, the agent itself says that it is beside all scores.
        self._waiting.append((number, judged, judge is not None and judge.beside is not None))
        if len(self._waiting) >= AT_ONCE:
            self._settle()

    def episodes(self, end: int) -> list[tuple[int, int]]:
        """[first, end) of each alarm so far; one that goes on ends at `end`."""
        self._settle()
        return [*self._episodes, *([(self._opened, end)] if self._opened is not None else [])]

    def _settle(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        statistics = self._statistics(np.stack([judged.seen for _, judged, _ in waiting]))
        for (number, judged, is_beside), statistic in zip(waiting, statistics.tolist(), strict=True):
            change = self._alarm.update(judged.score if is_beside else statistic, judged.threshold)
            if isinstance(change, Opened):
                self._opened = number
            elif isinstance(change, Closed) and self._opened is not None:
                self._episodes.append((self._opened, number))
                self._opened = None

    def _statistics(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        judge = self._judge
        if isinstance(judge, MixtureJudge) and self._scales is not None:
            return self._scales.follow(*judge.detector.scores(rows, is_int8=False))
        return reference_model.infer(self._bundle.architecture, self._bundle.parameters, rows)[1]
