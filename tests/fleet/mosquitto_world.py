"""A site with a real Mosquitto of this test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mosquitto_site import MosquittoSite


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[MosquittoSite]:
    site = MosquittoSite(tmp_path, database_url)
    yield site
    site.close()
