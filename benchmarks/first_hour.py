"""The first hour: from a folder of CSV files to four devices that watch, by README's six commands. One JSON object a figure.

``python benchmarks/first_hour.py [--database postgresql://user@host/name]``

Real parts: Mosquitto where it is installed, TLS and identities everywhere, four agents. ``waiting`` is everything after the
installation; what pip downloads depends on the line and is not measured. `bound` is what was promised.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "walk")]

from walk_world import SKAB, readme_commands, walked  # noqa: E402 - needs the path above


def main() -> None:
    """Walk once and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", default=None, help="PostgreSQL instead of SQLite")
    asked = parser.parse_args()
    database = f"--database '{asked.database}'" if asked.database else ""
    with (
        tempfile.TemporaryDirectory(prefix="fedge-first-hour-") as folder,
        walked(Path(folder) / "walk", extra=[database] if database else []) as (_, walk),
    ):
        say("commands", len(readme_commands()), "commands", 6)
        say("files edited", 0, "files", 0)
        for name, seconds in walk.took_s.items():
            say(name, seconds, "s", 60.0 if name == "model" else None)
        say("until the last runs version 1", walk.watching_s, "s", 60.0)
        say("waiting", walk.waited_s, "s", 120.0)
    print(
        json.dumps(
            {
                "recordings": "SKAB valve1/8 to 11" if SKAB.is_dir() else "made up",
                "database": asked.database or "SQLite",
            }
        )
    )


def say(name: str, value: float, unit: str, bound: float | None) -> None:
    """One figure."""
    print(json.dumps({"name": f"first hour: {name}", "value": round(value, 1), "unit": unit, "bound": bound}))


if __name__ == "__main__":
    main()
