"""A database that was written at 363a54f is brought to this schema whole or not at all, and what was under way goes on."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from fault_laboratory.crash_states import record_crashes
from fault_laboratory.sqlite_contents import contents_digest, opened
from rollout_world import RolloutWorld
from upgrade_crashes import write_database

from fleet.audit import read_lines
from fleet.audit_chain import verify
from fleet.migrations.upgrade import open_storage
from fleet.rollouts.states import RolloutState
from fleet.storage.schema import METADATA


def rows(path: Path) -> dict[str, int]:
    """How many each table has."""
    with opened(path) as db:
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: db.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}  # noqa: S608 - its own tables


def test_all_rows_are_there_and_a_rollback_that_was_under_way_ends(tmp_path: Path) -> None:
    path = tmp_path / "fleet.sqlite"
    write_database(path)
    before = rows(path)
    assert before["install_reports"] > 100
    with closing(open_storage(f"sqlite:///{path}")) as database, database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    with opened(path) as db:
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    assert {name: count for name, count in rows(path).items() if name in before} == before

    world = RolloutWorld(f"sqlite:///{path}", fresh=False)
    world._sequence, world.now = 1000, 1100.0
    with world.database.read() as session:
        assert verify(read_lines(session)).id == before["audit_log"]
    states = {name: world.view(name).state for name in ("ro-1", "ro-2", "ro-3")}
    assert states == {
        "ro-1": RolloutState.COMPLETED,
        "ro-2": RolloutState.ROLLING_BACK,
        "ro-3": RolloutState.WAITING_FOR_APPROVAL,
    }
    world.install(world.devices)
    world.tick(5.0)
    assert world.view("ro-2").state is RolloutState.ROLLED_BACK
    world.close()


@pytest.mark.slow
@pytest.mark.parametrize("every", [60, pytest.param(3, marks=pytest.mark.long)])
def test_an_upgrade_that_died_at_any_write_is_finished_by_the_next_start(tmp_path: Path, every: int) -> None:
    write_database(tmp_path / "fleet.sqlite")
    open_storage(f"sqlite:///{tmp_path / 'fleet.sqlite'}").close()
    whole = contents_digest(tmp_path / "fleet.sqlite")
    number = tried = 0
    for state in record_crashes(tmp_path, Path(__file__).with_name("upgrade_crashes.py")).states(
        others_every=every
    ):
        if not state.said("written"):
            continue
        number += 1
        if number % every > 1:
            continue
        tried += 1
        with state.on_disk() as folder:
            path = folder / "fleet.sqlite"
            open_storage(f"sqlite:///{path}").close()
            assert contents_digest(path) == whole, str(state)
    assert tried > 3


UPGRADE = """
import sys
from fleet.migrations.upgrade import open_storage
print("ready", flush=True)
sys.stdin.readline()
open_storage(sys.argv[1]).close()
"""


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_upgrades_killed_again_and_again_at_random_moments_are_finished_by_the_next_start(
    tmp_path: Path, seed: int
) -> None:
    draw, former, path = random.Random(seed), tmp_path / "former.sqlite", tmp_path / "fleet.sqlite"
    write_database(former)
    shutil.copy(former, path)
    began = time.monotonic()
    open_storage(f"sqlite:///{path}").close()
    took, whole = time.monotonic() - began, contents_digest(path)
    for _ in range(5):
        for file in tmp_path.glob("fleet.sqlite*"):
            file.unlink()
        shutil.copy(former, path)
        for _ in range(draw.randint(1, 3)):
            command = [sys.executable, "-c", UPGRADE, f"sqlite:///{path}"]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
                assert child.stdin is not None
                assert child.stdout is not None
                child.stdout.readline()
                child.stdin.write(b"go\n")
                child.stdin.flush()
                time.sleep(draw.uniform(0, took))
                child.send_signal(signal.SIGKILL)
        open_storage(f"sqlite:///{path}").close()
        assert contents_digest(path) == whole
