"""The audit log as a chain: what was changed, taken out, moved or cut off is found and named, what was erased is not."""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from alembic import command
from command_line import run_command
from databases import Databases
from fleet_world import NOW
from rollout_world import RolloutWorld
from sqlalchemy import JSON, Boolean, Double, column, delete, select, table, text
from sqlalchemy.exc import DBAPIError

from fleet import audit
from fleet.audit_chain import AuditLine, Head, verify
from fleet.erasure import erase_device
from fleet.errors import AuditBrokenError
from fleet.migrations.upgrade import _config, open_storage
from fleet.storage.access_tables import AuditEntry, OperatorToken
from fleet.storage.base import Database
from fleet.storage.rollout_tables import RolloutRecord


def note(database: Database, *subjects: str, actor: str = "operator:ann", **detail: object) -> None:
    for subject in subjects:
        with database.write() as session:
            audit.record(session, at=NOW, actor=actor, action="done", subject=subject, **detail)


def lines_of(database: Database) -> list[AuditLine]:
    with database.read() as session:
        return list(audit.read_lines(session))


def test_lines_that_several_write_at_once_are_one_chain(database: Database, database_url: str) -> None:
    other = open_storage(database_url)  # as another process: it shares no lock

    def write_many(through: Database) -> None:
        for number in range(15):
            note(through, str(number), share=0.1, nested={"b": [1, None], "a": "é"})

    threads = [threading.Thread(target=write_many, args=(one,)) for one in (database, other, database)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    lines = lines_of(database)
    assert [line.id for line in lines] == list(range(1, 46))
    with database.read() as session:
        assert verify(lines) == audit.read_head(session)


def without(number: int) -> Callable[[list[AuditLine]], list[AuditLine]]:
    return lambda lines: [line for line in lines if line.id != number]


def changed(number: int, **values: object) -> Callable[[list[AuditLine]], list[AuditLine]]:
    return lambda lines: [replace(one, **values) if one.id == number else one for one in lines]  # type: ignore[arg-type] # as the test says


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (without(1), "line 2 does not follow line 0"),
        (without(3), "line 4 does not follow line 2"),
        (changed(3, actor="operator:bob"), "line 3 is not what was written"),
        (changed(3, at=NOW + 1), "line 3 is not what was written"),
        (changed(3, detail={"why": "another"}), "line 3 says something else"),
        (
            changed(3, detail={}, salt=None),
            "line 3 has lost its words, and no later line says that 'operator:ann' was erased",
        ),
        (changed(3, salt=None), "line 3 has words without their salt"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "line 3 does not follow line 1"),
        (lambda lines: [*lines, replace(lines[2])], "line 3 comes after line 5"),
        (without(5), "line 5 was kept, but in this log it ends with line 4: its end was cut off"),
    ],
)
def test_whatever_is_done_to_a_line_is_found_and_named(
    database: Database, tamper: Callable[[list[AuditLine]], list[AuditLine]], words: str
) -> None:
    note(database, *"abcde", why="one")
    lines = lines_of(database)
    head = verify(lines)
    assert head == verify(lines, [head, Head(id=2, sha256=lines[1].sha256)])
    with pytest.raises(AuditBrokenError, match=words):
        verify(tamper(lines), [head])


def test_a_log_that_was_written_anew_does_not_hold_the_head_that_was_kept(
    database: Database, databases: Databases
) -> None:
    note(database, *"abc")
    kept = verify(lines_of(database))
    with databases.fresh() as url:
        forged = open_storage(url)
        note(forged, "a", "x", "c", "d")
        lines = lines_of(forged)
        forged.close()
    assert verify(lines).id == 4
    with pytest.raises(AuditBrokenError, match="line 3 is not the one whose digest was kept"):
        verify(lines, [kept])


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET actor = 'operator:bob' WHERE id = 2",
        'UPDATE audit_log SET detail = \'{"why": "another"}\' WHERE id = 2',
        "UPDATE audit_log SET salt = NULL WHERE id = 2",
        "UPDATE audit_log SET id = 9, detail = '{}', salt = NULL WHERE id = 2",
        "DELETE FROM audit_log WHERE id = 3",
        "DELETE FROM audit_log",
    ],
)
def test_the_database_itself_refuses_to_change_a_line(database: Database, statement: str) -> None:
    note(database, *"abc", why="one")
    before = lines_of(database)
    with pytest.raises(DBAPIError, match="append-only"), database.write() as session:
        session.execute(text(statement))
    if database.engine.dialect.name == "postgresql":
        with pytest.raises(DBAPIError, match="append-only"), database.write() as session:
            session.execute(text("TRUNCATE audit_log"))
    assert lines_of(database) == before


def test_no_line_is_replaced_by_another_of_its_number(database: Database) -> None:
    note(database, *"abc")
    before = lines_of(database)
    how = (
        "INSERT OR REPLACE INTO audit_log SELECT * FROM audit_log WHERE id = 2"
        if database.engine.dialect.name == "sqlite"
        else "INSERT INTO audit_log SELECT * FROM audit_log WHERE id = 2"
        " ON CONFLICT (id) DO UPDATE SET actor = 'operator:bob'"
    )
    with pytest.raises(DBAPIError, match="append-only"), database.write() as session:
        session.execute(text(how))
    assert lines_of(database) == before


