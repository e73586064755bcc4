"""What a running agent costs: memory, and time per window beside the bare interpreter. One JSON line per figure.

    python benchmarks/agent.py [--windows N]

`bound` is the target. Times are medians over single-threaded loops on this machine; memory is the proportional set
size of a real `fedge-agent run` process with its factory bundle, watching, its broker away. The memory of agent and learner together
during a training run is measured from a running fleet with ``--during PID [PID ...]`` (agent and learner).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "edge_agent")]

from agent_world import (  # noqa: E402 - needs the path above; the benchmark watches the same small device as the tests
    FEATURES,
    SPEC,
    healthy,
    int8_model,
    make_bundle,
    manifest_of,
    running_agent,
    status_of,
    write_device,
)
from ai_edge_litert.interpreter import Interpreter  # noqa: E402 - as above
from waiting import wait_until  # noqa: E402 - as above

from edge_agent.detection_memory import DetectionMemory  # noqa: E402 - as above
from edge_agent.health import memory_pss_bytes  # noqa: E402 - as above
from edge_agent.judgement import Judged  # noqa: E402 - as above
from edge_agent.kept_rows import open_stores  # noqa: E402 - as above
from edge_agent.pipeline import Pipeline  # noqa: E402 - as above
from edge_agent.settings import BufferSettings, DetectionSettings, StatePaths  # noqa: E402 - as above
from edge_agent.source_host import SourceHost  # noqa: E402 - as above
from edge_agent.sources.pacing import Pace  # noqa: E402 - as above
from edge_agent.sources.plugin_guard import PluginGuard  # noqa: E402 - as above
from edge_agent.sources.port import Source, SourceWindow  # noqa: E402 - as above


def show(name: str, value: float, unit: str, bound: float | None = None) -> None:
    ratio = round(value / bound, 3) if bound else None
    print(
        json.dumps({"name": name, "value": round(value, 3), "unit": unit, "bound": bound, "ratio": ratio}),
        flush=True,
    )


def median_us(call: Callable[[int], object], count: int) -> float:
    for i in range(200):
        call(i)
    times = []
    for i in range(count):
        started = time.perf_counter()
        call(i)
        times.append((time.perf_counter() - started) * 1e6)
    return statistics.median(times)


def bare_interpreter_us(count: int) -> float:
    interpreter = Interpreter(model_content=int8_model(), num_threads=1)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    x = np.zeros((1, FEATURES), np.int8)

    def call(_: int) -> object:
        interpreter.set_tensor(source, x)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    return median_us(call, count)


def pipeline_figures(count: int) -> None:
    bare_us = bare_interpreter_us(count)
    with tempfile.TemporaryDirectory() as directory:
        paths = StatePaths(Path(directory))
        pipeline = Pipeline(
            SPEC,
            DetectionSettings(),
            memory=DetectionMemory(paths, SPEC),
            stores=open_stores(paths, SPEC, BufferSettings()),
            clock=time.perf_counter,
            wall=time.time,
        )
        pipeline.adopt(manifest_of(make_bundle()), int8_model(), bundle_sha256="0" * 64, is_trial=False)
        windows = [
            SourceWindow(samples=row[None, :], observed_at_s=float(i), index=i)
            for i, row in enumerate(healthy(1000))
        ]
        for window in windows:
            pipeline.observe(window)
        inference_us = []

        def call(i: int) -> object:
            judged = pipeline.observe(windows[i % len(windows)])
            if isinstance(judged, Judged):
                inference_us.append(judged.latency_us)
            return judged

        whole_us = median_us(call, count)
    bound_us = 20.0 + 3.0 * bare_us
    show("bare_interpreter_per_window", bare_us, "us")
    show("agent_inference_and_score_per_window", statistics.median(inference_us), "us", round(bound_us, 2))
    show("agent_whole_pipeline_per_window", whole_us, "us", round(bound_us, 2))


class _Driver:
    """A plug-in that always has a window, or one every `every_s` seconds."""

    spec = SPEC

    def __init__(self, every_s: float = 0.0) -> None:
        self._pace = Pace(period_s=every_s, speed=1.0) if every_s else None
        self._row, self._index = healthy(1), 0

    @property
    def next_due_s(self) -> float:
        return float("-inf") if self._pace is None else self._pace.next_due_s

    def next_window(self, now: float) -> SourceWindow | None:
        if self._pace is not None and not self._pace.take(now):
            return None
        self._index += 1
        return SourceWindow(samples=self._row, observed_at_s=float(self._index), index=self._index - 1)

    def close(self) -> None:
        pass


def source_figures(count: int) -> None:
    """CPU time of both threads per window that the loop takes: a stream of them, and one every 2 ms."""
    for name, every_s, windows in (("stream", 0.0, count), ("one_every_2_ms", 0.002, count // 10)):
        direct_us = _cpu_us(PluginGuard(_Driver(every_s), "benchmark:driver"), windows, threading.Event())
        waking = threading.Event()
        with tempfile.TemporaryDirectory() as directory:
            host = SourceHost(
                lambda every_s=every_s: PluginGuard(_Driver(every_s), "benchmark:driver"),
                name="benchmark:driver",
                answers_within_s=60.0,
                memory=Path(directory) / "source.json",
                clock=time.monotonic,
                wake=waking.set,
            )
            hosted_us = _cpu_us(host, windows, waking)
            host.close()
        show(f"driver_in_the_loop_{name}", direct_us, "us")
        show(f"driver_in_its_thread_{name}", hosted_us, "us")
        show(f"cost_of_the_thread_{name}", hosted_us - direct_us, "us", 10.0 if name == "stream" else None)


def _cpu_us(source: Source, windows: int, waking: threading.Event) -> float:
    taken, started = 0, time.process_time()
    while taken < windows:
        if source.next_window(time.monotonic()) is not None:
            taken += 1
            continue
        if waking.wait(min(0.25, max(0.0, source.next_due_s - time.monotonic()))):
            waking.clear()
    return (time.process_time() - started) / windows * 1e6


def memory_of_a_running_agent() -> None:
    with tempfile.TemporaryDirectory() as directory:
        config = write_device(
            Path(directory),
            rows=healthy(500),
            speed=50.0,
            mqtt_url="mqtt://127.0.0.1:1",
            bundle=make_bundle(),
        )
        with running_agent(config) as agent:
            wait_until(lambda: bool(status_of(config).get("commissioned")), "commissioning")
            time.sleep(5)
            rollup = Path(f"/proc/{agent.pid}/smaps_rollup")
            pss = memory_pss_bytes(rollup)
            kib = {line.split()[0]: int(line.split()[1]) for line in rollup.read_text().splitlines()[1:]}
    show("agent_pss", pss / 1e6, "MB", 60.0)
    # PSS shares library pages with whoever else maps them: the two ends of what it can be.
    show("agent_private", (kib["Private_Clean:"] + kib["Private_Dirty:"]) * 1024 / 1e6, "MB")
    show("agent_rss", kib["Rss:"] * 1024 / 1e6, "MB")


def memory_during_a_run(pids: list[int]) -> None:
    total = sum(memory_pss_bytes(Path(f"/proc/{pid}/smaps_rollup")) for pid in pids)
    show("agent_and_learner_pss", total / 1e6, "MB", 180.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=20_000)
    parser.add_argument(
        "--during", type=int, nargs="+", metavar="PID", help="processes of a device in a training run"
    )
    options = parser.parse_args()
    if options.during:
        memory_during_a_run(options.during)
        return
    pipeline_figures(options.windows)
    source_figures(options.windows)
    memory_of_a_running_agent()


if __name__ == "__main__":
    main()
