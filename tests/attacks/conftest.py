"""Worlds in memory, and quiet ones."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")  # noqa: S108 - where there is none, a test's own folder does


@pytest.fixture(autouse=True)
def _log_nothing() -> Iterator[None]:
    """Refusals by the thousand are what is asked for."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is some: a hundred accounts, each of whose charges is synced."""
    if not MEMORY.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as quick:
        yield Path(quick)
