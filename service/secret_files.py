"""Secrets are files of one line: never values in a settings file, never in a message."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import SettingsError

__all__ = ["read_secret"]


def read_secret(path: Path, key: str) -> str:
    """The one line of a secret file.

    Args:
        path: the file.
        key: the setting or option that names it, for the message.

    Raises:
        SettingsError: it cannot be read, or holds anything but one line; names the file and never its content.
    """
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"{key}: cannot read {path}: {reason}") from None
    if not secret or len(secret.splitlines()) != 1:
        raise SettingsError(
            f"{key}: {path} must hold exactly one line, the secret, e.g. of `openssl rand -base64 24`"
        )
    return secret
