"""How one model family learns: the ``[[family]]`` tables of aggregator.toml.

Values and the combinations that make no sense; each is refused in one sentence that says what to change. The table
``[family.training]`` is what devices are told, `protocol.training.TrainingSettings`. Reading the file is `aggregator.settings`' business.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    model_validator,
)

from aggregator.errors import PrivacyPlanError
from aggregator.privacy.adaptive_clipping import AdaptiveClip, clip_bit_noise, update_noise_multiplier
from aggregator.privacy.limits import FamilyBudget
from aggregator.rounds.gate import GateLimits
from aggregator.rounds.sum_policy import NoisePolicy, SumPolicy
from protocol.errors import TopicError
from protocol.names import check_name
from protocol.training import TrainingSettings

__all__ = [
    "FamilySettings",
    "GateSettings",
    "Name",
    "PrivacySettings",
    "Seconds",
    "Section",
    "ThresholdSettings",
    "TriggerSettings",
    "training_conflict",
]


def _checked_name(name: str, info: ValidationInfo) -> str:
    try:
        return check_name(name, str(info.field_name))
    except TopicError as error:
        raise ValueError(str(error)) from None


Name = Annotated[str, AfterValidator(_checked_name)]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


def _read_training(table: object) -> TrainingSettings:
    return msgspec.convert(table, TrainingSettings)


SMALLEST_SUM: Final = 3
"""Devices refuse smaller ones by themselves (`protocol.secure_sum.device_role.DevicePolicy`)."""


class Section(BaseModel):
    """A table of the file: unknown keys are refused, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TriggerSettings(Section):
    """When a run starts by itself; see `aggregator.triggers`. `drift_share` or `schedule_every_s` absent: off."""

    drift_share: Share | None = None
    precision_drift: bool = False
    within_s: Seconds = 86_400.0
    cooldown_s: Annotated[float, Field(ge=0)] = 3_600.0
    schedule_every_s: Seconds | None = None


class GateSettings(Section):
    """What a candidate must reach; see `aggregator.rounds.gate.GateLimits`."""

    minimum_improvement: float = 0.0
    maximum_alarm_rate: Annotated[float, Field(ge=0, le=1)] = 0.01
    maximum_int8_error: Annotated[float, Field(gt=0)] = 0.05

    def limits(self) -> GateLimits:
        """The limits as the gate's rules take them."""
        return GateLimits(
            minimum_improvement=self.minimum_improvement,
            maximum_alarm_rate=self.maximum_alarm_rate,
            maximum_int8_error=self.maximum_int8_error,
        )


class ThresholdSettings(Section):
    """The alarm threshold: a quantile of the fleet's healthy scores times a margin.

    `personal_minimum` is how far below it a device may go, as a share of it, where its own healthy scores are lower. At 1, the default, it
    may only go above: a few hundred quiet windows do not show that a tail is short (docs/learning.md has the figures).
    """

    quantile: Annotated[float, Field(gt=0, lt=1)] = 0.999
    margin: Annotated[float, Field(gt=0)] = 1.1
    personal_minimum: Annotated[float, Field(gt=0, le=1)] = 1.0


class PrivacySettings(Section):
    """Distributed differential privacy of a family; without `noise_multiplier` sums are exact and ε is unlimited.

    `noise_multiplier` is the noise of a sum over the `clip` of one update, with `minimum_devices` in the sum; the evaluation has its
    own, or the same. `adaptive_clip` lets `clip` follow the `clip_quantile` of the updates' norms from round to round, at no further cost;
    it needs more than 10 · `noise_multiplier` devices. `sampling = "poisson"` draws each device with probability `cohort_fraction`, from the operating
    system's randomness: only then does ε of the release profit from devices that were not drawn. Budgets are for the family's whole
    life; `maximum_participations` and `epsilon_server` are also told to the devices, which enforce them themselves.
    """

    noise_multiplier: Annotated[float, Field(gt=0)] | None = None
    assessment_noise_multiplier: Annotated[float, Field(gt=0)] | None = None
    clip: Annotated[float, Field(gt=0)] = 1.0
    adaptive_clip: bool = False
    clip_quantile: Annotated[float, Field(gt=0, lt=1)] = 0.5
    bits: Annotated[int, Field(ge=8, le=32)] = 20
    mechanism: Literal["discrete-gaussian", "skellam"] = "discrete-gaussian"
    colluders: Annotated[int, Field(ge=0)] = 0
    sampling: Literal["fixed", "poisson"] = "fixed"
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    epsilon_server: Annotated[float, Field(gt=0)] | None = None
    epsilon_release: Annotated[float, Field(gt=0)] | None = None
    maximum_participations: Annotated[int, Field(ge=1)] | None = None

    def budget(self) -> FamilyBudget:
        """The limits as the privacy desk takes them."""
        return FamilyBudget(
            delta=self.delta,
            epsilon_server=self.epsilon_server,
            epsilon_release=self.epsilon_release,
            maximum_participations=self.maximum_participations,
        )


