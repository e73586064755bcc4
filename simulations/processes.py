"""Starts the processes of a world, keeps them alive as an init system would, and stops every one of them.

A process that dies is started again after a short delay (systemd's Restart=always), unless it dies too often.
Children die with this process even when it is killed (PR_SET_PDEATHSIG), so a crashed demo leaves nothing behind.
Everything is stopped by pid; nothing is ever killed by name.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from simulations.endings import end_if_asked, undisturbed
from simulations.errors import ProcessFailedError
from simulations.patience import Patience

__all__ = ["Supervisor", "WorldProcess"]

RESTART_DELAY_S: Final = 0.5
MAXIMUM_RESTARTS: Final = 10
STOP_GRACE_S: Final = 8.0
HOLD_WITHIN_S: Final = 90.0
"""What ends by itself ends within seconds, on a machine that is ten times slower too."""
_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(kw_only=True)
class WorldProcess:
    """One supervised process.

    Attributes:
        name: what the world calls it.
        arguments: its command line.
        log: where its output goes.
        environment: whole; nothing is added.
        popen: its life now, or its last.
        restarts: how often it was started again.
        died_at: when it was found dead (the supervisor's clock); None while it lives.
        exit_codes: of its earlier lives, -N for signal N.
        is_held: it was stopped on purpose and stays so until `Supervisor.resume`.
    """

    name: str
    arguments: Sequence[str]
    log: Path
    environment: Mapping[str, str]
    popen: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    died_at: float | None = None
    exit_codes: list[int] = field(default_factory=list)
    is_held: bool = False

    @property
    def pid(self) -> int | None:
        """The pid it runs under now, or None between two lives."""
        return self.popen.pid if self.popen and self.popen.poll() is None else None

    def last_words(self, lines: int = 3) -> str:
        """The end of its log, for an error message."""
        try:
            text = self.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return " | ".join(text[-lines:])


class Supervisor:
    """Owns the processes of one world. Call `tick` regularly; use as a context manager so that all are stopped."""

    def __init__(
        self,
        log_directory: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        maximum_restarts: int = MAXIMUM_RESTARTS,
    ) -> None:
        self._logs = log_directory
        self._clock = clock
        self._maximum_restarts = maximum_restarts
        self.processes: dict[str, WorldProcess] = {}
        log_directory.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with undisturbed():
            self.stop_all()

    def start(
        self, name: str, module: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> WorldProcess:
        """Start ``python -m module arguments`` under `name`; its output goes to ``<logs>/<name>.log``."""
        return self.start_program(name, sys.executable, "-m", module, *arguments, environment=environment)

    def start_program(
        self, name: str, *command: str, environment: Mapping[str, str] | None = None
    ) -> WorldProcess:
        """Start any program under `name`; its output goes to ``<logs>/<name>.log``."""
        process = WorldProcess(
            name=name,
            arguments=command,
            log=self._logs / f"{name}.log",
            environment={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        )
        self.processes[name] = process
        self._spawn(process)
        return process

    def run(self, name: str, module: str, *arguments: str) -> str:
        """Run ``python -m module arguments`` to its end, however long this machine takes; returns what it printed.

        Raises:
            ProcessFailedError: it did not exit with 0; carries its last words.
        """
        log = self._logs / f"{name}.log"
        with log.open("ab") as errors:
            done = subprocess.run(
                (sys.executable, "-m", module, *arguments), stdout=subprocess.PIPE, stderr=errors, check=False
            )
        if done.returncode != 0:
            words = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise ProcessFailedError(
                f"{name} ended with status {done.returncode}: {' '.join(words)} (log: {log})"
            )
        return done.stdout.decode()

    def tick(self) -> list[str]:
        """Start again what has died; returns the names of processes found dead since the last call.

        Raises:
            ProcessFailedError: one of them died more than `maximum_restarts` times.
            KeyboardInterrupt: the run was asked to end, and has not heard it.
        """
        end_if_asked()
        now, found = self._clock(), []
        for process in self.processes.values():
            if process.popen is None or process.popen.poll() is None or process.is_held:
                continue
            if process.died_at is None:
                process.died_at = now
                process.exit_codes.append(process.popen.returncode)
                found.append(process.name)
                if process.restarts >= self._maximum_restarts:
                    raise ProcessFailedError(
                        f"{process.name} died {process.restarts + 1} times; its last words: {process.last_words()}"
                    )
            elif now - process.died_at >= RESTART_DELAY_S:
                process.restarts += 1
                self._spawn(process)
        return found

    def wait_until(
        self, ready: Callable[[], bool], what: str, *, patience_s: float = 60.0, poll_s: float = 0.1
    ) -> None:
        """Poll `ready` until it is true, keeping processes alive meanwhile.

        Raises:
            ProcessFailedError: not ready within `patience_s` seconds of a quiet machine; quotes whoever died.
        """
        patience = Patience(patience_s)
        while not ready():
            self.tick()
            if patience.is_used_up():
                dead = [
                    f"{p.name}: {p.last_words()}"
                    for p in self.processes.values()
                    if p.pid is None or p.restarts
                ]
                raise ProcessFailedError(
                    f"waited in vain for {what}{'; ' if dead else ''}{'; '.join(dead[:3])} (logs: {self._logs})"
                )
            time.sleep(poll_s)

    def kill(self, name: str) -> int:
        """SIGKILL one process (it will be started again by `tick`); returns the pid that was killed."""
        pid = self.processes[name].pid
        if pid is None:
            raise ProcessFailedError(f"{name} is not running and cannot be killed")
        os.kill(pid, signal.SIGKILL)
        return pid

    def hold(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End one process by a signal, kindly or not, and keep it ended until `resume`.

        Raises:
            ProcessFailedError: it does not end within `HOLD_WITHIN_S`, and is killed.
        """
        process = self.processes[name]
        process.is_held = True
        if process.popen is None or process.popen.poll() is not None:
            return
        process.popen.send_signal(number)
        try:
            process.popen.wait(HOLD_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.popen.kill()
            process.popen.wait()
            raise ProcessFailedError(
                f"{name} did not end within {HOLD_WITHIN_S:.0f} s of {number.name}; its last words: {process.last_words()}"
            ) from None

    def resume(self, name: str) -> None:
        """Start a held process again, at once."""
        process = self.processes[name]
        process.is_held = False
        self._spawn(process)

    def stop_all(self) -> None:
        """Stop everything, newest first: first kindly, then not; and whatever each of them has left behind (a learner)."""
        lives = [p.popen for p in reversed(self.processes.values()) if p.popen and p.popen.poll() is None]
        self.processes.clear()
        for popen in lives:
            popen.terminate()
        deadline = time.monotonic() + STOP_GRACE_S
        for popen in lives:
            try:
                popen.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()
            with suppress(ProcessLookupError):
                os.killpg(popen.pid, signal.SIGKILL)  # a group of its own since `_spawn`

    def _spawn(self, process: WorldProcess) -> None:
        process.died_at = None
        with process.log.open("ab") as log:
            process.popen = subprocess.Popen(
                process.arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(process.environment),
                process_group=0,  # Ctrl-C at a terminal is for us: we stop them in order
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one prctl call, and we start from the only thread
            )


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
