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
from edge_agent.sources.port import SourceWindow  # noqa: E402 - as above


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
    memory_of_a_running_agent()


if __name__ == "__main__":
    main()
