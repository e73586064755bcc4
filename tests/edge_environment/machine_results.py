"""What this machine computes with the device's code, written to one file that can be compared with another machine's.

    python tests/edge_environment/machine_results.py RESULTS.npz [TRAINING_MODELS]

Run by `prove_arm64` on the host and inside the root. Each array's name begins with how close two machines must be
(`machine_comparison.BOUNDS`): a float, an int8 output, an integer. Inputs come from
seeded NumPy generators, whose streams are the same everywhere. TRAINING_MODELS is a folder of larger models that the
host exported (`<kind>_<widths>.tflite`); their matrices reach kernels that the small samples do not.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))

from model_samples import ARCHITECTURES, int8_bytes, parameters, training_bytes, windows

from models.architecture import Architecture, initial_parameters
from models.drift.monitor import DriftMonitor
from models.drift.reference import fit_reference
from models.features import make_extractor, vibration_spec
from models.int8_model import Int8Model
from models.litert import load_model
from models.local_training import fit
from models.training_model import TrainingModel
from protocol.training import TrainingSettings

Results = Iterator[tuple[str, NDArray[np.generic]]]

LARGER = (
    Architecture(kind="dense-autoencoder", layers=(32, 16, 8, 16, 32)),
    Architecture(kind="dense-classifier", layers=(784, 200, 200, 10)),
)
"""The README's autoencoder, and the 2NN of the MNIST tables."""


def file_name(architecture: Architecture) -> str:
    """Of a larger model in the folder of training models."""
    return f"{architecture.kind}_{'-'.join(map(str, architecture.layers))}.tflite"


def main() -> int:
    """Write the results; prints what machine this is."""
    target, *folder = map(Path, sys.argv[1:])
    results = dict(sample_results())
    results |= dict(detection_results())
    for architecture in LARGER if folder else ():
        results |= dict(training_results(architecture, (folder[0] / file_name(architecture)).read_bytes()))
    np.savez(target, **results)
    print(f"{platform.machine()}: {len(results)} results, {runtime()}, numpy {np.__version__}")
    return 0


def sample_results() -> Results:
    """The two golden models: float graph and int8 graph."""
    for name, architecture in ARCHITECTURES.items():
        yield from training_results(architecture, training_bytes(name), name=name)
        int8 = Int8Model(int8_bytes(name), architecture.kind)
        yield f"steps/{name} int8 output", np.stack([int8.infer_int8(x) for x in windows(name, 64)])
        yield f"kernels/{name} int8 delegated", np.array([is_delegated(int8_bytes(name))])


def training_results(architecture: Architecture, content: bytes, name: str = "") -> Results:
    """Forward, ranges, gradient, proximal step and a whole training run of one training model."""
    name = name or f"{architecture.kind.removeprefix('dense-')} {'-'.join(map(str, architecture.layers))}"
    start = parameters(name) if name in ARCHITECTURES else initial_parameters(architecture, 3)
    x, y = batch(architecture, 64)
    model = TrainingModel(content, architecture)
    model.restore(start)
    output, score = model.infer(x)
    low, high = model.ranges(x)
    yield f"float/{name} output", output
    yield f"float/{name} score", score
    yield f"float/{name} ranges", np.concatenate([low, high])
    # A step of length one leaves the gradient as the difference.
    loss = model.train(x, TrainingSettings(learning_rate=1.0), labels=y)
    yield f"float/{name} gradient", start - model.save()
    yield f"float/{name} loss", np.array([loss])
    # The second step is pulled back to where the first began.
    model.restore(start)
    for _ in range(2):
        model.train(x, TrainingSettings(learning_rate=1.0, proximal=0.7), labels=y)
    yield f"float/{name} proximal step", model.save()
    yield f"float/{name} clipped sum", model.clipped_sum(x, 0.5, labels=y)[0]
    for optimizer, momentum in (("sgd", 0.9), ("adam", 0.0)):
        model.restore(start)
        settings = TrainingSettings(
            learning_rate=0.01, optimizer=optimizer, momentum=momentum, gradient_clip=1.0
        )
        for _ in range(20):
            model.train(x, settings, labels=y)
        kind = "adam" if optimizer == "adam" else "float"
        yield f"{kind}/{name} after 20 steps, momentum {momentum}", model.save()
    many, many_labels = batch(architecture, 200)
    result = fit(
        model, start, many, TrainingSettings(epochs=5, batch_size=16, learning_rate=0.05, proximal=0.01),
        rng=np.random.default_rng(1), labels=many_labels,
    )  # fmt: skip
    yield f"float/{name} parameters, {result.steps} steps", result.parameters
    yield f"float/{name} losses", np.array([result.loss_before, result.loss_after])


def detection_results() -> Results:
    """Features of a waveform, and what the drift detectors hold after 600 windows, 200 of them shifted."""
    rng = np.random.default_rng(21)
    waveform = rng.normal(size=(2048, 2)).astype(np.float32).cumsum(axis=0)
    yield "float/vibration features", make_extractor(vibration_spec(25_600.0, 2048, 2)).extract(waveform)
    rows = rng.normal(size=(400, 8)).astype(np.float32)
    scores = np.exp(0.4 * rng.normal(size=400))
    monitor = DriftMonitor(fit_reference(rows, scores))
    verdicts = []
    for i in range(600):
        monitor.update(rng.normal(size=8).astype(np.float32) + (0.5 if i >= 400 else 0.0), 1.0)
        verdicts.append((monitor.verdict().score, monitor.verdict().drifted))
    yield "float/drift ratios, 600 windows", np.array([score for score, _ in verdicts])
    yield "exact/drift verdicts", np.array([drifted for _, drifted in verdicts])


def batch(architecture: Architecture, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Windows (count, F), and one-hot labels for a classifier."""
    rng = np.random.default_rng(architecture.parameter_count)
    x = rng.normal(size=(count, architecture.feature_count)).astype(np.float32)
    if architecture.kind != "dense-classifier":
        return x, None
    classes = architecture.output_count
    return x, np.eye(classes, dtype=np.float32)[rng.integers(0, classes, count)]


def is_delegated(content: bytes) -> bool:
    """Does XNNPACK compute this int8 model, as on a device, rather than the reference kernels?"""
    interpreter = load_model(content, "int8 model").interpreter
    return any(node["op_name"] == "DELEGATE" for node in interpreter._get_ops_details())


def runtime() -> str:
    """Which LiteRT this is."""
    from models.litert import Interpreter

    return str(Interpreter.__module__.split(".")[0])


if __name__ == "__main__":
    sys.exit(main())
