"""Joining is between a plant and a device: it takes the worlds of both."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "fleet"), str(TESTS / "edge_agent")]
