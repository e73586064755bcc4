"""Passwords of the broker's accounts: made from a key, so that they can be made again; kept as Mosquitto's hash.

::

    password = base64url(HMAC-SHA256(key, "fedge broker password v1" ‖ 0 ‖ name ‖ 0 ‖ salt))      the salt is random
    entry    = $7$<iterations>$<base64 salt>$<base64 PBKDF2-HMAC-SHA512(password, salt), 64 bytes>

Neither the key nor the database alone opens the broker. With both, the fleet gives a broker that lost an account the
same account again, and the device notices nothing.

Source: mosquitto_passwd(1), Eclipse Mosquitto 2.0 (12-byte salt; the iteration count is read from the entry).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Final

from runtime.durable_files import private_directory, read_bytes, write_durably
from runtime.errors import SettingsError

__all__ = ["BrokerPasswords", "hash_password", "load_password_key", "salt_of", "verify_password"]

ITERATIONS: Final = 1000
"""Mosquitto's own default is 101. Our passwords are 256 random bits, so stretching guards nothing; more would only
make a broker slow when ten thousand devices reconnect (0.5 ms each at 1000)."""

SALT_BYTES: Final = 12
KEY_BYTES: Final = 32

_DOMAIN: Final = b"fedge broker password v1"


def hash_password(password: str, salt: bytes, iterations: int = ITERATIONS) -> str:
    """The ``$7$`` entry of a password (without the name)."""
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations, 64)
    return f"$7${iterations}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def verify_password(password: str, entry: str) -> bool:
    """Whether `entry` was made from `password`; False for an entry of any other format."""
    parts = entry.split("$")
    if len(parts) != 5 or parts[:2] != ["", "7"] or not parts[2].isdecimal():
        return False
    try:
        salt = base64.b64decode(parts[3], validate=True)
    except ValueError:
        return False
    return hmac.compare_digest(hash_password(password, salt, int(parts[2])), entry)


def salt_of(entry: str) -> str:
    """The salt of an entry, base64: no secret, and another one for every password ever made."""
    return entry.split("$")[3]


def load_password_key(path: Path, random_bytes: Callable[[int], bytes]) -> bytes:
    """The fleet's key for broker passwords; made at the first call, mode 0600.

    Raises:
        StorageError: it can be neither read nor written.
        SettingsError: the file is no such key.
    """
    key = read_bytes(path)
    if key is None:
        key = random_bytes(KEY_BYTES)
        write_durably(private_directory(path.parent) / path.name, key, mode=0o600)
    if len(key) != KEY_BYTES:
        raise SettingsError(
            f"{path} holds {len(key)} bytes, expected the {KEY_BYTES} of a password key; restore it from a backup, "
            "or move it away: a new one is made, and devices whose account the broker lost must enrol again"
        )
    return key


class BrokerPasswords:
    """Makes passwords and finds them again."""

    def __init__(self, key: bytes, random_bytes: Callable[[int], bytes]) -> None:
        self._key = key
        self._random_bytes = random_bytes

    def new(self, name: str) -> tuple[str, str]:
        """A new password for `name`, and its entry."""
        salt = self._random_bytes(SALT_BYTES)
        password = self._derived(name, salt)
        return password, hash_password(password, salt)

    def recover(self, name: str, entry: str) -> str | None:
        """The password behind `entry`, or None where it was not made with this key."""
        password = self._derived(name, base64.b64decode(salt_of(entry)))
        return password if verify_password(password, entry) else None

    def entry_of_chosen(self, name: str, password: str) -> str:
        """The entry of a password that a person chose: the same one for the same password, as long as the key lives."""
        chosen = self._mac(name, password.encode())
        return hash_password(password, chosen[:SALT_BYTES])

    def _derived(self, name: str, salt: bytes) -> str:
        return base64.urlsafe_b64encode(self._mac(name, salt)).rstrip(b"=").decode()

    def _mac(self, name: str, content: bytes) -> bytes:
        return hmac.digest(self._key, b"\0".join((_DOMAIN, name.encode(), content)), "sha256")
