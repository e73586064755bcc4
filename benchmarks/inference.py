"""What an agent adds to a bare LiteRT interpreter: time per window, training step, and memory. One JSON object a line.

    python benchmarks/inference.py [--repeats N]

Each figure names its peer: the interpreter alone (set, invoke, get) on the same model in the same process, or the
bound that the design sets. Times are the best of fifty rounds taken in turns with the peer, as the machine may be busy; p99 is of single windows.
Memory is PSS: libraries that other processes share count in part, so run it on a machine that does nothing else.
Models are built in memory with weights from a seed; no TensorFlow unless a training model is measured. A whole window of
the agent is features, scale, gaps, judging, alarm, drift and the row that is kept, on a bound of 60 us at 46 sensors: by the
network of a release and by the mixture. `--only windows` measures just that, and what fitting the mixture costs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the oracle of every runtime's training

import reference_training

from edge_agent.detection_memory import DetectionMemory
from edge_agent.fitting import MOST_ROWS
from edge_agent.judgement import Judged
from edge_agent.kept_rows import open_stores
from edge_agent.live_context import LiveContext
from edge_agent.pipeline import Pipeline
from edge_agent.settings import BufferSettings, DetectionSettings, StatePaths
from edge_agent.sources.port import SourceWindow
from models import reference_model
from models.architecture import Architecture, initial_parameters
from models.detection.context import Context, Timed, fit_context
from models.detection.detector import fit_detector
from models.detection.openings import AlarmRules
from models.detection.prior import FleetPrior, fleet_prior
from models.detection.profile import Profile
from models.detection.promise import AlarmBudget
from models.detection.regimes import Regimes
from models.export import export_int8_model, isolated
from models.features import passthrough_spec
from models.int8_model import Int8Model
from models.litert import load_model
from models.training_model import TrainingModel
from protocol.manifest import Manifest, ThresholdSpec
from protocol.privacy.discrete_gaussian import draw_discrete_gaussian
from protocol.privacy.randomness import RandomStream
from protocol.training import TrainingSettings

SENSOR = Architecture(kind="dense-autoencoder", layers=(32, 16, 8, 16, 32))
SERVER = Architecture(kind="dense-autoencoder", layers=(46, 24, 12, 24, 46))
BOUND_US = 60.0
# MLPerf Tiny's anomaly-detection reference: 264 k multiply-accumulates.
TINY = Architecture(kind="dense-autoencoder", layers=(640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640))

MEMORY = """
import sys
from pathlib import Path
def own_kib():
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("Pss:")).split()[1])
import numpy as np, msgspec
before = own_kib()
from models.int8_model import Int8Model
library = own_kib()
model = Int8Model(sys.stdin.buffer.read())
model.infer_and_score(np.zeros(model.feature_count, np.float32))
print(before, library, own_kib())
"""


def report(name: str, value: float, unit: str, peer: str, peer_value: float) -> None:
    line = {
        "name": name,
        "value": round(value, 3),
        "unit": unit,
        "peer": peer,
        "peer_value": round(peer_value, 3),
    }
    print(json.dumps(line | {"ratio": round(value / peer_value, 3)}), flush=True)


def best_us(repeats: int, *calls: Callable[[], object]) -> list[float]:
    """Best time of each call, in turns of a few milliseconds, so that a busy moment strikes all alike."""
    best = [float("inf")] * len(calls)
    turn = max(repeats // 25, 1)
    for _ in range(50):
        for i, call in enumerate(calls):
            start = time.perf_counter_ns()
            for _ in range(turn):
                call()
            best[i] = min(best[i], (time.perf_counter_ns() - start) / turn / 1000)
    return best


def quantile_us(call: Callable[[], object], repeats: int, q: float) -> float:
    singles = np.empty(repeats)
    for i in range(repeats):
        start = time.perf_counter_ns()
        call()
        singles[i] = time.perf_counter_ns() - start
    return float(np.quantile(singles, q)) / 1000


def measure_inference(label: str, architecture: Architecture, repeats: int) -> bytes:
    flat, rng = initial_parameters(architecture, 0), np.random.default_rng(0)
    low, high = reference_model.ranges(architecture, flat, rng.normal(size=(64, architecture.feature_count)))
    content = export_int8_model(architecture, flat, low, high)
    model = Int8Model(content)
    x = rng.normal(size=architecture.feature_count).astype(np.float32)
    interpreter = load_model(content, "int8 model").interpreter
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]
    row = np.zeros((1, architecture.feature_count), np.int8)

    def bare() -> np.ndarray:
        interpreter.set_tensor(source, row)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    alone, invoke, infer, score = best_us(
        repeats, bare, interpreter.invoke, lambda: model.infer(x), lambda: model.infer_and_score(x)
    )
    budget = 20 + 3 * alone
    report(f"{label} invoke", invoke, "us", "bare set+invoke+get", alone)
    report(f"{label} Int8Model.infer", infer, "us", "bare set+invoke+get", alone)
    report(f"{label} Int8Model.infer_and_score", score, "us", "bare set+invoke+get", alone)
    report(
        f"{label} Int8Model.infer_and_score",
        score,
        "us",
        "budget of the whole window: 20 us + 3 x bare",
        budget,
    )
    tail = quantile_us(lambda: model.infer_and_score(x), repeats, 0.99)
    report(f"{label} Int8Model.infer_and_score p99", tail, "us", "bare p99", quantile_us(bare, repeats, 0.99))
    return content


def make_prior(rows: np.ndarray) -> FleetPrior:
    """Of four devices of one kind, whose healthy windows are quarters of `rows`."""
    return fleet_prior([(part, np.ones(rows.shape[1])) for part in np.array_split(rows, 4)], AlarmRules())


def measure_mixture(rows: np.ndarray, repeats: int) -> None:
    """One score with its time scales, and the fit that comes between two windows at a commit."""
    prior = make_prior(rows)
    for count in (120, MOST_ROWS):
        learnt = np.random.default_rng(1).normal(size=(count, rows.shape[1])).astype(np.float32)
        start = time.perf_counter()
        detector = fit_detector(learnt, np.ones(rows.shape[1]), prior, AlarmBudget(), AlarmRules())
        report(f"fit of the mixture, {count} windows", time.perf_counter() - start, "s", "bound", 1.0)
    scales, row = detector.make_time_scales(), rows[0]
    score, both = best_us(repeats, lambda: detector.score(row), lambda: scales.update(*detector.score(row)))
    report("Detector.score", score, "us", "bound of the whole window", BOUND_US)
    report("Detector.score and TimeScales.update", both, "us", "bound of the whole window", BOUND_US)
    measure_context(rows, repeats)


def measure_context(rows: np.ndarray, repeats: int) -> None:
    """What a window costs more with a profile and three regimes, and what it costs to look for them and find none."""
    features = rows.shape[1]
    started = time.perf_counter()
    fit_context(Timed(rows, np.arange(len(rows), dtype=np.float64)))
    report("looking for regimes, 1200 windows", time.perf_counter() - started, "s", "bound", 1.0)
    table = np.random.default_rng(0).normal(size=(24, features)).astype(np.float32)
    context = Context(
        spread=np.ones(features, np.float32),
        profile=Profile(period_s=86_400.0, table=table, until_s=0.0),
        regimes=Regimes(centres=table[:3], projection=table[:8], places=table[:3, :8]),
    )
    row, times = rows[0], iter(range(10**9))
    for name, shown in (("none", None), ("a profile and three regimes", context)):
        live = LiveContext(shown)
        (value,) = best_us(repeats, lambda live=live: live.see(row, 60.0 * next(times)))
        report(f"context of a window, {name}", value, "us", "bound of the whole window", BOUND_US)


def measure_windows(judge: str, prior: FleetPrior | None, repeats: int) -> None:
    """Whole windows of the agent at 46 sensors: all there, one missing, some flickering; and a probe of the sight."""
    sensors, rng = SERVER.feature_count, np.random.default_rng(0)
    flat = initial_parameters(SERVER, 0)
    rows = rng.normal(size=(1000, sensors)).astype(np.float32)
    content = export_int8_model(SERVER, flat, *reference_model.ranges(SERVER, flat, rows))
    manifest = Manifest(
        family="server",
        version=1,
        created_at=0.0,
        model=SERVER.to_manifest(),
        features=passthrough_spec([f"s{i}" for i in range(sensors)]),
        threshold=ThresholdSpec(score=4.0, quantile=0.99, margin=1.1, fitted_on=100),
        files=(),
    )
    dead, flickering = rows.copy(), rows.copy()
    dead[:, 7] = np.nan
    flickering[rng.random(rows.shape) < 0.01] = np.nan
    with tempfile.TemporaryDirectory() as directory:
        paths = StatePaths(Path(directory))
        pipeline = Pipeline(
            manifest.features,
            DetectionSettings(),
            memory=DetectionMemory(paths, manifest.features),
            stores=open_stores(paths, manifest.features, BufferSettings()),
            clock=time.perf_counter,
            wall=time.time,
        )
        pipeline.adopt(manifest, content, bundle_sha256="0" * 64, is_trial=False, prior=prior)

        def watching(table: np.ndarray) -> Callable[[], object]:
            windows = [
                SourceWindow(samples=row[None, :], observed_at_s=float(i), index=i)
                for i, row in enumerate(table)
            ]
            turn = iter(range(10**9))
            return lambda: pipeline.observe(windows[next(turn) % len(windows)])

        whole, one_dead, some = watching(rows), watching(dead), watching(flickering)
        for _ in range(400):
            whole()
        assert isinstance(one_dead(), Judged)
        # One after the other: in turns, drift would begin and end with each, and be written down.
        figures = [best_us(repeats, case)[0] for case in (whole, one_dead, some)]
        clock = iter(range(0, 10**9, 10))

        def window_and_probe() -> None:
            whole()
            pipeline.probe_sight(float(next(clock)))

        (with_probe,) = best_us(repeats, window_and_probe)
    names = ("all there", "one sensor missing", "1 % of values missing")
    for name, value in zip(names, figures, strict=True):
        report(f"whole window, 46 sensors, {judge}, {name}", value, "us", "bound", BOUND_US)
    report(f"probe of the sight, {judge}", with_probe - figures[0], "us", "whole window", figures[0])


def measure_memory(content: bytes) -> None:
    child = subprocess.run([sys.executable, "-c", MEMORY], input=content, capture_output=True, check=True)
    before, library, loaded = (int(part) / 1024 for part in child.stdout.split())
    report(
        "own memory of an int8 model", loaded - library, "MiB PSS", "LiteRT library alone", library - before
    )
    report("process with numpy, LiteRT and a model", loaded, "MiB PSS", "bound for the whole agent", 60.0)


def measure_training(repeats: int) -> None:
    content = isolated.export_training_model(SENSOR)
    flat, x = initial_parameters(SENSOR, 0), np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
    # One optimizer a model: each keeps its own state.
    plain, momentum, adam, proximal, private = (TrainingModel(content, SENSOR) for _ in range(5))
    for model in (plain, momentum, adam, proximal, private):
        model.restore(flat)
    # The peer is LiteRT's own signature runner.
    runner = load_model(content, "training model").interpreter.get_signature_runner("train")
    rate = {"learning_rate": np.array([0.01], np.float32)}
    plainly = TrainingSettings(learning_rate=0.01)
    with_momentum = TrainingSettings(learning_rate=0.01, momentum=0.9)
    by_adam = TrainingSettings(learning_rate=0.001, optimizer="adam")
    held = TrainingSettings(learning_rate=0.01, proximal=0.1, gradient_clip=1.0)

    def private_step() -> None:
        total, _ = private.clipped_sum(x, 1.0)
        noise = draw_discrete_gaussian(len(flat), 2.0**14, stream)
        private.step((total + noise * 2.0**-14) / 64, plainly)

    stream = RandomStream.fresh(os.urandom)
    alone, step, oracle, *others = best_us(
        repeats,
        lambda: runner(x=x, **rate),
        lambda: plain.train(x, plainly),
        lambda: reference_training.train_step(SENSOR, flat, x, 0.01),
        lambda: momentum.train(x, with_momentum),
        lambda: adam.train(x, by_adam),
        lambda: proximal.train(x, held),
        private_step,
    )
    report("training step, batch 64", step, "us", "bare signature runner", alone)
    report("training step, batch 64", step, "us", "NumPy oracle (float64)", oracle)
    names = ("momentum", "Adam", "proximal pull and clipping", "DP-SGD with its noise")
    for name, value in zip(names, others, strict=True):
        report(f"training step, batch 64, {name}", value, "us", "plain step", step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=5000, help="calls a round")
    parser.add_argument("--only", choices=["windows"], help="leave the rest out")
    arguments = parser.parse_args()
    repeats: int = arguments.repeats
    rows = np.random.default_rng(0).normal(size=(1200, SERVER.feature_count)).astype(np.float32)
    measure_windows("network", None, repeats)
    measure_windows("mixture", make_prior(rows), repeats)
    measure_mixture(rows, repeats)
    if arguments.only:
        return
    content = measure_inference("sensor 32-16-8-16-32", SENSOR, repeats)
    measure_inference("MLPerf Tiny AD", TINY, repeats)
    measure_memory(content)
    measure_training(max(repeats // 5, 1))


if __name__ == "__main__":
    main()
