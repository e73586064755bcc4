"""The local health file: what the agent is doing, readable by people and programs without a port.

`status.json` is rewritten atomically every second, so a reader never sees half of it; whether the agent is alive is told by
looking at its process (`edge_agent.process_sight`). `counters.json` carries the cumulative counters over restarts. Neither is fsynced each time: after a power
cut they are at most seconds old.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
from msgspec import Struct

from edge_agent.health import Counters
from protocol.messages.commands import SettingInForce
from protocol.messages.payloads import Health, SensorShape
from runtime.durable_files import read_bytes, write_durably, write_quickly
from runtime.errors import StorageError

__all__ = [
    "ParkedEvent",
    "Status",
    "load_counters",
    "read_status",
    "save_counters",
    "status_document",
    "write_status",
]

log = logging.getLogger(__name__)


class ParkedEvent(Struct, frozen=True, kw_only=True):
    """An event that waits for a person or another version of the agent; made at Unix seconds."""

    kind: str
    created_s: float
    payload_bytes: int
    reason: str


class Status(Struct, frozen=True, kw_only=True):
    """Everything a person at the device wants to know; `written_at_s` and `started_at_s` are Unix seconds.

    `written_boot_s` is the same moment in seconds since the start of the device that `kernel_boot` names, and
    `process_started` when the process was started, in the kernel's ticks: neither can be set. `clock_is_set` says whether
    the date is known.
    `delegate` is what runs the model, `repository` which versions of the signed repository are believed, and until when, `promise` says how many false alarms there may be and were, `learner` says why it does or does not train, `link` how the broker is, `parked` the newest events
    that ended connections, `problems` what needs a person.
    `sends_windows`: whether the owner lets an anomaly take its raw window along.
    `settings` are those that a fleet may change, as they are; `commands` says what the fleet asked for, and what became of it.
    """

    device: str
    tenant: str
    family: str
    pid: int
    boot_id: str
    agent_version: str
    started_at_s: float
    written_at_s: float
    health: Health
    process_started: int | None = None
    kernel_boot: str = ""
    written_boot_s: float = 0.0
    clock_is_set: bool = False
    threshold: float | None = None
    last_score: float | None = None
    alarm_open: bool = False
    is_trial: bool = False
    commissioned: bool = False
    broker_connected: bool = False
    broker_connections: int = 0
    learner: str = ""
    learner_pid: int | None = None
    malformed_downlinks: int = 0
    source_errors: int = 0
    inference_errors: int = 0
    delegate: str = ""
    repository: str = ""
    promise: str = ""
    drift_shapes: tuple[SensorShape, ...] = ()
    sends_windows: bool = True
    settings: tuple[SettingInForce, ...] = ()
    commands: tuple[str, ...] = ()
    parked: tuple[ParkedEvent, ...] = ()
    problems: tuple[str, ...] = ()


def write_status(path: Path, status: Status) -> None:
    """Replace status.json; raises StorageError where the disk refuses."""
    write_quickly(path, msgspec.json.encode(status_document(status)))


def status_document(status: Status) -> dict[str, object]:
    """Every field by name, a counter that is zero too: `Health` leaves defaults out where they travel, not for a reader."""
    document: dict[str, object] = msgspec.to_builtins(
        {**msgspec.structs.asdict(status), "health": msgspec.structs.asdict(status.health)}
    )
    return document


def read_status(path: Path) -> Status:
    """Read status.json.

    Raises:
        StorageError: there is none (has the agent ever run?), or it is not one.
    """
    content = read_bytes(path)
    if content is None:
        raise StorageError(f"there is no {path}; has the agent been started with this configuration?")
    try:
        return msgspec.json.decode(content, type=Status)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} is not a status file of this version: {error}") from None


def load_counters(path: Path) -> Counters:
    """The counters of earlier boots; zeros where the file is missing or damaged (one line says so)."""
    try:
        content = read_bytes(path)
        return Counters() if content is None else msgspec.json.decode(content, type=Counters)
    except (StorageError, msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("counters_unreadable path=%s error=%s: counting from zero", path, error)
        return Counters()


def save_counters(path: Path, counters: Counters, *, durable: bool = False) -> None:
    """Keep the counters; raises StorageError where the disk refuses."""
    write = write_durably if durable else write_quickly
    write(path, msgspec.json.encode(counters))
