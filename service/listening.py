"""The HTTPS side of a start: the address is bound and the certificate read before anything else happens."""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path

from service.addresses import Endpoint
from service.errors import StartError

__all__ = ["bind", "check_certificate"]


def bind(endpoint: Endpoint) -> socket.socket:
    """A listening socket; raises StartError where the address is taken or not ours."""
    try:
        return socket.create_server(
            endpoint, family=socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET, backlog=2048
        )
    except OSError as error:
        # `create_server` adds to the system's words what the sentence says already
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error
        raise StartError(
            f"cannot listen on {endpoint.host}:{endpoint.port}: {reason}; stop what uses it, or choose another listen address"
        ) from None


def check_certificate(tls_cert: Path, tls_key: Path) -> None:
    """Raises StartError where the two PEM files cannot be read or do not belong together."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls_cert, tls_key)
    except OSError as error:  # ssl.SSLError is one
        raise StartError(
            f"tls_cert {tls_cert} and tls_key {tls_key} cannot be used: {error}; both are PEM files and belong together"
        ) from None
