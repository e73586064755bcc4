"""A database that cannot be used is one line that says what to do, of every command that needs it, and of ``check-config``."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from command_line import run_command
from databases import Databases
from free_ports import free_port
from sqlalchemy.engine import make_url

from fleet.backups.instant import postgresql_environment
from fleet.plant.making import without_password


def config(folder: Path, url: str) -> str:
    path = folder / "fleet.toml"
    path.write_text(f'data_dir = "data"\ntenant = "demo"\ndatabase_url = "{url}"\n')
    return str(path)


@pytest.mark.parametrize("words", [("check-config",), ("tokens", "list"), ("serve",)])
def test_a_server_that_is_not_there_is_one_line_with_a_remedy(tmp_path: Path, words: tuple[str, ...]) -> None:
    port = free_port()
    done = run_command(
        "fleet", *words, "--config", config(tmp_path, f"postgresql://me@127.0.0.1:{port}/fedge")
    )
    assert done.returncode in {1, 2}
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert f"cannot connect to PostgreSQL at 127.0.0.1:{port}" in lines[0]
    assert "start PostgreSQL, or give the right host and port" in lines[0]


def test_an_address_that_is_none_is_found_by_check_config(tmp_path: Path) -> None:
    done = run_command("fleet", "check-config", "--config", config(tmp_path, "postgrsql://me@host/fedge"))
    assert done.returncode == 2
    assert "'postgrsql'; valid are sqlite and postgresql" in done.stderr


@pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
def test_check_config_connects_and_a_user_without_rights_is_told_so(
    tmp_path: Path, databases: Databases
) -> None:
    with databases.fresh(is_migrated=False) as url:
        assert run_command("fleet", "check-config", "--config", config(tmp_path, url)).returncode == 0
        parsed = make_url(url)
        with psycopg.connect(
            dbname=parsed.database, user=parsed.username, host=parsed.query["host"], autocommit=True
        ) as admin:
            admin.execute("DROP ROLE IF EXISTS nobody_here")
            admin.execute("CREATE ROLE nobody_here LOGIN")
            admin.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        poor = parsed.set(username="nobody_here").render_as_string()
        done = run_command("fleet", "tokens", "list", "--config", config(tmp_path, poor))
        assert done.returncode == 1
        assert "takes no tables of ours: permission denied" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://u:sekret@host:port/x",
        "postgresql://u:sekret@[::1/x",
        "postgresql://u:a@h/x?password=sekret",
    ],
)
def test_an_address_that_does_not_parse_is_one_line_without_its_password(
    tmp_path: Path, address: str
) -> None:
    plant = tmp_path / "p"
    for words in (
        ("init", "plant", "--host", "localhost", "--plant", str(plant), "--database", address),
        ("check-config", "--config", config(tmp_path, address)),
    ):
        done = run_command("fleet", *words)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "sekret" not in done.stderr
    assert not plant.exists()


def test_a_password_among_the_options_is_known_for_one() -> None:
    shown, whole = without_password("postgresql://u@h/x?password=sekret&sslmode=require")
    assert shown == "postgresql://u@h/x?sslmode=require"
    assert make_url(whole).password == "sekret"
    name, environment = postgresql_environment("postgresql+psycopg://u@h/x?password=sekret")
    assert (name, environment) == ("postgresql://u@h/x", {"PGPASSWORD": "sekret"})
