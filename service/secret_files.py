"""Secrets are files of one line, of mode 0600: never values in a settings file, never in a message."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from runtime.durable_files import write_durably
from runtime.errors import SettingsError

__all__ = ["print_secret", "read_secret", "write_secret"]


def read_secret(path: Path, key: str) -> str:
    """The one line of a secret file.

    Args:
        path: the file.
        key: the setting or option that names it, for the message.

    Raises:
        SettingsError: it cannot be read, holds anything but one line, or every user of this machine may read or write it (a group
            may, as a service's does); names the file and never its content.
    """
    try:
        with path.open(encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            secret = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"{key}: cannot read {path}: {reason}") from None
    if mode & stat.S_IRWXO:
        raise SettingsError(
            f"{key}: {path} is open to every user of this machine (mode {mode:04o}): close it with `chmod 600 {path}`,"
            " and where others may have read it, make a new secret (of a token: `tokens rotate NAME --now`)"
        )
    if not secret or len(secret.splitlines()) != 1:
        raise SettingsError(
            f"{key}: {path} must hold exactly one line, the secret, e.g. of `openssl rand -base64 24`"
        )
    return secret


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
