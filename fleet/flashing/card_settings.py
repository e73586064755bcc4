"""What a person wants of a card beside the agent: who may log in, which network, what it is called, which time zone. A TOML file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from msgspec import Struct

from runtime.settings import Paths

__all__ = ["CardSettings", "Wifi", "host_name"]

_USER: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_HOST: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
_ZONE: Final = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}")
_KEY: Final = re.compile(r"(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\n\"'\\]*)?")


class Wifi(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """ssid; country: two letters, for what may be sent there; password_file: of one line, mode 0600."""

    ssid: str
    country: str
    password_file: Path

    def __post_init__(self) -> None:
        """Raises ValueError for what no radio takes."""
        if not 1 <= len(self.ssid.encode()) <= 32 or not self.ssid.isprintable():
            raise ValueError(f"ssid {self.ssid!r:.40} is none: 1 to 32 bytes")
        if not re.fullmatch("[A-Z]{2}", self.country):
            raise ValueError(f"country {self.country!r:.10} is none: two capital letters, e.g. DE")


class CardSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """card.toml.

    user: who may log in, with sudo, by the keys of ssh_key_files (public ones). Without it nobody may, and the agent runs all the same.
    hostname: left out: the device's name. timezone: e.g. Europe/Berlin; left out: the image's own.
    """

    user: str | None = None
    ssh_key_files: Paths = Paths()
    hostname: str | None = None
    timezone: str | None = None
    wifi: Wifi | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no system takes."""
        if self.user is not None and (not _USER.fullmatch(self.user) or self.user == "root"):
            raise ValueError(f"user {self.user!r:.40} is none: small letters, digits, _ and -, not root")
        if (self.user is None) != (not self.ssh_key_files):
            raise ValueError("user and ssh_key_files go together: nobody logs in without a key")
        if self.hostname is not None:
            host_name(self.hostname)
        if self.timezone is not None and not _ZONE.fullmatch(self.timezone):
            raise ValueError(f"timezone {self.timezone!r:.40} is none, e.g. Europe/Berlin")

    def ssh_keys(self) -> list[str]:
        """The public keys, a line each; raises ValueError for a file that holds another thing, and OSError."""
        found = []
        for path in self.ssh_key_files:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
            lines = [line for line in lines if line and not line.startswith("#")]
            if not lines or not all(_KEY.fullmatch(line) for line in lines):
                raise ValueError(
                    f"{path} is no public key of SSH: it is one line that begins with ssh-ed25519, and ends in .pub"
                )
            found += lines
        return found


def host_name(text: str) -> str:
    """`text`, where it may be a machine's name; raises ValueError."""
    if not _HOST.fullmatch(text):
        raise ValueError(
            f"{text!r:.80} cannot be a machine's name: letters, digits and hyphens, at most 63; set hostname"
        )
    return text
