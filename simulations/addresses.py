"""Where the services of a world listen: free ports of loopback, picked once for each world."""

from __future__ import annotations

import socket
from dataclasses import dataclass

__all__ = ["Addresses", "free_ports", "pick_addresses"]


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """``127.0.0.1:port`` of each service."""

    broker: str
    fleet: str
    aggregator: str
    flower: str

    @property
    def broker_url(self) -> str:
        """What MQTT clients dial."""
        return f"mqtts://{self.broker}"


def pick_addresses() -> Addresses:
    """Free loopback ports for the services of one world."""
    broker, fleet, aggregator, flower = (f"127.0.0.1:{port}" for port in free_ports(4))
    return Addresses(broker=broker, fleet=fleet, aggregator=aggregator, flower=flower)


def free_ports(count: int) -> list[int]:
    """Distinct TCP ports that were free on loopback a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [int(s.getsockname()[1]) for s in sockets]
    finally:
        for s in sockets:
            s.close()
