"""What an agent would have sent: its own messages, encoded as they travel, and counted."""

from __future__ import annotations

from typing import Final

from edge_agent.findings import anomaly_event, drift_report
from edge_agent.judgement import Judged
from edge_agent.pipeline import Pipeline
from edge_agent.sources.port import SourceWindow
from models.thresholds import Opened
from protocol.messages.envelope import Event, encode
from protocol.messages.kinds import AgentState
from protocol.messages.payloads import AnomalyClosed, AnomalyEvent, Health, Payload
from protocol.names import DeviceId

__all__ = ["HEALTH_EVERY_S", "Sent", "health_bytes"]

HEALTH_EVERY_S: Final = 30.0
"""An agent's default."""

_SOURCE: Final = DeviceId("machine-000001")
_BOOT: Final = "0123456789abcdef"


class Sent:
    """Bytes of alarms and drift of one agent, as payloads."""

    def __init__(self, release: str) -> None:
        self._release = release
        self._openings: list[AnomalyEvent] = []
        self.events = 0
        self.bytes = 0

    def note(self, window: SourceWindow, judged: Judged, pipeline: Pipeline, *, is_held_back: bool) -> None:
        """One more judged window: what its agent would tell of it."""
        told: list[Payload] = []
        if isinstance(judged.alarm, Opened):
            told.append(anomaly_event(window, judged, judged.alarm, self._release))
        if judged.drift is not None:
            shapes = pipeline.normal.drift.shapes()
            told.append(
                drift_report(judged.drift, self._release, window.observed_at_s, shapes, is_accepted=False)
            )
        ends = [one for one in pipeline.take_untold() if isinstance(one, AnomalyClosed)]
        told += ends
        if told:
            pipeline.told()
        if is_held_back:
            self.events += len(told)
            self.bytes += sum(_size(one, window.observed_at_s) for one in told)


def health_bytes(release: str, sensors: int) -> int:
    """A health message of an agent that watches calmly."""
    health = Health(
        state=AgentState.WATCHING,
        release=release,
        uptime_s=86_400.0,
        windows=86_400,
        interval_s=HEALTH_EVERY_S,
        interval_windows=30,
        interval_judged=30,
        score_mean=0.41234567,
        score_max=0.81234567,
        threshold=1.2345678,
        drift_score=0.31234567,
        machine_time_s=86_400.0,
        inference_p50_us=21.5,
        inference_p99_us=41.5,
        memory_pss_bytes=45_000_000,
        raw_bytes=86_400 * sensors,
        telemetry_bytes=2_000_000,
        buffered_windows=40_000,
        sight=0.45,
        promised_per_1000=1.0,
        supported_per_1000=0.4,
        realised_windows=9_000,
        promise_horizon_left=800,
    )
    return _size(health, 1_800_000_000.0)


def _size(payload: Payload, at_s: float) -> int:
    event = Event(
        source=_SOURCE, boot_id=_BOOT, boot_number=3, sequence=4711, time=max(at_s, 0.0), data=payload
    )
    return len(encode(event))
