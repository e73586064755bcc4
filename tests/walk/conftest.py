"""The walk reaches into the fleet's worlds for its databases."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / "fleet")]
