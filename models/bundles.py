"""What the files of a verified model bundle mean, and whether they say what the manifest promises.

`protocol.bundle` has already proved who signed the bundle and that no bit changed; a signed bundle may still be
wrong. This module reads the content, and refuses one that contradicts its manifest before anything runs it.

    model.int8.tflite   what detects               parameters.f32   flat float32 vector, little-endian, P entries
    training.tflite     what learns                reference.json   FleetReference: what the fleet calls normal
    golden.json         inputs and the int8 outputs that the release's builder saw
    prior.bin           FleetPrior: what the fleet knows together; where the manifest's detector is "mixture", and only there
    model.edgetpu.tflite   optional: model.int8.tflite as the Edge TPU compiler made it; devices without one ignore it
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Protocol, TypeVar

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from models.architecture import Architecture, require_finite
from models.detection.prior import FleetPrior, decode_prior, encode_prior
from models.drift.reference import DriftReference
from models.errors import BundleContentError, GoldenMismatchError, LayoutError, ModelFormatError
from models.seal import check_seal
from protocol.bundle import VerifiedBundle
from protocol.manifest import Manifest
from runtime.unreadable import UNREADABLE

__all__ = [
    "EDGE_TPU_FILE",
    "FILES",
    "GOLDEN_TOLERANCE_STEPS",
    "PRIOR_FILE",
    "FleetReference",
    "GoldenVectors",
    "Int8Inference",
    "ModelBundle",
    "bundle_files",
    "make_golden_vectors",
    "read_bundle",
]

FILES: Final = frozenset(
    {"model.int8.tflite", "training.tflite", "parameters.f32", "reference.json", "golden.json"}
)
"""Every bundle of format 1 holds these, and perhaps `EDGE_TPU_FILE`; one for the mixture holds `PRIOR_FILE` as well."""

EDGE_TPU_FILE: Final = "model.edgetpu.tflite"
PRIOR_FILE: Final = "prior.bin"

FleetReference = DriftReference
"""What the fleet calls normal, in standardised features: the struct a device keeps for itself, summed over devices."""

GOLDEN_TOLERANCE_STEPS: Final = 2
"""int8 steps: kernels for x86, Arm and the Edge TPU round a half differently in each of a few layers."""

T = TypeVar("T")
Int8Value = Annotated[int, Meta(ge=-128, le=127)]


class Int8Inference(Protocol):
    """The part of `models.int8_model.Int8Model` that golden vectors need."""

    def infer_int8(self, x: NDArray[np.floating]) -> NDArray[np.int8]:
        """Raw int8 outputs for one window (F,); raises InputError or ExecutionError."""


class GoldenVectors(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Standardised windows, and the int8 outputs the builder of the release got for them.

    `tolerance_steps` is how many int8 steps an output may differ on another machine.
    """

    inputs: tuple[tuple[float, ...], ...]
    outputs: tuple[tuple[Int8Value, ...], ...]
    tolerance_steps: Annotated[int, Meta(ge=0, le=16)] = GOLDEN_TOLERANCE_STEPS

    def check(self, model: Int8Inference) -> int:
        """Run every input through the model; returns the largest difference in steps.

        Raises:
            GoldenMismatchError: an output is further off than the tolerance; do not activate the release.
        """
        worst = 0
        for i, (window, expected) in enumerate(zip(self.inputs, self.outputs, strict=True)):
            got = model.infer_int8(np.array(window, np.float32)).astype(np.int64)
            if got.shape != (len(expected),):
                raise GoldenMismatchError(
                    f"golden vector {i} has {len(expected)} outputs, the model gives {got.shape}"
                )
            difference = np.abs(got - np.array(expected))
            worst = max(worst, int(difference.max()))
            if worst > self.tolerance_steps:
                at = int(difference.argmax())
                raise GoldenMismatchError(
                    f"golden vector {i}, output {at}: expected int8 {expected[at]} ± {self.tolerance_steps}, this machine computes {got[at]}"
                )
        return worst


@dataclass(frozen=True, kw_only=True)
class ModelBundle:
    """The content of a bundle, checked against its manifest. `parameters` is float32 (P,), read-only.

    `prior` is there where the manifest's detector is "mixture", and None where it is "network".
    """

    manifest: Manifest
    architecture: Architecture
    int8_model: bytes
    training_model: bytes
    parameters: NDArray[np.float32]
    reference: FleetReference
    golden: GoldenVectors
    sha256: str
    edge_tpu_model: bytes | None = None
    prior: FleetPrior | None = None


