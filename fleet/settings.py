"""fleet.toml: read once, checked completely, handed down immutable.

An environment variable ``FEDGE_FLEETD_<KEY>`` (nested: ``FEDGE_FLEETD_MQTT__URL``) overrides a key of the file. Paths are
relative to the file. There are no default secrets: passwords and keys are paths to files.
"""

from __future__ import annotations

import difflib
import ipaddress
import tomllib
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from fleet.errors import SettingsError
from protocol.errors import TopicError
from protocol.limits import MAX_BUNDLE_BYTES
from protocol.names import check_name

__all__ = ["Endpoint", "EnrolmentSettings", "MqttSettings", "Settings", "load_settings", "split_endpoint"]

_FROZEN: Final = ConfigDict(frozen=True, extra="forbid")


# pydantic-settings validates inside __init__, where no validation context can be passed
_folder: ContextVar[Path] = ContextVar("_folder", default=Path())


def _absolute(path: Path) -> Path:
    return (_folder.get() / path).absolute()


def _name(value: str) -> str:
    try:
        return check_name(value, "name")
    except TopicError as error:
        raise ValueError(str(error)) from None


FilePath = Annotated[Path, AfterValidator(_absolute)]
Name = Annotated[str, AfterValidator(_name)]


class Endpoint(BaseModel):
    """A host and a port; port 0 lets the system pick."""

    model_config = ConfigDict(frozen=True)
    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def split_endpoint(listen: str) -> Endpoint:
    """Read ``host:port`` (IPv6 in brackets); raises ValueError with what would be valid."""
    parts = urlsplit(f"//{listen}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port is None or parts.path or parts.username:
        raise ValueError(f"{listen!r} is not host:port, e.g. 127.0.0.1:8443 or [::1]:8443")
    return Endpoint(host=host, port=port)


def _listen(value: str) -> str:
    split_endpoint(value)
    return value


def _mqtt_url(value: str) -> str:
    parts = urlsplit(value)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname or port == -1 or parts.username:
        raise ValueError(f"{value!r} is not mqtt://host[:port] or mqtts://host[:port] (no user in it)")
    if parts.scheme == "mqtt" and not Endpoint(host=parts.hostname, port=port or 1883).is_loopback:
        raise ValueError(f"{value!r} would send passwords in clear; use mqtts:// to anything but loopback")
    return value


class MqttSettings(BaseModel):
    """The road to the devices, and the accounts its broker accepts."""

    model_config = _FROZEN
    url: Annotated[str, AfterValidator(_mqtt_url)]
    username: Name = "fleet"
    password_file: FilePath | None = Field(default=None, description="holds the fleet's own broker password")
    ca_file: FilePath | None = None
    accounts_file: FilePath | None = Field(
        default=None, description="the broker's password file; the fleet maintains it"
    )
    services: dict[Name, FilePath] = Field(
        default_factory=dict, description="other accounts in it: user name → file that holds the password"
    )
    broker_pid_file: FilePath | None = Field(
        default=None, description="gets SIGHUP after accounts_file changed (Mosquitto)"
    )
    batch_events: int = Field(default=500, ge=1, le=10_000, description="most events in one transaction")
    batch_wait_s: float = Field(
        default=0.02, ge=0, le=1, description="how long a batch waits for more; adds to latency"
    )
    queued_events: int = Field(
        default=20_000,
        ge=1000,
        description="waiting in memory before new ones are dropped (devices send those again)",
    )
    reconnect_s: float = Field(
        default=0.5, gt=0, le=60, description="first pause before reconnecting; doubles up to 30 s"
    )


class EnrolmentSettings(BaseModel):
    """How devices get in."""

    model_config = _FROZEN
    claim_tokens_file: FilePath | None = Field(
        default=None, description="lines '<token> [uses]', imported at start"
    )


class Settings(BaseSettings):
    """Everything that can be set about the fleet service."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="FEDGE_FLEETD_", env_nested_delimiter="__"
    )
    listen: Annotated[str, AfterValidator(_listen)] = "127.0.0.1:8443"
    tls_cert: FilePath | None = None
    tls_key: FilePath | None = None
    data_dir: FilePath
    database_url: str | None = Field(default=None, description="default: fleet.sqlite in data_dir")
    tenant: Name
    release_keys: tuple[FilePath, ...] = Field(
        min_length=1, description="Ed25519 PEM; releases signed by others are refused"
    )
    mqtt: MqttSettings | None = None
    enrolment: EnrolmentSettings = EnrolmentSettings()
    maximum_bundle_bytes: int = Field(default=MAX_BUNDLE_BYTES, ge=1, le=MAX_BUNDLE_BYTES)
    offline_after_s: float = Field(
        default=120.0,
        gt=0,
        description="silence before a device counts as offline; four of the agent's 30 s health messages",
    )
    health_history_s: float = Field(
        default=7 * 86400.0,
        gt=0,
        description="how long health messages are kept; a rollout judges hours, people look at days",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings passes all sources by name
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment before file: a container changes one key without another file."""
        return env_settings, init_settings

    @property
    def effective_database_url(self) -> str:
        """`database_url`, or the SQLite file in `data_dir`."""
        return self.database_url or f"sqlite:///{self.data_dir / 'fleet.sqlite'}"


def load_settings(path: Path) -> Settings:
    """Read and check fleet.toml.

    Raises:
        SettingsError: the file cannot be read or parsed, a key is unknown (the nearest valid one is named), a value
            is wrong, or the service would listen beyond loopback without TLS.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot read the settings: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from None
    token = _folder.set(path.absolute().parent)
    try:
        settings = Settings(**content)
    except ValidationError as error:
        raise SettingsError(
            f"{path}: " + "; ".join(_explain(e["loc"], e["type"], e["msg"]) for e in error.errors())
        ) from None
    finally:
        _folder.reset(token)
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise SettingsError(f"{path}: tls_cert and tls_key belong together; give both or neither")
    if settings.tls_cert is None and not split_endpoint(settings.listen).is_loopback:
        raise SettingsError(
            f"{path}: listen = {settings.listen!r} is reachable from other machines, so tls_cert and tls_key are needed"
        )
    return settings


def _explain(location: tuple[int | str, ...], kind: str, message: str) -> str:
    key = ".".join(str(part) for part in location)
    if kind == "missing":
        return f"key {key!r} is missing"
    if kind != "extra_forbidden":
        return f"key {key!r}: {message.removeprefix('Value error, ')}"
    valid = sorted(_fields_at(location[:-1]))
    near = difflib.get_close_matches(str(location[-1]), valid, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"valid are {', '.join(valid)}"
    return f"unknown key {key!r}: {hint}"


def _fields_at(location: tuple[int | str, ...]) -> set[str]:
    if not location:
        return set(Settings.model_fields)
    nested: dict[str, type[BaseModel]] = {"mqtt": MqttSettings, "enrolment": EnrolmentSettings}
    return set(nested[str(location[0])].model_fields) if str(location[0]) in nested else set()
