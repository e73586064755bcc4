"""An upgrade of PostgreSQL that is killed in its midst has changed nothing, and the next start takes every step."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from databases import PostgresqlServer
from sqlalchemy import inspect
from waiting import died, wait_until

from fleet.backups.instant import postgresql_environment
from fleet.migrations.upgrade import _config, open_storage
from fleet.storage.base import open_database
from fleet.storage.schema import METADATA

pytestmark = pytest.mark.slow

FORMER = "0018"
BLOCKED_AT = "anomalies"
"""Step 0022 alters it, after four others."""

UPGRADE = "import sys; from fleet.migrations.upgrade import open_storage; open_storage(sys.argv[1]).close()"
WAITS = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = %s::regclass"


def test_an_upgrade_of_postgresql_killed_after_four_of_six_steps_is_finished_by_the_next_start(
    server: PostgresqlServer, tmp_path: Path
) -> None:
    url = f"postgresql+psycopg://fedge@/fleet?host={server.folder}"
    with closing(open_database(url)) as database, database.write() as session:
        command.upgrade(_config(session), FORMER)
    with closing(open_database(url)) as database:
        before = sorted(inspect(database.engine).get_table_names())

    log = tmp_path / "upgrade.log"
    with closing(psycopg.connect(postgresql_environment(url)[0])) as holder, log.open("wb") as sink:
        holder.execute(f"LOCK TABLE {BLOCKED_AT} IN ACCESS SHARE MODE")
        child = subprocess.Popen([sys.executable, "-c", UPGRADE, url], stdout=sink, stderr=sink)
        try:
            wait_until(
                lambda: holder.execute(WAITS, [BLOCKED_AT]).fetchone() != (0,),
                "the upgrade to reach its fifth step",
                unless=lambda: died(child, log),
            )
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()

    with closing(open_database(url)) as database, database.read() as session:
        context = MigrationContext.configure(session.connection())
        assert context.get_current_revision() == FORMER
        assert sorted(inspect(session.connection()).get_table_names()) == before, (
            "not a table of the four is there"
        )
    with closing(open_storage(url)) as database, database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