class FamilySettings(Section):
    """How one model family learns. `training` is handed to the devices whole.

    `minimum_devices` is the quorum: fewer answers make a round void, and `round_attempts` void rounds in a row end the
    run. A run begins when the wanted devices have joined, when the quorum has and nobody new came for `join_settle_s`,
    or after `join_timeout_s`. `norm_limit` bounds the L2 norm of one device's mean update: devices clip to it in a secure sum;
    in plain, larger ones are refused by name. `weight_scales` of the int8 model: per channel loses less, per tensor is for Edge TPUs,
    for which `edge_tpu` lets releases bring a compiled model; `prune_silent_units` leaves hidden units out of the int8 model that
    fire on no typical window. `baseline` None: a linear detector is fitted beside the network
    wherever sums are exact and no window is to be hidden. `secure_sum = false` shows this process every device's update: for experiments, with devices whose
    owners allow it (``learner.plain_answers``). `stage_deadline_s` is for the stages in which nobody trains, `requires_confirmation`
    adds one in which devices sign and compare who is in the sum, `split_view_safe` asks for thresholds that need no such comparison.
    """

    name: Name
    rounds: Annotated[int, Field(ge=1, le=1000)] = 5
    training: Annotated[TrainingSettings, PlainValidator(_read_training)] = TrainingSettings()
    baseline: bool | None = None
    server_optimizer: Literal["fedavg", "fedavgm", "fedadam"] = "fedavg"
    server_learning_rate: Annotated[float, Field(gt=0)] | None = None
    cohort_fraction: Share = 1.0
    over_selection: Annotated[float, Field(ge=1)] = 1.2
    minimum_devices: Annotated[int, Field(ge=1)] = 3
    minimum_windows: Annotated[int, Field(ge=1)] = 64
    join_timeout_s: Seconds = 120.0
    join_settle_s: Seconds = 15.0
    join_spread_s: Annotated[float, Field(ge=0)] = 0.0
    round_deadline_s: Seconds = 120.0
    round_attempts: Annotated[int, Field(ge=1)] = 3
    norm_limit: Annotated[float, Field(gt=0)] = 10.0
    weight_scales: Literal["per-tensor", "per-channel"] = "per-channel"
    edge_tpu: bool = False
    prune_silent_units: bool = False
    secure_sum: bool = True
    stage_deadline_s: Seconds = 10.0
    split_view_safe: bool = True
    requires_confirmation: bool = False
    corrupt_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    dropout_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    privacy: PrivacySettings = PrivacySettings()
    trigger: TriggerSettings = TriggerSettings()
    gate: GateSettings = GateSettings()
    threshold: ThresholdSettings = ThresholdSettings()
    rollout: dict[str, Any] | None = None

    @property
    def has_baseline(self) -> bool:
        """Whether a linear detector is fitted beside the network and competes with it."""
        is_exact = self.privacy.noise_multiplier is None and self.training.example_privacy is None
        return is_exact if self.baseline is None else self.baseline

    @model_validator(mode="after")
    def _check_training(self) -> Self:
        problem = training_conflict(self)
        if problem is not None:
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _check_privacy(self) -> Self:
        if self.secure_sum and self.minimum_devices < SMALLEST_SUM:
            raise ValueError(
                f"minimum_devices = {self.minimum_devices} is too few for a secure sum: of fewer than {SMALLEST_SUM} devices"
                " each would learn the others' answers; raise it, or set secure_sum = false"
            )
        if self.edge_tpu and self.weight_scales != "per-tensor":
            raise ValueError(
                f"edge_tpu = true needs weight_scales = 'per-tensor', not {self.weight_scales!r}: its compiler takes no other dense layer"
            )
        noise = self.privacy.noise_multiplier
        if noise is not None and not self.secure_sum:
            raise ValueError(
                "privacy.noise_multiplier needs secure_sum = true: distributed noise protects nobody in plain"
            )
        if noise is not None and self.privacy.colluders >= self.minimum_devices:
            raise ValueError(
                f"privacy.colluders = {self.privacy.colluders} leaves nobody honest among minimum_devices = {self.minimum_devices}"
            )
        if self.privacy.adaptive_clip:
            self._check_adaptive_clip(noise)
        limits = (self.privacy.epsilon_server, self.privacy.epsilon_release)
        if noise is None and limits != (None, None):
            raise ValueError(
                "privacy.epsilon_server and epsilon_release cannot be kept without privacy.noise_multiplier: exact sums cost"
                " unlimited epsilon"
            )
        return self

    def _check_adaptive_clip(self, noise: float | None) -> None:
        if noise is None:
            raise ValueError(
                "privacy.adaptive_clip = true needs privacy.noise_multiplier: exact sums are clipped to norm_limit"
            )
        try:
            _adaptive_clip(self.privacy)
            update_noise_multiplier(noise, clip_bit_noise(self.minimum_devices))
        except PrivacyPlanError as error:
            raise ValueError(f"privacy: {error} (minimum_devices = {self.minimum_devices})") from None

    def sum_policy(self) -> SumPolicy:
        """How secure rounds of this family are run."""
        privacy, noise = self.privacy, None
        if privacy.noise_multiplier is not None:
            noise = NoisePolicy(
                noise_multiplier=privacy.noise_multiplier,
                assessment_noise_multiplier=privacy.assessment_noise_multiplier or privacy.noise_multiplier,
                clip=privacy.clip,
                bits=privacy.bits,
                mechanism=privacy.mechanism,
                colluders=privacy.colluders,
                delta=privacy.delta,
                adaptive=_adaptive_clip(privacy) if privacy.adaptive_clip else None,
            )
        return SumPolicy(
            norm_limit=self.norm_limit,
            maximum_examples=self.training.maximum_examples,
            noise=noise,
            maximum_participations=privacy.maximum_participations,
            maximum_epsilon=privacy.epsilon_server,
            stage_deadline_s=self.stage_deadline_s,
            corrupt_fraction=self.corrupt_fraction,
            dropout_fraction=self.dropout_fraction,
            split_view_safe=self.split_view_safe,
            requires_confirmation=self.requires_confirmation,
        )


def training_conflict(family: FamilySettings) -> str | None:
    """Why a way of training does not go with the rest of the family, and what to change; None where it does."""
    is_noised = family.privacy.noise_multiplier is not None
    is_private = family.training.example_privacy is not None
    conflicts = {
        'training.method = "scaffold" doubles what a device gives, and privacy.noise_multiplier bounds one update: set'
        ' method = "plain" (server_optimizer and training.proximal go with noise)': (
            family.training.method == "scaffold" and is_noised
        ),
        "baseline = true needs exact sums: the outer products of a linear detector drown in privacy.noise_multiplier;"
        " leave baseline out": bool(family.baseline) and is_noised,
        "baseline = true needs exact moments, which tell what [family.training.example_privacy] hides: leave baseline out": (
            bool(family.baseline) and is_private
        ),
    }
    return next((sentence for sentence, is_there in conflicts.items() if is_there), None)


def _adaptive_clip(privacy: PrivacySettings) -> AdaptiveClip:
    return AdaptiveClip(clip=privacy.clip, quantile=privacy.clip_quantile)
