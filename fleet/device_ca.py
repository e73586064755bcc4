"""The fleet's own CA, which says who is which device: its key, the certificates it signs, and how it is changed.

::

    device-ca.key        key and certificate that sign now        0600; never leaves the fleet
    device-ca-next.key   those that will, once the broker trusts them
    device-ca.pem        every certificate to trust: the present one first, the next one, former ones

    rotate ─► the broker is started with both ─► switch ─► devices renew ─► forget ─► the broker is started with one

It signs clients' certificates and nothing else, and no device trusts it for a server. A certificate is asked for over HTTPS
with the identity key, for which this CA counts nothing: a device whose certificate is no longer trusted gets the next one all
the same. So a stolen CA key is answered by the same steps at once, and a lost one by the first two.

Source: RFC 5280, sections 4.1.2 and 4.2.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleet.certificate_parts import BACKDATED, key_usage, unsigned_certificate
from fleet.errors import ConflictError
from protocol.errors import IdentityError
from protocol.identity import load_private_key, private_key_pem
from runtime.durable_files import private_directory, read_bytes, replace_file, write_durably
from runtime.errors import SettingsError, StorageError

__all__ = ["DeviceCa", "Issued"]

RandomBytes = Callable[[int], bytes]

CA_LIFETIME: Final = timedelta(days=3650)
"""Long, because what limits a stolen key is that it can be changed, which is tried, and not that it ends."""

_PEM: Final = serialization.Encoding.PEM


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A device's certificate. `chain`: PEM, leaf first, then the CA. `issuer`: the CA's id. Unix seconds."""

    chain: str
    serial: str
    issuer: str
    ends_at: float


@dataclass(frozen=True, kw_only=True)
class _Authority:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def content(self) -> bytes:
        """Key and certificate in one file, so that no power cut leaves one without the other."""
        return private_key_pem(self.key) + self.certificate.public_bytes(_PEM)


