"""``python -m edge_agent.joining.attendant FOLDER``: keeps the agent of a joined folder running where no systemd does, and says how it is.

::

    attendant ─► fedge-agent run ─► ended with 0: over · with 2: over, its last word · with anything else: started again
        └─ looks at status.json, prints a line when something changes, until it watches

SIGTERM and SIGINT are handed on, and the attendant ends when the agent has. Both hold the folder's lock: a second attendant says so
and ends; an agent whose attendant was killed keeps the lock, and runs on.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import IO, Final

from edge_agent.joining.folder import JoinedFolder
from edge_agent.joining.progress import LEARNING, Progress, progress_of, window_every_s
from edge_agent.process_sight import ProcessState, sight_from_here
from edge_agent.settings import Settings, load_agent_settings
from edge_agent.status import read_status
from runtime.backoff import backoff_s
from runtime.errors import FedgeError, StorageError
from runtime.printable import printable

__all__ = ["Attendant", "last_word", "look", "take_lock"]

POLL_S: Final = 0.5
SAY_EVERY_S: Final = 10.0
"""While it learns: how far it is."""
_CLOSE_S: Final = 60.0
"""For the agent's last words; systemd gives it as long."""
_LONGEST_PAUSE_S: Final = 30.0
_STEADY_S: Final = 60.0
"""An agent that ran for longer is started again at once."""
_MOST_LOG_BYTES: Final = 4 * 1024 * 1024


class Attendant:
    """One agent as a child process."""

    def __init__(self, folder: JoinedFolder, lock: IO[bytes], *, is_quiet: bool = False) -> None:
        self._folder, self._lock, self._is_quiet = folder, lock, is_quiet
        self._settings = load_agent_settings(folder.config)
        self._child: subprocess.Popen[bytes] | None = None
        self._stop_signal: int | None = None
        self._said = ("", 0.0)

    def run(self) -> int:
        """Keep it running until it ends by itself or is told to; returns the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._told)
        bad_starts = 0
        while self._stop_signal is None:
            began_s = time.monotonic()
            code = self._attend()
            if code == 0 or self._stop_signal is not None:
                return 0
            if code == 2:
                self._print(f"the agent did not start: {last_word(self._folder.log)}")
                return 2
            bad_starts = 0 if time.monotonic() - began_s > _STEADY_S else bad_starts + 1
            self._print(f"the agent ended with {code}, and is started again; its log: {self._folder.log}")
            self._pause(backoff_s(bad_starts, first_s=1.0, maximum_s=_LONGEST_PAUSE_S, draw=1.0))
        return 0

    def _pause(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while self._stop_signal is None and time.monotonic() < until_s:
            time.sleep(POLL_S)

    def _attend(self) -> int:
        command = [sys.executable, "-m", "edge_agent", "run", "--config", str(self._folder.config)]
        _rotate(self._folder.log)
        with self._folder.log.open("ab") as log:
            child = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=[self._lock.fileno()])
        self._child = child
        if self._stop_signal is not None:  # it came just now
            child.send_signal(signal.SIGTERM)
        ends_s = float("inf")
        while True:
            try:
                return child.wait(POLL_S)
            except subprocess.TimeoutExpired:
                pass
            if self._stop_signal is not None:
                ends_s = min(ends_s, time.monotonic() + _CLOSE_S)
                if time.monotonic() > ends_s:
                    child.kill()
            elif not self._is_quiet:
                self._look(child.pid)

    def _look(self, pid: int) -> None:
        found = look(self._settings, pid)
        if found is None:
            return
        phase, said_s = self._said
        now_s = time.monotonic()
        is_due = found.phase == LEARNING and now_s - said_s >= SAY_EVERY_S
        if found.phase != phase or is_due:
            self._said = (found.phase, now_s)
            self._print(found.words)

    def _print(self, words: str) -> None:
        print(printable(words), flush=True)

    def _told(self, number: int, _frame: FrameType | None) -> None:
        self._stop_signal = number
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)


def look(settings: Settings, pid: int | None = None) -> Progress | None:
    """What the agent of these settings is doing; None while it has not said, or (`pid`) while what is there is another's."""
    try:
        status = read_status(settings.paths.status)
        sight = sight_from_here(settings)
    except StorageError:
        return None
    if sight.state(status) is ProcessState.GONE or (pid is not None and status.pid != pid):
        return None
    return progress_of(status, settings.detection, window_every_s(settings))


def take_lock(folder: JoinedFolder) -> IO[bytes] | None:
    """The folder's lock, open for as long as it is held; None where somebody has it. Raises StorageError."""
    try:
        lock = folder.lock.open("ab")
    except OSError as error:
        raise StorageError(f"cannot open {folder.lock}: {error.strerror or error}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock


def _rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > _MOST_LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))


def last_word(log: Path) -> str:
    """The agent's own sentence of why it ended."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        lines = file.read().decode(errors="replace").splitlines()
    told = [line.partition("error=")[2] for line in lines if "agent_not_started" in line]
    return told[-1] if told else (lines or ["it said nothing"])[-1]


def main(words: list[str]) -> int:
    """The program: a folder, and ``--quiet``."""
    os.umask(0o077)
    try:
        folder = JoinedFolder(path=Path(words[0]))
        lock = take_lock(folder)
        if lock is None:
            print(f"the agent of {folder.path} runs already")
            return 0
        return Attendant(folder, lock, is_quiet="--quiet" in words).run()
    except FedgeError as error:
        print(f"fedge-agent: {printable(str(error))}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
