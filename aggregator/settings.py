"""What the aggregator is told once, at its start: one TOML file, read into an immutable object.

Unknown keys are refused with the nearest valid one. Paths are relative to the file. Environment variables
``FEDGE_AGGREGATOR_<KEY>`` fill what the file leaves out. There are no default secrets: every key, password and token
is a file that somebody made. This module checks words and numbers; whether a file can be read is found by `app`.
"""

from __future__ import annotations

import difflib
import tomllib
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from aggregator.errors import PrivacyPlanError, SettingsError
from aggregator.privacy.adaptive_clipping import AdaptiveClip, clip_bit_noise, update_noise_multiplier
from aggregator.privacy.limits import FamilyBudget
from aggregator.rounds.gate import GateLimits
from aggregator.rounds.sum_policy import NoisePolicy, SumPolicy
from protocol.errors import TopicError
from protocol.names import check_name

__all__ = [
    "FamilySettings",
    "FleetSettings",
    "GateSettings",
    "MqttSettings",
    "PrivacySettings",
    "Settings",
    "ThresholdSettings",
    "TriggerSettings",
    "load_settings",
    "split_address",
]


# BaseSettings has its own constructor and drops a validation context, so the folder travels beside it.
_root: ContextVar[Path | None] = ContextVar("root", default=None)


def _resolve(path: Path) -> Path:
    root = _root.get()
    return path if root is None or path.is_absolute() else root / path


def _checked_name(name: str, info: ValidationInfo) -> str:
    try:
        return check_name(name, str(info.field_name))
    except TopicError as error:
        raise ValueError(str(error)) from None


def _checked_address(address: str) -> str:
    split_address(address)
    return address


FilePath = Annotated[Path, AfterValidator(_resolve)]
Name = Annotated[str, AfterValidator(_checked_name)]
Address = Annotated[str, AfterValidator(_checked_address)]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]

SMALLEST_SUM: Final = 3
"""Devices refuse smaller ones by themselves (`protocol.secure_sum.device_role.DevicePolicy`)."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FleetSettings(_Section):
    """Where the fleet's HTTP API is; `token_file` holds a token of role publisher."""

    url: Annotated[str, Field(pattern="^https://[^/]+/?$")]
    ca_file: FilePath
    token_file: FilePath
    timeout_s: Seconds = 20.0


class MqttSettings(_Section):
    """The broker that carries invitations. ``mqtt://`` is for loopback only."""

    url: Annotated[str, Field(pattern="^mqtts?://[^/]+/?$")]
    username: str | None = None
    password_file_path: FilePath | None = None
    ca_file: FilePath | None = None


class TriggerSettings(_Section):
    """When a run starts by itself; see `aggregator.triggers`. `drift_share` or `schedule_every_s` absent: off."""

    drift_share: Share | None = None
    within_s: Seconds = 86_400.0
    cooldown_s: Annotated[float, Field(ge=0)] = 3_600.0
    schedule_every_s: Seconds | None = None


class GateSettings(_Section):
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


class ThresholdSettings(_Section):
    """The alarm threshold: a quantile of the fleet's healthy scores times a margin."""

    quantile: Annotated[float, Field(gt=0, lt=1)] = 0.999
    margin: Annotated[float, Field(gt=0)] = 1.1


class PrivacySettings(_Section):
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


class FamilySettings(_Section):
    """How one model family learns. Fields named as in `protocol.questions.FitQuestion` are handed to the devices.

    `minimum_devices` is the quorum: fewer answers make a round void, and `round_attempts` void rounds in a row end the
    run. A run begins when the wanted devices have joined, when the quorum has and nobody new came for `join_settle_s`,
    or after `join_timeout_s`. `norm_limit` bounds the L2 norm of one device's mean update: devices clip to it in a secure sum;
    in plain, larger ones are refused by name. `weight_scales` of the int8 model: per channel loses less, per tensor is for Edge TPUs. `secure_sum = false` shows this process every device's update: for experiments,
    with devices whose owners allow it (``learner.plain_answers``). `stage_deadline_s` is for the stages in which nobody trains, `compares_survivors`
    adds one in which devices sign and compare who is in the sum, `split_view_safe` asks for thresholds that need no such comparison.
    """

    name: Name
    rounds: Annotated[int, Field(ge=1, le=1000)] = 5
    epochs: Annotated[int, Field(ge=1)] = 2
    batch_size: Annotated[int, Field(ge=1)] = 32
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    proximal: Annotated[float, Field(ge=0)] = 0.0
    maximum_examples: Annotated[int, Field(ge=1)] = 10_000
    server_optimizer: Literal["fedavg", "fedadam"] = "fedavg"
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
    secure_sum: bool = True
    stage_deadline_s: Seconds = 10.0
    split_view_safe: bool = True
    compares_survivors: bool = False
    corrupt_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    dropout_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    privacy: PrivacySettings = PrivacySettings()
    trigger: TriggerSettings = TriggerSettings()
    gate: GateSettings = GateSettings()
    threshold: ThresholdSettings = ThresholdSettings()
    rollout: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check_privacy(self) -> Self:
        if self.secure_sum and self.minimum_devices < SMALLEST_SUM:
            raise ValueError(
                f"minimum_devices = {self.minimum_devices} is too few for a secure sum: of fewer than {SMALLEST_SUM} devices"
                " each would learn the others' answers; raise it, or set secure_sum = false"
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
            maximum_examples=self.maximum_examples,
            noise=noise,
            maximum_participations=privacy.maximum_participations,
            maximum_epsilon=privacy.epsilon_server,
            stage_deadline_s=self.stage_deadline_s,
            corrupt_fraction=self.corrupt_fraction,
            dropout_fraction=self.dropout_fraction,
            split_view_safe=self.split_view_safe,
            compares_survivors=self.compares_survivors,
        )


