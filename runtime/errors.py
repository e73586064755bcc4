"""The root of every error of Fedge, and what can go wrong below all packages.

::

    FedgeError                   each package has one root under it
    ├── SettingsError            the person who wrote the file or the variable must mend it
    └── StorageError             the disk: full, read-only, a folder missing (also an OSError)
"""

from __future__ import annotations

__all__ = ["FedgeError", "SettingsError", "StorageError"]


class FedgeError(Exception):
    """Root of everything that our packages raise on purpose; its text is written for the person who reads it."""


class SettingsError(FedgeError):
    """A settings file or an environment variable is not valid; the text says where, what, and what would be valid."""


class StorageError(FedgeError, OSError):
    """A file cannot be read or written; what was there before is untouched."""
