"""What the fleet's database takes on the disk: bytes of a row of each kind, and what that makes for a fleet. Prints JSON.

``python benchmarks/fleet_disk.py [--devices 10000] [--health 20000]``

Real messages go through the real store into SQLite and PostgreSQL, then are rolled up; the growth of the files (SQLite: pages
of the table and its indexes; PostgreSQL: ``pg_total_relation_size``) is divided by the rows. A fleet is reckoned from
that: health every 30 s, and each day an anomaly of 1 KB raw window, a drift report and a tenth of an installation a device.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import text

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/fleet")]

from databases import PostgresqlDatabases, postgresql_server  # noqa: E402 - needs the path above
from fleet_world import TENANT, Machine, anomaly, arrival, enrol_directly  # noqa: E402 - as above

from fleet.ingest.store import EventStore  # noqa: E402 - as above
from fleet.metrics import FleetMetrics  # noqa: E402 - as above
from fleet.migrations.upgrade import open_storage  # noqa: E402 - as above
from fleet.retention.health_blocks import HealthRollUp  # noqa: E402 - as above
from fleet.settings import RetentionSettings  # noqa: E402 - as above
from fleet.storage.base import Database  # noqa: E402 - as above
from protocol.messages.kinds import AgentState, DriftState, InstallStatus, InstallStep  # noqa: E402 - as above
from protocol.messages.payloads import DriftReport, Health, InstallReport, Payload  # noqa: E402 - as above

DAY_S, HEALTH_S, BATCH, MACHINES = 86_400, 30, 500, 100
WINDOW = "A" * 1364 + "AA=="
TABLES = {
    "health": "health_reports",
    "block": "health_blocks",
    "anomaly": "anomalies",
    "drift": "drift_reports",
    "install": "install_reports",
}


def messages(health: int) -> Iterator[tuple[int, Payload]]:
    """(second, what is said); health fills hours of a hundred machines, the rest is a twentieth of it."""
    for number in range(health):
        second = number // MACHINES * HEALTH_S
        yield (
            second,
            Health(
                state=AgentState.WATCHING,
                release="motor/1",
                uptime_s=float(second),
                windows=number,
                windows_over_threshold=number // 7,
                anomalies=number // 50,
                score_mean=0.4132,
                machine_time_s=float(second),
                inference_p50_us=701.2,
                memory_pss_bytes=58_000_000,
                anomaly_rate=0.01,
                drift_score=0.1234,
                inference_p99_us=812.5,
                interval_windows=30,
                interval_judged=30,
                interval_s=float(HEALTH_S),
            ),
        )
        if number % 20 == 0:
            yield second, anomaly(window=WINDOW, window_shape=(256, 1), episode=f"ep-{number}")
            yield (
                second,
                DriftReport(
                    release="motor/1",
                    state=DriftState.DRIFTED,
                    drift_score=0.1,
                    observed_at_s=1.0,
                    windows=number,
                ),
            )
            yield (
                second,
                InstallReport(
                    execution=f"ro-94ee69ba5689fe7d:press-1:{number}",
                    release="motor/2",
                    counter=number,
                    step=InstallStep.COMMITTED,
                    status=InstallStatus.SUCCEEDED,
                ),
            )


def sizes(database: Database) -> dict[str, float]:
    """Bytes a row, by kind, indexes included."""
    found = {}
    with database.read() as session:
        for kind, table in TABLES.items():
            rows = session.scalar(text(f"SELECT count(*) FROM {table}")) or 1  # noqa: S608 - our own names
            if database.engine.dialect.name == "postgresql":
                size = session.scalar(text(f"SELECT pg_total_relation_size('{table}')"))
            else:
                of = "SELECT sum(pgsize) FROM dbstat WHERE name IN (SELECT name FROM sqlite_master WHERE tbl_name = :table)"
                size = session.scalar(text(of), {"table": table})
            found[kind] = round(float(size or 0) / rows, 1)
    return found


def measure(database: Database, health: int) -> dict[str, float]:
    """Store, roll up, and weigh."""
    machines = [Machine(name=f"press-{number:05}", number=1) for number in range(MACHINES)]
    enrol_directly(database, *machines)
    store, start = EventStore(database, TENANT, FleetMetrics()), 1_767_225_600.0
    waiting = []
    for number, (second, data) in enumerate(messages(health)):
        machine = machines[number % MACHINES]
        waiting.append(arrival(machine.event(data, at=start + second)))
        if len(waiting) == BATCH:
            store.store(waiting)
            waiting = []
    store.store(waiting)
    while HealthRollUp(database, offline_after_s=120).roll_up():
        pass
    return sizes(database)


def of_a_fleet(row: dict[str, float], devices: int) -> dict[str, float]:
    """Gigabytes that a fleet takes a day, and in all once everything is as old as it gets by the default retention."""
    kept = RetentionSettings()
    health_day = devices * DAY_S / HEALTH_S * row["health"]
    others_day = devices * (row["anomaly"] + row["drift"] + 0.1 * row["install"])
    blocks = devices * row["block"] * (kept.fine_blocks_s / 600 + (kept.blocks_s - kept.fine_blocks_s) / 3600)
    rest = devices * (
        row["anomaly"] * kept.anomalies_s
        + row["drift"] * kept.drift_s
        + 0.1 * row["install"] * kept.installs_s
    )
    return {
        "gb_written_a_day": round((health_day + others_day + devices * 144 * row["block"]) / 1e9, 2),
        "gb_of_health_kept": round(health_day * kept.health_s / DAY_S / 1e9, 2),
        "gb_of_blocks_kept": round(blocks / 1e9, 2),
        "gb_of_the_rest_kept": round(rest / DAY_S / 1e9, 2),
    }


@contextmanager
def databases(folder: Path) -> Iterator[dict[str, Database]]:
    """One of each kind."""
    with postgresql_server() as server, PostgresqlDatabases(server).fresh() as url:
        opened = {"sqlite": open_storage(f"sqlite:///{folder}/fleet.sqlite"), "postgresql": open_storage(url)}
        yield opened
        for one in opened.values():
            one.close()


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--health", type=int, default=20_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, databases(Path(folder)) as opened:
        result = {}
        for name, database in opened.items():
            row = measure(database, arguments.health)
            result[name] = {
                "bytes_a_row": row,
                "devices": arguments.devices,
                **of_a_fleet(row, arguments.devices),
            }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
