"""fleet.toml: read once, checked completely, handed down immutable; `runtime.settings` says how.

An environment variable ``FEDGE_FLEET_SERVICE_<KEY>`` (nested: ``FEDGE_FLEET_SERVICE_MQTT__URL``) goes over a key of the
file. There are no default secrets: keys are paths to files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from msgspec import Meta, Struct

from fleet.alert_settings import AlertSettings
from protocol.errors import TopicError
from protocol.limits import MAX_BUNDLE_BYTES, MAX_PAYLOAD_BYTES
from protocol.names import check_name
from runtime.settings import load_settings
from service.addresses import is_loopback, split_endpoint
from service.broker_settings import BrokerSettings

__all__ = [
    "PREFIX",
    "AggregatorSettings",
    "DashboardSettings",
    "EnrolmentSettings",
    "MqttSettings",
    "RetentionSettings",
    "Settings",
    "load_fleet_settings",
]

PREFIX: Final = "FEDGE_FLEET_SERVICE_"
"""Of the service's variables; ``FEDGE_FLEET_URL``, ``_CA`` and ``_TOKEN_FILE`` are the command line client's."""

PositiveSeconds = Annotated[float, Meta(gt=0)]


class MqttSettings(BrokerSettings, frozen=True, kw_only=True):
    """The road to the devices, and who is shut out of it.

    shut_out: how the broker learns which devices are revoked: by commands to Mosquitto's dynamic-security plugin, in a file
        that an embedded broker reads, or not at all (a broker that admits everybody).
    shut_out_file: that file.
    shared: several replicas of this service take a share each of what devices say (PostgreSQL alone; the broker needs a listener for
        services, which ``fedge-fleet broker-files`` then writes). Without it one of them is at the broker, and the others stand by.
    batch_events: most events in one transaction; there are as many while so many wait and it does not take long.
    batch_wait_s: how long a batch waits for more; adds to latency.
    queued_events: waiting in memory before some are dropped (devices send those again).
    device_events_per_s, device_burst_events: what one device may send in the long run, and at once; an agent sends a few
        messages a minute, and what lay in its outbox in windows of at most a hundred.
    device_bytes_per_s, device_burst_bytes: the same of payload bytes.
    """

    GONE: ClassVar[dict[str, str]] = BrokerSettings.GONE | {
        "accounts": "devices have certificates and no accounts; shut_out says how the broker learns who is revoked",
        "accounts_file": "devices have certificates and no accounts; shut_out_file names who is revoked",
        "services": "the aggregator shows the broker its own certificate, as its aggregator.toml says",
    }

    shut_out: Literal["dynamic-security", "file", "none"] = "dynamic-security"
    shut_out_file: Path | None = None
    shared: bool = False
    batch_events: Annotated[int, Meta(ge=1, le=10_000)] = 4000
    batch_wait_s: Annotated[float, Meta(ge=0, le=1)] = 0.02
    queued_events: Annotated[int, Meta(ge=1000)] = 20_000
    device_events_per_s: Annotated[float, Meta(gt=0)] = 100.0
    device_burst_events: Annotated[int, Meta(ge=1)] = 2000
    device_bytes_per_s: Annotated[float, Meta(gt=0)] = 256 * 1024.0
    device_burst_bytes: Annotated[int, Meta(ge=MAX_PAYLOAD_BYTES)] = 16 * 1024 * 1024

    def __post_init__(self) -> None:
        """Raises ValueError for an address that is not valid, or a shut_out_file that nobody would read."""
        super().__post_init__()
        if (self.shut_out == "file") != (self.shut_out_file is not None):
            raise ValueError(
                f'shut_out = "{self.shut_out}" and shut_out_file = {self.shut_out_file and str(self.shut_out_file)!r} '
                'do not belong together; shut_out = "file" is what needs a shut_out_file'
            )


class EnrolmentSettings(Struct, frozen=True, kw_only=True):
    """How devices get in. certificate_lifetime_s: how long a device's certificate is good; it asks for the next one before."""

    certificate_lifetime_s: Annotated[float, Meta(ge=60, le=366 * 86400)] = 30 * 86400.0


class AggregatorSettings(Struct, frozen=True, kw_only=True):
    """Where training runs are read from, for the dashboard. token_file: holds an aggregator's token of role viewer, made with --program."""

    url: Annotated[str, Meta(pattern=r"^https://[^/\s]+/?$(?!\n)")]
    ca_file: Path | None = None
    token_file: Path


