"""The agent's version, as it tells the fleet.

Written down because `importlib.metadata` costs the resident process a megabyte; a test holds it equal to pyproject's.
"""

from __future__ import annotations

from typing import Final

__all__ = ["AGENT_VERSION", "MADE_AFTER_S"]

AGENT_VERSION: Final = "0.1.0"

MADE_AFTER_S: Final = 1_767_225_600.0
"""2026-01-01: a clock that shows less is not set, because this version did not exist then."""
