"""aggregator.toml: read once, checked completely, handed down immutable; `runtime.settings` says how.

An environment variable ``FEDGE_AGGREGATOR_<KEY>`` (nested: ``FEDGE_AGGREGATOR_MQTT__URL``) goes over a key of the file; families
come by the file. There are no default secrets: every key, certificate and token is a file that somebody made. This module checks
words and numbers; whether a file can be read is found by `app`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta, Struct

from aggregator.rounds.family import FamilySettings
from protocol.errors import TopicError
from protocol.names import check_name
from runtime.settings import load_settings
from service.addresses import split_endpoint
from service.broker_settings import BrokerSettings

__all__ = ["PREFIX", "FleetSettings", "Settings", "load_aggregator_settings"]

PREFIX: Final = "FEDGE_AGGREGATOR_"
"""Of the service's variables; ``FEDGE_AGGREGATOR_URL``, ``_CA`` and ``_TOKEN_FILE`` are the command line client's."""

CLIENTS: Final = frozenset({"URL", "CA", "TOKEN_FILE"})

Seconds = Annotated[float, Meta(gt=0)]


class FleetSettings(Struct, frozen=True, kw_only=True):
    """Where the fleet's HTTP API is; `token_file` holds a token of role publisher."""

    url: Annotated[str, Meta(pattern=r"^https://[^/]+/?$(?!\n)")]
    ca_file: Path
    token_file: Path
    timeout_s: Seconds = 20.0


class Settings(Struct, frozen=True, kw_only=True):
    """Everything the aggregator needs to run. Nothing listens beyond loopback unless somebody writes it here.

    flower_public_address: what devices are told to dial, where it is not `flower_listen`.
    release_keys: further Ed25519 PEM keys whose releases may be the champion; the signing key's own always is.
    families_dir: folder of further families, a file each, which are taken while the aggregator runs (`aggregator.family_folder`).
    watch_every_s: how often drift is asked for.
    publish_patience_s: how long a fleet that is away is waited for.
    """

    listen: str = "127.0.0.1:8444"
    flower_listen: str = "127.0.0.1:9092"
    flower_public_address: str | None = None
    tls_cert: Path
    tls_key: Path
    data_dir: Path
    tenant: str
    signing_key: Path
    release_keys: tuple[Path, ...] = ()
    watch_every_s: Seconds = 10.0
    publish_patience_s: Seconds = 600.0
    fleet: FleetSettings
    mqtt: BrokerSettings
    families_dir: Path | None = None
    family: Annotated[tuple[FamilySettings, ...], Meta(max_length=1000)] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for an address or name that is not valid, a family that is there twice, or a clip that is none."""
        try:
            check_name(self.tenant, "tenant")
        except TopicError as error:
            raise ValueError(str(error)) from None
        for key in ("listen", "flower_listen", "flower_address"):
            try:
                split_endpoint(getattr(self, key))
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
        for family in self.family:
            # Not the family's own to refuse: a release that says so already goes on.
            if conflict := family.training.clip_conflict():
                raise ValueError(f"family {family.name!r}: training.{conflict}")
        if len(self.families) != len(self.family):
            raise ValueError("two [[family]] tables have the same name; each family is configured once")
        if not self.family and self.families_dir is None:
            raise ValueError("there is no family: give a [[family]] table, or families_dir, a folder of them")

    @property
    def flower_address(self) -> str:
        """What devices are told to dial: ``host:port``."""
        return self.flower_public_address or self.flower_listen

    @property
    def families(self) -> dict[str, FamilySettings]:
        """The families of this file by name, without those of `families_dir`."""
        return {family.name: family for family in self.family}


def load_aggregator_settings(path: Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read and check aggregator.toml and the variables over it; raises SettingsError."""
    return load_settings(path, Settings, prefix=PREFIX, environment=environment, ignored=CLIENTS)
