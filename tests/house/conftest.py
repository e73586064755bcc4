"""Lets the tests of the whole house stand on the worlds that the packages' own tests are built on."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "fleet"), str(TESTS / "edge_agent")]
