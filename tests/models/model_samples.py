"""Small models that tests on a device can load without TensorFlow, one of each family: their files lie in `golden/`.

Run as a program (``python tests/models/model_samples.py``) to write the files anew after a wanted change of the
graphs; `test_models_export.py` proves that they are what this checkout exports.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models import reference_model
from models.architecture import Architecture, initial_parameters
from models.bundles import bundle_files, make_golden_vectors
from models.detection.openings import AlarmRules
from models.detection.prior import FleetPrior, fleet_prior
from models.drift.reference import fit_reference
from models.int8_model import Int8Model
from protocol.bundle import TrustedKeys, VerifiedBundle, entries_for, open_bundle, pack_bundle
from protocol.manifest import ConvolutionSpec, FeatureSpec, Manifest, ThresholdSpec
from protocol.training import TrainingSettings

GOLDEN = Path(__file__).parent / "golden"
AUTOENCODER = Architecture(kind="dense-autoencoder", layers=(6, 4, 2, 4, 6))
CLASSIFIER = Architecture(kind="dense-classifier", layers=(5, 4, 3))
CONVOLUTION = Architecture(
    kind="conv-autoencoder",
    layers=(2, 5, 3, 5, 2),
    convolution=ConvolutionSpec(samples=12, kernel=6, stride=2),
)
ARCHITECTURES = {"autoencoder": AUTOENCODER, "classifier": CLASSIFIER, "convolution": CONVOLUTION}
TRAINED_ONLY = {
    "shallow": Architecture(kind="dense-autoencoder", layers=(6, 4, 6)),
    "wide": Architecture(kind="dense-autoencoder", layers=(6, 3400, 6)),
}
"""What the aggregator's tests train: only the training models are committed."""
SIGNING_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def training_bytes(name: str) -> bytes:
    return (GOLDEN / f"{name}.training.tflite").read_bytes()


def int8_bytes(name: str) -> bytes:
    return (GOLDEN / f"{name}.int8.tflite").read_bytes()


def parameters(name: str) -> np.ndarray:
    """Glorot weights and biases that are not zero, so that a forgotten bias is seen."""
    architecture = ARCHITECTURES[name]
    jitter = np.random.default_rng(5).normal(0, 0.1, architecture.parameter_count)
    return (initial_parameters(architecture, 3) + jitter).astype(np.float32)


def windows(name: str, count: int, seed: int = 11) -> np.ndarray:
    shape = (count, ARCHITECTURES[name].feature_count)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def labels(name: str, count: int, seed: int = 12) -> np.ndarray | None:
    if name != "classifier":
        return None
    classes = CLASSIFIER.output_count
    return np.eye(classes, dtype=np.float32)[np.random.default_rng(seed).integers(0, classes, count)]


def at_rate(learning_rate: float, **others: object) -> TrainingSettings:
    """Settings of a training whose tests look at single steps."""
    return TrainingSettings(learning_rate=learning_rate, **others)


def ranges(name: str) -> tuple[np.ndarray, np.ndarray]:
    return reference_model.ranges(ARCHITECTURES[name], parameters(name), windows(name, 400))


def small_prior(features: int = 6) -> FleetPrior:
    rng = np.random.default_rng(13)
    fleet = [(rng.normal(size=(60, features)), np.ones(features)) for _ in range(3)]
    return fleet_prior(fleet, AlarmRules())


def good_files(prior: FleetPrior | None = None) -> dict[str, bytes]:
    """The files of a sound autoencoder bundle, for the mixture where there is a prior."""
    x = windows("autoencoder", 100)
    return bundle_files(
        int8_model=int8_bytes("autoencoder"),
        training_model=training_bytes("autoencoder"),
        parameters=parameters("autoencoder"),
        reference=fit_reference(x, reference_model.infer(AUTOENCODER, parameters("autoencoder"), x)[1]),
        golden=make_golden_vectors(Int8Model(int8_bytes("autoencoder")), AUTOENCODER.feature_count),
        prior=prior,
    )


def verified(
    files: dict[str, bytes], *, features: int = 6, detector: Literal["mixture", "network"] = "network"
) -> VerifiedBundle:
    """These files, signed and opened as a device would."""
    manifest = Manifest(
        family="pump",
        version=4,
        created_at=1.0,
        model=AUTOENCODER.to_manifest(),
        features=FeatureSpec(kind="passthrough", names=tuple(f"f{i}" for i in range(features))),
        threshold=ThresholdSpec(score=2.0, quantile=0.99, margin=1.1, fitted_on=100),
        detector=detector,
        files=entries_for(files),
    )
    packed = pack_bundle(manifest, files, SIGNING_KEY)
    return open_bundle(packed, TrustedKeys([SIGNING_KEY.public_key()]))


def write_golden() -> None:
    from models.export import export_int8_model, export_training_model

    GOLDEN.mkdir(exist_ok=True)
    for name, architecture in (ARCHITECTURES | TRAINED_ONLY).items():
        (GOLDEN / f"{name}.training.tflite").write_bytes(export_training_model(architecture))
    for name, architecture in ARCHITECTURES.items():
        int8 = export_int8_model(architecture, parameters(name), *ranges(name))
        (GOLDEN / f"{name}.int8.tflite").write_bytes(int8)


if __name__ == "__main__":
    write_golden()
