"""`fedge upgrade --check` says how things stand and what would happen, and changes nothing."""

from __future__ import annotations

import json
import zipfile
from contextlib import closing
from pathlib import Path

import pytest
from command_line import run_command
from fault_laboratory.sqlite_contents import contents_digest
from rollout_world import RolloutWorld, make_device
from sqlalchemy import text, update
from upgrade_crashes import write_database

from fleet.migrations.upgrade import FOLDER, open_storage
from fleet.storage.base import open_database
from fleet.storage.device_tables import Device, DeviceState
from fleet.upgrade_check import Build, installed_build, look_ahead, offered_build, words_of
from runtime.errors import SettingsError


def wheel_in(folder: Path, *, version: str, without: str = "", more: str = "") -> Path:
    """A wheel as pip would be given it, with this build's steps but `without`, and `more` of another one."""
    path = folder / f"fedge-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for step in sorted((FOLDER / "versions").glob("[0-9]*.py")):
            if not without or not step.name.startswith(without):
                archive.write(step, f"fleet/migrations/versions/{step.name}")
        if more:
            archive.writestr(
                f"fleet/migrations/versions/{more}_x.py", f'"""colours of devices"""\nrevision = "{more}"\n'
            )
    return path


def test_a_database_of_an_older_build_is_told_step_by_step_and_not_a_byte_of_it_changes(
    tmp_path: Path,
) -> None:
    path = tmp_path / "fleet.sqlite"
    write_database(path)
    before = contents_digest(path)
    with closing(open_database(f"sqlite:///{path}")) as database:
        outlook = look_ahead(database, installed_build())
    assert contents_digest(path) == before
    assert outlook.schema == "0015"
    assert outlook.pending[0].revision == "0016"
    assert outlook.pending[-1].revision == installed_build().schema
    assert all(len(step.does) > 10 for step in outlook.pending)
    assert not outlook.against
    told = "\n".join(words_of(outlook, "SQLite"))
    assert f"takes {len(outlook.pending)} steps in one transaction" in told
    assert "fedge backup first" in told


def test_the_steps_that_are_told_are_those_that_a_start_takes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'fleet.sqlite'}"
    with closing(open_database(url)) as database:
        assert look_ahead(database, installed_build()).pending == installed_build().steps, (
            "an empty database takes all"
        )
    open_storage(url).close()
    with closing(open_database(url)) as database:
        outlook = look_ahead(database, installed_build())
    assert (outlook.pending, outlook.against) == ((), ())
    assert "the schema stays as it is" in "\n".join(words_of(outlook, "SQLite"))


def test_a_database_of_a_newer_build_stands_against_it(database_url: str) -> None:
    with closing(open_database(database_url)) as database:
        with database.write() as session:
            session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        outlook = look_ahead(database, installed_build())
    (sentence,) = outlook.against
    assert "schema 9999 is of a newer build" in sentence
    assert words_of(outlook, "SQLite")[-1].startswith("AGAINST IT:")


def test_agents_are_counted_by_version_without_those_that_were_revoked(world: RolloutWorld) -> None:
    with world.database.write() as session:
        session.add(make_device("new", 5.0))
        session.execute(update(Device).values(agent_version="0.1.0", last_seen=7.0))
        session.execute(update(Device).where(Device.id == "d01").values(agent_version="0.0.9"))
        session.execute(update(Device).where(Device.id == "d02").values(agent_version="9.0.0"))
        session.execute(update(Device).where(Device.id == "new").values(agent_version=None))
        session.execute(update(Device).where(Device.id == "d03").values(state=DeviceState.REVOKED))
    outlook = look_ahead(world.database, installed_build())
    assert {agent.version: agent.devices for agent in outlook.agents} == {
        None: 1,
        "0.0.9": 1,
        "0.1.0": 9,
        "9.0.0": 1,
    }
    assert outlook.against == ("1 device with an agent older than 0.1.0: upgrade them first",)
    with world.database.write() as session:
        session.execute(update(Device).where(Device.id == "d01").values(agent_version="0.1.0"))
    told = "\n".join(words_of(look_ahead(world.database, installed_build()), "SQLite"))
    assert "1 device with a newer agent" in told
    assert "1 device with a version not said yet" in told


def test_a_wheel_is_read_for_its_version_and_its_steps(tmp_path: Path) -> None:
    installed = installed_build()
    assert offered_build(wheel_in(tmp_path, version=installed.version)) == installed
    newer = offered_build(wheel_in(tmp_path, version="9.1", more="9999"))
    assert (newer.version, newer.schema, newer.steps[-1].does) == ("9.1", "9999", "colours of devices")
    open_storage(f"sqlite:///{tmp_path / 'fleet.sqlite'}").close()
    with closing(open_database(f"sqlite:///{tmp_path / 'fleet.sqlite'}")) as database:
        assert [step.revision for step in look_ahead(database, newer).pending] == ["9999"]
        older = Build(version="0.0.1", steps=installed.steps[:-1])
        assert len(look_ahead(database, older).against) == 2, "its schema is older, and so is it"
    (tmp_path / "fedge-1-none.whl").write_bytes(b"no zip")
    with pytest.raises(SettingsError, match="cannot be read as a wheel"):
        offered_build(tmp_path / "fedge-1-none.whl")


@pytest.mark.slow
def test_the_command_says_it_all_and_its_status_whether_something_stands_against_it(tmp_path: Path) -> None:
    config = tmp_path / "fleet.toml"
    config.write_text('data_dir = "data"\ntenant = "acme"\n')
    told = run_command("fleet", "upgrade", "--check", "--config", str(config))
    assert (told.returncode, told.stderr) == (0, "")
    assert "schema none yet" in told.stdout
    assert not (tmp_path / "data").exists(), "to look makes nothing"
    open_storage(f"sqlite:///{tmp_path / 'data' / 'fleet.sqlite'}").close()
    wheel = wheel_in(tmp_path, version="0.1.0", without=installed_build().schema)
    told = run_command("fleet", "upgrade", "--check", "--config", str(config), "--to", str(wheel), "--json")
    assert told.returncode == 1
    assert "is of a newer build" in json.loads(told.stdout)["against"][0]
    told = run_command("fleet", "upgrade", "--config", str(config))
    assert told.returncode == 2
    assert "fedge upgrade --check" in told.stderr