def read_bundle(verified: VerifiedBundle) -> ModelBundle:
    """Read the files of a bundle and check them against its manifest; no model is loaded.

    Raises:
        BundleContentError: a file is missing or surplus, does not parse, has another layout, or is not finite.
    """
    manifest, files = verified.manifest, verified.files
    name = manifest.release
    expected = FILES | {PRIOR_FILE} if manifest.detector == "mixture" else FILES
    if files.keys() - {EDGE_TPU_FILE} != expected:
        raise BundleContentError(
            f"{name} holds the files {sorted(files)}; format 1 with detector {manifest.detector!r} has exactly"
            f" {sorted(expected)}, and perhaps {EDGE_TPU_FILE}"
        )
    try:
        architecture = Architecture.from_manifest(manifest.model)
        parameters = require_finite(architecture, np.frombuffer(files["parameters.f32"], "<f4"))
    except (LayoutError, ValueError) as error:  # ValueError: a length that is no multiple of four
        raise BundleContentError(f"{name} has a wrong layout: {error}") from None
    if manifest.training is not None and not manifest.training.is_settled:
        raise BundleContentError(
            f"the training profile of {name} says trust_radius = {manifest.training.trust_radius} and"
            f" update_norm = {manifest.training.update_norm}; a release says both"
        )
    if manifest.features.feature_count != architecture.feature_count:
        raise BundleContentError(
            f"{name} names {manifest.features.feature_count} features, its model takes {architecture.feature_count}"
        )
    _check_models(files, architecture, name)
    reference = _decode(files["reference.json"], FleetReference, f"reference.json of {name}")
    if reference.sensors != architecture.feature_count:
        raise BundleContentError(
            f"reference.json of {name} is about {reference.sensors} features, its model takes {architecture.feature_count}"
        )
    golden = _decode(files["golden.json"], GoldenVectors, f"golden.json of {name}")
    _check_golden(golden, architecture, name)
    return ModelBundle(
        manifest=manifest,
        architecture=architecture,
        int8_model=files["model.int8.tflite"],
        training_model=files["training.tflite"],
        parameters=parameters,
        reference=reference,
        golden=golden,
        sha256=verified.sha256,
        edge_tpu_model=files.get(EDGE_TPU_FILE),
        prior=_read_prior(files.get(PRIOR_FILE), architecture, name),
    )


def bundle_files(
    *,
    int8_model: bytes,
    training_model: bytes,
    parameters: NDArray[np.floating],
    reference: FleetReference,
    golden: GoldenVectors,
    edge_tpu_model: bytes | None = None,
    prior: FleetPrior | None = None,
) -> dict[str, bytes]:
    """The bytes of each file; the inverse of `read_bundle`."""
    files = {} if edge_tpu_model is None else {EDGE_TPU_FILE: edge_tpu_model}
    files |= {} if prior is None else {PRIOR_FILE: encode_prior(prior)}
    return files | {
        "model.int8.tflite": int8_model,
        "training.tflite": training_model,
        "parameters.f32": np.asarray(parameters, "<f4").tobytes(),
        "reference.json": msgspec.json.encode(reference),
        "golden.json": msgspec.json.encode(golden),
    }


def make_golden_vectors(
    model: Int8Inference, feature_count: int, *, seed: int = 0, count: int = 8
) -> GoldenVectors:
    """Golden vectors of an int8 model: `count` standard normal windows from `seed`, and what the model answers.

    The inputs are rounded to 1/1024, so that their JSON is short and exact.
    """
    rng = np.random.default_rng(seed)
    inputs = np.round(rng.normal(size=(count, feature_count)) * 1024) / 1024
    outputs = [model.infer_int8(window.astype(np.float32)) for window in inputs]
    return GoldenVectors(
        inputs=tuple(tuple(row) for row in inputs.tolist()),
        outputs=tuple(tuple(row.tolist()) for row in outputs),
    )


def _decode(content: bytes, kind: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except UNREADABLE as error:
        raise BundleContentError(f"{what} is not of format 1: {error}") from None


def _check_models(files: Mapping[str, bytes], architecture: Architecture, name: str) -> None:
    try:
        for file in sorted(files.keys() & {"model.int8.tflite", "training.tflite", EDGE_TPU_FILE}):
            check_seal(files[file], f"{file} of {name}")
    except ModelFormatError as error:
        raise BundleContentError(str(error)) from None
    if architecture.layout_sha256.encode() not in files["training.tflite"]:
        raise BundleContentError(
            f"training.tflite of {name} was built for another layout than {architecture.kind} {architecture.layers}"
        )


def _read_prior(content: bytes | None, architecture: Architecture, name: str) -> FleetPrior | None:
    if content is None:
        return None
    try:
        prior = decode_prior(content)
    except BundleContentError as error:
        raise BundleContentError(f"{PRIOR_FILE} of {name}: {error}") from None
    if prior.features != architecture.feature_count:
        raise BundleContentError(
            f"{PRIOR_FILE} of {name} is about {prior.features} features, its model takes {architecture.feature_count}"
        )
    return prior


def _check_golden(golden: GoldenVectors, architecture: Architecture, name: str) -> None:
    widths = {len(row) for row in golden.inputs}, {len(row) for row in golden.outputs}
    expected = {architecture.feature_count}, {architecture.output_count}
    if len(golden.inputs) != len(golden.outputs) or widths != expected:
        raise BundleContentError(
            f"golden.json of {name} must pair inputs of {architecture.feature_count} with outputs of {architecture.output_count} values"
        )
