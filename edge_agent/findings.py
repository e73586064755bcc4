"""What the loop found, as messages: an anomaly with its window, drift with its sensors."""

from __future__ import annotations

import base64
import logging
from typing import Final

import numpy as np

from edge_agent.judgement import Judged
from edge_agent.sources.port import SourceWindow
from models.drift.monitor import DriftPhase, DriftVerdict
from models.thresholds import Opened
from protocol.limits import MAX_PAYLOAD_BYTES
from protocol.messages.kinds import DriftState
from protocol.messages.payloads import AnomalyEvent, DriftReport, SensorShape

__all__ = ["anomaly_event", "drift_report"]

log = logging.getLogger(__name__)

_WINDOW_BYTES: Final = MAX_PAYLOAD_BYTES * 3 // 4 - 4096
"""A larger raw window does not fit a message as base64 beside the rest."""
_DRIFT_STATES: Final = {
    DriftPhase.HOME: DriftState.RECOVERED,
    DriftPhase.DRIFTING: DriftState.DRIFTED,
    DriftPhase.SETTLED: DriftState.SETTLED,
}


def anomaly_event(window: SourceWindow, judged: Judged, opened: Opened, release: str) -> AnomalyEvent:
    """An anomaly that this window opened, with the window itself where it fits a message."""
    raw = np.ascontiguousarray(window.samples, "<f4")
    fits = raw.nbytes <= _WINDOW_BYTES
    log.warning(
        "anomaly_opened episode=%s release=%s score=%.4g threshold=%.4g",
        judged.episode,
        release,
        judged.score,
        judged.threshold,
    )
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


def drift_report(
    verdict: DriftVerdict,
    release: str,
    machine_s: float,
    shapes: tuple[SensorShape, ...],
    *,
    is_accepted: bool,
) -> DriftReport:
    """What was found of drift; `machine_s` is on the machine's clock, `shapes` the sensors that differ most.

    `is_accepted`: a person has called normal where the machine went, and where drift is over it is not back.
    """
    state = _DRIFT_STATES[verdict.phase] if not verdict.is_further else DriftState.CHANGED
    if state is DriftState.RECOVERED and is_accepted:
        state = DriftState.ACCEPTED
    log.warning("drift_%s release=%s score=%.3g", state.value, release, verdict.score)
    return DriftReport(
        release=release,
        state=state,
        drift_score=verdict.score,
        observed_at_s=machine_s,
        windows=verdict.windows,
        findings=verdict.findings,
        severity=verdict.severity,
        shapes=shapes,
    )
