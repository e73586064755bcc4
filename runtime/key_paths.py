"""Where a key of a settings file stands, and how it is written: ``family[0].privacy.delta``."""

from __future__ import annotations

__all__ = ["KeyPath", "dotted"]

KeyPath = tuple[str | int, ...]
"""Table names and positions in lists, outermost first."""


def dotted(path: KeyPath) -> str:
    """The path as people write it.

    >>> dotted(("family", 0, "privacy", "delta"))
    'family[0].privacy.delta'
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
