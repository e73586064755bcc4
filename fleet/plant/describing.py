"""What a plant shall be, out of what a person gave and what it is already; and how the two differ. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from runtime.errors import SettingsError
from service.addresses import is_loopback, split_endpoint
from service.plant_description import BrokerKind, Description, Listen, is_host

__all__ = ["PORTS", "Difference", "Wanted", "describe", "differences", "read_ports"]

PORTS: Final = {"fleet": 8443, "aggregator": 8444, "flower": 9092, "broker": 8883}

AMONG_OURSELVES: Final = frozenset({"aggregator"})
"""Who listens for this machine alone: devices have no business there."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a person gave; None: as it is, or the usual. `database`: without its password."""

    host: str | None = None
    tenant: str | None = None
    database: str | None = None
    broker: BrokerKind | None = None
    ports: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A key of plant.toml, what stands there, and what was asked for."""

    key: str
    has: object
    asked: object


def describe(
    before: Description | None, wanted: Wanted, *, usual_broker: Callable[[], BrokerKind]
) -> Description:
    """The description that was asked for.

    Args:
        before: of the plant as it is; None where it is new.
        wanted: what was given.
        usual_broker: says which broker a new plant has.

    Raises:
        SettingsError: no host was given for a new plant, or what was given is none.
    """
    host = wanted.host or (before.host if before else None)
    if host is None:
        raise SettingsError(
            "how do devices and browsers reach this machine? Give --host NAME, e.g. plant.example.com;"
            " for a trial on this machine alone: --host localhost"
        )
    if not is_host(host):
        raise SettingsError(
            f"--host {host!r} is no name or address; valid: plant.example.com, 192.0.2.7, localhost"
        )
    broker = wanted.broker or (before.broker if before else usual_broker())
    if broker is BrokerKind.EMBEDDED and not is_loopback(host):
        raise SettingsError(
            f"the embedded broker serves this machine alone, and {host} is dialled by others: install Mosquitto"
            " (on Debian or Ubuntu: sudo apt-get install mosquitto), or give --host localhost for a trial"
        )
    listen = {}
    for service, usual in PORTS.items():
        known = split_endpoint(getattr(before.listen, service)) if before else None
        at = known.host if known and before and before.host == host else _listened_to(service, host)
        port = wanted.ports.get(service) or (known.port if known else usual)
        listen[service] = f"[{at}]:{port}" if ":" in at else f"{at}:{port}"
    _check_ports(listen)
    try:
        return Description(
            tenant=wanted.tenant or (before.tenant if before else "fedge"),
            host=host,
            broker=broker,
            database=wanted.database or (before.database if before else None),
            listen=Listen(**listen),
        )
    except ValueError as error:
        raise SettingsError(str(error)) from None


def _check_ports(listen: Mapping[str, str]) -> None:
    """Raises SettingsError where two services would have one port."""
    owners: dict[int, str] = {}
    for service, address in listen.items():
        port = split_endpoint(address).port
        if port in owners:
            raise SettingsError(
                f"{owners[port]} and {service} cannot both have port {port}: give --port {service}=ANOTHER"
            )
        owners[port] = service


def differences(before: Description, after: Description) -> list[Difference]:
    """Every key whose value differs, in the order of the file."""
    has, asked = _flat(before), _flat(after)
    return [
        Difference(key=key, has=has[key], asked=value) for key, value in asked.items() if has[key] != value
    ]


def read_ports(given: Sequence[str]) -> dict[str, int]:
    """``fleet=9443`` and so on; raises SettingsError for what is no port of a service."""
    ports = {}
    for text in given:
        service, _, number = text.partition("=")
        if service not in PORTS or not number.isdecimal() or not 0 < int(number[:6]) <= 65_535:
            raise SettingsError(
                f"--port {text!r} is no port of a service; valid: NAME=1 to 65535, where NAME is {', '.join(PORTS)}"
            )
        ports[service] = int(number)
    return ports


def _listened_to(service: str, host: str) -> str:
    if service in AMONG_OURSELVES or is_loopback(host):
        return host if is_loopback(host) and host != "localhost" else "127.0.0.1"
    return "::" if ":" in host else "0.0.0.0"  # noqa: S104 - a server that devices dial


def _flat(description: Description) -> dict[str, object]:
    table = msgspec.to_builtins(description)
    listen = table.pop("listen")
    return {**table, **{f"listen.{service}": address for service, address in listen.items()}}