class DashboardSettings(Struct, frozen=True, kw_only=True):
    """The pages that people look at. public_url: how their browsers reach them, where that is not this service's own address."""

    public_url: str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for an address that is none."""
        if self.public_url is not None and not _PUBLIC_URL.fullmatch(self.public_url):
            raise ValueError(
                f"public_url = {self.public_url!r} is not how a browser reaches a page; valid: https://fleet.example.org"
            )


_PUBLIC_URL: Final = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+/?")

DAY_S: Final = 86_400.0


class RetentionSettings(Struct, frozen=True, kw_only=True):
    """How long what is kept, seconds. The audit log is kept for good: it is a chain.

    health_s: health messages as they came; rollouts compare the last day of them, an open one holds back what it compares.
    fine_blocks_s: health in blocks of ten minutes: a rollout's baseline. Then they are joined into blocks of an hour.
    blocks_s: those: a quarter of a year, which shows what a season does.
    anomalies_s: anomalies and their ends; one that lasts stays, and one on which a person's verdict stands.
    drift_s: drift reports: as long as the blocks they are looked at beside.
    installs_s: reports of installations; those of open rollouts stay.
    commands_s: commands that are over.
    timelines_s: timelines of rollouts that are over, line by line; a rollout's own record stays longer.
    rollouts_s: rollouts that are over, with their executions and looks; one whose release a device shall still run stays.
    alerts_s: alerts that are over, what was told of them, and silences that have ended.
    """

    health_s: Annotated[float, Meta(ge=DAY_S / 24)] = DAY_S
    fine_blocks_s: Annotated[float, Meta(ge=DAY_S)] = 7 * DAY_S
    blocks_s: Annotated[float, Meta(ge=DAY_S)] = 90 * DAY_S
    anomalies_s: Annotated[float, Meta(ge=DAY_S)] = 365 * DAY_S
    drift_s: Annotated[float, Meta(ge=DAY_S)] = 90 * DAY_S
    installs_s: Annotated[float, Meta(ge=DAY_S)] = 90 * DAY_S
    commands_s: Annotated[float, Meta(ge=DAY_S)] = 90 * DAY_S
    timelines_s: Annotated[float, Meta(ge=DAY_S)] = 90 * DAY_S
    rollouts_s: Annotated[float, Meta(ge=DAY_S)] = 365 * DAY_S
    alerts_s: Annotated[float, Meta(ge=DAY_S)] = 90 * DAY_S


class Settings(Struct, frozen=True, kw_only=True):
    """Everything that can be set about the fleet service.

    database_url: default is fleet.sqlite in data_dir.
    offline_after_s: silence before a device counts as offline; four of the agent's 30 s health messages.
    aggregator: whose training runs the dashboard shows; None: none.
    approved_families: families whose every rollout waits for a second person's approval, whatever its plan says; ``["*"]``: all.
    """

    GONE: ClassVar[Mapping[str, str]] = {
        "release_keys": "whose releases devices take is said by the signed repository: leave it out, and make one with"
        " fedge-fleet trust init, see docs/releases.md",
        "health_history_s": "it is health_s of [retention] now, which has what else is kept for how long",
    }

    listen: str = "127.0.0.1:8443"
    tls_cert: Path | None = None
    tls_key: Path | None = None
    data_dir: Path
    database_url: Annotated[str, Meta(min_length=1)] | None = None
    tenant: str
    mqtt: MqttSettings | None = None
    enrolment: EnrolmentSettings = EnrolmentSettings()
    retention: RetentionSettings = RetentionSettings()
    aggregator: AggregatorSettings | None = None
    dashboard: DashboardSettings = DashboardSettings()
    alerts: AlertSettings = AlertSettings()
    approved_families: tuple[str, ...] = ()
    maximum_bundle_bytes: Annotated[int, Meta(ge=1, le=MAX_BUNDLE_BYTES)] = MAX_BUNDLE_BYTES
    offline_after_s: PositiveSeconds = 120.0

    def __post_init__(self) -> None:
        """Raises ValueError for an address or name that is not valid, or a service beyond loopback without TLS."""
        _check_name(self.tenant, "tenant")
        host = split_endpoint(self.listen).host
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together; give both or neither")
        if self.tls_cert is None and not is_loopback(host):
            raise ValueError(
                f"listen = {self.listen!r} is reachable from other machines, so tls_cert and tls_key are needed"
            )

        if self.mqtt and self.mqtt.shared and not self.effective_database_url.startswith("postgresql"):
            raise ValueError(
                "mqtt.shared = true is for replicas on one PostgreSQL, and the database is SQLite;"
                ' give database_url = "postgresql+psycopg://…", or leave shared out'
            )

    @property
    def effective_database_url(self) -> str:
        """`database_url`, or the SQLite file in `data_dir`."""
        return self.database_url or f"sqlite:///{self.data_dir / 'fleet.sqlite'}"


def load_fleet_settings(path: Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read and check fleet.toml and the variables over it; raises SettingsError."""
    return load_settings(path, Settings, prefix=PREFIX, environment=environment)


def _check_name(value: str, what: str) -> None:
    try:
        check_name(value, what)
    except TopicError as error:
        raise ValueError(str(error)) from None
