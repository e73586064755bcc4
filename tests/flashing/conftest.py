"""Bundles and lists that several tests look at; pip sees no index here, only the wheels beside the list."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_wheels import tiny_list

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "joining"), str(TESTS / "fleet"), str(TESTS / "edge_agent")]


@pytest.fixture(scope="package")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tiny_list(tmp_path_factory.mktemp("list"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_CONFIG_FILE", "/dev/null")
        patch.setenv("PIP_FIND_LINKS", str(path.parent))
        yield path
