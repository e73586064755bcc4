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
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from aggregator.errors import SettingsError
from aggregator.family_settings import (
    FamilySettings,
    GateSettings,
    Name,
    PrivacySettings,
    Seconds,
    Section,
    ThresholdSettings,
    TriggerSettings,
)

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


def _checked_address(address: str) -> str:
    split_address(address)
    return address


FilePath = Annotated[Path, AfterValidator(_resolve)]
Address = Annotated[str, AfterValidator(_checked_address)]


class FleetSettings(Section):
    """Where the fleet's HTTP API is; `token_file` holds a token of role publisher."""

    url: Annotated[str, Field(pattern="^https://[^/]+/?$")]
    ca_file: FilePath
    token_file: FilePath
    timeout_s: Seconds = 20.0


class MqttSettings(Section):
    """The broker that carries invitations. ``mqtt://`` is for loopback only."""

    url: Annotated[str, Field(pattern="^mqtts?://[^/]+/?$")]
    username: str | None = None
    password_file: FilePath | None = None
    ca_file: FilePath | None = None


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
