"""agent.toml, read once into an immutable value: every limit with its unit, its default and the reason for it.

It checks shape, ranges and spelling; it opens no connection and creates no file. Paths in the file are relative to
the file. Unknown keys are refused with the nearest valid one, because a misspelt limit that is silently ignored
is found only in the field.
"""

from __future__ import annotations

import ipaddress
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct, field

from edge_agent.sources.settings import SourceSettings
from protocol.errors import TopicError
from protocol.names import check_name
from runtime.errors import SettingsError

__all__ = [
    "BufferSettings",
    "DebugSettings",
    "DetectionSettings",
    "FleetSettings",
    "FlowerSettings",
    "HealthSettings",
    "InferenceSettings",
    "LearnerSettings",
    "MqttSettings",
    "OutboxSettings",
    "Settings",
    "StatePaths",
    "load_settings",
]

MIB = 1024 * 1024
Seconds = Annotated[float, Meta(gt=0)]
Positive = Annotated[int, Meta(ge=1)]
Text = Annotated[str, Meta(min_length=1, max_length=200)]


class FleetSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fleet's HTTPS API. `ca_file` is the only CA this device trusts for it."""

    url: Text
    ca_file: Path
    claim_token_file: Path | None = None
    poll_s: Seconds = 60.0
    """How often desired state is asked for over HTTPS while MQTT is down: cheap (304), so once a minute."""


class MqttSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The broker. ``mqtt://`` is accepted to loopback only; everything else needs ``mqtts://``."""

    url: Text
    ca_file: Path | None = None
    keepalive_s: Annotated[int, Meta(ge=2, le=1200)] = 20
    """The broker declares a silent device lost after 1.5 times this."""
    reconnect_max_s: Seconds = 5.0
    """Upper bound of the jittered backoff: a fleet is back within seconds after a broker restart."""

    @property
    def host(self) -> str:
        """Host name or address."""
        return urlsplit(self.url).hostname or ""

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return urlsplit(self.url).scheme == "mqtts"

    @property
    def port(self) -> int:
        """TCP port; 8883 or 1883 where the URL names none."""
        return urlsplit(self.url).port or (8883 if self.tls else 1883)


class FlowerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Training runs: the CA under which the aggregator's Flower address is trusted."""

    ca_file: Path


class DetectionSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What this device calls normal, and when it raises an alarm."""

    commissioning_windows: Annotated[int, Meta(ge=20, le=100_000)] = 120
    """Windows on which the standardiser, drift reference and personal threshold are fitted; fewer are too noisy."""
    confirm: Annotated[int, Meta(ge=1, le=100)] = 2
    """Windows over the threshold, among the last `confirm` + 1, that open an alarm: one spike is not an anomaly."""
    release: Positive = 5
    """Windows in a row below `release_share` × threshold that close it."""
    release_share: Annotated[float, Meta(gt=0, le=1)] = 0.9
    personal_threshold: bool = True
    """Move the fleet's threshold to this device's own healthy quantile, within the manifest's clamp."""
    reference_windows: Annotated[int, Meta(ge=20, le=100_000)] = 120
    """Newest buffered windows that become the new normal when a new version is committed."""
    drift_run_length: Annotated[float, Meta(ge=100)] = 20_000.0
    """Windows between false drift reports that the detectors are tuned for (ARL0 of the whole device)."""


class InferenceSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What runs the models; see `edge_agent.delegate_choice`."""

    delegate: Literal["auto", "cpu", "xnnpack", "edgetpu", "gpu"] = "auto"
    """``auto`` tries an Edge TPU or GPU whose library is on this device, and otherwise costs nothing."""
    library: Path | None = None
    """The delegate's library, where it does not lie in one of Debian's folders."""


class OutboxSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What waits on disk until the fleet has stored it."""

    maximum_bytes: Annotated[int, Meta(ge=64 * 1024)] = 16 * MIB
    """About 100 anomalies with raw window, or weeks without."""
    maximum_age_s: Seconds = 7 * 86400.0
    resend_s: Seconds = 10.0
    """An event that the fleet has not acknowledged after this is sent again; storing it twice is harmless."""
    in_flight: Annotated[int, Meta(ge=1, le=1000)] = 32
    """Events sent and not yet acknowledged: bounds memory and the burst after a long outage."""


class BufferSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The newest standardised windows, kept for training."""

    maximum_bytes: Annotated[int, Meta(ge=64 * 1024)] = 8 * MIB
    """About 40 000 windows of 46 features."""


class LearnerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When this device lends itself to a training run."""

    enabled: bool = True
    runtime: Literal["litert", "torch"] = "litert"
    """What trains: PyTorch needs the extra `torch`, and LiteRT detects all the same."""
    minimum_windows: Positive = 64
    """Fewer examples than one batch teach nothing; an invitation may ask for more."""
    maximum_temperature_c: Annotated[float, Meta(ge=0, le=150)] = 80.0
    """A Raspberry Pi throttles at 80 °C; inference comes first."""
    require_power: bool = False
    """Train on mains only, where the device can tell."""
    maximum_examples: Positive = 4096
    """Newest windows that a round trains on."""
    plain_answers: bool = False
    """Answer also where the aggregator does not use a secure sum, and then sees this device's update by itself."""
    minimum_cohort: Annotated[int, Meta(ge=3, le=16_384)] = 3
    """Fewest devices in a sum that this device is part of; of two, each would learn the other's answer."""
    split_view_safe: bool = True
    """Insist on thresholds that hold even if an aggregator tells devices different stories of who vanished."""
    compared_survivors: bool = False
    """Demand that devices sign and compare who is in the sum, against an aggregator that tells them different stories."""


class PrivacySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What this device gives to training at most, over its whole life; enforced here, whatever an aggregator asks."""

    maximum_participations: Positive = 10_000
    """Answers to rounds. Ten rounds a week for twenty years fit; a server that asks without end does not."""
    maximum_epsilon: Annotated[float, Meta(gt=0)] | None = None
    """ε that all answers together may cost. None: rounds without noise, which no ε describes, are answered too."""
    delta: Annotated[float, Meta(gt=0, lt=1)] = 1e-6
    """Goes with every ε; below one over the number of devices in the fleet."""
    require_noise: bool = False
    """Refuse sums without differential privacy even where no `maximum_epsilon` is set."""


class HealthSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often the device reports on itself (wall clock)."""

    every_s: Seconds = 30.0
    status_every_s: Annotated[float, Meta(ge=0.1)] = 1.0


class DebugSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For simulations and for people who look closely; off on a device."""

    score_log: bool = False


class StatePaths:
    """Where everything lies in the state directory; names only, nothing is created."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.device_key = root / "device.key"
        self.enrolment = root / "enrolment.json"
        self.standardiser = root / "standardiser.json"
        self.detection = root / "detection.json"
        self.drift = root / "drift.state"
        self.bundles = root / "bundles"
        self.install_journal = root / "install.json"
        self.outbox = root / "outbox.sqlite"
        self.buffer = root / "buffer"
        self.status = root / "status.json"
        self.counters = root / "counters.json"
        self.score_log = root / "scores.csv"
        self.privacy = root / "privacy.sqlite"
        self.learner = root / "learner"
        self.learner_stats = root / "learner_stats.json"
        self.invitation = root / "learner" / "invitation.json"


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of agent.toml. `config_file` is where it was read from, absolute; so are all paths."""

    state_dir: Path
    tenant: Text
    family: Text
    hardware: Text
    source: SourceSettings
    release_keys: tuple[Path, ...]
    device: Text | None = None
    """The name to enrol under; without one, ``device-`` and the start of the key's fingerprint."""
    labels: dict[str, str] = field(default_factory=dict)
    fleet: FleetSettings | None = None
    mqtt: MqttSettings | None = None
    flower: FlowerSettings | None = None
    detection: DetectionSettings = DetectionSettings()
    inference: InferenceSettings = InferenceSettings()
    outbox: OutboxSettings = OutboxSettings()
    buffer: BufferSettings = BufferSettings()
    learner: LearnerSettings = LearnerSettings()
    privacy: PrivacySettings = PrivacySettings()
    health: HealthSettings = HealthSettings()
    debug: DebugSettings = DebugSettings()
    config_file: Path = Path()

    @property
    def paths(self) -> StatePaths:
        """The files of the state directory."""
        return StatePaths(self.state_dir)


def load_settings(file: Path) -> Settings:
    """Read and check agent.toml.

    Raises:
        SettingsError: missing, not TOML, an unknown key, a wrong type or range; says which key, its value and
            what is valid.
    """
    file = file.absolute()
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read {file}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} is not valid TOML: {error}") from None
    _refuse_unknown_keys(raw, Settings, file, "")
    try:
        settings = msgspec.convert(
            {**raw, "config_file": str(file)},
            Settings,
            dec_hook=lambda wanted, value: _path(wanted, value, file),
        )
    except msgspec.ValidationError as error:
        raise SettingsError(f"{file}: {_explain(str(error), raw)}") from None
    _check_meaning(settings, file)
    return settings


