"""What int8 costs: without a recording in the cloud, against TensorFlow with all of them. One JSON object a line.

    python benchmarks/quantization.py [error|ranges|pruned|speed|all] [--tasks pronostia,wide,mnist] [--seeds 3]

``error``: relative squared error of int8 against float outputs on fresh windows, per tensor and per channel, with and without
bias correction, beside TensorFlow's post-training quantisation calibrated on the devices' own windows; quality (AUC over
seventeen bearings, accuracy on digits) in float and int8; and how far a release's own report is from the truth on real windows.
``ranges``: error and quality where the ranges of a share of the devices, the outermost at either end, are left out, and by margin.
``pruned``: units that cannot fire, and units that did not fire on typical windows, left out: bytes, time, error, quality.
``speed``: per tensor, per channel and LiteRT's plain kernels, by size of model.

Ranges and typical windows come from the summed answers of the devices, as in a release. Data: FEDGE_DATA, default ../shared/data.
Task ``wide`` is ``pronostia`` with wider layers than it needs. About five minutes a task on one core; progress on stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from quantization_lab.peers import tensorflow_int8
from quantization_lab.tasks import Infer, Task, Trained, load_task, train

from aggregator.rounds.assessment import tensor_ranges
from aggregator.rounds.int8_report import typical_windows
from models import reference_model
from models.architecture import Architecture, initial_parameters
from models.delegates import Delegate, open_with_delegate
from models.export.int8_graph import export_int8_model
from models.export.pruning import proven_silent_units, remove_units, seen_silent_units
from models.int8_model import Int8Model
from models.weight_rounding import WeightScales

SCALES: tuple[WeightScales, ...] = ("per-tensor", "per-channel")
RANGES = (
    *((share, 1.0) for share in (0.0, 0.03, 0.06, 0.12, 0.2)),
    *((0.06, margin) for margin in (1.25, 1.5, 2.0, 3.0)),
)
"""(share of the devices left out, margin): one of them at a time away from what is used."""
SIZES = {
    "46-16-8-16-46": Architecture(kind="dense-autoencoder", layers=(46, 16, 8, 16, 46)),
    "784-200-200-10": Architecture(kind="dense-classifier", layers=(784, 200, 200, 10)),
    # MLPerf Tiny's anomaly-detection reference: 264 k multiply-accumulates.
    "640-128x4-8-128x4-640": Architecture(
        kind="dense-autoencoder", layers=(640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640)
    ),
}


def report(
    name: str, values: list[float], unit: str, peer: str, peer_values: list[float], *, bound: bool = False
) -> None:
    """One figure: mean over seeds, its standard error, and the mean of what it is held against."""
    value, other = float(np.mean(values)), float(np.mean(peer_values))
    spread = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0
    line: dict[str, object] = {
        "name": name,
        "value": float(f"{value:.5g}"),
        "standard_error": float(f"{spread:.2g}"),
        "unit": unit,
        "bound" if bound else "peer": peer,
        "bound_value" if bound else "peer_value": float(f"{other:.5g}"),
        "ratio": round(value / other, 3) if other else None,
    }
    print(json.dumps(line), flush=True)


def runner(model: Int8Model) -> Infer:
    return lambda rows: np.array([model.infer(row) for row in rows])


def float_runner(task: Task, trained: Trained) -> Infer:
    return lambda rows: reference_model.infer(task.architecture, trained.parameters, rows)[0]


def relative_error(got: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    return float(np.mean((got - expected) ** 2) / np.mean(expected**2))


def score_error(task: Task, got: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    kind = task.architecture.kind
    ours, floats = (reference_model.scores(kind, task.fresh, output) for output in (got, expected))
    return float(np.mean(np.abs(ours - floats)) / np.mean(floats))


def quantised(task: Task, trained: Trained, scales: WeightScales, *, is_corrected: bool, seed: int) -> bytes:
    probes = probes_of(task, trained, seed) if is_corrected else None
    low, high = tensor_ranges(trained.assessment)
    return export_int8_model(
        task.architecture, trained.parameters, low, high, weight_scales=scales, probes=probes
    )


def probes_of(task: Task, trained: Trained, seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng([seed, 1])
    return typical_windows(task.architecture, trained.parameters, trained.assessment, rng)


def measure_error(task: Task, seeds: int) -> None:
    errors: dict[str, list[float]] = {}
    quality: dict[str, list[float]] = {"float": []}
    truths: dict[str, list[float]] = {"output": [], "score": [], "said output": [], "said score": []}
    for seed in range(seeds):
        progress(f"{task.name}, seed {seed}")
        trained = train(task, seed)
        in_float = float_runner(task, trained)
        expected = in_float(task.fresh)
        quality["float"].append(task.quality(in_float))
        recordings = np.concatenate(list(task.devices))
        models = {
            f"{scales}{', corrected' if is_corrected else ''}": Int8Model(
                quantised(task, trained, scales, is_corrected=is_corrected, seed=seed), task.architecture.kind
            )
            for scales in SCALES
            for is_corrected in (False, True)
        }
        models |= {
            f"TensorFlow {scales}": tensorflow_int8(
                task.architecture, trained.parameters, recordings, per_channel=scales == "per-channel"
            )
            for scales in SCALES
        }
        for name, model in models.items():
            got = runner(model)(task.fresh)
            errors.setdefault(name, []).append(relative_error(got, expected))
            quality.setdefault(name, []).append(task.quality(runner(model)))
            if name == "per-channel, corrected":
                truths["output"].append(errors[name][-1])
                truths["score"].append(score_error(task, got, expected))
                said = said_by_report(task, trained, model, seed)
                truths["said output"].append(said[0])
                truths["said score"].append(said[1])
    for name, values in errors.items():
        scales = name.removeprefix("TensorFlow ").split(",", maxsplit=1)[0]
        peer = f"TensorFlow {scales}"
        if name != peer:
            report(f"{task.name}: {name}: error", values, "relative squared", peer, errors[peer])
    for name, values in quality.items():
        if name != "float":
            lost = [before - after for before, after in zip(quality["float"], values, strict=True)]
            bound = [task.tolerance]
            report(
                f"{task.name}: {name}: {task.quality_name} lost", lost, "share", "issue 4", bound, bound=True
            )
    report(f"{task.name}: float: {task.quality_name}", quality["float"], "share", "same", quality["float"])
    for what in ("output", "score"):
        report(
            f"{task.name}: {what} error as the release says it",
            truths[f"said {what}"],
            "relative",
            "on real windows",
            truths[what],
        )


def said_by_report(task: Task, trained: Trained, model: Int8Model, seed: int) -> tuple[float, float]:
    """(output error, score error) on typical windows, as `aggregator.rounds.int8_report.compare_int8` has them."""
    rng = np.random.default_rng([seed, 2])
    probes = typical_windows(task.architecture, trained.parameters, trained.assessment, rng)
    expected, score = reference_model.infer(task.architecture, trained.parameters, probes)
    got = runner(model)(probes.astype(np.float32)).astype(np.float64)
    changed = reference_model.scores(task.architecture.kind, probes, got)
    return relative_error(got, expected), float(np.mean(np.abs(changed - score)) / np.mean(score))


def measure_ranges(task: Task, seeds: int) -> None:
    rows: dict[tuple[float, float], dict[str, list[float]]] = {}
    for seed in range(seeds):
        progress(f"{task.name}, seed {seed}")
        trained = train(task, seed)
        probes = probes_of(task, trained, seed)
        expected = float_runner(task, trained)(task.fresh)
        for share, margin in RANGES:
            low, high = tensor_ranges(trained.assessment, share, margin)
            content = export_int8_model(task.architecture, trained.parameters, low, high, probes=probes)
            model = Int8Model(content, task.architecture.kind)
            row = rows.setdefault((share, margin), {"error": [], task.quality_name: []})
            row["error"].append(relative_error(runner(model)(task.fresh), expected))
            row[task.quality_name].append(task.quality(runner(model)))
    for (share, margin), row in rows.items():
        for what, values in row.items():
            unit = "relative squared" if what == "error" else "share"
            label = f"{task.name}: outermost {share:.0%} of {len(task.devices)} devices left out, margin {margin:g}: {what}"
            report(label, values, unit, "all devices, margin 1", rows[RANGES[0]][what])


def measure_pruned(task: Task, seeds: int) -> None:
    rows: dict[str, dict[str, list[float]]] = {}
    for seed in range(seeds):
        progress(f"{task.name}, seed {seed}")
        trained = train(task, seed)
        low, high = tensor_ranges(trained.assessment)
        probes = probes_of(task, trained, seed)
        proven = proven_silent_units(task.architecture, trained.parameters, low, high)
        seen = seen_silent_units(task.architecture, trained.parameters, probes)
        none = tuple(np.zeros_like(mask) for mask in proven)
        expected = float_runner(task, trained)(task.fresh)
        models = {}
        for name, masks in (("whole", none), ("proven", proven), ("seen", seen)):
            pruned = remove_units(task.architecture, trained.parameters, masks)
            content = export_int8_model(pruned.architecture, pruned.parameters, low, high, probes=probes)
            model = models[name] = Int8Model(content, task.architecture.kind)
            row = rows.setdefault(name, {})
            row.setdefault("units removed", []).append(float(sum(pruned.removed)))
            row.setdefault("bytes", []).append(float(len(content)))
            row.setdefault("error", []).append(relative_error(runner(model)(task.fresh), expected))
            row.setdefault(task.quality_name, []).append(task.quality(runner(model)))
        # In turns, so that a busy moment strikes all alike.
        for _ in range(3):
            for name, model in models.items():
                taken = rows[name].setdefault("time", [])
                taken.extend([float("inf")] * (seed + 1 - len(taken)))
                taken[seed] = min(taken[seed], best_us(partial(model.infer_int8, task.fresh[0])))
    units = {"units removed": "units", "bytes": "B", "time": "us", "error": "relative squared"}
    for name in ("proven", "seen"):
        for what, values in rows[name].items():
            label = f"{task.name}: {name} silent units left out: {what}"
            report(label, values, units.get(what, "share"), "whole", rows["whole"][what])


def measure_speed() -> None:
    for name, architecture in SIZES.items():
        flat, rng = initial_parameters(architecture, 0), np.random.default_rng(0)
        x = rng.normal(size=(64, architecture.feature_count)).astype(np.float32)
        ranges = reference_model.ranges(architecture, flat, x)
        contents = {s: export_int8_model(architecture, flat, *ranges, weight_scales=s) for s in SCALES}
        models = {
            (scales, delegate): open_with_delegate(contents[scales], architecture.kind, delegate)
            for scales in SCALES
            for delegate in (Delegate.XNNPACK, Delegate.CPU)
        }
        times = {key: best_us(partial(model.infer_int8, x[0])) for key, model in models.items()}
        base = [times["per-tensor", Delegate.XNNPACK]]
        report(f"{name}: per-channel", [times["per-channel", Delegate.XNNPACK]], "us", "per-tensor", base)
        report(f"{name}: plain kernels", [times["per-tensor", Delegate.CPU]], "us", "XNNPACK", base)
        sizes = [[float(len(contents[scales]))] for scales in ("per-channel", "per-tensor")]
        report(f"{name}: per-channel file", sizes[0], "B", "per-tensor", sizes[1])


def best_us(call: Callable[[], object]) -> float:
    """Best of fifty turns of a hundred calls: the machine may be busy."""
    best = float("inf")
    for _ in range(50):
        started = time.perf_counter()
        for _ in range(100):
            call()
        best = min(best, (time.perf_counter() - started) / 100)
    return best * 1e6


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "what", nargs="?", choices=("error", "ranges", "pruned", "speed", "all"), default="all"
    )
    parser.add_argument("--tasks", default="pronostia,wide,mnist")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    measures = {
        "error": measure_error,
        "ranges": measure_ranges,
        "pruned": measure_pruned,
    }
    if arguments.what in {"speed", "all"}:
        measure_speed()
    for name in arguments.tasks.split(","):
        for what, measure in measures.items():
            if arguments.what in {what, "all"}:
                measure(load_task(name), arguments.seeds)


if __name__ == "__main__":
    main()
