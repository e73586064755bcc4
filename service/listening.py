"""The listening side of a start: the address is bound, and descriptors for callers are there, before anything else happens."""

from __future__ import annotations

import os
import resource
import socket
from typing import Final

from service.addresses import Endpoint, is_loopback
from service.errors import StartError

__all__ = ["bind", "places_for_callers"]

OWN_DESCRIPTORS: Final = 256
"""For databases, files and connections of our own."""


def bind(endpoint: Endpoint, *, is_plain: bool = False) -> socket.socket:
    """A listening socket.

    Args:
        endpoint: where.
        is_plain: nothing protects what goes over it, so that it must not be reachable from other machines, whatever
            its name resolves to.

    Raises:
        StartError: the address is taken or not ours, or is plain and beyond loopback.
    """
    try:
        listening = socket.create_server(
            endpoint, family=socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET, backlog=2048
        )
    except (OSError, UnicodeError) as error:
        # `create_server` adds to the system's words what the sentence says already
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number and number > 0 else error
        raise StartError(
            f"cannot listen on {endpoint.host}:{endpoint.port}: {reason}; stop what uses it, or choose another listen address"
        ) from None
    if is_plain and not is_loopback(address := listening.getsockname()[0]):
        listening.close()
        raise StartError(
            f"{endpoint.host} is {address}, which other machines can reach; without tls_cert and tls_key listen on 127.0.0.1"
        )
    return listening


def places_for_callers() -> int:
    """How many connections this process may hold, after it has asked the system for as many descriptors as it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(hard - OWN_DESCRIPTORS, OWN_DESCRIPTORS)
