"""plant.toml: what a plant is, in the few words that a person says; the rest follows from them (`service.plant`, `fleet.plant`)."""

from __future__ import annotations

import ipaddress
import re
from enum import StrEnum
from typing import Final, Literal
from urllib.parse import urlsplit

from msgspec import Struct

from protocol.errors import TopicError
from protocol.names import check_name
from service.addresses import split_endpoint

__all__ = ["BrokerKind", "Description", "Listen", "is_host"]

_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")


class BrokerKind(StrEnum):
    """Which broker a plant's is; ``auto`` is Mosquitto where it is installed with its plugin."""

    AUTO = "auto"
    MOSQUITTO = "mosquitto"
    EMBEDDED = "embedded"


class Listen(Struct, frozen=True, kw_only=True):
    """Where each service listens, ``host:port``: broker, fleet and flower for devices, aggregator for people and programs."""

    fleet: str
    aggregator: str
    flower: str
    broker: str

    def __post_init__(self) -> None:
        """Raises ValueError for an address that is none."""
        for name in self.__struct_fields__:
            try:
                split_endpoint(getattr(self, name))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None


class Description(Struct, frozen=True, kw_only=True):
    """plant.toml.

    version: of this form.
    tenant: whose plant it is; in every topic and certificate.
    host: what devices and browsers dial: a name, or an address without brackets.
    broker: see `BrokerKind`.
    database: postgresql://… without a password, or left out: SQLite. The password is in fleet.toml alone.
    """

    version: Literal[1] = 1
    tenant: str
    host: str
    broker: BrokerKind = BrokerKind.AUTO
    database: str | None = None
    listen: Listen

    def __post_init__(self) -> None:
        """Raises ValueError for a name that is none, or a password in the open."""
        try:
            check_name(self.tenant, "tenant")
        except TopicError as error:
            raise ValueError(str(error)) from None
        if not is_host(self.host):
            raise ValueError(
                f"host = {self.host!r} is not what devices dial; valid: plant.example.com, 192.0.2.7 or 2001:db8::7"
            )
        if self.database and urlsplit(self.database).password:
            raise ValueError(
                "database holds a password, and everybody may read this file; it belongs into fleet.toml"
            )


def is_host(text: str) -> bool:
    """Whether `text` is the name or address of a machine, as a certificate names it.

    >>> [is_host(text) for text in ("plant.example.com", "192.0.2.7", "2001:db8::7", "a:8443", "10.0.0.300", "")]
    [True, True, True, False, False, False]
    """
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return (
            len(text) <= 253 and _NAME.fullmatch(text) is not None and not text.rpartition(".")[2].isdigit()
        )
    return True
