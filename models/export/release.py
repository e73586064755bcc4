"""One signed release from everything that goes into it: models, ranges, thresholds, reference, provenance.

It decides nothing: whether a candidate deserves a release is the aggregator's gate. The same arguments give the same
bytes; the clock and the key are arguments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from models.architecture import Architecture, require_bounded
from models.bundles import FleetReference, bundle_files, make_golden_vectors, read_bundle
from models.detection.prior import FleetPrior
from models.errors import BundleContentError
from models.export.int8_graph import export_int8_model
from models.export.isolated import export_training_model
from models.int8_model import Int8Model
from protocol.bundle import TrustedKeys, entries_for, open_bundle, pack_bundle
from protocol.manifest import FeatureSpec, Manifest, Provenance, ThresholdSpec
from protocol.training import TrainingSettings

__all__ = ["ReleaseContent", "build_release"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ReleaseContent:
    """What a release says and holds, before its int8 models.

    Attributes:
        family: whom the release is for.
        version: counts up within the family, ≥ 1.
        architecture: which model.
        parameters: flat float vector (P,).
        low: smallest value of each activation tensor (T,), as devices reported it.
        high: largest value of each (T,).
        threshold: the score above which a window is anomalous.
        features: how a window becomes the model's input.
        reference: what the fleet calls normal.
        created_at: Unix seconds.
        provenance: where the release comes from.
        training: the training profile, by which its devices may be asked; None: they may not.
        prior: what the fleet knows together; with one, devices judge by the mixture, without one by the model.
        training_model: a finished training model (it depends on the architecture alone); by default built in a child process,
            which costs TensorFlow and seconds, and kept for the next call.
    """

    family: str
    version: int
    architecture: Architecture
    parameters: NDArray[np.floating]
    low: NDArray[np.floating]
    high: NDArray[np.floating]
    threshold: ThresholdSpec
    features: FeatureSpec
    reference: FleetReference
    created_at: float
    provenance: Provenance = field(default_factory=Provenance)
    training: TrainingSettings | None = None
    prior: FleetPrior | None = None
    training_model: bytes | None = None


def build_release(
    content: ReleaseContent,
    *,
    signing_key: Ed25519PrivateKey,
    int8_model: bytes | None = None,
    edge_tpu_model: bytes | None = None,
) -> bytes:
    """The bytes of a complete, signed bundle, opened and read once as a device will.

    Args:
        content: what it says.
        signing_key: the release key; it does not leave this process.
        int8_model: a finished int8 model of the content's parameters, where the caller has measured one already.
        edge_tpu_model: the int8 model as the Edge TPU compiler made it, for devices that have one.

    Raises:
        LayoutError, RangeError, ExportError: as `export_int8_model` and `export_training_model`.
        ParameterError: a parameter that is not finite, or absurdly large.
        BundleContentError: the pieces contradict each other, e.g. names for another number of features, or a figure of the manifest
            is not finite: JSON has no word for it.
        protocol.errors.BundleFormatError: the bundle exceeds a limit of `protocol.limits`.
    """
    architecture = content.architecture
    flat = require_bounded(architecture, content.parameters)
    _require_figures(content)
    detector = int8_model or export_int8_model(architecture, flat, content.low, content.high)
    files = bundle_files(
        int8_model=detector,
        training_model=content.training_model or export_training_model(architecture),
        parameters=flat,
        reference=content.reference,
        golden=make_golden_vectors(Int8Model(detector, architecture.kind), architecture.feature_count),
        edge_tpu_model=edge_tpu_model,
        prior=content.prior,
    )
    manifest = Manifest(
        family=content.family,
        version=content.version,
        created_at=content.created_at,
        model=architecture.to_manifest(),
        features=content.features,
        threshold=content.threshold,
        detector="network" if content.prior is None else "mixture",
        training=content.training,
        files=entries_for(files),
        provenance=content.provenance,
    )
    packed = pack_bundle(manifest, files, signing_key)
    read_bundle(open_bundle(packed, TrustedKeys([signing_key.public_key()])))
    return packed


def _require_figures(content: ReleaseContent) -> None:
    figures = {"threshold.score": content.threshold.score, "created_at": content.created_at}
    figures |= {f"evaluation[{name!r}]": value for name, value in content.provenance.evaluation.items()}
    for name, value in figures.items():
        if not math.isfinite(value):
            raise BundleContentError(
                f"{name} of {content.family}/{content.version} is {value}; a manifest holds finite numbers only: leave the figure"
                " out, or find out what made it"
            )
