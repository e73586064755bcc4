"""What a model bundle promises: its manifest.

The manifest is the signed part; it names every file by size and SHA-256, so trusting it is trusting the bundle. A signature says who made
it and not that it is sane: each field is bounded to what a detector can mean, with room, and what is beyond is no manifest.
`protocol.bundle` packs, signs, opens and verifies; `models.bundles` knows what the files mean.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

from protocol.limits import MAX_BUNDLE_BYTES, MAX_BUNDLE_FILES, MAX_INTEGER, MAX_NAME_CHARS
from protocol.names import MAX_RELEASE_VERSION, NAME_PATTERN, ReleaseId, release_id
from protocol.privacy_claim import PrivacyClaim
from protocol.training import TrainingSettings

__all__ = [
    "ConvolutionSpec",
    "FeatureSpec",
    "FileEntry",
    "Manifest",
    "ModelSpec",
    "Provenance",
    "ThresholdSpec",
]

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Text = Annotated[str, Meta(max_length=1000)]
FamilyText = Annotated[str, Meta(pattern=rf"^{NAME_PATTERN}$(?!\n)", max_length=MAX_NAME_CHARS)]
Positive = Annotated[int, Meta(ge=1, le=4_000_000)]
"""A width, a length, a count of channels or parameters: at most what the largest model has parameters (`models.architecture`)."""

Count = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Figure = Annotated[float, Meta(ge=-1e300, le=1e300)]


class FileEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the bundle, in the order in which they are packed."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$(?!\n)")]
    size: Annotated[int, Meta(ge=0, le=MAX_BUNDLE_BYTES)]
    sha256: Sha256


class ConvolutionSpec(Struct, frozen=True, kw_only=True):
    """How a ``conv-autoencoder`` slides over a raw window of `samples` per channel.

    `kernel` and `stride` are every layer's, in samples at its finer side; `models.convolution` says which
    combinations are a model.
    """

    samples: Positive
    kernel: Positive
    stride: Positive


class ModelSpec(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which model this is; `layout_sha256` pins the flat vector.

    `layers` are the widths from input to output; with a `convolution` they are channels, and the model takes
    `samples` × channels values. Devices older than a kind refuse its manifest, as they must.
    """

    kind: Literal["dense-autoencoder", "dense-classifier", "conv-autoencoder"]
    layers: Annotated[tuple[Positive, ...], Meta(min_length=2, max_length=64)]
    parameter_count: Positive
    layout_sha256: Sha256
    convolution: ConvolutionSpec | None = None

    @property
    def feature_count(self) -> int:
        """How many values the model takes."""
        return self.layers[0] * (self.convolution.samples if self.convolution else 1)


class FeatureSpec(Struct, frozen=True, kw_only=True):
    """How a window becomes the model's input.

    ``vibration``: `window_samples` raw samples per channel at `sample_rate_hz` → named time and frequency features.
    ``passthrough``: the source delivers ready features, `window_samples` is 1.
    ``raw``: `window_samples` samples of each channel are the input as they are; `names` are the channels'.
    """

    kind: Literal["vibration", "passthrough", "raw"]
    names: Annotated[tuple[Name, ...], Meta(max_length=4096)]
    window_samples: Positive = 1
    channels: Positive = 1
    sample_rate_hz: Annotated[float, Meta(gt=0, le=1e9)] | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything here, names in their order: what was made for one is of no use under another."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()

    @property
    def feature_count(self) -> int:
        """How many values a window becomes."""
        return len(self.names) * (self.window_samples if self.kind == "raw" else 1)


class ThresholdSpec(Struct, frozen=True, kw_only=True):
    """The score above which a window counts as anomalous, and how it was found.

    `score` is what three of four of `fitted_on` devices need at most, by the `quantile` of their own healthy scores, × `margin`, and no more
    than half above or a third below that of the release before. A device may move it to its own healthy
    quantile, but only within [`personal_minimum`, `personal_maximum`] × `score`.

    Scores are counted from 1e-5 to 1e5 (`protocol.grids.SCORE_GRID`), and a threshold beyond them by more than a decade is that of a
    detector that alarms always or never.
    """

    score: Annotated[float, Meta(ge=1e-6, le=1e6)]
    quantile: Annotated[float, Meta(gt=0, lt=1)]
    margin: Annotated[float, Meta(gt=0, le=100)]
    fitted_on: Count
    personal_minimum: Annotated[float, Meta(ge=1e-3, le=1)] = 0.5
    personal_maximum: Annotated[float, Meta(ge=1, le=100)] = 2.0


class Provenance(Struct, frozen=True, kw_only=True):
    """Where a release comes from: enough to ask why it exists and what it cost, in privacy too.

    `warnings` are the sentences of the gate that let it pass although somebody should look.
    """

    training_run: Text | None = None
    trigger: Text = "initial"
    rounds: Count = 0
    participants: Count = 0
    examples: Count = 0
    parent: Text | None = None
    algorithm: Text = ""
    evaluation: Annotated[dict[Name, Figure], Meta(max_length=256)] = field(default_factory=dict)
    git_revision: Text = ""
    privacy: PrivacyClaim | None = None
    warnings: Annotated[tuple[Text, ...], Meta(max_length=100)] = ()


class Manifest(Struct, frozen=True, kw_only=True):
    """Everything a device needs to decide whether to accept a release, before it opens a file of it.

    `created_at` is Unix seconds. `files` is the complete list; a bundle with more or fewer is refused. `detector` says what judges
    a window: the model of the release, or ``mixture``, what each device makes of the fleet's prior and its own windows. Devices
    older than that refuse the file the prior is in, as they must. `training` is the training profile; without one no device trains.
    """

    format: Literal[1] = 1
    family: FamilyText
    version: Annotated[int, Meta(ge=1, le=MAX_RELEASE_VERSION)]
    created_at: Annotated[float, Meta(ge=0, le=1e11)]
    model: ModelSpec
    features: FeatureSpec
    threshold: ThresholdSpec
    detector: Literal["mixture", "network"] = "network"
    training: TrainingSettings | None = None
    files: Annotated[tuple[FileEntry, ...], Meta(max_length=MAX_BUNDLE_FILES)]
    provenance: Provenance = field(default_factory=Provenance)

    @property
    def release(self) -> ReleaseId:
        """``family/version``."""
        return release_id(self.family, self.version)
