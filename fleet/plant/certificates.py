"""The services' own CA, and a certificate each for broker, fleet and aggregator.

::

    ca.key ─► ca.pem                       the key, and a copy of ca.pem: needed only to make and to renew, kept offline
       └────► SERVICE.key, SERVICE.pem     398 days; CN = the service, which the broker knows it by

Each shows the names it is dialled by. The broker is nobody's client: with its key nobody can enter another broker, nor this one.
This CA is used for nothing else: the broker lets in whom it signs. Devices have another one (`fleet.device_ca`).

Source: RFC 5280, section 4.2.1; CA/Browser Forum Baseline Requirements, section 6.3.2 (398 days).
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleet.certificate_parts import BACKDATED, key_usage, unsigned_certificate
from protocol.errors import IdentityError
from protocol.identity import load_private_key, private_key_pem
from runtime.durable_files import private_directory, read_bytes, write_durably
from runtime.errors import SettingsError

__all__ = ["SERVICES", "ServicesCa", "belong_together", "names_in", "names_of", "read_certificate"]

SERVICES: Final = ("broker", "fleet", "aggregator")

HERE: Final = ("localhost", "127.0.0.1", "::1")
"""How the services of one machine dial each other."""

_AMONG_CONTAINERS: Final = {
    "broker": ("broker", "broker-services"),
    "fleet": ("fleet",),
    "aggregator": ("aggregator",),
}

LIFETIME: Final = timedelta(days=398)
CA_LIFETIME: Final = timedelta(days=3650)

_PEM: Final = serialization.Encoding.PEM


def names_of(service: str, host: str) -> tuple[str, ...]:
    """Every name under which a service of a plant on `host` is dialled, the public one first."""
    return tuple(dict.fromkeys((host, *HERE, *_AMONG_CONTAINERS[service])))


@dataclass(frozen=True, kw_only=True)
class ServicesCa:
    """The CA whose files are these."""

    key_file: Path
    file: Path

    def ensure(self, now: float) -> bool:
        """Make the CA where there is none; returns whether it was made.

        Raises:
            SettingsError: the key is there, and its certificate is neither beside it nor in it.
            StorageError: a file can be neither read nor written.
        """
        if read_bytes(self.file) is not None:
            return False
        if (both := read_bytes(self.key_file)) is not None:
            self._restore(both)
            return False
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"Fedge services CA {secrets.token_hex(4)}")
        start = datetime.fromtimestamp(int(now), UTC)
        certificate = (
            unsigned_certificate(
                name,
                name,
                key.public_key(),
                x509.random_serial_number(),
                start - BACKDATED,
                start + CA_LIFETIME,
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(key_usage(key_cert_sign=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        private_directory(self.key_file.parent)
        # key and certificate in one file, so that no interruption leaves one without the other
        pem = certificate.public_bytes(_PEM)
        write_durably(self.key_file, private_key_pem(key) + pem, mode=0o600, exclusive=True)
        write_durably(self.file, pem)
        return True

    def issue(self, service: str, names: Sequence[str], *, file: Path, key_file: Path, now: float) -> None:
        """Write a new key and certificate of a service for `names`, in place of what is there.

        Raises:
            SettingsError: the CA's key is not here.
            StorageError: a file cannot be written.
        """
        authority = read_certificate(self.file)
        key = ec.generate_private_key(ec.SECP256R1())
        start = datetime.fromtimestamp(int(now), UTC)
        uses = [ExtendedKeyUsageOID.SERVER_AUTH]
        if service != "broker":
            uses.append(ExtendedKeyUsageOID.CLIENT_AUTH)
        signer = self._signer()
        leaf = (
            unsigned_certificate(
                _name(service),
                authority.subject,
                key.public_key(),
                x509.random_serial_number(),
                start - BACKDATED,
                start + LIFETIME,
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
            )
            .sign(signer, hashes.SHA256())
        )
        # the key last: who reads both in between finds that they do not belong together, and reads again
        write_durably(file, leaf.public_bytes(_PEM))
        write_durably(key_file, private_key_pem(key), mode=0o600)

    def _restore(self, both: bytes) -> None:
        try:
            certificate = x509.load_pem_x509_certificate(both)
        except ValueError:
            raise SettingsError(
                f"{self.key_file} is there and {self.file} is not: restore it from the backup, or move the key away for a new CA"
            ) from None
        write_durably(self.file, certificate.public_bytes(_PEM))

    def _signer(self) -> ec.EllipticCurvePrivateKey:
        content = read_bytes(self.key_file)
        if content is None:
            raise SettingsError(
                f"{self.key_file} is not here, and only it signs certificates of services: bring it back for as long as this takes"
            )
        try:
            return load_private_key(content)
        except IdentityError as error:
            raise SettingsError(
                f"{self.key_file} cannot be used: {error}; restore it from the backup"
            ) from None


def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file; raises SettingsError where there is none."""
    content = read_bytes(path)
    if content is None:
        raise SettingsError(f"there is no {path}; `fedge init plant` makes it")
    try:
        return x509.load_pem_x509_certificate(content)
    except ValueError:
        raise SettingsError(f"{path} is no certificate in PEM; restore it from the backup") from None


def belong_together(file: Path, key_file: Path) -> bool:
    """Is the certificate that of the key? True where the key is one that is not read here: somebody's own. Raises SettingsError."""
    try:
        key = serialization.load_pem_private_key(read_bytes(key_file) or b"", None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return True
    return key.public_key() == read_certificate(file).public_key()


def names_in(certificate: x509.Certificate) -> tuple[str, ...]:
    """The names and addresses for which a certificate is good."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = map(str, found.get_values_for_type(x509.IPAddress))
    return (*found.get_values_for_type(x509.DNSName), *addresses)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
