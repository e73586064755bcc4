"""What learning costs a device: LiteRT beside Keras and PyTorch doing the same work. One JSON object a line.

    python benchmarks/training_cost.py [--repeats 9] [--only step|memory|run|bytes] [--runtimes litert,pytorch]

Every runtime is a process of its own on one thread (`training_cost_runtimes`), starts from the same parameters and takes
the same batches; after the first steps all must hold the same parameters, so it is the same work. Step times are medians
of short measurements taken in turns: the processor's time of the whole process, which is the wall clock's on a machine that
nothing else uses; the wall clock stands beside it. LiteRT is given NumPy arrays and checks them, the compiled steps of the
others get their own tensors. Memory is
the peak of a process that trained 200 steps, and what that is above Python with NumPy. A run is a process from its start
to its end (import, load, train): a learner lives no longer. CPU-seconds stand for energy: on one core at one clock they
are proportional.

Bounds (issue 4): a step at most a third of Keras' and no longer than PyTorch's, at a third of their memory.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import IO, Any

import msgspec
import numpy as np
from training_cost_runtimes.child import RUNTIMES
from training_cost_runtimes.workloads import OptimizerName, Workload

from models.architecture import Architecture
from models.export.isolated import export_training_model
from protocol.manifest import ConvolutionSpec
from protocol.secure_sum.masks import packed_bytes

SMALL = Architecture(kind="dense-autoencoder", layers=(24, 16, 8, 16, 24))
README = Architecture(kind="dense-autoencoder", layers=(32, 16, 8, 16, 32))
DIGITS = Architecture(kind="dense-classifier", layers=(784, 200, 200, 10))
PUMP = Architecture(
    kind="conv-autoencoder",
    layers=(8, 32, 16, 32, 8),
    convolution=ConvolutionSpec(samples=60, kernel=6, stride=2),
)
CASES: Sequence[tuple[Architecture, int, OptimizerName]] = (
    (SMALL, 32, "sgd"),
    (README, 32, "sgd"),
    (README, 64, "sgd"),
    (README, 32, "momentum"),
    (README, 32, "adam"),
    (DIGITS, 10, "sgd"),
    (DIGITS, 64, "sgd"),
    (DIGITS, 10, "adam"),
    (PUMP, 32, "sgd"),
)
STEP_BOUNDS = {"keras": 1 / 3, "pytorch": 1.0}
MEMORY_BOUND = 1 / 3
FLOOR = "matrix products alone"
"""What no training step is much faster than; beside the others it says where the arithmetic is what costs."""
WORD_BITS = 20
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
}
HERE = Path(__file__).resolve().parent


class Child:
    """A runtime's process; `ask` sends an order and waits for its answer."""

    def __init__(self, process: subprocess.Popen[str], name: str, errors: IO[str]) -> None:
        self._process, self._name, self._errors = process, name, errors

    def ask(self, **order: Any) -> dict[str, Any]:
        """The answer to one order; RuntimeError when the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            status = self._process.wait()
            self._errors.seek(0)
            raise RuntimeError(
                f"the process of {self._name!r} ended with status {status}: {self._errors.read()[-800:]}"
            )
        found: dict[str, Any] = json.loads(answer)
        return found


@contextmanager
def child(name: str) -> Iterator[Child]:
    environment = {
        **os.environ,
        **ONE_THREAD,
        "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)]),
    }
    command = [sys.executable, "-m", "training_cost_runtimes.child", name]
    with tempfile.TemporaryFile("w+") as errors:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
        with subprocess.Popen(command, text=True, env=environment, **pipes) as process:
            yield Child(process, name, errors)
            process.stdin.close()


def report(
    name: str, value: float, unit: str, peer: str, peer_value: float, bound: float | None, **more: Any
) -> None:
    """One figure beside a peer's; `bound` is the largest ratio that the issue allows."""
    line = {
        "name": name,
        "value": round(value, 3),
        "unit": unit,
        "peer": peer,
        "peer_value": round(peer_value, 3),
    }
    line["ratio"] = round(value / peer_value, 3)
    if bound is not None:
        line |= {"bound": round(bound, 3), "holds": value <= bound * peer_value}
    print(json.dumps(line | more), flush=True)


def measure_steps(workloads: Sequence[Workload], runtimes: Sequence[str], repeats: int) -> None:
    """Step times of all runtimes, side by side."""
    with ExitStack() as stack:
        children = {name: stack.enter_context(child(name)) for name in runtimes}
        for workload in workloads:
            progress(f"steps: {workload.name}")
            counts, flats = {}, {}
            running = {
                name: process
                for name, process in children.items()
                if name != FLOOR or workload.architecture.convolution is None
            }
            for name, process in running.items():
                process.ask(load=msgspec.to_builtins(workload))
                process.ask(steps=10)
                flats[name] = np.frombuffer(base64.b64decode(process.ask(flat=True)["flat"]), np.float32)
                counts[name] = max(10, int(0.1 / (process.ask(steps=20)["wall_s"] / 20)))
            require_same_work(workload, {name: flat for name, flat in flats.items() if name != FLOOR})
            times: dict[str, list[tuple[float, float]]] = {name: [] for name in running}
            for _ in range(repeats):
                for name, process in running.items():
                    took = process.ask(steps=counts[name])
                    times[name].append((took["wall_s"] / counts[name], took["cpu_s"] / counts[name]))
            wall, cpu = ({n: 1e6 * median(t[i] for t in ts) for n, ts in times.items()} for i in (0, 1))
            for name in list(running)[1:]:
                report(
                    f"step, {workload.name}", cpu["litert"], "us", name, cpu[name], STEP_BOUNDS.get(name.split()[0]),
                    wall_us=round(wall["litert"], 1), peer_wall_us=round(wall[name], 1),
                    wall_ratio=round(wall["litert"] / wall[name], 3),
                )  # fmt: skip


