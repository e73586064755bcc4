"""A passphrase for something new, or the one of something that is there: from a file of its owner's alone, or typed twice, or once."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import typer

from service.errors import ClientError
from service.secret_files import read_secret

__all__ = ["passphrase_for", "passphrase_of"]

_OPTION: Final = "--passphrase-file"


def passphrase_for(what: object, file: Path | None) -> str:
    """A passphrase that `what`, which is being made, shall have.

    Raises:
        SettingsError: the file cannot be read, holds more than a line, or is open to every user.
        ClientError: nothing was typed.
    """
    if file is not None:
        return read_secret(file, _OPTION)
    return _typed(f"A passphrase for {what} (a sentence that only you know)", is_new=True)


def passphrase_of(what: object, file: Path | None) -> str:
    """The passphrase of `what`, which is there; raises as `passphrase_for`."""
    return read_secret(file, _OPTION) if file is not None else _typed(f"Passphrase of {what}", is_new=False)


def _typed(question: str, *, is_new: bool) -> str:
    try:
        return str(typer.prompt(question, hide_input=True, confirmation_prompt=is_new, err=True))
    except typer.Abort:
        raise ClientError(f"no passphrase was typed: {_OPTION} FILE reads it from a file") from None
