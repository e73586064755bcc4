"""The key that this device is, for good: a file of its state directory, or a key that a chip keeps to itself.

::

    no [identity]   device.key (0600)                                          cryptography
    [identity]      a key pair in a token: TPM 2.0, secure element, SoftHSM    edge_agent.chip_key, behind PKCS#11

It signs what this device says (enrolment, bearer tokens, requests to an aggregator, reports) and encrypts nothing. What TLS
shows a broker is another key (`edge_agent.connection_certificate`), so that no TLS library needs to reach the chip. Decided in
docs/decisions/0033.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.errors import IdentityKeyError, NotEnrolledError
from edge_agent.private_file import read_private
from edge_agent.settings import IdentitySettings, Settings
from protocol.errors import IdentityError
from protocol.identity import IdentityKey, load_private_key, private_key_pem
from runtime.durable_files import write_durably
from runtime.errors import SettingsError

if TYPE_CHECKING:
    from edge_agent.chip_key import ChipKey

__all__ = ["check_chip", "load_device_key", "make_identity", "open_identity"]


_MEANT: Final = {
    "module": "name the PKCS#11 library of the chip by its whole path",
    "pin_file": "write the token's user PIN into it, one line, mode 0600",
}


def open_identity(settings: Settings) -> IdentityKey:
    """The key of this device; one in a chip is looked for when it is needed.

    Raises:
        IdentityKeyError: it is in a chip, and this Python has no library for one.
        NotEnrolledError: ``device.key`` is missing or no P-256 key.
        StorageError: it cannot be read, or others may read it and that cannot be mended.
    """
    if settings.identity is None:
        return load_device_key(settings.paths.device_key)
    return _chip(settings.identity)


def make_identity(settings: Settings) -> IdentityKey:
    """The key of this device, made where there is none; the state directory exists.

    Raises:
        IdentityKeyError: the chip does not make one.
        NotEnrolledError: ``device.key`` is there but damaged.
        StorageError: it cannot be written or read.
    """
    if settings.identity is None:
        path = settings.paths.device_key
        if not path.exists():
            write_durably(path, private_key_pem(ec.generate_private_key(ec.SECP256R1())), mode=0o600)
        return load_device_key(path)
    key = _chip(settings.identity)
    key.make_if_missing()
    return key


def check_chip(settings: IdentitySettings) -> None:
    """Whether the files are there and python-pkcs11 is; the chip is not asked. Raises SettingsError, IdentityKeyError."""
    for what, path in (("module", settings.module), ("pin_file", settings.pin_file)):
        if not path.is_file():
            raise SettingsError(f"[identity] {what} {path} is not there; {_MEANT[what]}")
    _chip(settings)


def load_device_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read ``device.key``; raises as `open_identity`."""
    content = read_private(path)
    if content is None:
        raise NotEnrolledError(f"there is no {path}: run `fedge-agent enrol --config agent.toml` once")
    try:
        return load_private_key(content)
    except IdentityError as error:
        raise NotEnrolledError(f"{path} is not a device key: {error}") from None


def _chip(settings: IdentitySettings) -> ChipKey:
    try:
        from edge_agent.chip_key import ChipKey  # Costs nothing where a file is used.
    except ImportError as error:
        raise IdentityKeyError(
            f"[identity] needs python-pkcs11 ({error}): pip install 'fedge[pkcs11]', or leave the table out"
        ) from None
    return ChipKey(settings)
