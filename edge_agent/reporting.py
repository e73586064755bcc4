"""Writes status.json every second, counters and drift state now and then, and makes the health messages.

It reads the agent and changes nothing of it but the health interval. A disk that refuses is told once and does not
stop anything.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.agent import Agent
from edge_agent.health import Interval, Observed, health_of, memory_pss_bytes
from edge_agent.outbox import Outbox
from edge_agent.sample_buffer import SampleBuffer
from edge_agent.settings import Settings
from edge_agent.status import Status, save_counters, write_status
from edge_agent.telemetry import Identity
from protocol.messages.kinds import InstallStep
from protocol.messages.payloads import Health, Payload
from runtime.errors import StorageError

__all__ = ["Facts", "StatusReporter"]

log = logging.getLogger(__name__)

_COUNTERS_EVERY_S = 5.0
"""What a kill -9 may cost of the counters."""
_MEMORY_EVERY_S = 10.0
"""smaps_rollup walks all mappings: a millisecond, so not every second."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What does not change while the agent runs."""

    settings: Settings
    identity: Identity
    agent_version: str
    pid: int


class StatusReporter:
    """`Reporter` over the state directory."""

    def __init__(
        self,
        facts: Facts,
        outbox: Outbox,
        buffer: SampleBuffer,
        *,
        delegate: Callable[[], str] = lambda: "",
    ) -> None:
        self._facts = facts
        self._outbox = outbox
        self._buffer = buffer
        self._delegate = delegate
        self._paths = facts.settings.paths
        self._status_due_s = self._counters_due_s = self._memory_due_s = float("-inf")
        self._health_due_s = float("-inf")
        self._pss_bytes = 0
        self._is_failing = False

    def due(self, agent: Agent, clock_s: float, wall_s: float) -> list[Payload]:
        """See `edge_agent.agent.Reporter`."""
        settings = self._facts.settings.health
        if clock_s >= self._memory_due_s:
            self._memory_due_s = clock_s + _MEMORY_EVERY_S
            self._pss_bytes = memory_pss_bytes()
        health: list[Payload] = []
        if clock_s >= self._health_due_s:
            self._health_due_s = clock_s + settings.every_s
            health.append(self._health(agent, clock_s))
            agent.interval = Interval(started_s=clock_s)
            agent.pipeline.save()
        if clock_s >= self._status_due_s:
            self._status_due_s = clock_s + settings.status_every_s
            self._write(agent, clock_s, wall_s)
        return health

    def health_now(self) -> None:
        """See `edge_agent.agent.Reporter`."""
        self._health_due_s = float("-inf")

    def finish(self, agent: Agent, clock_s: float, wall_s: float) -> list[Payload]:
        """See `edge_agent.agent.Reporter`."""
        self._counters_due_s = float("-inf")
        self._write(agent, clock_s, wall_s, durable=True)
        return [self._health(agent, clock_s)]

    def _health(self, agent: Agent, clock_s: float) -> Health:
        installing = agent.installation.step()
        observed = Observed(
            state=agent.state,
            release=agent.release,
            uptime_s=clock_s - agent.started_clock_s,
            drift_score=agent.pipeline.drift_score(),
            drifted=agent.pipeline.is_drifted,
            outbox_events=len(self._outbox),
            buffered_windows=len(self._buffer),
            training_run=agent.learner.run_id,
            install_step=installing,
            memory_pss_bytes=self._pss_bytes,
        )
        return health_of(agent.counters, agent.interval, agent.latencies, observed, clock_s)

    def _write(self, agent: Agent, clock_s: float, wall_s: float, *, durable: bool = False) -> None:
        try:
            write_status(self._paths.status, self._status(agent, clock_s, wall_s))
            if clock_s >= self._counters_due_s:
                self._counters_due_s = clock_s + _COUNTERS_EVERY_S
                save_counters(self._paths.counters, agent.counters, durable=durable)
            self._is_failing = False
        except StorageError as error:
            # Once until it works again: a full disk must not get a full log as well.
            if not self._is_failing:
                log.warning("status_not_written error=%s", error)
            self._is_failing = True

    def _status(self, agent: Agent, clock_s: float, wall_s: float) -> Status:
        identity, threshold = self._facts.identity, agent.pipeline.threshold
        return Status(
            device=identity.device,
            tenant=identity.tenant,
            family=identity.family,
            pid=self._facts.pid,
            boot_id=identity.boot_id,
            agent_version=self._facts.agent_version,
            started_at_s=agent.started_wall_s,
            written_at_s=wall_s,
            health=self._health(agent, clock_s),
            threshold=threshold.value if threshold is not None else None,
            last_score=agent.last_score,
            alarm_open=agent.pipeline.alarm_is_open,
            is_trial=agent.active is not None and agent.active.is_trial,
            commissioned=agent.pipeline.is_commissioned,
            broker_connected=agent.telemetry.is_connected,
            broker_connections=agent.telemetry.connections,
            learner=agent.learner.note,
            learner_pid=agent.learner.pid,
            malformed_downlinks=agent.counters.malformed_downlinks,
            source_errors=agent.counters.source_errors,
            inference_errors=agent.counters.inference_errors,
            delegate=self._delegate(),
            problems=self._problems(agent),
        )

    def _problems(self, agent: Agent) -> tuple[str, ...]:
        candidates = (
            (self._outbox.is_volatile, "the outbox is in memory only: is the disk full or read-only?"),
            (self._outbox.is_failing, "the outbox cannot be written: is the disk full?"),
            (
                self._facts.settings.mqtt is not None and not agent.telemetry.is_connected,
                "no broker: events wait in the outbox",
            ),
            (
                agent.installation.step() is InstallStep.INCONSISTENT,
                "a rollback failed: install a release by hand",
            ),
        )
        return tuple(text for is_so, text in candidates if is_so)