def require_same_work(workload: Workload, flats: Mapping[str, np.ndarray]) -> None:
    """All went the same way from the start, but for rounding; RuntimeError where one did not."""
    # Keras adds Adam's epsilon before the bias correction and the others after: it shows where gradients are near zero.
    allowed = 0.05 if workload.optimizer == "adam" else 1e-4
    ours = flats["litert"]
    way = float(np.linalg.norm(ours - workload.start()))
    apart = {name: float(np.linalg.norm(flat - ours)) / way for name, flat in flats.items()}
    if max(apart.values()) > allowed:
        raise RuntimeError(
            f"not the same work in {workload.name}: share of the way apart {apart}, at most {allowed}"
        )


def measure_memory(workloads: Sequence[Workload], runtimes: Sequence[str]) -> None:
    """Peak memory of fresh processes that trained 200 steps."""
    with child("bare") as process:
        bare = process.ask(memory=True)
    for workload in workloads:
        found = {}
        for name in runtimes:
            progress(f"memory: {workload.name}, {name}")
            with child(name) as process:
                process.ask(load=msgspec.to_builtins(workload))
                process.ask(steps=200)
                found[name] = process.ask(memory=True)
        for name in runtimes[1:]:
            ours, peers = found["litert"], found[name]
            report(
                f"peak memory, {workload.name}", ours["peak"] / 1e6, "MB", name, peers["peak"] / 1e6, MEMORY_BOUND,
                above_bare_mb=round((ours["peak"] - bare["peak"]) / 1e6, 1),
                peer_above_bare_mb=round((peers["peak"] - bare["peak"]) / 1e6, 1),
                pss_mb=round(ours["pss"] / 1e6, 1), peer_pss_mb=round(peers["pss"] / 1e6, 1),
            )  # fmt: skip


def measure_runs(workloads: Sequence[Workload], runtimes: Sequence[str], epochs: int) -> None:
    """CPU-seconds of a whole process: import, load, `epochs` over 1,024 windows."""
    for workload in workloads:
        steps = epochs * -(-1024 // workload.batch)
        cpu, load = {}, {}
        for name in runtimes:
            progress(f"run: {workload.name}, {name}")
            with child(name) as process:
                loaded = process.ask(load=msgspec.to_builtins(workload))
                cpu[name] = loaded["cpu_s"] + process.ask(steps=steps)["cpu_s"]
                load[name] = loaded["cpu_s"]
        for name in runtimes[1:]:
            title = f"run of {steps} steps, import included, {workload.name}"
            report(title, cpu["litert"], "CPU-seconds", name, cpu[name], None)
            report(f"import and load, {workload.name}", load["litert"], "CPU-seconds", name, load[name], None)


def report_bytes(architectures: Sequence[Architecture]) -> None:
    """Bytes of one round: the model down as float32, the update up in words of the secure sum."""
    for architecture in architectures:
        count = architecture.parameter_count
        up = packed_bytes(count, WORD_BITS)
        name = "-".join(map(str, architecture.layers))
        report(
            f"bytes of a round, {name}", 4 * count + up, "B", "float32 both ways", 8 * count, None,
            down=4 * count, up=up,
        )  # fmt: skip


def progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--repeats", type=int, default=9, help="measurements of each step time")
    options.add_argument("--only", choices=("step", "memory", "run", "bytes"), help="one group of figures")
    options.add_argument("--runtimes", default=",".join(RUNTIMES), help="litert first, then its peers")
    options.add_argument(
        "--cases", type=int, nargs="*", default=range(len(CASES)), help="step times of these cases"
    )
    chosen = options.parse_args()
    runtimes = chosen.runtimes.split(",")
    wanted = {chosen.only} if chosen.only else {"step", "memory", "run", "bytes"}
    with tempfile.TemporaryDirectory() as folder:
        workloads = [
            make_workload(Path(folder), *CASES[i]) for i in (chosen.cases if wanted != {"bytes"} else ())
        ]
        typical = [
            workload for workload in workloads if (workload.optimizer, workload.batch) in {("sgd", 64)}
        ]
        if "step" in wanted:
            measure_steps(workloads, runtimes, chosen.repeats)
        if "memory" in wanted:
            measure_memory(typical, [name for name in runtimes if name != FLOOR])
        if "run" in wanted:
            measure_runs(typical, [name for name in runtimes if name != FLOOR], epochs=5)
        if "bytes" in wanted:
            report_bytes((SMALL, README, DIGITS, PUMP))


def make_workload(folder: Path, architecture: Architecture, batch: int, optimizer: OptimizerName) -> Workload:
    """Export the training model, once an architecture, and describe the work."""
    path = folder / f"{architecture.layout_sha256}.tflite"
    if not path.exists():
        progress(f"exporting {architecture.kind} {architecture.layers}")
        path.write_bytes(export_training_model(architecture))
    return Workload(architecture=architecture, batch=batch, optimizer=optimizer, training_model=str(path))


if __name__ == "__main__":
    main()
