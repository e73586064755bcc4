"""A throwaway certificate authority for one simulated world.

Made afresh in the world's directory at each run, so that everything in it speaks real TLS without a secret ever
being shipped. Not for production: the CA's key is dropped as soon as the one server certificate is signed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trustme

from runtime.durable_files import write_quickly

__all__ = ["Certificates", "create_certificates"]

NAMES: Final = ("localhost", "127.0.0.1", "::1")
"""What clients of the world may dial: this machine alone."""


@dataclass(frozen=True)
class Certificates:
    """Where a world's certificate files are."""

    directory: Path

    @property
    def ca(self) -> Path:
        """What clients trust."""
        return self.directory / "ca.pem"

    @property
    def server_certificate(self) -> Path:
        """What every server of the world presents."""
        return self.directory / "server.pem"

    @property
    def server_key(self) -> Path:
        """The private key to it; this user's alone."""
        return self.directory / "server.key"


def create_certificates(directory: Path) -> Certificates:
    """Make a CA and one server certificate for this machine's loopback addresses; `directory` is created."""
    directory.mkdir(parents=True, exist_ok=True)
    files = Certificates(directory)
    authority = trustme.CA(organization_name="Fedge simulated world")
    served = authority.issue_cert(*NAMES)
    write_quickly(files.ca, authority.cert_pem.bytes())
    write_quickly(files.server_certificate, b"".join(part.bytes() for part in served.cert_chain_pems))
    write_quickly(files.server_key, served.private_key_pem.bytes(), mode=0o600)
    return files
