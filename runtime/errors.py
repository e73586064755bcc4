"""The root of every error of Fedge, and what can go wrong below all packages.

::

    FedgeError                   each package has one root under it
    ├── SettingsError            the person who wrote the file or the variable must mend it
    └── StorageError             the disk: full, read-only, a folder missing (also an OSError)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

__all__ = ["FedgeError", "Refused", "SettingsError", "StorageError"]


@dataclass(frozen=True, kw_only=True)
class Refused:
    """What was refused, for a program that reads the refusal; the sentence beside it says the same to a person.

    Attributes:
        field: where it stands, e.g. ``groups[0].percentage``; ``$`` is the whole document.
        value: what stands there, cut short; None: nothing does, or it may be a secret.
        allowed: what may stand there: each choice, or a sentence; None: no general rule.
        nearest: the choice, or the key, that was probably meant.
        where: of a request, the part in which it stands.
    """

    field: str
    value: object = None
    allowed: str | Sequence[str] | None = None
    nearest: str | None = None
    where: Literal["body", "query", "header", "path"] = "body"


class FedgeError(Exception):
    """Root of everything that our packages raise on purpose; its text is written for the person who reads it.

    `refused` says to a program what was wrong with what it sent, where that can be said.
    """

    refused: Refused | None = None

    def about(self, refused: Refused | None) -> Self:
        """The same error, with what a program may read of it."""
        self.refused = refused
        return self


class SettingsError(FedgeError):
    """A settings file or an environment variable is not valid; the text says where, what, and what would be valid."""


class StorageError(FedgeError, OSError):
    """A file cannot be read or written; what was there before is untouched."""
