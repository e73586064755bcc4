"""The fleet's instruction key in a folder, looked at each time."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fleet import instruction_key
from fleet.instruction_key import InstructionKey


@pytest.fixture(autouse=True)
def looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key's file is looked at each time."""
    monkeypatch.setattr(instruction_key, "LOOKS_EVERY_S", 0.0)


def public(folder: Path) -> ec.EllipticCurvePublicKey:
    return InstructionKey(folder).current().public_key()
