"""Writes what others read of this device: buffered rows for the learner, status.json, counters; makes the health messages.

It reads the parts of the agent and changes nothing but the health interval. A disk that refuses is told once and does
not stop anything.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge_agent.agent_ports import Hands
from edge_agent.errors import RestartNeededError
from edge_agent.gaps import listed
from edge_agent.health import LARGE_SHARE, Interval, Readings, Vitals, health_of, memory_pss_bytes
from edge_agent.outbox import Outbox
from edge_agent.own_resources import OwnResources
from edge_agent.pipeline import Pipeline
from edge_agent.process_sight import ThisProcess
from edge_agent.sample_buffer import SampleBuffer
from edge_agent.settings import Settings
from edge_agent.status import ParkedEvent, Status, save_counters, write_status
from edge_agent.telemetry import Identity, Telemetry
from edge_agent.version import AGENT_VERSION
from edge_agent.window_texts import without_windows
from protocol.messages.kinds import AgentState, InstallStep
from protocol.messages.payloads import Health, Payload
from runtime.errors import StorageError

__all__ = ["StatusReporter"]

log = logging.getLogger(__name__)

_COUNTERS_EVERY_S = 5.0
"""What a kill -9 may cost of the counters."""
_PARKED_SHOWN = 8
_MEMORY_EVERY_S = 10.0
"""smaps_rollup walks all mappings: a millisecond, so not every second."""


class StatusReporter:
    """Tells about the agent: to the disk, and to the fleet."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        *,
        process: ThisProcess,
        outbox: Outbox,
        buffer: SampleBuffer,
        pipeline: Pipeline,
        telemetry: Telemetry,
        hands: Hands,
        delegate: Callable[[], str] = lambda: "",
        repository: Callable[[], str] = lambda: "",
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._process = process
        self._outbox = outbox
        self._buffer = buffer
        self._pipeline = pipeline
        self._telemetry = telemetry
        self._installation, self._learner, self._executor = hands.installation, hands.learner, hands.executor
        self._delegate, self._repository = delegate, repository
        self._status_due_s = self._counters_due_s = self._memory_due_s = float("-inf")
        self._health_due_s = float("-inf")
        self._waited = False
        self._pss_bytes = 0
        self._resources: OwnResources | None = None
        self._failing: set[str] = set()

    def begin(self, vitals: Vitals) -> None:
        """Count this start, durably: the next one shall know whether a farewell came between."""
        vitals.counters.begin()
        with self._telling_once("status_not_written"):
            save_counters(self._settings.paths.counters, vitals.counters, durable=True)

    def due(self, vitals: Vitals, clock_s: float, wall_s: float) -> list[Payload]:
        """Write what others read of this device if it is time; a health message, and a new interval, if it is time for one."""
        settings = self._settings.health
        with self._telling_once("rows_not_buffered"):
            self._pipeline.flush()
        self._process.clock.save_if_due()
        if clock_s >= self._memory_due_s:
            self._memory_due_s = clock_s + _MEMORY_EVERY_S
            self._look_at_resources()
        health: list[Payload] = []
        waits = vitals.state in {AgentState.STARTING, AgentState.WAITING_FOR_RELEASE}
        # who has just joined is looked at: that a first release judges, or learns to, is said at once
        if clock_s >= self._health_due_s or (self._waited and not waits):
            self._waited = waits
            self._health_due_s = clock_s + self._executor.effective.health.every_s
            health.append(self._health(vitals, clock_s))
            vitals.interval = Interval(started_s=clock_s)
            self._pipeline.save()
        if clock_s >= self._status_due_s:
            self._status_due_s = clock_s + settings.status_every_s
            self._write(vitals, clock_s, wall_s)
        return health

    def _look_at_resources(self) -> None:
        """Raises RestartNeededError where something is nearly used up."""
        self._pss_bytes = memory_pss_bytes()
        self._resources = self._resources or OwnResources.from_kernel(self._pss_bytes)
        if said := self._resources.exhausted(self._pss_bytes):
            raise RestartNeededError(f"{said}: something leaks, a driver perhaps")

    def health_now(self) -> None:
        """The next call of `due` shall give a health message."""
        self._health_due_s = float("-inf")

    def finish(self, vitals: Vitals, clock_s: float, wall_s: float) -> list[Payload]:
        """The last status and health of this boot."""
        self._counters_due_s = float("-inf")
        vitals.counters.has_said_farewell = True
        self._write(vitals, clock_s, wall_s, durable=True)
        return [self._health(vitals, clock_s)]

    def _health(self, vitals: Vitals, clock_s: float) -> Health:
        pipeline = self._pipeline
        commissioning = pipeline.commissioning
        readings = Readings(
            drift_score=pipeline.normal.drift_score(),
            drifted=pipeline.normal.is_drifted,
            drift_accepted=pipeline.normal.is_drift_accepted,
            drift_severity=pipeline.normal.drift.severity,
            outbox_events=len(self._outbox),
            outbox_parked=len(self._outbox.parked),
            buffered_windows=len(self._buffer),
            training_run=self._learner.run_id,
            install_step=self._installation.step(),
            memory_pss_bytes=self._pss_bytes,
            missing=pipeline.missing,
            sight=pipeline.sight,
            commissioned_share=commissioning.share,
            is_provisional=commissioning.is_provisional,
            clipped_share=commissioning.clipping.share,
            set_aside_windows=pipeline.set_aside_windows,
            obeyed=self._executor.counter,
            settings=self._executor.noteworthy_settings,
            promise=pipeline.normal.promise,
            problems=self._problems(vitals),
        )
        return health_of(vitals, readings, clock_s)

    def _write(self, vitals: Vitals, clock_s: float, wall_s: float, *, durable: bool = False) -> None:
        with self._telling_once("status_not_written"):
            write_status(self._settings.paths.status, self._status(vitals, clock_s, wall_s))
            if clock_s >= self._counters_due_s:
                self._counters_due_s = clock_s + _COUNTERS_EVERY_S
                save_counters(self._settings.paths.counters, vitals.counters, durable=durable)

    @contextmanager
    def _telling_once(self, event: str) -> Iterator[None]:
        """A disk that refuses is told until it works again; a full disk must not get a full log as well."""
        try:
            yield
            self._failing.discard(event)
        except StorageError as error:
            if event not in self._failing:
                log.warning("%s error=%s", event, error)
            self._failing.add(event)

    def _status(self, vitals: Vitals, clock_s: float, wall_s: float) -> Status:
        identity, threshold, process = self._identity, self._pipeline.normal.threshold, self._process
        promise = self._pipeline.normal.promise
        return Status(
            device=identity.device,
            tenant=identity.tenant,
            family=identity.family,
            pid=process.pid,
            process_started=process.started_ticks,
            kernel_boot=process.clock.kernel_boot,
            written_boot_s=process.clock.boot_s(),
            clock_is_set=process.clock.is_set,
            boot_id=identity.boot_id,
            agent_version=AGENT_VERSION,
            started_at_s=vitals.started_wall_s,
            written_at_s=wall_s,
            health=self._health(vitals, clock_s),
            threshold=threshold.value if threshold is not None else None,
            last_score=vitals.last_score,
            alarm_open=self._pipeline.alarm_is_open,
            is_trial=vitals.is_trial,
            commissioned=self._pipeline.is_commissioned,
            broker_connected=self._telemetry.is_connected,
            broker_connections=self._telemetry.connections,
            learner=self._learner.note,
            learner_pid=self._learner.pid,
            malformed_downlinks=vitals.counters.malformed_downlinks,
            source_errors=vitals.counters.source_errors,
            inference_errors=vitals.counters.inference_errors,
            delegate=self._delegate(),
            repository=self._repository(),
            promise=promise.text if promise is not None else "",
            drift_shapes=self._pipeline.normal.drift.shapes(),
            sends_windows=self._settings.privacy.send_windows,
            settings=self._executor.settings,
            commands=self._executor.lines,
            parked=tuple(
                ParkedEvent(
                    kind=parked.kind,
                    created_s=parked.created_s,
                    payload_bytes=parked.payload_bytes,
                    reason=parked.reason,
                )
                for parked in self._outbox.parked[:_PARKED_SHOWN]
            ),
            problems=self._problems(vitals),
        )

    def _meanwhile(self, vitals: Vitals) -> str:
        if vitals.is_unusable:
            return "nothing can be judged" if self._pipeline.is_commissioned else "commissioning waits"
        return "the rest is watched" if self._pipeline.is_commissioned else "commissioning goes on without it"

    def _problems(self, vitals: Vitals) -> tuple[str, ...]:
        missing = self._pipeline.missing
        urgent = (
            (
                vitals.state is AgentState.BLIND and not vitals.source_problem,
                f"blind: the last {vitals.unjudged_run} windows could not be judged: {vitals.unjudged_reason}",
            ),
            (
                bool(vitals.source_problem),
                f"{'blind: ' if vitals.state is AgentState.BLIND else ''}no windows come: {vitals.source_problem}",
            ),
            (
                self._installation.step() is InstallStep.INCONSISTENT,
                "a rollback failed: install a release by hand",
            ),
            (
                bool(missing) and vitals.state is not AgentState.BLIND,
                f"no finite number comes from {listed(missing)}; {self._meanwhile(vitals)}",
            ),
            (
                vitals.unjudged_share >= LARGE_SHARE and vitals.state is not AgentState.BLIND,
                f"{vitals.unjudged_share:.0%} of recent windows could not be judged: {vitals.unjudged_reason}",
            ),
        )
        later = (
            (self._outbox.is_volatile, "the outbox is in memory only: is the disk full or read-only?"),
            (self._outbox.is_failing, "the outbox cannot be written: is the disk full?"),
        )
        found = (
            *(text for is_so, text in urgent if is_so),
            *vitals.stage_problems,
            *self._pipeline.problems(),
            *self._installation.problems(),
            *(text for is_so, text in later if is_so),
            *self._telemetry.problems(),
        )
        # a driver's error may quote what it could not read
        return tuple(without_windows(text) for text in found)
