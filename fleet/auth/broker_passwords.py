"""The broker's password file: who may connect by MQTT, in the format of Mosquitto 2.

::

    name:$7$<iterations>$<base64 salt>$<base64 PBKDF2-HMAC-SHA512, 64 bytes>

The file is derived: devices' hashes from the database, service accounts from the password files that the settings
name. It is replaced as a whole, atomically. Many enrolments at once share one rewrite, and each returns only after a
rewrite that saw its device.

Source: mosquitto_passwd(1), Eclipse Mosquitto 2.0 (12-byte salt; the iteration count is read from the entry).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy import select

from fleet.storage.base import Database
from fleet.storage.device_tables import Device, DeviceState
from runtime.durable_files import write_durably
from service.secret_files import read_secret

__all__ = ["BrokerAccounts", "hash_password", "verify_password"]

ITERATIONS: Final = 1000
"""Mosquitto's own default is 101. Our passwords are 256 random bits, so stretching guards nothing; more would only
make a broker slow when ten thousand devices reconnect (0.5 ms each at 1000)."""

_NOT_ALLOWED: Final = (
    "the broker runs as another user, so new devices are refused until it reloads; leave broker_pid_file out and enable "
    "deploy/systemd/fedge-broker-reload.path"
)

_log = structlog.get_logger()

SALT_BYTES: Final = 12


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
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hash_password(password, salt, int(parts[2])), entry)


class BrokerAccounts:
    """Keeps the broker's password file equal to the enrolled devices and the configured services."""

    def __init__(
        self,
        database: Database,
        *,
        file: Path | None,
        services: Mapping[str, Path],
        random_bytes: Callable[[int], bytes],
        broker_pid_file: Path | None = None,
        send_signal: Callable[[int, int], None] = os.kill,
    ) -> None:
        self._database = database
        self._file = file
        self._pid_file = broker_pid_file
        self._send_signal = send_signal
        self._services = {
            name: hash_password(read_secret(path, f"mqtt.services.{name}"), random_bytes(SALT_BYTES))
            for name, path in services.items()
        }
        self._writing = threading.Lock()
        self._counting = threading.Lock()
        self._asked = 0
        self._written = 0

    @property
    def service_names(self) -> frozenset[str]:
        """User names that no device may take."""
        return frozenset(self._services)

    def rewrite(self) -> None:
        """Bring the file up to date with every transaction committed before this call. Raises OSError."""
        if self._file is None:
            return
        with self._counting:
            self._asked += 1
            ticket = self._asked
        with self._writing:
            if self._written >= ticket:  # somebody wrote while we queued, after our commit
                return
            with self._counting:
                covers = self._asked
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_durably(self._file, self._content(), mode=0o640)
            self._written = covers
        self._tell_broker()

    def _content(self) -> bytes:
        with self._database.read() as session:
            devices = session.execute(
                select(Device.id, Device.broker_password_hash)
                .where(Device.state == DeviceState.ENROLLED)
                .order_by(Device.id)
            ).all()
        lines = [f"{name}:{entry}\n" for name, entry in sorted(self._services.items())]
        lines += [f"{name}:{entry}\n" for name, entry in devices]
        return "".join(lines).encode()

    def _tell_broker(self) -> None:
        if self._pid_file is None:
            return
        try:
            self._send_signal(int(self._pid_file.read_text("ascii")), signal.SIGHUP)
        except (FileNotFoundError, ProcessLookupError):
            return  # A broker that is down reads the passwords when it starts.
        except PermissionError:
            _log.warning("broker_not_told", pid_file=str(self._pid_file), hint=_NOT_ALLOWED)
        except (OSError, ValueError) as error:
            _log.warning("broker_not_told", pid_file=str(self._pid_file), error=str(error))
