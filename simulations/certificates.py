"""A throwaway certificate authority for one simulated world, and a certificate each for broker, fleet and aggregator.

Made afresh in the world's directory at each run, so that everything in it speaks real TLS without a secret ever
being shipped. Not for production: the CA's key is dropped as soon as the three certificates are signed. Devices get theirs
from the fleet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trustme

from runtime.durable_files import write_quickly

__all__ = ["SERVICES", "Certificates", "create_certificates"]

SERVICES: Final = ("broker", "fleet", "aggregator")
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

    def certificate(self, service: str) -> Path:
        """What a service shows."""
        return self.directory / f"{service}.pem"

    def key(self, service: str) -> Path:
        """The private key to it; this user's alone."""
        return self.directory / f"{service}.key"


def create_certificates(directory: Path) -> Certificates:
    """Make a CA and the services' certificates for this machine's loopback addresses; `directory` is created."""
    directory.mkdir(parents=True, exist_ok=True)
    files = Certificates(directory)
    authority = trustme.CA(organization_name="Fedge simulated world")
    write_quickly(files.ca, authority.cert_pem.bytes())
    for service in SERVICES:
        served = authority.issue_cert(*NAMES, common_name=service)
        write_quickly(files.certificate(service), b"".join(part.bytes() for part in served.cert_chain_pems))
        write_quickly(files.key(service), served.private_key_pem.bytes(), mode=0o600)
    return files
