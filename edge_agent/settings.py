"""agent.toml, read once into an immutable value: every limit with its unit, its default and the reason for it.

It opens no connection and creates no file. How a file and the environment (``FEDGE_AGENT_…``) become these structs, and
what a person is told of a mistake, is `runtime.settings`; here are the shapes, the ranges, and what goes together.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct, field

from edge_agent.privacy.limits import OwnerLimits
from edge_agent.sources.settings import Seconds, SourceSettings
from edge_agent.state_paths import StatePaths
from models.detection.openings import AlarmRules
from models.detection.promise import AlarmBudget
from protocol.errors import TopicError
from protocol.names import check_name
from runtime.settings import Paths, load_settings

__all__ = [
    "PREFIX",
    "BufferSettings",
    "DebugSettings",
    "DetectionSettings",
    "FleetSettings",
    "FlowerSettings",
    "HealthSettings",
    "IdentitySettings",
    "InferenceSettings",
    "LearnerSettings",
    "MqttSettings",
    "OutboxSettings",
    "RemoteSettings",
    "Settings",
    "StatePaths",
    "TrustSettings",
    "load_agent_settings",
]

PREFIX: Final = "FEDGE_AGENT_"
"""Of the variables that go over the file."""
MIB = 1024 * 1024
Positive = Annotated[int, Meta(ge=1)]
Text = Annotated[str, Meta(min_length=1, max_length=200)]


class FleetSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fleet's HTTPS API. `ca_file` is the only CA this device trusts for it."""

    url: Text
    ca_file: Path
    claim_token_file: Path | None = None
    poll_s: Seconds = 60.0
    """How often desired state is asked for over HTTPS while MQTT is down: cheap (304), so once a minute."""

    def __post_init__(self) -> None:
        """Refuse an address that is not encrypted."""
        if not self.url.startswith("https://"):
            raise ValueError(f"url = {self.url!r} is not valid: use https://host:port")


class TrustSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom this device believes about releases and instructions."""

    root: Path
    """The first root.json of the fleet's signed repository; newer ones follow from it."""


class MqttSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The broker. ``mqtt://`` is accepted to loopback only; everything else needs ``mqtts://``."""

    url: Text
    ca_file: Path | None = None
    keepalive_s: Annotated[int, Meta(ge=2, le=1200)] = 20
    """The broker declares a silent device lost after 1.5 times this."""
    reconnect_max_s: Seconds = 5.0
    """Upper bound of the jittered backoff: a fleet is back within seconds after a broker restart."""

    def __post_init__(self) -> None:
        """Refuse an address that is none, or that would show a network what this device says."""
        parts = urlsplit(self.url)
        try:
            is_address = parts.scheme in {"mqtt", "mqtts"} and parts.hostname and (parts.port or 1) > 0
        except ValueError:
            is_address = False
        if not is_address or parts.username or parts.password or parts.path.strip("/"):
            raise ValueError(
                "url is not valid: use mqtts://host:port (or mqtt://127.0.0.1:port), without user, password or path"
            )
        if not self.tls and not _is_loopback(self.host):
            raise ValueError(
                f"url = {self.url!r} would send what this device says in clear to another machine; use mqtts:// (mqtt:// is for loopback only)"
            )
        if self.tls and self.ca_file is None:
            raise ValueError("ca_file is missing; mqtts:// needs the CA of the broker")

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


class IdentitySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The chip that holds the identity key, behind its PKCS#11 library; without the table it is the file ``device.key``."""

    module: Path
    """The library, e.g. ``/usr/lib/x86_64-linux-gnu/libtpm2_pkcs11.so.1``."""
    token: Text
    """The token's label."""
    key: Text = "fedge-device"
    """The label of the key pair; `fedge-agent enrol` makes it where the token has none."""
    pin_file: Path
    """One line: the user PIN."""


class FlowerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Training runs: who the aggregator is. A file without `aggregator_key` is read, and this device does not train (`aggregator_trust`)."""

    ca_file: Path
    """Of the CA that has signed the aggregator's certificate."""
    aggregator_key: Paths | None = None
    """What `fedge-aggregator identity` prints (PEM); two while the aggregator changes its key."""
    host: Text | None = None
    """The only host that an invitation may lead to; without it any that the aggregator signs for."""


class DetectionSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What this device calls normal, and when it raises an alarm."""

    commissioning_windows: Annotated[int, Meta(ge=20, le=100_000)] = 120
    """Fewest windows on which the scale, drift reference and personal threshold are fitted; fewer are too noisy."""
    commissioning_longest_windows: Annotated[int, Meta(ge=20, le=1_000_000)] | None = None
    """Where commissioning ends even if the estimates have not settled; the scale is then provisional. None: four times the fewest."""
    period_s: Annotated[float, Meta(gt=0)] | None = None
    """A cycle that the machine repeats (a shift, a day), on its own clock: commissioning and the drift reference see at least one whole, and
    its course is learnt; without it a day and a week are looked for."""
    budget: AlarmBudget = AlarmBudget()
    """How many false alarms are allowed; where a release is judged by the mixture, everything else follows from it."""
    opens_after_windows: Annotated[int, Meta(ge=1, le=100)] = 2
    """Windows over the threshold, among the last this many + 1, that open an alarm: one spike is not an anomaly. For releases of detector "network"."""
    closes_after_windows: Positive = 5
    """Windows in a row below `closes_below_share` × threshold that close it."""
    closes_below_share: Annotated[float, Meta(gt=0, le=1)] = 0.9
    personal_threshold: bool = True
    """Move the fleet's threshold to this device's own healthy quantile, within the manifest's clamp. For releases of detector "network"."""
    reference_windows: Annotated[int, Meta(ge=20, le=100_000)] = 120
    """Newest buffered windows that become the new normal when a new version is committed."""
    drift_run_length: Annotated[float, Meta(ge=100)] = 20_000.0
    """Windows between false drift reports that the detectors are tuned for (ARL0 of the whole device)."""
    blind_after_windows: Positive = 12
    """Windows in a row that could not be judged: what is shorter is a plug that somebody pushes in again."""
    sight_probes_per_minute: Annotated[float, Meta(gt=0, le=600)] = 10.0
    """Wall clock: 200 probes, a share known within 7 points, take twenty minutes and some 5 ms of inference."""

    @property
    def alarm_rules(self) -> AlarmRules:
        """When an alarm closes, as the openings curve plays it."""
        return AlarmRules(
            closes_after_windows=self.closes_after_windows, closes_below_share=self.closes_below_share
        )

    @property
    def longest_commissioning(self) -> int:
        """Windows after which commissioning ends in any case, once it has seen a `period_s`."""
        return max(
            self.commissioning_windows, self.commissioning_longest_windows or 4 * self.commissioning_windows
        )


class InferenceSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What runs the models; see `edge_agent.delegate_choice`."""

    delegate: Literal["auto", "cpu", "xnnpack", "edgetpu", "gpu"] = "auto"
    """``auto`` tries an Edge TPU or GPU whose library is on this device, and otherwise costs nothing."""
    library: Path | None = None
    """The delegate's library, where it does not lie in one of Debian's folders."""

    def __post_init__(self) -> None:
        """Refuse a library that nothing would load."""
        if self.library is not None and self.delegate not in {"edgetpu", "gpu"}:
            raise ValueError(
                f"library names a library for delegate = {self.delegate!r}; it belongs to 'edgetpu' or 'gpu'"
            )


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
    """The newest rows (windows in this machine's own scale), kept for training."""

    maximum_bytes: Annotated[int, Meta(ge=64 * 1024)] = 8 * MIB
    """About 40 000 rows of 46 features."""
    set_aside_bytes: Annotated[int, Meta(ge=64 * 1024)] = 4 * MIB
    """For windows of alarms and drift, kept apart until a person calls them normal; the oldest go first."""


class InstallationSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a release is fetched; what is on the device already never waits."""

    maximum_temperature_c: Annotated[float, Meta(ge=0, le=150)] = 85.0
    """Beyond it a board is in trouble already; probing a model would add to it."""
    require_power: bool = False
    """Fetch on mains only, where the device can tell."""
    bytes_per_day: Positive | None = None
    """Of releases, on a metered link; None: as many as it takes. What was begun is brought to its end."""


class LearnerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When this device lends itself to a training run."""

    enabled: bool = True
    runtime: Literal["litert", "torch"] = "litert"
    """What trains: PyTorch needs the extra `torch`, and LiteRT detects all the same."""
    minimum_windows: Positive | None = None
    """The former place of `privacy.minimum_windows`; still read, and the larger of both holds."""
    maximum_temperature_c: Annotated[float, Meta(ge=0, le=150)] = 80.0
    """A Raspberry Pi throttles at 80 °C; inference comes first."""
    require_power: bool = False
    """Train on mains only, where the device can tell."""
    maximum_examples: Positive = 4096
    """Newest rows that a round trains on."""
    plain_answers: bool = False
    """Answer also where the aggregator does not use a secure sum, and then sees this device's update by itself."""
    minimum_cohort: Annotated[int, Meta(ge=3, le=16_384)] = 3
    """Fewest devices in a sum that this device is part of; of two, each would learn the other's answer."""
    split_view_safe: bool = True
    """Insist on thresholds that hold even if an aggregator tells devices different stories of who vanished."""
    requires_confirmation: bool = False
    """Demand that devices sign and compare who is in the sum, against an aggregator that tells them different stories."""


class PrivacySettings(OwnerLimits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the owner lets out: windows of anomalies, and what training learns. Nobody far away can change any of it."""

    send_windows: bool = True
    """Whether an anomaly takes along the raw window that opened it. False: no raw window leaves this device."""


class HealthSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often the device reports on itself (wall clock)."""

    every_s: Seconds = 30.0
    status_every_s: Annotated[float, Meta(ge=0.1)] = 1.0


class RemoteSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the fleet may ask of this device besides a release. Its word is sealed for this device."""

    commands: tuple[
        Literal["reactivate", "recommission", "accept-as-normal", "diagnose", "retry-parked"], ...
    ] = ("reactivate", "recommission", "accept-as-normal", "diagnose", "retry-parked")
    """What it may tell this device to do once."""
    afresh: bool = False
    """Whether `recommission` may forget the scale so far: windows of a fault alone would become this machine's normal."""
    settings: tuple[
        Literal[
            "detection.budget.alarms_per_1000_windows",
            "detection.budget.shortest_event_windows",
            "health.every_s",
        ],
        ...,
    ] = (
        "detection.budget.alarms_per_1000_windows",
        "detection.budget.shortest_event_windows",
        "health.every_s",
    )
    """Where the fleet's value goes over this file's, within narrower bounds; one that is left out stays as it is here."""


class DebugSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For simulations and for people who look closely; off on a device."""

    score_log: bool = False


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of agent.toml. `config_file` is where it was read from, absolute; so are all paths."""

    GONE: ClassVar[Mapping[str, str]] = {
        "release_keys": "releases are believed by the fleet's signed repository now: fetch its root.json from whoever runs the fleet"
        ' (`fedge-fleet trust root --out root.json`), put it beside this file, and write [trust] root = "root.json" instead; what is installed'
        " here goes on running, and nothing that was kept is lost"
    }

    state_dir: Path
    tenant: Text
    family: Text
    hardware: Text
    source: SourceSettings
    trust: TrustSettings
    device: Text | None = None
    """The name to enrol under; without one, ``device-`` and the start of the key's fingerprint."""
    labels: dict[str, str] = field(default_factory=dict)
    identity: IdentitySettings | None = None
    fleet: FleetSettings | None = None
    mqtt: MqttSettings | None = None
    flower: FlowerSettings | None = None
    detection: DetectionSettings = DetectionSettings()
    inference: InferenceSettings = InferenceSettings()
    outbox: OutboxSettings = OutboxSettings()
    buffer: BufferSettings = BufferSettings()
    installation: InstallationSettings = InstallationSettings()
    learner: LearnerSettings = LearnerSettings()
    privacy: PrivacySettings = PrivacySettings()
    health: HealthSettings = HealthSettings()
    remote: RemoteSettings = RemoteSettings()
    debug: DebugSettings = DebugSettings()
    config_file: Path = Path()

    def __post_init__(self) -> None:
        """Refuse names that no topic takes."""
        for what in ("tenant", "family", "device"):
            if (name := getattr(self, what)) is not None:
                try:
                    check_name(name, what)
                except TopicError as error:
                    raise ValueError(str(error)) from None

    @property
    def can_train(self) -> bool:
        """Whether the file says whom to train with."""
        return self.flower is not None and self.flower.aggregator_key is not None

    @property
    def fewest_windows(self) -> int:
        """Windows below which this device does not train."""
        return max(self.privacy.minimum_windows, self.learner.minimum_windows or 0)

    @property
    def paths(self) -> StatePaths:
        """The files of the state directory."""
        return StatePaths(self.state_dir)


def load_agent_settings(file: Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read and check agent.toml and what the environment says otherwise.

    Raises:
        SettingsError: see `runtime.settings.load_settings`.
    """
    return load_settings(file, Settings, prefix=PREFIX, environment=environment)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
