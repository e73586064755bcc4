"""The `[source]` table of agent.toml for machines that answer over a wire: OPC UA, Modbus TCP, MQTT topics, lines of text.

What all have in common: the sensors by name, in the family's order; a row of them is taken every `every_s`, and `window_rows` rows make
a window. Secrets are files, never values.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct

__all__ = [
    "LineSettings",
    "LiveSettings",
    "ModbusRegister",
    "ModbusSettings",
    "OpcUaSettings",
    "TopicSettings",
]

MOST_SENSORS: Final = 1024
"""Of one machine over a wire: what one answer of a server brings in a second."""

Every = Annotated[float, Meta(ge=0.01, le=1e6)]
Patience = Annotated[float, Meta(ge=0.1, le=600)]
Text = Annotated[str, Meta(min_length=1, max_length=500)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Named = Annotated[dict[Name, Text], Meta(min_length=1, max_length=MOST_SENSORS)]


class _Live(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    every_s: Every = 1.0
    """Seconds between two rows; a server that takes longer is asked less often."""
    window_rows: Annotated[int, Meta(ge=1, le=65_536)] = 1
    """Rows of a window: 1 gives ready features, more a raw window of channels."""


class OpcUaSettings(_Live, frozen=True, kw_only=True, tag="opcua", tag_field="kind"):
    """Nodes of an OPC UA server, read together; needs the extra ``opcua``."""

    url: Text
    """``opc.tcp://host:4840/path``."""
    nodes: Named
    """Sensor → node id, e.g. ``ns=2;s=Line3.Pressure``."""
    answers_within_s: Patience = 4.0
    """For each request; then the connection is made anew."""
    stale_after_s: Annotated[float, Meta(gt=0, le=1e9)] | None = None
    """A value with an older source time is missing. None: a sensor that stands still keeps its old time at most servers."""
    security: Literal["none", "sign", "sign-encrypt"] = "none"
    """Basic256Sha256, or nothing; a password is given to a server with a pinned certificate only."""
    certificate_file: Path | None = None
    key_file: Path | None = None
    """Of this device, PEM or DER: who it is for the server."""
    server_certificate_file: Path | None = None
    """The only certificate that is believed to be the server's."""
    username: Text | None = None
    password_file: Path | None = None

    def __post_init__(self) -> None:
        """Refuse an address that is none, and a secret that a network would see."""
        _check_url(self.url, ("opc.tcp",), "opc.tcp://host:4840")
        pinned = (self.certificate_file, self.key_file, self.server_certificate_file)
        if self.security != "none" and None in pinned:
            raise ValueError(
                f"security = {self.security!r} needs certificate_file, key_file and server_certificate_file"
            )
        if self.security == "none" and pinned != (None, None, None):
            raise ValueError("certificates are of no use with security = 'none'; use 'sign-encrypt'")
        _check_account(self.username, self.password_file)
        if self.username and self.security != "sign-encrypt" and not _is_loopback(self.url):
            raise ValueError(
                "username would cross the network unsealed; use security = 'sign-encrypt' (or a server on loopback)"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The sensors, in order."""
        return tuple(self.nodes)

    @property
    def where(self) -> str:
        """The source, for messages."""
        return self.url


class ModbusRegister(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One sensor in a Modbus device: value = number × `scale` + `offset`."""

    name: Name
    address: Annotated[int, Meta(ge=0, le=65_535)]
    """From 0, as it is sent; a manual's 40001 is holding register 0."""
    table: Literal["holding", "input", "coil", "discrete"] = "holding"
    type: Literal["int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"] = "uint16"
    """Of a register; a coil is 0 or 1."""
    low_word_first: bool = False
    """How the device orders the words of a number that takes several."""
    scale: Annotated[float, Meta(ge=-1e9, le=1e9)] = 1.0
    offset: Annotated[float, Meta(ge=-1e12, le=1e12)] = 0.0
    missing: Annotated[float, Meta(ge=-1e20, le=1e20)] | None = None
    """The number, before `scale`, that the device gives for a sensor that failed, e.g. -32768."""


class ModbusSettings(_Live, frozen=True, kw_only=True, tag="modbus", tag_field="kind"):
    """Registers of a Modbus TCP device; needs the extra ``modbus``. Modbus knows neither identity nor cipher: a wire of the machine's own."""

    url: Text
    """``modbus://host:502``."""
    unit: Annotated[int, Meta(ge=0, le=255)] = 1
    """The device behind a gateway."""
    registers: Annotated[tuple[ModbusRegister, ...], Meta(min_length=1, max_length=MOST_SENSORS)]
    answers_within_s: Patience = 2.0
    """For each request; then the connection is made anew."""

    def __post_init__(self) -> None:
        """Refuse an address that is none, and two sensors of one name."""
        _check_url(self.url, ("modbus",), "modbus://host:502")
        if len(set(self.names)) < len(self.registers):
            raise ValueError("two registers have the same name; each sensor is named once")

    @property
    def names(self) -> tuple[str, ...]:
        """The sensors, in order."""
        return tuple(register.name for register in self.registers)

    @property
    def where(self) -> str:
        """The source, for messages."""
        return self.url

    @property
    def endpoint(self) -> tuple[str, int]:
        """Host and port; 502 where the URL names none."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 502


class TopicSettings(_Live, frozen=True, kw_only=True, tag="mqtt", tag_field="kind"):
    """Values that others publish on topics of a broker, which need not be the fleet's."""

    url: Text
    """``mqtts://host:port``; ``mqtt://`` to loopback, or where nobody else is on the wire (`is_private_wire`)."""
    topics: Named
    """Sensor → topic, or ``topic#field.inner`` where the message is a JSON object."""
    stale_after_s: Annotated[float, Meta(gt=0, le=1e9)] = 30.0
    """A value that nobody has published for longer is missing. Three times the slowest publisher's pause."""
    ca_file: Path | None = None
    username: Text | None = None
    password_file: Path | None = None
    certificate_file: Path | None = None
    """What this device shows the broker: PEM of key and chain."""
    is_private_wire: bool = False
    """Somebody has said that a broker in the clear is on a wire of the machine's own."""
    keepalive_s: Annotated[int, Meta(ge=2, le=1200)] = 20

    def __post_init__(self) -> None:
        """Refuse an address that is none, topics that are patterns, and a secret that a network would see."""
        _check_url(self.url, ("mqtt", "mqtts"), "mqtts://host:8883")
        _check_account(self.username, self.password_file)
        for sensor, topic in self.topics.items():
            name = topic.partition("#")[0]
            if not name or "+" in name or "\0" in name:
                raise ValueError(
                    f"topics.{sensor} = {topic!r} is no topic; use line3/pressure, or line3/state#pressure for a field of JSON"
                )
        if self.tls and self.ca_file is None:
            raise ValueError("ca_file is missing; mqtts:// needs the CA of the broker")
        if not self.tls and (self.ca_file or self.certificate_file):
            raise ValueError("ca_file and certificate_file are for mqtts://")
        if not self.tls and not _is_loopback(self.url) and (self.username or not self.is_private_wire):
            raise ValueError(
                f"url = {self.url!r} is in the clear: use mqtts://, or, without a password, say is_private_wire = true"
            )

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return urlsplit(self.url).scheme == "mqtts"

    @property
    def host(self) -> str:
        """Host name or address."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """TCP port; 8883 or 1883 where the URL names none."""
        return urlsplit(self.url).port or (8883 if self.tls else 1883)

    @property
    def names(self) -> tuple[str, ...]:
        """The sensors, in order."""
        return tuple(self.topics)

    @property
    def where(self) -> str:
        """The source, for messages."""
        return self.url


class LineSettings(
    Struct, frozen=True, kw_only=True, tag="lines", tag_field="kind", forbid_unknown_fields=True
):
    """Lines of text that come by themselves, a row each: CSV, or JSON objects; from standard input, a serial port or a pipe."""

    input: Annotated[str, Meta(pattern=r"^(-|/.+)$(?!\n)", max_length=500)] = "-"
    """``-`` for standard input, or an absolute path: ``/dev/ttyUSB0``, a named pipe."""
    columns: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=MOST_SENSORS)]
    """The sensors, in order. A first line that names them may order the cells otherwise; without one, the cells are these."""
    baud: Literal[1200, 2400, 4800, 9600, 19_200, 38_400, 57_600, 115_200, 230_400] = 9600
    """Of a serial port, with 8 data bits, no parity and one stop bit."""
    delimiter: Annotated[str, Meta(min_length=1, max_length=1)] = ","
    decimal_comma: bool = False
    """Whether 3,5 is three and a half; the cells are then parted by something else."""
    every_s: Every = 1.0
    """Seconds between two lines, as the sender sends them; for raw windows."""
    window_rows: Annotated[int, Meta(ge=1, le=65_536)] = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be told apart."""
        if len(set(self.columns)) < len(self.columns):
            raise ValueError("two columns have the same name; each sensor is named once")
        if self.delimiter in {"\n", "\r", '"', "."} or (self.decimal_comma and self.delimiter == ","):
            raise ValueError(f"delimiter = {self.delimiter!r} parts no cells here; use ';' or a tab")

    @property
    def names(self) -> tuple[str, ...]:
        """The sensors, in order."""
        return self.columns

    @property
    def where(self) -> str:
        """The source, for messages."""
        return "standard input" if self.input == "-" else self.input


LiveSettings = OpcUaSettings | ModbusSettings | TopicSettings | LineSettings


def _check_url(url: str, schemes: tuple[str, ...], example: str) -> None:
    parts = urlsplit(url)
    try:
        is_address = parts.scheme in schemes and parts.hostname and (parts.port or 1) > 0
    except ValueError:
        is_address = False
    if not is_address or parts.username or parts.password:
        raise ValueError(f"url = {url!r:.200} is not valid: use {example}, without user or password")


def _check_account(username: str | None, password_file: Path | None) -> None:
    if (username is None) != (password_file is None):
        raise ValueError("username and password_file go together")


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
