"""Secrets are files of one line, of mode 0600: never values in a settings file, never in a message."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from runtime.durable_files import write_durably
from runtime.errors import SettingsError

__all__ = ["check_private", "print_secret", "read_secret", "write_secret"]


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


def check_private(path: Path, key: str) -> None:
    """Raise SettingsError where every user of this machine may read or write `path`; a group may, as a service's does."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise SettingsError(f"{key}: cannot read {path}: {error.strerror}") from None
    if mode & stat.S_IRWXO:
        raise SettingsError(
            f"{key}: {path} is open to every user of this machine (mode {mode:04o}): close it with `chmod 600 {path}`,"
            " and where others may have read it, rotate the token with `tokens rotate NAME --now`"
        )


def write_secret(path: Path, secret: str) -> None:
    """Write a secret to a new file of mode 0600; raises StorageError where there is a file already: it may hold a good one."""
    write_durably(path, f"{secret}\n".encode(), mode=0o600, exclusive=True)


def print_secret(secret: str) -> None:
    """Print a secret alone on standard output; into a file that others can read, with a word about it on standard error."""
    sys.stdout.write(f"{secret}\n")
    sys.stdout.flush()
    try:
        of_stdout = os.fstat(sys.stdout.fileno()).st_mode
    except (OSError, ValueError):
        return  # not a file: captured, or closed
    if stat.S_ISREG(of_stdout) and of_stdout & (stat.S_IRWXG | stat.S_IRWXO):
        sys.stderr.write("warning: others can read the file this went to; use --out FILE instead of >\n")
