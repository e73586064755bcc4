"""The embedded Flower server: one TLS port, one SQLite database, runs that live as long as this process says.

::

    with FlowerServer(settings, identity) as server:
        server.sync_roster({"press-1": pem, ...})
        run = server.start_run()
        collector = PlainCollector(server.link(run))
        ...
        server.finish_run(run, RunEnd.COMPLETED)

A Flower run is only the envelope in which questions travel; what survives a kill -9 is the roster, the nodes and
the database. On start, runs that a former process left open are finished: their unanswered questions are void, the caller starts a new
run and asks again from its own last finished round. Devices notice nothing but a pause.

Not a SuperLink: no Control API, no Runtime API, no FAB, no subprocess. Threads: one for the server's event loop,
one that keeps runs alive; every method may be called from any thread.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric import ec

from aggregator.errors import FlowerListenError, FlowerRunEndedError, FlowerServerError, RosterError
from aggregator.flower import flower_internals
from aggregator.flower.door import Door
from aggregator.flower.fleet_app import FleetApp
from aggregator.flower.grid import LocalGrid
from aggregator.flower.link import FlowerCohortLink
from aggregator.flower.message_store import MessageStore
from aggregator.flower.notifier import Notifier
from aggregator.flower.roster import Roster
from aggregator.flower.stage_link import FlowerStageLink
from protocol.names import DeviceId
from protocol.signed_requests import StepCounter
from service.addresses import Endpoint
from service.connections import ConnectionBook
from service.errors import StartError
from service.https_server import HttpsServer
from service.listening import bind, places_for_callers
from service.served_certificate import ServedCertificate

__all__ = ["FlowerRun", "FlowerServer", "FlowerServerSettings", "RunEnd", "Traffic"]

RUN_HEARTBEAT_S: Final = 15.0
"""Flower ends a run whose heartbeat is 60 s late; a quarter of that forgives a busy machine."""

START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class FlowerServerSettings:
    """Where the Fleet API listens and where it keeps its state.

    `port` 0 takes a free one. `tls_cert` holds the chain, leaf first. `data_dir` gets ``flower.sqlite`` and ``roster.json``.
    `hold_s`: how long a device's pull is held.
    """

    host: str = "127.0.0.1"
    port: int = 0
    tls_cert: Path
    tls_key: Path
    data_dir: Path
    hold_s: float = 1.0


class RunEnd(StrEnum):
    """How a Flower run ended, in Flower's words."""

    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class FlowerRun:
    """A Flower run of this process."""

    run_id: int
    task_id: int


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Payload bytes of one run, as the server counts them: to devices and from devices."""

    to_devices_bytes: int
    from_devices_bytes: int


class FlowerServer:
    """Serves the Fleet API and starts runs in it; `port` is the one that is listened on, known after `start`.

    Args:
        settings: where to listen, where to keep state; `data_dir` is created.
        identity: the aggregator's key, which devices have pinned.

    Raises:
        FlowerServerError: the database cannot be opened.
        RosterError: the roster file cannot be read.
    """

    def __init__(self, settings: FlowerServerSettings, identity: ec.EllipticCurvePrivateKey) -> None:
        self._settings, self._identity = settings, identity
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        database = settings.data_dir / "flower.sqlite"
        try:
            _, factory = flower_internals.get_objectstore_linkstate_factories(
                str(database), flower_internals.get_federation_manager(is_simulation=False)
            )
            state = factory.state()
        except Exception as error:  # SQLAlchemy, Alembic and sqlite3 each have their own tree
            raise FlowerServerError(f"Flower's database {database} cannot be opened: {error}") from error
        if not isinstance(state, flower_internals.SqlLinkState):
            raise FlowerServerError(
                f"Flower opened {database} as {type(state).__name__}; expected its SQL state"
            )
        self._state = state
        self._notifier, self._messages = Notifier(), MessageStore()
        self._roster = Roster(settings.data_dir / "roster.json", self._node_of_key)
        self._runs: dict[int, FlowerRun] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self.port = settings.port
        self.connections = ConnectionBook(in_all=places_for_callers())
        self._server: HttpsServer | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Finish what a former process left open, then listen; returns when devices can connect.

        Raises:
            FlowerListenError: the address is taken, or the certificate or key cannot be used.
        """
        try:
            certificate = ServedCertificate(self._settings.tls_cert, self._settings.tls_key, time.time)
            listener = bind(Endpoint(self._settings.host, self._settings.port))
        except StartError as error:
            raise FlowerListenError(f"the Fleet API (flower_listen): {error}") from None
        self.port = listener.getsockname()[1]
        self._finish_stale_runs()
        # A session of its own for each start: what was signed for the one before is void.
        steps = StepCounter(os.urandom(16).hex(), now=time.time)
        app = FleetApp(
            Door(self._roster, self._identity, steps),
            self._state,
            self._notifier,
            self._messages,
            hold_s=self._settings.hold_s,
        )
        self._server = HttpsServer(app, certificate, self.connections)
        self._stopping.clear()
        self._spawn("flower-fleet-api", lambda: self._serve(listener))
        self._spawn("flower-run-heartbeat", self._keep_runs_alive)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._server.started:
            if not self._threads[0].is_alive() or time.monotonic() > deadline:
                self.stop()
                raise FlowerListenError(f"the Fleet API did not start on {self._settings.host}:{self.port}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop listening. Runs that are still open are finished as stopped; devices wait and come back."""
        self._stopping.set()
        if self._server is not None:
            self._server.should_exit = True
        for thread in self._threads:
            thread.join(STOP_TIMEOUT_S)
        self._threads.clear()
        for run in tuple(self._runs.values()):
            self.finish_run(run, RunEnd.STOPPED)

    def sync_roster(self, public_keys: Mapping[DeviceId, bytes]) -> None:
        """Let exactly these devices in from now on (device id → public key PEM); durable.

        Raises:
            RosterError: a bad name or key, or one key for two devices; the roster is as before.
        """
        self._roster.sync(public_keys)

    def dismiss(self, devices: Collection[DeviceId]) -> None:
        """Let these devices in no more, also in a run that is on; durable. Raises RosterError."""
        self._roster.dismiss(devices)

    def roster(self) -> tuple[DeviceId, ...]:
        """Everybody who is let in."""
        return self._roster.devices()

    def online_devices(self) -> frozenset[DeviceId]:
        """Devices of the roster whose learner is connected (its heartbeat is not overdue)."""
        return frozenset(self.joinings())

    def joinings(self) -> dict[DeviceId, str]:
        """When each of `online_devices` joined, as Flower writes it: a learner that was restarted has another stamp."""
        return {
            device: node.last_activated_at
            for node in self._state.get_node_info(statuses=["online"])
            if (device := self._roster.device_of_node(node.node_id)) is not None
        }

    def start_run(self) -> FlowerRun:
        """Open a Flower run; it stays open until `finish_run`, `stop`, or this process is gone for a minute."""
        run_id = self._state.create_run(
            None,
            None,
            None,
            {},
            flower_internals.NOOP_FEDERATION_ID,
            None,
            flower_internals.NOOP_FLWR_AID,
            flower_internals.TaskType.SERVER_APP,
        )
        tasks = self._state.get_tasks(run_ids=[run_id])
        if len(tasks) != 1:
            raise FlowerServerError(f"Flower made {len(tasks)} tasks for run {run_id}; expected one")
        run = FlowerRun(run_id=run_id, task_id=tasks[0].task_id)
        if not (self._state.claim_task(run.task_id) and self._state.activate_task(run.task_id)):
            raise FlowerServerError(f"Flower would not start run {run_id}")
        with self._lock:
            self._runs[run_id] = run
        return run

    def finish_run(self, run: FlowerRun, end: RunEnd, details: str = "") -> None:
        """Close a run and drop its messages; finishing twice is allowed."""
        with self._lock:
            self._runs.pop(run.run_id, None)
        self._state.finish_task(run.task_id, end.value, details)
        self._state.cleanup_run(run.run_id)
        self._messages.clear(run.run_id)

    def traffic(self, run: FlowerRun) -> Traffic:
        """Bytes that went over the wire for this run so far."""
        sent, received = self._messages.traffic(run.run_id)
        return Traffic(to_devices_bytes=sent, from_devices_bytes=received)

    def grid(self, run: FlowerRun) -> LocalGrid:
        """A Flower Grid for this run, for stock strategies."""
        return LocalGrid(self._state, self._info(run), self._messages, self._notifier)

    def link(self, run: FlowerRun) -> FlowerCohortLink:
        """The road to the devices that a collector takes."""
        return FlowerCohortLink(self.grid(run), self._roster, self._notifier)

    def stage_link(self, run: FlowerRun) -> FlowerStageLink:
        """The road to the devices that a secure collector takes."""
        return FlowerStageLink(self.grid(run), self._roster, self._notifier)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def _info(self, run: FlowerRun) -> flower_internals.Run:
        found = self._state.get_run_info(run_ids=[run.run_id])
        if not found:
            raise FlowerRunEndedError(
                f"Flower run {run.run_id} is not in this server's database; start another"
            )
        return found[0]

    def _node_of_key(self, public_key: bytes) -> int:
        node_id = self._state.get_node_id_by_public_key(public_key)
        if node_id is None:
            node_id = self._state.create_node(
                flower_internals.NOOP_FLWR_AID,
                flower_internals.NOOP_ACCOUNT_NAME,
                public_key,
                RUN_HEARTBEAT_S,
            )
        if not node_id:
            raise RosterError("Flower would not register a device key; its log says why")
        return node_id

    def _finish_stale_runs(self) -> None:
        unfinished = [
            flower_internals.Status.PENDING,
            flower_internals.Status.STARTING,
            flower_internals.Status.RUNNING,
        ]
        for info in self._state.get_run_info(statuses=unfinished):
            if info.run_id not in self._runs and info.primary_task_id is not None:
                self._state.finish_task(
                    info.primary_task_id, RunEnd.STOPPED.value, "the aggregator that opened it is gone"
                )
                self._state.cleanup_run(info.run_id)

    def _serve(self, listener: socket.socket) -> None:
        if self._server is not None:
            asyncio.run(self._server.serve(sockets=[listener]))

    def _keep_runs_alive(self) -> None:
        while not self._stopping.wait(RUN_HEARTBEAT_S):
            for run in tuple(self._runs.values()):
                # A run that Flower has ended already is found out by the next question in it.
                self._state.acknowledge_task_heartbeat(run.task_id)

    def _spawn(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)