def _path(wanted: type, value: object, file: Path) -> object:
    if wanted is Path and isinstance(value, str) and value:
        return file.parent / value
    raise TypeError(f"expected a path (text), got {value!r}")


def _refuse_unknown_keys(table: dict[str, Any], kind: object, file: Path, where: str) -> None:
    structs = [t for t in (kind, *get_args(kind)) if isinstance(t, type) and issubclass(t, Struct)]
    tagged = {s.__struct_config__.tag: s for s in structs}
    if len(structs) > 1:
        # A union such as [source]: its tag chooses the struct; a wrong tag is reported by the decoder.
        tag_field = structs[0].__struct_config__.tag_field or "kind"
        structs = [tagged[table[tag_field]]] if table.get(tag_field) in tagged else []
    if not structs:
        return
    fields = {f.encode_name: f.type for f in msgspec.structs.fields(structs[0]) if f.name != "config_file"}
    valid = {*fields, structs[0].__struct_config__.tag_field} - {None}
    for key, value in table.items():
        path = f"{where}{key}"
        if key not in valid:
            raise SettingsError(f"{file}: unknown key {path!r}{_nearest(key, where, valid)}")
        if isinstance(value, dict) and key in fields:
            _refuse_unknown_keys(value, fields[key], file, f"{path}.")


def _nearest(key: str, where: str, valid: set[Any]) -> str:
    import difflib  # Only needed on the way to an error; keeps it out of the resident process.

    near = difflib.get_close_matches(key, sorted(valid), n=1, cutoff=0.5)
    return f"; did you mean {where + near[0]!r}?" if near else f"; valid here: {', '.join(sorted(valid))}"


def _explain(message: str, raw: dict[str, Any]) -> str:
    """Turn "Expected `int`, got `str` - at `$.outbox.maximum_bytes`" into path, value, and what is valid."""
    reason, _, place = message.partition(" - at `$")
    path = place.rstrip("`").lstrip(".")
    value: Any = raw
    for part in path.split("."):
        value = value.get(part.partition("[")[0]) if isinstance(value, dict) else value
    if not path or isinstance(value, dict):
        return f"{reason}{f' in [{path}]' if path else ''}"
    return f"{path} = {value!r} is not valid: {reason[:1].lower()}{reason[1:]}"


def _check_meaning(settings: Settings, file: Path) -> None:
    try:
        check_name(settings.tenant, "tenant")
        check_name(settings.family, "family")
        if settings.device is not None:
            check_name(settings.device, "device")
    except TopicError as error:
        raise SettingsError(f"{file}: {error}") from None
    if not settings.release_keys:
        raise SettingsError(f"{file}: release_keys is empty; name at least one Ed25519 public key file (PEM)")
    if settings.fleet is not None and not settings.fleet.url.startswith("https://"):
        raise SettingsError(f"{file}: fleet.url = {settings.fleet.url!r} is not valid: use https://host:port")
    if settings.inference.library is not None and settings.inference.delegate not in {"edgetpu", "gpu"}:
        raise SettingsError(
            f"{file}: inference.library names a library for delegate = {settings.inference.delegate!r}; it belongs to 'edgetpu' or 'gpu'"
        )
    if settings.mqtt is not None:
        _check_broker(settings.mqtt, file)


def _check_broker(mqtt: MqttSettings, file: Path) -> None:
    parts = urlsplit(mqtt.url)
    try:
        well_formed = parts.scheme in {"mqtt", "mqtts"} and parts.hostname and (parts.port or 1) > 0
    except ValueError:
        well_formed = False
    if not well_formed or parts.username or parts.password or parts.path.strip("/"):
        raise SettingsError(
            f"{file}: mqtt.url is not valid: use mqtts://host:port (or mqtt://127.0.0.1:port), without user, password or path"
        )
    if not mqtt.tls and not _is_loopback(mqtt.host):
        raise SettingsError(
            f"{file}: mqtt.url = {mqtt.url!r} would send the password in clear to another machine; use mqtts:// (mqtt:// is for loopback only)"
        )
    if mqtt.tls and mqtt.ca_file is None:
        raise SettingsError(f"{file}: mqtt.ca_file is missing; mqtts:// needs the CA of the broker")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
