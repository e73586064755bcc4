"""`make soak`: see `fault_laboratory.soak`, which this finds and runs."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "edge_agent"))  # a device of its tests is what is soaked

from fault_laboratory.soak import main

if __name__ == "__main__":
    sys.exit(main())
