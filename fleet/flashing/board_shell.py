"""A shell on a running board, through this machine's own ssh: one connection, one sign-in, whatever ssh is configured to ask.

Secrets go through standard input, never into a command line, which everybody on the board may read.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

from fleet.flashing.programs import FlashError
from runtime.errors import SettingsError

__all__ = ["BoardShell"]

_PLACE: Final = re.compile(r"(ssh://)?[A-Za-z0-9_][^\s'\"\\;|&$`<>]*")
_FAILED: Final = 255
"""What ssh itself ends with where it did not come through."""
_PATIENCE_S: Final = 1800.0
_OPTIONS: Final = (
    "ConnectTimeout=20",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=8",
    "ControlMaster=auto",
    "ControlPersist=120",
)


class BoardShell:
    """Commands on `place` (``user@host`` or ``ssh://user@host:port``); a context manager."""

    def __init__(self, place: str) -> None:
        """Raises SettingsError where `place` is none, or there is no ssh."""
        if not _PLACE.fullmatch(place):
            raise SettingsError(f"--ssh {place!r:.80} is no place: give user@host, or ssh://user@host:port")
        if shutil.which("ssh") is None:
            raise SettingsError("--ssh needs ssh: sudo apt-get install openssh-client")
        self.place = place
        self._folder = tempfile.TemporaryDirectory(prefix="fedge-ssh-")
        self._ssh = ["ssh", *(word for option in _OPTIONS for word in ("-o", option))]
        self._ssh += ["-o", f"ControlPath={Path(self._folder.name) / 'c'}"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run([*self._ssh, "-O", "exit", "--", self.place], capture_output=True, check=False)
        self._folder.cleanup()

    def run(self, words: Sequence[str], given: bytes | Path = b"") -> str:
        """Run a command, `given` (or the file's content) on its standard input; returns what it prints. Raises FlashError."""
        command = [*self._ssh, "--", self.place, shlex.join(words)]
        try:
            if isinstance(given, Path):
                with given.open("rb") as file:
                    done = subprocess.run(
                        command, stdin=file, capture_output=True, check=False, timeout=_PATIENCE_S
                    )
            else:
                done = subprocess.run(
                    command, input=given, capture_output=True, check=False, timeout=_PATIENCE_S
                )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FlashError(f"{self.place}: {error}") from None
        if done.returncode != 0:
            raise FlashError(self._sentence(done.returncode, done.stderr.decode(errors="replace")))
        return done.stdout.decode(errors="replace")

    def follow(self, words: Sequence[str], hear: Callable[[str], None]) -> int:
        """Run a command and hand each line that it says to `hear`; returns its exit status. Raises FlashError."""
        command = [*self._ssh, "--", self.place, f"{shlex.join(words)} 2>&1"]
        said = ""
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as child:
            for line in child.stdout or ():
                said = line.rstrip()
                hear(said)
        if child.returncode == _FAILED:
            raise FlashError(self._sentence(_FAILED, said))
        return child.returncode

    def _sentence(self, status: int, stderr: str) -> str:
        lines = [line.strip() for line in stderr.splitlines() if line.strip()]
        said = lines[-1][:300] if lines else f"status {status}, and not a word"
        return (
            f"{self.place}: ssh did not come through: {said}"
            if status == _FAILED
            else f"{self.place}: {said}"
        )
