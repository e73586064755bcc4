"""A database of an earlier build, and its upgrade while the disk is watched: `python upgrade_crashes.py ROOT` (see `fault_laboratory`).

It was written at 363a54f (schema 0015) by the tests' own worlds: twelve devices, a rollout that is COMPLETED, one that is
ROLLING_BACK, one that waits for approval, events of three more devices, tokens, a claim, an audit log of thirty lines.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

from fault_laboratory.machine_faults import note
from fault_laboratory.sqlite_contents import opened

from fleet.migrations.upgrade import open_storage

GOLDEN = Path(__file__).with_name("golden") / "fleet_of_363a54f.sql.gz"


def write_database(path: Path) -> None:
    """The database as that build left it."""
    with opened(path) as db:
        db.executescript("PRAGMA journal_mode=WAL;" + gzip.decompress(GOLDEN.read_bytes()).decode())


if __name__ == "__main__":
    database = Path(sys.argv[1]) / "fleet.sqlite"
    write_database(database)
    note("written")
    open_storage(f"sqlite:///{database}").close()
    note("migrated")
