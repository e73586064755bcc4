"""Keeps a plant's services alive: starts them in order, starts again what has died, and ends them all.

::

    broker ─► answers ─► fleet ─► answers ─► aggregator ─► answers ─► look after all, every `LOOK_EVERY_S`
                                                             └─ dead ─► pause (doubles, `runtime.backoff`) ─► started again

A service that dies while it is started for the first time ends the start: whoever typed the command is there and reads why. Later
it is started again for ever. What runs already (a former supervisor was killed) is taken over as it is. A machine that slept is no
trouble: nothing here counts its hours, and what died in them is started at once.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from fleet.plant.lives import Life, end_lives, life_of, mark
from fleet.plant.plant_log import PlantLog
from runtime.backoff import backoff_s
from service.errors import StartError
from service.logs import NAME_VARIABLE

__all__ = ["LOOK_EVERY_S", "Service", "Supervisor"]

LOOK_EVERY_S: Final = 0.2

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0

SETTLED_S: Final = 60.0
"""Who has lived so long has not died of its start: the next pause is the first one."""

START_PATIENCE_S: Final = 300.0
"""A migration of a large database, a slow disk."""

SLEPT_S: Final = 5.0

_log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Service:
    """One process of a plant.

    Attributes:
        name: of the service.
        command: that starts it.
        environment: beside ours.
        answers: whether it does what others need it for.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    answers: Callable[[], bool]


@dataclass(kw_only=True)
class _Kept:
    service: Service
    life: Life | None = None
    popen: subprocess.Popen[bytes] | None = None
    begun_s: float = 0.0
    deaths: int = 0
    due_s: float | None = None

    @property
    def is_alive(self) -> bool:
        if self.popen is not None and self.popen.poll() is not None:
            return False
        return self.life is not None and self.life.is_going_on


class Supervisor:
    """Of the plant in one folder.

    Args:
        folder: the plant's.
        log: where the services write.
        is_asked_to_end: looked at while something is waited for.
    """

    def __init__(self, folder: Path, log: PlantLog, *, is_asked_to_end: Callable[[], bool]) -> None:
        self._folder, self._log, self._is_asked_to_end = folder, log, is_asked_to_end
        self._kept: dict[str, _Kept] = {}
        self._slept_s = _slept_s()

    def bring_up(self, service: Service, running: Life | None) -> bool:
        """Start a service, or take over the one that runs; returns once it answers, False where we are asked to end.

        Raises:
            StartError: it died, or does not answer; says its last words.
        """
        kept = self._kept[service.name] = _Kept(service=service)
        since = self._log.size
        if running is not None:
            kept.life, kept.begun_s = running, time.monotonic()
            _log.info("service_taken_over", service=service.name, pid=running.pid)
        else:
            self._spawn(kept)
        deadline = time.monotonic() + START_PATIENCE_S
        while not service.answers():
            if not kept.is_alive:
                raise StartError(
                    f"the {service.name} ended at its start: {self._log.last_words(since) or 'it said nothing'} (log: {self._log.path}; `fedge doctor` looks further)"
                )
            if self._is_asked_to_end():
                return False
            if time.monotonic() > deadline:
                raise StartError(
                    f"the {service.name} does not answer within {START_PATIENCE_S:.0f} s (log: {self._log.path})"
                )
            self.look_after(all_but=service.name)
            time.sleep(LOOK_EVERY_S)
        return True

    def look_after(self, *, all_but: str = "") -> None:
        """Start again what has died and whose pause is over."""
        now_s, slept_s = time.monotonic(), _slept_s()
        if slept_s - self._slept_s > SLEPT_S:
            _log.info("machine_slept", seconds=round(slept_s - self._slept_s))
            for kept in self._kept.values():
                kept.deaths, kept.due_s = 0, kept.due_s and now_s
        self._slept_s = slept_s
        for kept in self._kept.values():
            if kept.service.name == all_but or kept.is_alive:
                continue
            if kept.due_s is None:
                self._note_death(kept, now_s)
            elif now_s >= kept.due_s:
                self._spawn(kept)

    def end_all(self) -> None:
        """End every service, with whatever each has started; those that need others first."""
        lives = [kept.life for kept in reversed(self._kept.values()) if kept.life is not None]
        end_lives(lives)
        for kept in self._kept.values():
            if kept.popen is not None:
                kept.popen.wait()
        self._kept.clear()

    def _note_death(self, kept: _Kept, now_s: float) -> None:
        kept.deaths = 1 if now_s - kept.begun_s > SETTLED_S else kept.deaths + 1
        pause_s = backoff_s(
            kept.deaths,
            first_s=FIRST_PAUSE_S,
            maximum_s=LONGEST_PAUSE_S,
            draw=random.SystemRandom().random(),
        )
        kept.due_s = now_s + pause_s
        status = kept.popen.returncode if kept.popen is not None else None
        _log.warning("service_died", service=kept.service.name, status=status, again_in_s=round(pause_s, 1))
        if kept.life is not None:
            end_lives([kept.life], grace_s=0.0)  # what it has left behind, which may hold its port

    def _spawn(self, kept: _Kept) -> None:
        output = self._log.open()
        try:
            kept.popen = subprocess.Popen(
                kept.service.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={
                    **os.environ,
                    "PYTHONUNBUFFERED": "1",
                    NAME_VARIABLE: kept.service.name,
                    **kept.service.environment,
                    **mark(self._folder, kept.service.name),
                },
                process_group=0,
            )
        except OSError as error:
            _log.warning("service_not_started", service=kept.service.name, reason=str(error))
            kept.due_s = time.monotonic() + LONGEST_PAUSE_S
            return
        finally:
            os.close(output)
        kept.life, kept.begun_s, kept.due_s = life_of(kept.popen.pid), time.monotonic(), None
        _log.info("service_started", service=kept.service.name, pid=kept.popen.pid)


def _slept_s() -> float:
    """How long this machine has slept since it was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