def test_of_two_heads_of_one_line_that_were_kept_both_must_fit(database: Database) -> None:
    note(database, *"abc")
    lines = lines_of(database)
    good, bad = Head(id=2, sha256=lines[1].sha256), Head(id=2, sha256="f" * 64)
    assert verify(lines, [good, good]).id == 3
    for kept in ([bad, good], [good, bad]):
        with pytest.raises(AuditBrokenError, match="line 2 is not the one whose digest was kept"):
            verify(lines, kept)
    with pytest.raises(AuditBrokenError, match="a head of line 0"):
        verify(lines, [Head(id=0, sha256="f" * 64)])


def test_an_erased_device_takes_its_words_along_and_the_chain_holds(world: RolloutWorld) -> None:
    device, other = world.devices[:2]
    note(world.database, device, actor="fleet", said="it is hot here")
    note(world.database, "x", other, actor=f"device:{device}", said="and here")
    note(world.database, device, actor=f"device:{other}", said="not its word")
    with world.database.write() as session:
        erase_device(session, device, actor="admin:eve", now=NOW)
    lines = lines_of(world.database)
    verify(lines)
    assert [bool(line.detail) for line in lines] == [False, False, False, True, True]
    assert [line.salt is None for line in lines] == [True, True, True, False, False]
    with pytest.raises(
        AuditBrokenError, match=f"line 1 has lost its words, and no later line says that '{device}'"
    ):
        verify(lines[:-1])


def test_what_a_stranger_says_is_one_line_and_not_endless(database: Database) -> None:
    note(database, "a\nb", actor="device:\x1b[31mred", said="\u202ex\x00", many=["\r" * 5000])
    (line,) = lines_of(database)
    assert (line.actor, line.subject) == (r"device:\x1b[31mred", r"a\nb")
    assert line.detail["said"] == r"\u202ex\x00"
    assert len(line.detail["many"][0]) == 4000


def test_a_log_of_before_is_chained_and_its_people_keep_their_tokens(databases: Databases) -> None:
    with databases.fresh() as url:
        world = RolloutWorld(url, devices=2)
        ids = [world.create(require_approval=True), world.create()]
        with world.database.write() as session:
            command.downgrade(_config(session), "0009")
        kinds = {dict: JSON(), bool: Boolean(), float: Double()}
        rows = [
            ("operator_tokens", {"name": name, "role": role, "sha256": name, "created_at": NOW})
            for name, role in [("Ann", "admin"), ("agg", "publisher"), ("tv", "viewer")]
        ] + [
            (
                "audit_log",
                {"id": i, "at": NOW, "actor": "cli:eve", "action": "x", "subject": "s", "detail": {"n": i}},
            )
            for i in (7, 9)
        ]
        with world.database.write() as session:
            for name, values in rows:
                columns = (column(key, kinds.get(type(value))) for key, value in values.items())
                session.execute(table(name, *columns).insert().values(values))
        world.close()
        database = open_storage(url)
        with database.read() as session:
            tokens = session.scalars(select(OperatorToken).order_by(OperatorToken.sha256)).all()
            assert sorted((one.name, one.person, one.is_program) for one in tokens) == [
                ("Ann", "ann", False),
                ("agg", None, True),
                ("tv", None, False),
            ]
            found = [session.get_one(RolloutRecord, one) for one in ids]
            assert [(one.author, one.needs_approval) for one in found] == [("ann", True), ("ann", False)]
        note(database, "after")
        lines = lines_of(database)
        verify(lines)
        assert [line.id for line in lines] == [1, 2, 7, 9, 10]
        with pytest.raises(DBAPIError, match="append-only"), database.write() as session:
            session.execute(delete(AuditEntry).where(AuditEntry.id == 7))
        database.close()


@pytest.fixture
def server(tmp_path: Path, database: Database, database_url: str) -> Path:
    """A settings file over the database."""
    config = tmp_path / "fleet.toml"
    config.write_text(f'data_dir = "data"\ntenant = "demo"\ndatabase_url = "{database_url}"\n')
    return config


def audited(config: Path, *words: str) -> tuple[int, str]:
    done = run_command(
        "fleet", "audit", *words, *(("--config", str(config)) if "--file" not in words else ())
    )
    return done.returncode, done.stdout + done.stderr


def test_the_verifier_tells_a_sound_log_from_one_that_was_cut_or_changed(
    server: Path, database: Database, tmp_path: Path
) -> None:
    note(database, *"abc", why="one")
    with database.read() as session:
        kept = str(audit.read_head(session))
    status, said = audited(server, "verify", "--head", kept)
    assert (status, f"its head is {kept}" in said) == (0, True)
    assert "give --head" in audited(server, "verify")[1]
    out = tmp_path / "audit.jsonl"
    assert audited(server, "export", "--out", str(out)) == (0, f"{out}: 3 lines\n")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert audited(server, "export", "--out", str(out))[0] == 1, "an export is never overwritten"
    whole = out.read_text().splitlines()
    for lines, head, words in [
        (
            whole[:-1],
            ("--head", kept),
            "line 3 was kept, but in this log it ends with line 2: its end was cut off",
        ),
        (whole[1:], (), "line 2 does not follow line 0"),
        ([whole[0], whole[1].replace('"one"', '"two"'), whole[2]], (), "line 2 says something else"),
        ([*whole, "{}"], (), "is no line of an export"),
    ]:
        out.write_text("".join(f"{line}\n" for line in lines))
        status, said = audited(server, "verify", "--file", str(out), *head)
        assert (status, words in said) == (1, True), said
    assert "is not ID:SHA256" in audited(server, "verify", "--head", "3:x")[1]
    assert "not both" in audited(server, "verify", "--file", str(out), "--config", str(server))[1]