class DeviceCa:
    """The CA whose files lie in one folder. Read anew when they change: commands rotate it while the fleet runs."""

    def __init__(self, folder: Path, *, tenant: str, random_bytes: RandomBytes) -> None:
        self._folder, self._tenant, self._random_bytes = folder, tenant, random_bytes
        self._key_file, self._next_file = folder / "device-ca.key", folder / "device-ca-next.key"
        self.trusted_file = folder / "device-ca.pem"
        self._read: tuple[tuple[int, ...], _Authority] | None = None

    def ensure(self, now: float) -> None:
        """Make the CA where there is none.

        Raises:
            SettingsError: its key is gone but its certificate is there, or a file is not what it should be.
            StorageError: a file can be neither read nor written.
        """
        if read_bytes(self._key_file) is None:
            if read_bytes(self.trusted_file) is not None:
                raise SettingsError(
                    f"{self._key_file} is missing, but {self.trusted_file} is there: restore the key from the backup, "
                    "or make a new CA with: fedge-fleet device-ca rotate --lost"
                )
            self._make(self._key_file, now)
        self._publish()

    def trusted(self) -> str:
        """PEM of every certificate that a broker must trust, the present CA first; raises as `ensure`."""
        return "".join(_pem(certificate) for certificate in self._trusted_certificates())

    def issue(self, device: str, key: ec.EllipticCurvePublicKey, *, lifetime_s: float, now: float) -> Issued:
        """Sign a certificate that says that `key` is `device`'s connection key; raises as `ensure`.

        Args:
            device: its id; becomes the one name (CN).
            key: what it shows the broker.
            lifetime_s: how long it is good; never longer than the CA itself.
            now: Unix seconds.
        """
        authority = self._present()
        start = datetime.fromtimestamp(int(now), UTC)
        end = min(start + timedelta(seconds=lifetime_s), authority.certificate.not_valid_after_utc)
        serial = _serial(self._random_bytes)
        leaf = (
            unsigned_certificate(
                _name(device), authority.certificate.subject, key, serial, start - BACKDATED, end
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
            )
            .sign(authority.key, hashes.SHA256())
        )
        return Issued(
            chain=_pem(leaf) + _pem(authority.certificate),
            serial=f"{serial:x}",
            issuer=_id(authority.certificate),
            ends_at=end.timestamp(),
        )

    def rotate(self, now: float, *, is_lost: bool = False) -> None:
        """Make the next CA, trusted beside the present one; it signs nothing before `switch`. Again: nothing changes.

        Args:
            now: Unix seconds.
            is_lost: the present key is gone: the new one signs at once.

        Raises:
            ConflictError: the key is said to be lost, and is there.
            SettingsError, StorageError: as `ensure`.
        """
        if is_lost:
            if read_bytes(self._key_file) is not None:
                raise ConflictError(f"{self._key_file} is there; rotate without --lost")
            self._make(self._key_file, now)
        elif read_bytes(self._next_file) is None:
            self._present()
            self._make(self._next_file, now)
        self._publish()

    def switch(self) -> None:
        """From now on the next CA signs, and the former key is destroyed; its certificate stays trusted until `forget`.

        Raises:
            ConflictError: there is no next CA.
            SettingsError, StorageError: as `ensure`.
        """
        if read_bytes(self._next_file) is None:
            raise ConflictError("there is no next device CA; make it with: fedge-fleet device-ca rotate")
        self._publish()  # the former certificate is on disk before its key goes
        replace_file(self._next_file, self._key_file)
        self._publish()

    def former(self) -> list[str]:
        """Ids of CAs that sign no more and are still trusted; raises as `ensure`."""
        own = {_id(self._present().certificate)} | {_id(a.certificate) for a in self._next()}
        return [name for name in map(_id, self._trusted_certificates()) if name not in own]

    def forget(self) -> None:
        """Trust former CAs no more; raises as `ensure`."""
        self._publish(former=())

    def _present(self) -> _Authority:
        try:
            found = self._key_file.stat()
        except OSError as error:
            raise SettingsError(
                f"cannot read {self._key_file}: {error.strerror}; the fleet makes it at its start, or with: fedge-fleet device-ca"
            ) from None
        mark = (found.st_ino, found.st_mtime_ns, found.st_size)
        if self._read is None or self._read[0] != mark:
            self._read = mark, _load(self._key_file)
        return self._read[1]

    def _next(self) -> list[_Authority]:
        return [_load(self._next_file)] if read_bytes(self._next_file) is not None else []

    def _trusted_certificates(self) -> list[x509.Certificate]:
        content = read_bytes(self.trusted_file)
        return [] if content is None else _certificates(content, self.trusted_file)

    def _make(self, path: Path, now: float) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        start = datetime.fromtimestamp(int(now), UTC)
        serial = _serial(self._random_bytes)
        # Another name for each: who looks at a certificate sees which CA it is of.
        name = _name(f"Fedge device CA {serial % 16**8:08x}", self._tenant)
        certificate = (
            unsigned_certificate(name, name, key.public_key(), serial, start - BACKDATED, start + CA_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(key_usage(key_cert_sign=True), critical=True)
            # on a CA this narrows what its certificates are good for: never a server's
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(key, hashes.SHA256())
        )
        try:
            # of a server and a command that both make it, one is refused here and goes on with the other's
            write_durably(
                private_directory(self._folder) / path.name,
                _Authority(key=key, certificate=certificate).content,
                mode=0o600,
                exclusive=True,
            )
        except StorageError:
            if read_bytes(path) is None:
                raise

    def _publish(self, former: tuple[x509.Certificate, ...] | None = None) -> None:
        own = [self._present().certificate, *(authority.certificate for authority in self._next())]
        rest = self._trusted_certificates() if former is None else former
        wanted = "".join(map(_pem, dict.fromkeys([*own, *rest]))).encode()
        if read_bytes(self.trusted_file) != wanted:
            write_durably(self.trusted_file, wanted)


def _load(path: Path) -> _Authority:
    content = read_bytes(path) or b""
    try:
        key, (certificate,) = load_private_key(content), _certificates(content, path)
    except (IdentityError, ValueError) as error:
        raise SettingsError(
            f"{path} is not the key and the certificate of a device CA: {error}; restore it from a backup"
        ) from None
    if certificate.public_key() != key.public_key():
        raise SettingsError(f"{path}: key and certificate do not belong together; restore it from a backup")
    return _Authority(key=key, certificate=certificate)


def _certificates(content: bytes, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise SettingsError(f"{path} does not hold PEM certificates: {error}") from None


def _name(common: str, organization: str | None = None) -> x509.Name:
    owner = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)] if organization else []
    return x509.Name([*owner, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _serial(random_bytes: RandomBytes) -> int:
    # positive, and 16 bytes of it are random
    return int.from_bytes(b"\x01" + random_bytes(16))


def _id(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(_PEM).decode()
