"""The child process that runs an unproven model so that the agent does not have to: `python -m edge_agent.installation.probe_child`.

Reads one request on stdin (a JSON line, then the bundle's bytes), limits itself, runs the golden vectors and the clock, and
writes one `ProbeResult` as JSON on stdout. Exit code 0 with a result, also a bad one; anything else is a crash.

Limits are set after the interpreter's libraries are loaded and before a byte of the model is looked at, so that they
count what the model costs. The child takes nothing but the very bytes that the agent found good.

Source: getrlimit(2).
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from edge_agent.installation.probe_result import ProbeRequest, ProbeResult
from models.bundles import ModelBundle, read_bundle
from models.errors import ModelError
from models.int8_model import Int8Model
from models.training_model import TrainingModel
from protocol.bundle import open_listed
from protocol.errors import BundleError

__all__ = ["main"]

TIMED_INFERENCES: Final = 200
"""Inferences that are timed: 99th percentile from two of them, a few milliseconds for our models."""

TIMING_S: Final = 1.0
"""Stop timing after this, however slow the model is."""


def main() -> None:
    """Serve one request."""
    result_fd = os.dup(1)
    os.dup2(2, 1)  # whatever the runtime prints must not look like a result
    head, _, content = sys.stdin.buffer.read().partition(b"\n")
    request = msgspec.json.decode(head, type=ProbeRequest)
    _limit(request)
    try:
        result = _probe(content, request)
    except MemoryError:
        result = ProbeResult(failure=f"the model wants more than {request.memory_bytes} bytes of memory")
    except (BundleError, ModelError) as error:
        # LiteRT does not say when it was memory that it could not get.
        result = ProbeResult(failure=f"{error} (memory allowed: {request.memory_bytes // 1_048_576} MiB)")
    os.write(result_fd, msgspec.json.encode(result))


def _limit(request: ProbeRequest) -> None:
    os.nice(10)  # live inference goes first
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    ceiling = pages * resource.getpagesize() + request.memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (ceiling, ceiling))
    # The hard limit kills without saying why, so the soft one must come first.
    resource.setrlimit(resource.RLIMIT_CPU, (request.cpu_s, request.cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    # The agent kills a probe that hangs; the alarm does if the agent itself was killed.
    signal.alarm(request.wall_s)


def _probe(content: bytes, request: ProbeRequest) -> ProbeResult:
    bundle = read_bundle(open_listed(content, request.bundle_sha256))
    model = Int8Model(bundle.int8_model, bundle.architecture.kind)
    worst = bundle.golden.check(model)
    latencies = _time(model, bundle)
    TrainingModel(bundle.training_model, bundle.architecture).restore(bundle.parameters)
    return ProbeResult(
        latency_p50_us=float(np.percentile(latencies, 50)),
        latency_p99_us=float(np.percentile(latencies, 99)),
        worst_steps=worst,
    )


def _time(model: Int8Model, bundle: ModelBundle) -> list[float]:
    windows = [np.array(row, np.float32) for row in bundle.golden.inputs] or [
        np.zeros(bundle.architecture.feature_count, np.float32)
    ]
    latencies: list[float] = []
    until = time.perf_counter() + TIMING_S
    while len(latencies) < TIMED_INFERENCES:
        started = time.perf_counter()
        model.infer(windows[len(latencies) % len(windows)])
        ended = time.perf_counter()
        latencies.append((ended - started) * 1e6)
        if ended > until:
            break
    return latencies


if __name__ == "__main__":
    main()
