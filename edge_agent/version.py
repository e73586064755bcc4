"""The agent's version, as it tells the fleet.

Written down because `importlib.metadata` costs the resident process a megabyte; a test holds it equal to pyproject's.
"""

from __future__ import annotations

from typing import Final

__all__ = ["AGENT_VERSION"]

AGENT_VERSION: Final = "0.1.0"
