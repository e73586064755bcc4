"""What the conformance tests of the trust share: a device that knows a repository with one release, over a real HTTPS server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from trust_device import TrustDevice, https_device
from trust_repository import TrustRepository

from edge_agent.errors import UpdateTrustError

DAY_S = 86_400.0
CONTENT = b"bundle of pump/2"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ROLES = ["timestamp", "snapshot", "targets", "family-pump"]


@pytest.fixture
def device(tmp_path: Path) -> Iterator[TrustDevice]:
    repository = TrustRepository()
    repository.list("pump/2", CONTENT)
    repository.publish()
    with https_device(tmp_path, repository) as made:
        yield made


def check(device: TrustDevice) -> None:
    device.trust.check_listed("pump/2", SHA256, len(CONTENT))


def update(device: TrustDevice) -> None:
    device.trust.refresh()
    check(device)


def refused(device: TrustDevice, words: str | None = None, *, restarts: bool = True) -> None:
    """Nothing of what is served is believed, before and after a restart."""
    before = device.versions
    for _ in range(2):
        with pytest.raises(UpdateTrustError, match=words):
            device.trust.refresh()
        assert device.versions == before
        if restarts:
            device.restart()
