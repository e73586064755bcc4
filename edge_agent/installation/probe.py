"""Running an unproven model where it can do no harm: a child process with limits on time and memory.

A model that crashes LiteRT, loops, or eats memory ends the child, never the agent. This side starts it, waits, kills it,
and turns what happened into one clear line; `probe_child` is the other side.
"""

from __future__ import annotations

import hashlib
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Final, Protocol

import msgspec
from msgspec import Struct

from edge_agent.errors import InstallFailedError, InstallTimeoutError
from edge_agent.installation.probe_result import ProbeRequest, ProbeResult

__all__ = ["ChildProbe", "ModelProbe", "ProbeLimits", "how_it_ended"]

_POLL_S: Final = 0.1
"""How soon a probe notices that a newer request arrived."""


class ProbeLimits(Struct, frozen=True, kw_only=True):
    """What an unproven model may cost.

    Attributes:
        wall_s: from start to result. A cold Python with LiteRT takes 3 s on a small Arm board, 10 s under load.
        memory_bytes: address space beyond the empty runtime; ours need about 20 MB.
        maximum_latency_us: 99th percentile of one inference.
    """

    wall_s: float = 30.0
    memory_bytes: int = 256 * 1024 * 1024
    maximum_latency_us: float = 250_000.0


class ModelProbe(Protocol):
    """Tries a model out."""

    def run(self, release: str, content: bytes, is_interrupted: Callable[[], bool]) -> ProbeResult | None:
        """Probe a verified bundle; None where a newer request interrupted.

        Raises:
            InstallFailedError: wrong golden outputs, a crash, too much memory, too slow.
            InstallTimeoutError: no result in time.
        """


class ChildProbe:
    """Probes in a child process.

    Args:
        limits: see `ProbeLimits`.
    """

    def __init__(self, limits: ProbeLimits | None = None) -> None:
        self._limits = limits or ProbeLimits()

    def run(self, release: str, content: bytes, is_interrupted: Callable[[], bool]) -> ProbeResult | None:
        """See `ModelProbe.run`."""
        request = ProbeRequest(
            bundle_sha256=hashlib.sha256(content).hexdigest(),
            memory_bytes=self._limits.memory_bytes,
            cpu_s=math.ceil(self._limits.wall_s),
            wall_s=math.ceil(self._limits.wall_s) + 5,
        )
        # A file, not a pipe: `communicate` with a timeout forgets what did not fit into the pipe at the first try.
        try:
            with tempfile.TemporaryFile() as question:
                question.write(msgspec.json.encode(request) + b"\n" + content)
                question.seek(0)
                child = self._start(question)
        except OSError as error:
            raise InstallFailedError(f"the probe of {release} cannot be started: {error}") from None
        try:
            ended = self._wait(child, is_interrupted)
        finally:
            if child.poll() is None:
                with suppress(ProcessLookupError):
                    child.kill()
                child.communicate()
        if ended is None:
            return None
        return self._judge(release, child.returncode, *ended)

    def _start(self, question: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            # -P: the current directory is nobody's place to bring modules along.
            [sys.executable, "-P", "-m", "edge_agent.installation.probe_child"],
            stdin=question,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # One thread: a pool per core would cost address space that is not the model's.
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C in the agent's terminal is the agent's business
        )

    def _wait(
        self, child: subprocess.Popen[bytes], is_interrupted: Callable[[], bool]
    ) -> tuple[bytes, bytes] | None:
        for _ in range(math.ceil(self._limits.wall_s / _POLL_S)):
            try:
                return child.communicate(timeout=_POLL_S)
            except subprocess.TimeoutExpired:
                if is_interrupted():
                    return None
        raise InstallTimeoutError(
            f"the model gave no result within {self._limits.wall_s:g} s of probing and was ended; it hangs, or this device is overloaded"
        )

    def _judge(self, release: str, code: int, output: bytes, errors: bytes) -> ProbeResult:
        if code in {-signal.SIGXCPU, -signal.SIGALRM}:
            raise InstallTimeoutError(
                f"probing {release} used up its {self._limits.wall_s:g} s of processor time"
            )
        try:
            result = msgspec.json.decode(output, type=ProbeResult)
        except msgspec.DecodeError:
            raise InstallFailedError(
                f"{release} crashed the probe ({how_it_ended(code)}); last words: {_last_line(errors)}"
            ) from None
        if result.failure:
            raise InstallFailedError(f"{release} failed the probe: {result.failure}")
        if result.latency_p99_us > self._limits.maximum_latency_us:
            raise InstallFailedError(
                f"{release} is too slow for this device: 99th percentile {result.latency_p99_us:.0f} µs, at most {self._limits.maximum_latency_us:.0f} µs"
            )
        return result


def how_it_ended(code: int) -> str:
    """A child's return code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _last_line(errors: bytes) -> str:
    lines = errors.decode("utf-8", "replace").split("\n")
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "none")
