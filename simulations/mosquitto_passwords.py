"""Reads lines of a Mosquitto password file: ``user:$7$iterations$salt$hash`` (PBKDF2-HMAC-SHA512, base64).

Format: mosquitto_passwd(1) of Mosquitto 2; ``$7$`` names PBKDF2-SHA512. The fleet writes such files.
"""

from __future__ import annotations

import base64
import binascii

__all__ = ["parse_password_line"]


def parse_password_line(line: str) -> tuple[str, tuple[int, bytes, bytes]]:
    """Return (user, (iterations, salt, digest)).

    Raises:
        ValueError: the line is not of that form; names the user, never the hash.
    """
    user, colon, secret = line.strip().partition(":")
    parts = secret.split("$")
    if not colon or len(parts) != 5 or parts[:2] != ["", "7"]:
        raise ValueError(f"password of user {user!r} is not in Mosquitto's $7$ format")
    try:
        return user, (
            int(parts[2]),
            base64.b64decode(parts[3], validate=True),
            base64.b64decode(parts[4], validate=True),
        )
    except (ValueError, binascii.Error):
        raise ValueError(f"password of user {user!r} is not in Mosquitto's $7$ format") from None
