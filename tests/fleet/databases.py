"""Both kinds of database that the fleet runs on, fresh and migrated for each test.

SQLite is copied from a file that was migrated once. PostgreSQL is a private cluster of this pytest process in a
directory of its own, on a Unix socket and without a TCP port; each database is made from one that was migrated once.
Nothing here survives a power cut, which the tests do not need and which makes them quick.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Protocol

import psycopg
import pytest
from waiting import wait_until

from fleet.migrations.upgrade import open_storage

INSTALL = "PostgreSQL is not installed: sudo apt-get install postgresql"
SERVER_USER = "postgres"  # of Debian's package: the server refuses to run as root


class Databases(Protocol):
    """Makes databases of one kind."""

    @contextmanager
    def fresh(self, *, is_migrated: bool = True) -> Iterator[str]:
        """The URL of an empty database with the newest schema, or with none; it is gone afterwards."""
        yield ""


class SqliteDatabases:
    """Copies of one migrated file."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._numbers = folder, count()
        self._template = folder / "template.sqlite"
        open_storage(f"sqlite:///{self._template}").close()

    @contextmanager
    def fresh(self, *, is_migrated: bool = True) -> Iterator[str]:
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        if is_migrated:
            shutil.copy(self._template, folder / "fleet.sqlite")
        yield f"sqlite:///{folder}/fleet.sqlite"
        shutil.rmtree(folder)


class PostgresqlDatabases:
    """Databases of a server that listens in `folder`; each is a copy of one that was migrated."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._numbers = folder, count()
        self._run("CREATE DATABASE template_fleet")
        open_storage(self._url("template_fleet")).close()

    @contextmanager
    def fresh(self, *, is_migrated: bool = True) -> Iterator[str]:
        name = f"fleet_{next(self._numbers)}"
        self._run(f"CREATE DATABASE {name} TEMPLATE {'template_fleet' if is_migrated else 'template0'}")
        yield self._url(name)
        self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def _url(self, name: str) -> str:
        return f"postgresql+psycopg://fedge@/{name}?host={self._folder}"

    def _run(self, statement: str) -> None:
        with psycopg.connect(_address(self._folder), autocommit=True) as connection:
            connection.execute(statement)


def _address(folder: Path) -> str:
    return f"host={folder} user=fedge dbname=postgres"


@contextmanager
def postgresql_server() -> Iterator[Path]:
    """A PostgreSQL server of our own; gives the folder of its socket. Ended by its process id, also when this dies."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    found = str(programs[-1]) if programs else shutil.which("initdb")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(INSTALL)
        pytest.skip(INSTALL)
    # directly below /tmp: the path of a Unix socket has at most 107 characters
    folder = Path(tempfile.mkdtemp(prefix="fedge-postgresql-", dir="/tmp"))
    as_server: list[str] = ["setpriv", "--pdeathsig", "INT"]
    if os.geteuid() == 0:
        shutil.chown(folder, SERVER_USER)
        as_server += ["--reuid", SERVER_USER, "--regid", SERVER_USER, "--clear-groups"]
    data, log = folder / "data", folder / "log"
    made = subprocess.run(
        [
            *as_server,
            found,
            "-D",
            data,
            "-U",
            "fedge",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert made.returncode == 0, made.stderr
    options = {
        "unix_socket_directories": folder,
        "listen_addresses": "",
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "autovacuum": "off",
        "max_connections": "100",
        "shared_buffers": "32MB",
    }
    settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*as_server, str(Path(found).with_name("postgres")), "-D", data, *settings],
            stdout=output,
            stderr=output,
            cwd=folder,
        )

    def is_ready() -> bool:
        try:
            psycopg.connect(_address(folder)).close()
        except psycopg.OperationalError:
            return False
        return True

    try:
        wait_until(
            is_ready,
            "PostgreSQL to start",
            unless=lambda: log.read_text() if server.poll() is not None else None,
        )
        yield folder
    finally:
        server.send_signal(signal.SIGINT)  # its "fast" shutdown: sessions are ended
        server.wait()
        shutil.rmtree(folder)
