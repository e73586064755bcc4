"""A file as our programs want secrets: of its owner alone."""

from __future__ import annotations

from pathlib import Path


def secret_file(path: Path, text: str) -> Path:
    """Write `text` to `path`, whatever was there, with mode 0600 from the first byte on."""
    path.touch(mode=0o600)
    path.write_text(text)
    return path
