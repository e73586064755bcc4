"""One runtime in a process of its own: reads orders as JSON lines, answers each with one line.

    {"load": workload}   build the model                       -> {"seconds": ..., "cpu_s": ...} since the process began
    {"steps": n}         n training steps                      -> {"wall_s": ..., "cpu_s": ...}
    {"flat": true}       the parameters                        -> {"flat": base64 of float32}
    {"memory": true}     of this process                       -> {"peak": bytes, "resident": ..., "pss": ..., "private": ...}

``bare`` is Python with NumPy and nothing else: what a runtime's memory is counted from.
"""

from __future__ import annotations

import base64
import importlib
import json
import re
import sys
import time
from pathlib import Path

STARTED = time.perf_counter()

RUNTIMES = {
    "litert": "litert_runtime.LiteRt",
    "keras step": "keras_runtime.KerasStep",
    "keras step XLA": "keras_runtime.KerasXla",
    "keras train_on_batch": "keras_runtime.KerasTrainOnBatch",
    "pytorch": "torch_runtime.TorchEager",
    "pytorch compiled": "torch_runtime.TorchCompiled",
    "matrix products alone": "products_runtime.MatrixProducts",
}


def main() -> None:
    name = sys.argv[1]
    import numpy as np  # noqa: F401 - part of what is measured, of the bare process too

    runtime = None
    if name != "bare":
        module, kind = RUNTIMES[name].split(".")
        runtime = getattr(importlib.import_module(f"training_cost_runtimes.{module}"), kind)()
    done = 0
    for line in sys.stdin:
        order = json.loads(line)
        if "load" in order:
            import msgspec

            from training_cost_runtimes.workloads import Workload

            runtime.load(msgspec.convert(order["load"], Workload))
            done = 0
            answer = {"seconds": time.perf_counter() - STARTED, "cpu_s": time.process_time()}
        elif "steps" in order:
            begin, cpu = time.perf_counter(), time.process_time()
            for i in range(done, done + order["steps"]):
                runtime.step(i)
            answer = {"wall_s": time.perf_counter() - begin, "cpu_s": time.process_time() - cpu}
            done += order["steps"]
        elif "flat" in order:
            answer = {"flat": base64.b64encode(runtime.flat().tobytes()).decode()}
        else:
            answer = memory()
        print(json.dumps(answer), flush=True)


def memory() -> dict[str, int]:
    """Bytes of this process. VmHWM and not ru_maxrss: that one begins with what the parent held."""
    status = Path("/proc/self/status").read_text()
    rollup = Path("/proc/self/smaps_rollup").read_text()

    def kilobytes(text: str, *fields: str) -> int:
        return 1024 * sum(int(re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)[1]) for field in fields)

    return {
        "peak": kilobytes(status, "VmHWM"),
        "resident": kilobytes(status, "VmRSS"),
        "pss": kilobytes(rollup, "Pss"),
        "private": kilobytes(rollup, "Private_Clean", "Private_Dirty"),
    }


if __name__ == "__main__":
    main()
