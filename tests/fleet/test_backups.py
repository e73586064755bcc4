"""Everything of a plant goes into one file while it runs, and comes back out of it whole, or not at all."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import sqlite3
import tarfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from command_line import run_command
from databases import Databases, PostgresqlDatabases
from made_plants import plant_in
from rollout_world import RolloutWorld
from sqlalchemy import select

from fleet.audit import read_lines
from fleet.audit_chain import verify
from fleet.backups.aftermath import go_on_after
from fleet.backups.archive import LIST
from fleet.backups.restoring import restore_backup
from fleet.backups.sealing import MAGIC, PIECE_BYTES, Sealer, Unsealer
from fleet.backups.taking import take_backup
from fleet.errors import UnacceptableError
from fleet.migrations.upgrade import open_storage
from fleet.rollouts.states import RolloutState
from fleet.settings import load_fleet_settings
from fleet.storage.access_tables import ClaimToken
from runtime.errors import SettingsError, StorageError
from service.plant import Plant
from service.restored_note import read_restored_note

pytestmark = pytest.mark.slow

PASSPHRASE = "a sentence that only we know"


def nobody_asks() -> str:
    raise AssertionError("no passphrase is needed")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    return plant_in(tmp_path_factory.mktemp("made") / "plant")


@pytest.fixture
def plant(made: Plant, tmp_path: Path) -> Plant:
    shutil.copytree(made.folder, tmp_path / "plant")
    return Plant(folder=tmp_path / "plant", description=made.description)


def url_of(plant: Plant) -> str:
    return load_fleet_settings(plant.fleet_config, {}).effective_database_url


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of each file of a plant, but of its databases and logs."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mode & 0o777, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file() and ".sqlite" not in path.name and path.name not in {"restored.json", "lock"}
    }


def test_every_file_comes_back_with_its_mode_and_the_backup_is_its_owners_alone(
    plant: Plant, tmp_path: Path
) -> None:
    (plant.log / "fleet.log").write_text("not in it")
    (plant.fleet_data / ".state.1.tmp").write_text("being written")
    out = tmp_path / "out.tar"
    taken = take_backup(plant, out, None)
    assert out.stat().st_mode & 0o777 == 0o600
    assert not [name for name in taken.listed.files if "log/" in name or name.endswith(("-wal", ".tmp"))]
    before = contents(plant.folder)
    restored = restore_backup(out, tmp_path / "elsewhere", passphrase=nobody_asks)
    after = contents(restored.plant.folder)
    assert after == {name: what for name, what in before.items() if "log/" not in name and ".tmp" not in name}
    assert after["pki/fleet.key"][0] == 0o600
    assert restored.plant.folder.stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "out.tar", "plant"]


def test_databases_are_of_one_moment_while_others_write_them(plant: Plant, tmp_path: Path) -> None:
    """A writer counts in the fleet's database first and in the aggregator's then, as fast as it can, into large rows."""
    files = [plant.fleet_data / "fleet.sqlite", plant.aggregator_data / "aggregator.sqlite"]
    for path in files:
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE counted (n INTEGER, filling BLOB)")
            db.commit()
    stop = threading.Event()

    def count() -> None:
        with (
            closing(sqlite3.connect(files[0], timeout=30)) as one,
            closing(sqlite3.connect(files[1], timeout=30)) as two,
        ):
            n = 0
            while not stop.is_set():
                n += 1
                for db in (one, two):
                    db.execute("INSERT INTO counted VALUES (?, zeroblob(20000))", (n,))
                    db.commit()

    writer = threading.Thread(target=count)
    writer.start()
    try:
        for number in range(4):
            take_backup(plant, tmp_path / f"{number}.tar", None)
    finally:
        stop.set()
        writer.join()
    seen = []
    for number in range(4):
        folder = tmp_path / f"read-{number}"
        with tarfile.open(tmp_path / f"{number}.tar") as tar:
            tar.extractall(folder, filter="data")
        counted = []
        for path in files:
            with closing(sqlite3.connect(folder / "plant" / path.relative_to(plant.folder))) as db:
                assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                counted.append(db.execute("SELECT coalesce(max(n), 0) FROM counted").fetchone()[0])
        assert counted[0] - counted[1] in {0, 1}, "the aggregator's is never ahead, nor more than one behind"
        seen.append(counted[0])
    assert seen[0] < seen[-1], "it wrote meanwhile"


@pytest.mark.parametrize("length", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES])
def test_what_was_sealed_is_read_again_piece_by_piece(length: int) -> None:
    plain, sink = random.Random(length).randbytes(length), io.BytesIO()
    sealer = Sealer(sink, PASSPHRASE)
    for start in range(0, length, 300_000):
        sealer.write(plain[start : start + 300_000])
    sealer.close()
    assert sink.getvalue().startswith(MAGIC)
    source = io.BytesIO(sink.getvalue()[len(MAGIC) :])
    assert Unsealer(source, PASSPHRASE).read() == plain


def test_a_sealed_backup_opens_by_its_passphrase_alone(plant: Plant, tmp_path: Path) -> None:
    out = tmp_path / "out.sealed"
    take_backup(plant, out, PASSPHRASE)
    assert b"PRIVATE KEY" not in out.read_bytes()
    with pytest.raises(UnacceptableError, match="the passphrase does not open this backup"):
        restore_backup(out, tmp_path / "back", passphrase=lambda: "another sentence of twelve")
    assert not (tmp_path / "back").exists()
    assert restore_backup(out, tmp_path / "back", passphrase=lambda: PASSPHRASE).plant.tenant == "acme"
    with pytest.raises(UnacceptableError, match="at least 12"):
        take_backup(plant, tmp_path / "short", "short")
    assert not (tmp_path / "short").exists()


@pytest.mark.parametrize("is_sealed", [False, True])
def test_a_backup_that_was_cut_or_changed_is_refused_and_leaves_nothing(
    plant: Plant, tmp_path: Path, is_sealed: bool
) -> None:
    out, spoilt = tmp_path / "out", tmp_path / "spoilt"
    take_backup(plant, out, PASSPHRASE if is_sealed else None)
    whole, draw = out.read_bytes(), random.Random(7)
    tried = [whole[: draw.randrange(30, len(whole) - 20_000)] for _ in range(4)]
    for _ in range(4):
        at = draw.randrange(len(MAGIC), len(whole) - 20_000)
        tried.append(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    said: list[str] = []
    for content in tried:
        spoilt.write_bytes(content)
        spoilt.chmod(0o600)
        try:
            restored = restore_backup(spoilt, tmp_path / "back", passphrase=lambda: PASSPHRASE)
        except UnacceptableError as error:
            said.append(str(error))
            assert not [path for path in tmp_path.iterdir() if "back" in path.name]
        else:  # a bit in the padding of the tar, which means nothing
            assert contents(restored.plant.folder) == contents(plant.folder)
            shutil.rmtree(restored.plant.folder)
    assert all(words.startswith(str(spoilt)) for words in said)
    assert len(said) >= (8 if is_sealed else 6)


def test_nothing_from_outside_is_unpacked(plant: Plant, tmp_path: Path) -> None:
    for number, name in enumerate(("../evil", "/etc/evil", "plant/../../evil", "other", "plant//x")):
        file = tmp_path / f"{number}.tar"
        with tarfile.open(file, "w") as tar:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        file.chmod(0o600)
        with pytest.raises(UnacceptableError, match="has no place in a backup"):
            restore_backup(file, tmp_path / "back", passphrase=nobody_asks)
    link = tarfile.TarInfo("plant/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        tar.addfile(link)
    (tmp_path / "link.tar").chmod(0o600)
    with pytest.raises(UnacceptableError, match="has no place in a backup"):
        restore_backup(tmp_path / "link.tar", tmp_path / "back", passphrase=nobody_asks)


def test_a_hole_of_a_terabyte_in_a_backup_is_refused_before_it_fills_the_disk(tmp_path: Path) -> None:
    hole = tarfile.TarInfo("plant/hole")
    hole.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": str(1 << 40),
    }
    content = f"1\n{(1 << 40) - 512}\n512\n".encode().ljust(512, b"\0") + bytes(512)
    hole.size = len(content)
    file = tmp_path / "hole.tar"
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(hole, io.BytesIO(content))
    file.chmod(0o600)
    with tarfile.open(file) as tar:
        assert [(member.issparse(), member.size) for member in tar] == [(True, 1 << 40)]
    with pytest.raises(UnacceptableError, match="has no place in a backup"):
        restore_backup(file, tmp_path / "back", passphrase=nobody_asks)


def test_what_is_there_is_never_overwritten(plant: Plant, tmp_path: Path) -> None:
    out = tmp_path / "out"
    take_backup(plant, out, None)
    with pytest.raises(StorageError, match="never overwritten"):
        take_backup(plant, out, None)
    with pytest.raises(StorageError, match="is there and not empty"):
        restore_backup(out, plant.folder, passphrase=nobody_asks)
    (tmp_path / "empty").mkdir()
    assert restore_backup(out, tmp_path / "empty", passphrase=nobody_asks).plant.tenant == "acme"


def test_a_link_in_the_plant_is_refused_and_so_is_a_backup_that_others_may_read(
    plant: Plant, tmp_path: Path
) -> None:
    (plant.folder / "elsewhere").symlink_to("/etc")
    with pytest.raises(UnacceptableError, match="elsewhere is a link"):
        take_backup(plant, tmp_path / "out", None)
    (plant.folder / "elsewhere").unlink()
    take_backup(plant, tmp_path / "out", None)
    (tmp_path / "out").chmod(0o644)
    with pytest.raises(SettingsError, match="others may read it: chmod 600"):
        restore_backup(tmp_path / "out", tmp_path / "back", passphrase=nobody_asks)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "plant"]


@contextmanager
def lived_in(databases: Databases, made: Plant, folder: Path) -> Iterator[tuple[Plant, RolloutWorld]]:
    """A plant with twelve devices, a rollout that runs and one that waits, and an open claim; on either database."""
    with databases.fresh(is_migrated=False) as url:
        if url.startswith("sqlite"):
            shutil.copytree(made.folder, folder)
            plant = Plant(folder=folder, description=made.description)
        else:
            plant = plant_in(folder, url)
        world = RolloutWorld(url_of(plant))
        world.started()
        with world.database.write() as session:
            session.add(
                ClaimToken(
                    sha256="c" * 64, name="b-1", family="pump", site="", labels={}, for_device=None,
                    needs_approval=False, created_at=1.0, expires_at=9e9, revoked_at=None, used_at=None, used_by=None,
                )
            )  # fmt: skip
        yield plant, world
        world.close()


def test_a_restored_fleet_goes_on_but_not_with_what_may_have_ended_since(
    databases: Databases, made: Plant, tmp_path: Path
) -> None:
    with (
        lived_in(databases, made, tmp_path / "plant") as (plant, world),
        databases.fresh(is_migrated=False) as other,
    ):
        take_backup(plant, tmp_path / "out", None, now=lambda: 5000.0)
        assert world.view("ro-1").state is RolloutState.RUNNING
        restored = restore_backup(
            tmp_path / "out",
            tmp_path / "back",
            passphrase=nobody_asks,
            database_url=None if other.startswith("sqlite") else other,
            now=lambda: 9000.0,
        )
        assert world.view("ro-1").state is RolloutState.RUNNING, "the former one is left alone"
        assert (restored.aftermath.claims, restored.aftermath.paused, restored.aftermath.devices) == (
            1,
            ("ro-1",),
            12,
        )
        assert restored.aftermath.tokens
        back = RolloutWorld(url_of(restored.plant), fresh=False)
        assert back.view("ro-1").state is RolloutState.PAUSED
        with back.database.read() as session:
            assert session.scalars(select(ClaimToken.revoked_at)).all() == [9000.0]
            lines = list(read_lines(session))
            assert verify(iter(lines)).id == len(lines)
            assert lines[-1].action == "backup_restored"
            assert lines[-1].detail["made_at"] == 5000.0
            assert restored.listed.audit_entries < len(lines)
        again = go_on_after(back.database, tenant="acme", made_at=5000.0, now=9001.0)
        assert (again.claims, again.paused) == (0, ())
        back.close()
        note = read_restored_note(restored.plant.aggregator_data)
        assert note is not None
        assert (note.made_at, note.restored_at) == (5000.0, 9000.0)


def test_a_database_that_holds_something_is_not_restored_into(
    postgresql_databases: PostgresqlDatabases, made: Plant, tmp_path: Path
) -> None:
    with (
        lived_in(postgresql_databases, made, tmp_path / "plant") as (plant, _),
        postgresql_databases.fresh() as other,
    ):
        take_backup(plant, tmp_path / "out", None)
        for url in (None, other):
            with pytest.raises(SettingsError, match=r"the database in fleet\.toml is not empty"):
                restore_backup(tmp_path / "out", tmp_path / "back", passphrase=nobody_asks, database_url=url)
        assert not (tmp_path / "back").exists()


def test_a_password_is_in_no_argument_of_postgresqls_programs(
    postgresql_databases: PostgresqlDatabases, made: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    real = shutil.which("pg_dump")
    (programs / "pg_dump").write_text(
        f'#!/bin/sh\necho "$*" "$PGPASSWORD" > {tmp_path}/called\nexec {real} "$@"\n'
    )
    (programs / "pg_dump").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    with postgresql_databases.fresh(is_migrated=False) as url:
        plant = plant_in(tmp_path / "plant", url.replace("fedge@", "fedge:hush@"))
        take_backup(plant, tmp_path / "out", None)
    arguments, _, password = (tmp_path / "called").read_text().strip().rpartition(" ")
    assert password == "hush"
    assert "hush" not in arguments


def test_the_list_says_what_the_backup_is(plant: Plant, tmp_path: Path) -> None:
    with closing(open_storage(url_of(plant))) as database, database.read() as session:
        head = verify(read_lines(session))
    listed = take_backup(plant, tmp_path / "out", None, now=lambda: 77.0).listed
    assert (listed.tenant, listed.host, listed.database, listed.made_at) == (
        "acme",
        "localhost",
        "sqlite",
        77.0,
    )
    assert (listed.audit_entries, listed.audit_sha256) == (head.id, head.sha256)
    with tarfile.open(tmp_path / "out") as tar:
        assert tar.getnames()[-1] == LIST, "so that a file that was cut off has none"


def test_the_commands_say_what_they_did_and_refuse_in_one_line(plant: Plant, tmp_path: Path) -> None:
    secret = tmp_path / "passphrase"
    secret.write_text(f"{PASSPHRASE}\n")
    secret.chmod(0o600)
    home, out, back = str(plant.folder), str(tmp_path / "out"), str(tmp_path / "back")
    sealed = ("--passphrase-file", str(secret))
    told = run_command("fleet", "backup", out, "--plant", home, *sealed, "--json")
    assert (told.returncode, json.loads(told.stdout)["sealed"]) == (0, True)
    told = run_command("fleet", "restore", out, "--to", back, *sealed)
    assert told.returncode == 0, told.stderr
    assert "0 devices" in told.stdout
    assert "tokens that were revoked since are good again: plant-admin" in told.stdout
    refused = {
        ("backup", out, "--plant", home): (1, "never overwritten"),
        ("restore", out, "--to", back, *sealed): (1, "is there and not empty"),
        ("restore", str(secret), "--to", f"{back}-2"): (1, "it is no backup, or cut off"),
        ("restore", f"{out}-gone", "--to", f"{back}-2"): (1, "cannot read"),
        ("backup", f"{out}-2", "--plant", str(tmp_path)): (2, "is no plant"),
        ("restore", out, "--to", f"{back}-2", *sealed, "--database", "postgresql://a@b/c"): (
            2,
            "this one has SQLite",
        ),
    }
    for words, (status, why) in refused.items():
        told = run_command("fleet", *words)
        assert (told.returncode, told.stderr.count("\n")) == (status, 1), (words, told.stderr)
        assert why in told.stderr
    assert not (tmp_path / "back-2").exists()
