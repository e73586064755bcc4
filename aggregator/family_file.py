"""family.toml of ``fedge-aggregator initial-release``: what version 1 looks like, and how it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from aggregator.central_training import TrainingSection
from aggregator.rounds.assessment import ThresholdSettings
from aggregator.rounds.int8_settings import Int8Settings
from models.architecture import Architecture, Kind
from models.detection.prior import can_mix
from models.errors import ModelError
from models.features import make_extractor, passthrough_spec, raw_spec, vibration_spec
from protocol.errors import TopicError
from protocol.manifest import ConvolutionSpec, FeatureSpec
from protocol.names import check_name
from protocol.refit_sizes import MOST_MIXED_FEATURES
from protocol.training import TrainingSettings
from runtime.settings import read_settings

__all__ = ["FamilySpec", "load_spec"]

Positive = Annotated[int, Meta(ge=1)]


class ModelSection(Struct, frozen=True, kw_only=True):
    """``[model]``: kind, layer widths, input first, and its convolution."""

    layers: tuple[Positive, ...]
    kind: Kind = "dense-autoencoder"
    convolution: ConvolutionSpec | None = None

    def architecture(self) -> Architecture:
        """What these say; raises LayoutError for widths or a convolution that make no model."""
        return Architecture(kind=self.kind, layers=self.layers, convolution=self.convolution)


class FeaturesSection(Struct, frozen=True, kw_only=True):
    """``[features]``: what the devices' source delivers.

    ``vibration`` computes its own features, so `names` may be left out; ``passthrough`` and ``raw`` have one channel a
    name.
    """

    kind: Literal["vibration", "passthrough", "raw"]
    names: tuple[str, ...] = ()
    window_samples: Positive | None = None
    channels: Positive | None = None
    sample_rate_hz: Annotated[float, Meta(gt=0)] | None = None

    def spec(self) -> FeatureSpec:
        """The description that a device compares with its source's; raises ValueError for one that cannot be."""
        if self.kind != "vibration" and not self.names:
            raise ValueError("features.names is missing; name the columns that the source delivers")
        if self.kind == "passthrough":
            whole = passthrough_spec(self.names)
        elif self.kind == "raw":
            if self.window_samples is None:
                raise ValueError("features of kind 'raw' need window_samples, as model.convolution.samples")
            whole = raw_spec(self.names, self.window_samples, sample_rate_hz=self.sample_rate_hz)
        elif self.sample_rate_hz is None or self.window_samples is None:
            raise ValueError("features of kind 'vibration' need sample_rate_hz and window_samples")
        else:
            whole = vibration_spec(self.sample_rate_hz, self.window_samples, self.channels or 1)
        for key in ("names", "window_samples", "channels", "sample_rate_hz"):
            given, follows = getattr(self, key), getattr(whole, key)
            if given not in (None, (), follows):
                raise ValueError(
                    f"features.{key} = {given!r} does not belong to kind {self.kind!r}; leave it out, or use {follows!r}"
                )
        return whole


class FamilySpec(Struct, frozen=True, kw_only=True):
    """family.toml. `commissioning_rows` of each recording fit that machine's standardiser.

    `training` says how version 1 is trained here, `profile` how devices train from it on: the ``[family.training]`` of aggregator.toml.

    `detector` says what judges on a device: ``mixture``, the fleet's prior and the device's own windows, or ``network``, the model.
    Left out, it is the mixture for a dense autoencoder of up to 128 features.

    Raises:
        ValueError: a model that cannot be, or that does not take what the source delivers.
    """

    family: str
    model: ModelSection
    features: FeaturesSection
    detector: Literal["mixture", "network"] | None = None
    training: TrainingSection = TrainingSection()
    profile: TrainingSettings = TrainingSettings()
    threshold: ThresholdSettings = ThresholdSettings()
    int8: Int8Settings = Int8Settings()
    commissioning_rows: Annotated[int, Meta(ge=2)] = 120
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        try:
            check_name(self.family, "family")
            architecture, features = self.model.architecture(), self.features.spec()
            make_extractor(features)
        except (TopicError, ModelError) as error:
            raise ValueError(str(error)) from None
        if architecture.feature_count != features.feature_count:
            raise ValueError(
                f"model.layers begins with {self.model.layers[0]}, but there are {len(features.names)} features"
                if architecture.convolution is None
                else f"the model takes {architecture.feature_count} values, a window has {features.feature_count}"
            )
        if architecture.is_classifier:
            raise ValueError("recordings carry no labels, so version 1 must be an autoencoder")
        if self.detector == "mixture" and not can_mix(architecture):
            raise ValueError(
                f'detector = "mixture" is for dense autoencoders of up to {MOST_MIXED_FEATURES} features, this is a {architecture.kind} of'
                f' {architecture.feature_count}; leave it out, or set "network"'
            )

    @property
    def is_mixture(self) -> bool:
        """Whether the fleet's prior and the device's own windows judge, and not the model."""
        return self.detector != "network" and can_mix(self.model.architecture())


def load_spec(path: Path) -> FamilySpec:
    """Read family.toml; raises SettingsError that names the key, with the nearest valid one for a typo."""
    return read_settings(path, FamilySpec)
