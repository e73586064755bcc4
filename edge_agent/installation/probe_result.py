"""What the agent and its probe child say to each other. Apart, so that the agent need not load the child's libraries."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["ProbeRequest", "ProbeResult"]


class ProbeRequest(Struct, frozen=True, kw_only=True):
    """What to probe, under which limits.

    `bundle_sha256` is that of the bytes that the agent found good; `memory_bytes` is the address space the model may add; `cpu_s` and
    `wall_s` end the process whatever it does.
    """

    bundle_sha256: str
    memory_bytes: int
    cpu_s: int
    wall_s: int


class ProbeResult(Struct, frozen=True, kw_only=True):
    """What the probe found; `failure` is one line, or empty. Latencies in µs of whole int8 inferences."""

    failure: str = ""
    latency_p50_us: float = 0.0
    latency_p99_us: float = 0.0
    worst_steps: int = 0
