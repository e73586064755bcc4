"""Where the tests find real recordings: they are never committed, and whoever lacks them can run everything else.

A test that needs one is marked ``@needs("pronostia")``. It is skipped where FEDGE_DATA does not lead to that folder; it is
the only kind of test that may be (`conftest`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
DATA: Final = Path(os.environ.get("FEDGE_DATA") or ROOT.parent / "shared" / "data").resolve()


def needs(folder: str) -> pytest.MarkDecorator:
    """Marks a test, or a whole file, that reads `folder` of `DATA`."""
    return pytest.mark.recordings(folder)
