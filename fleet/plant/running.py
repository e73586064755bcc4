"""`fedge up` and `fedge down`: one supervisor for a plant, in the foreground or for itself, and its end.

::

    run/up.lock   held by the supervisor for as long as it lives, with its process id in it; whoever finds it free may begin

A supervisor that was killed leaves its services running; the next one takes them over, and `down` ends them without one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final, TextIO

import structlog

from fleet.plant.broker import write_plant_broker
from fleet.plant.lives import Life, end_lives, find_lives, life_of
from fleet.plant.plant_log import PlantLog
from fleet.plant.services import plant_services
from fleet.plant.supervisor import LOOK_EVERY_S, Supervisor
from fleet.settings import load_fleet_settings
from fleet.storage.connecting import check_connection
from runtime.durable_files import private_directory
from service.addresses import split_endpoint
from service.errors import StartError
from service.plant import Plant

__all__ = ["hold_up", "running_supervisor", "take_down"]

LOCK: Final = "up.lock"

DOWN_WITHIN_S: Final = 60.0
"""Three services, each with its grace, and the supervisor's own looks."""

ROTATE_EVERY_S: Final = 10.0

_log = structlog.get_logger()


def running_supervisor(plant: Plant) -> int | None:
    """The process id of the supervisor that has this plant up; None: none does."""
    try:
        descriptor = os.open(plant.run / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        said = os.pread(descriptor, 32, 0).strip()
        return int(said) if said.isdigit() else 0
    finally:
        os.close(descriptor)
    return None


def hold_up(
    plant: Plant, *, say: Callable[[str], None], terminal: TextIO | None, done: Callable[[], None]
) -> None:
    """Bring the plant up and keep it so until SIGTERM, SIGINT or SIGHUP; then end it.

    Args:
        plant: which.
        say: tells whoever waits, a line at a time.
        terminal: where the log is shown, too.
        done: called once everything answers.

    Raises:
        StartError, SettingsError, StorageError: it cannot be brought up; nothing of it is left running.
    """
    log, ends = PlantLog(private_directory(plant.log)), _Ends()
    with _alone(plant), ends:
        log.begin_here()
        supervisor = Supervisor(plant.folder, log, is_asked_to_end=ends.is_asked)
        running = find_lives(plant.folder)
        try:
            _prepare(plant, running)
            for service in plant_services(plant):
                if not supervisor.bring_up(service, running.get(service.name)):
                    return
                say(f"{service.name:10} {'taken over' if service.name in running else 'up'}")
                _show(log, terminal)
            done()
            _log.info("plant_up", plant=str(plant.folder))
            looked_s = time.monotonic()
            while not ends.is_asked():
                supervisor.look_after()
                _show(log, terminal)
                if time.monotonic() - looked_s > ROTATE_EVERY_S:
                    looked_s = time.monotonic()
                    log.rotate()
                time.sleep(LOOK_EVERY_S)
        finally:
            supervisor.end_all()
            end_lives(find_lives(plant.folder).values())
            _log.info("plant_down", plant=str(plant.folder))
            _show(log, terminal)


def take_down(plant: Plant) -> bool:
    """End the plant's supervisor and services; returns once nothing of them runs: True where something did."""
    pid = running_supervisor(plant)
    if supervisor := life_of(pid) if pid else None:
        with suppress(ProcessLookupError):
            os.kill(supervisor.pid, signal.SIGTERM)
        deadline = time.monotonic() + DOWN_WITHIN_S
        while supervisor.is_going_on:
            time.sleep(LOOK_EVERY_S)
            if time.monotonic() > deadline:
                with suppress(ProcessLookupError):
                    os.kill(supervisor.pid, signal.SIGKILL)
    left = find_lives(plant.folder)
    end_lives(left.values())
    return bool(pid or left)


def _prepare(plant: Plant, running: dict[str, Life]) -> None:
    """What must be before anything starts: ports, database, its newest schema, the broker's files."""
    from fleet.migrations.upgrade import open_storage  # `down` need not wait a second for it

    listen = plant.description.listen
    for service, keys in (
        ("broker", ["broker"]),
        ("fleet", ["fleet"]),
        ("aggregator", ["aggregator", "flower"]),
    ):
        if service not in running:
            for key in keys:
                _check_free(key, getattr(listen, key), plant)
    settings = load_fleet_settings(plant.fleet_config)
    check_connection(settings.effective_database_url)
    with closing(open_storage(settings.effective_database_url)) as database:
        write_plant_broker(plant, settings, database)


def _check_free(service: str, listen: str, plant: Plant) -> None:
    host, port = split_endpoint(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise StartError(f"the {service} cannot listen on {listen}: {error.strerror}") from None
            raise StartError(
                f"port {port} is taken, and the {service} of {plant.folder} needs it: `ss -ltnp 'sport = :{port}'` tells by whom;"
                f" end that, or give this plant another: fedge init plant --port {service}=NUMBER --renew"
            ) from None


@contextmanager
def _alone(plant: Plant) -> Iterator[None]:
    path: Path = private_directory(plant.run) / LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            raise StartError(
                f"{plant.folder} is up already (process {pid}): {plant.fleet_url}; `fedge down` ends it"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


class _Ends:
    """Whether a signal has asked for the end; as a context manager it listens, and gives the signals back."""

    _NUMBERS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __init__(self) -> None:
        self._asked = False
        self._before: list[object] = []

    def is_asked(self) -> bool:
        return self._asked

    def __enter__(self) -> None:
        def ask(*_: object) -> None:
            self._asked = True

        self._before = [signal.signal(number, ask) for number in self._NUMBERS]

    def __exit__(self, *_: object) -> None:
        for number, handler in zip(self._NUMBERS, self._before, strict=True):
            signal.signal(number, handler)  # type: ignore[arg-type] # what `signal.signal` gave


def _show(log: PlantLog, terminal: TextIO | None) -> None:
    if terminal is not None:
        log.show(terminal)
