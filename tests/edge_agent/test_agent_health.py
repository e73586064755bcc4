"""Health: rates of the interval, sums of the device, a bounded sample of latencies, memory as the kernel says it."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from edge_agent.health import (
    Counters,
    Interval,
    LatencyReservoir,
    Readings,
    Vitals,
    health_of,
    memory_pss_bytes,
)
from protocol.messages.kinds import AgentState, InstallStep
from protocol.messages.payloads import Health

pytestmark = pytest.mark.edge
NOW = 1_800_000_000.0


def test_health_carries_rates_of_the_interval_and_sums_of_the_device() -> None:
    counters = Counters(windows=100, windows_over_threshold=9, anomalies=2, raw_bytes=800, training_bytes=7)
    interval = Interval(started_s=10.0, windows=25, judged=19, over=5, score_sum=28.0, score_max=3.5)
    interval.note(2.0, 2.25)
    latencies = LatencyReservoir(random.Random(1))
    for i in range(1, 101):
        latencies.add(float(i))
    vitals = Vitals(
        counters=counters,
        latencies=latencies,
        started_clock_s=11.0,
        started_wall_s=NOW,
        interval=interval,
        state=AgentState.WATCHING,
        release="pump/1",
    )
    readings = Readings(
        drift_score=0.5,
        drifted=False,
        outbox_events=1,
        buffered_windows=2,
        training_run=None,
        install_step=InstallStep.IDLE,
        memory_pss_bytes=4,
        missing=tuple(f"s{i}" for i in range(40)),
        sight=2 / 3,
        problems=("x" * 1000,) * 20,
    )
    health = health_of(vitals, readings, 14.0)
    assert isinstance(health, Health)
    assert msgspec.json.decode(msgspec.json.encode(health), type=Health) == health, (
        "whatever parts say, it can be sent"
    )
    assert (health.windows, health.interval_windows, health.interval_s) == (100, 25, 4.0)
    assert (health.interval_judged, health.judged) == (20, 20)
    assert (health.anomaly_rate, health.score_mean) == (0.25, 1.5)
    assert (health.score_max, health.threshold) == (3.5, 2.25), (
        "the highest score, and what scores are compared with"
    )
    assert (health.inference_p50_us, health.inference_p99_us) == (51.0, 100.0)
    assert (health.raw_bytes, health.uptime_s, health.release) == (800, 3.0, "pump/1")


def test_the_latency_sample_is_bounded_and_stays_close_to_the_truth() -> None:
    latencies = LatencyReservoir(random.Random(3), size=512)
    rng = random.Random(4)
    for _ in range(20_000):
        latencies.add(rng.uniform(0.0, 1000.0))
    assert abs(latencies.quantile(0.5) - 500.0) < 60.0
    assert abs(latencies.quantile(0.99) - 990.0) < 10.0
    latencies.clear()
    assert latencies.quantile(0.5) == 0.0


def test_memory_is_read_from_the_kernel_and_zero_where_it_does_not_tell(tmp_path: Path) -> None:
    (tmp_path / "rollup").write_text("x\nRss: 9 kB\nPss:  1234 kB\n")
    assert memory_pss_bytes(tmp_path / "rollup") == 1234 * 1024
    assert memory_pss_bytes(tmp_path / "missing") == 0
    assert memory_pss_bytes() > 5_000_000
