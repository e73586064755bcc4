"""Where a service listens, as people write it: ``host:port``."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple
from urllib.parse import urlsplit

__all__ = ["Endpoint", "is_loopback", "split_endpoint"]


class Endpoint(NamedTuple):
    """A host (name or address, without brackets) and a port; port 0 lets the system pick."""

    host: str
    port: int


def split_endpoint(listen: str) -> Endpoint:
    """Read ``host:port`` (IPv6 in brackets); raises ValueError with what would be valid.

    Examples:
        >>> split_endpoint("[::1]:8443")
        Endpoint(host='::1', port=8443)
    """
    parts = urlsplit(f"//{listen}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port is None or parts.path or parts.username:
        raise ValueError(f"{listen!r} is not host:port, e.g. 127.0.0.1:8443 or [::1]:8443")
    return Endpoint(host, port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`.

    Examples:
        >>> [is_loopback(host) for host in ("localhost", "127.3.0.1", "::1", "0.0.0.0", "fleet.example")]
        [True, True, True, False, False]
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