def _adaptive_clip(privacy: PrivacySettings) -> AdaptiveClip:
    return AdaptiveClip(clip=privacy.clip, quantile=privacy.clip_quantile)


class Settings(BaseSettings):
    """Everything the aggregator needs to run. Nothing listens beyond loopback unless somebody writes it here."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_prefix="FEDGE_AGGREGATOR_")

    listen: Address = "127.0.0.1:8444"
    flower_listen: Address = "127.0.0.1:9092"
    flower_public_address: Address | None = None
    tls_cert: FilePath
    tls_key: FilePath
    data_dir: FilePath
    tenant: Name
    signing_key: FilePath
    release_keys: tuple[FilePath, ...] = ()
    watch_every_s: Seconds = 10.0
    publish_patience_s: Seconds = 600.0
    fleet: FleetSettings
    mqtt: MqttSettings
    family: Annotated[tuple[FamilySettings, ...], Field(min_length=1)]

    @property
    def flower_address(self) -> str:
        """What devices are told to dial: ``host:port``."""
        return self.flower_public_address or self.flower_listen

    @property
    def families(self) -> dict[str, FamilySettings]:
        """The configured families by name."""
        return {family.name: family for family in self.family}


def load_settings(path: Path) -> Settings:
    """Read `path`.

    Raises:
        SettingsError: no such file, not TOML, an unknown key (the nearest valid one is named), or a value out of range.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the settings file {path}: {error}") from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from None
    try:
        settings = _validated(data, path.resolve().parent)
    except ValidationError as error:
        raise SettingsError(f"{path}: {_first_problem(error)}") from None
    if len(settings.families) != len(settings.family):
        raise SettingsError(
            f"{path}: two [[family]] sections have the same name; each family is configured once"
        )
    return settings


def split_address(address: str) -> tuple[str, int]:
    """Read ``host:port``; raises ValueError where it is anything else. Port 0 asks for any free one."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"address {address!r} is not of the form host:port, e.g. 127.0.0.1:8444")
    return host.strip("[]"), int(port)


def _validated(data: dict[str, Any], root: Path) -> Settings:
    token = _root.set(root)
    try:
        return Settings(**data)
    finally:
        _root.reset(token)


def _first_problem(error: ValidationError) -> str:
    # A misspelt key also leaves the right one missing; the misspelling is what the person wants to hear of.
    problem = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in problem["loc"])
    match problem["type"]:
        case "extra_forbidden":
            return _unknown_key(problem["loc"])
        case "missing":
            return f"{where} is missing; it has no default"
        case _:
            message = problem["msg"].removeprefix("Value error, ")
            return f"{where} = {problem['input']!r}: {message}"


def _unknown_key(location: tuple[int | str, ...]) -> str:
    section: type[BaseModel] = Settings
    for part in location[:-1]:
        if isinstance(part, str):
            section = _SECTIONS[part]
    key, valid = str(location[-1]), sorted(section.model_fields)
    near = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"valid are {', '.join(valid)}"
    where = ".".join(str(part) for part in location)
    return f"unknown key {where!r}; {hint}"


_SECTIONS: dict[str, type[BaseModel]] = {
    "fleet": FleetSettings,
    "mqtt": MqttSettings,
    "family": FamilySettings,
    "trigger": TriggerSettings,
    "gate": GateSettings,
    "threshold": ThresholdSettings,
    "privacy": PrivacySettings,
}
