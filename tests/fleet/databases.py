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
from collections.abc import Iterator, Mapping
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
QUICK = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "max_connections": "100",
    "shared_buffers": "32MB",
}
LASTING = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
"""For a server that is killed: what it committed is there afterwards, as in production."""


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


class PostgresqlServer:
    """A PostgreSQL server of our own on a Unix socket in `folder`; its processes end with this one.

    Args:
        options: settings over the quick ones, which survive no power cut and no kill.
    """

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
        found = str(programs[-1]) if programs else shutil.which("initdb")
        if found is None:
            if os.environ.get("CI"):
                pytest.fail(INSTALL)
            pytest.skip(INSTALL)
        # directly below /tmp: the path of a Unix socket has at most 107 characters
        self.folder = Path(tempfile.mkdtemp(prefix="fedge-postgresql-", dir="/tmp"))
        self._program, self._process = Path(found).with_name("postgres"), None
        self._as_server = ["setpriv", "--pdeathsig", "INT"]
        if os.geteuid() == 0:
            shutil.chown(self.folder, SERVER_USER)
            self._as_server += ["--reuid", SERVER_USER, "--regid", SERVER_USER, "--clear-groups"]
        options_of_ours = {
            "unix_socket_directories": str(self.folder),
            "listen_addresses": "",
            **QUICK,
            **(options or {}),
        }
        self._settings = [
            part for name, value in options_of_ours.items() for part in ("-c", f"{name}={value}")
        ]
        wanted = ("-U", "fedge", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        made = subprocess.run(
            [*self._as_server, found, "-D", self.folder / "data", *wanted],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
        )
        assert made.returncode == 0, made.stderr

    @property
    def pid(self) -> int | None:
        """Of the process that started all others; None where it does not run."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it, and return once it answers."""
        log = self.folder / "log"
        with log.open("ab") as output:
            self._process = server = subprocess.Popen(
                [*self._as_server, str(self._program), "-D", self.folder / "data", *self._settings],
                stdout=output,
                stderr=output,
                cwd=self.folder,
            )
        wait_until(
            self.answers,
            "PostgreSQL to start",
            unless=lambda: log.read_text() if server.poll() is not None else None,
        )

    def answers(self) -> bool:
        """Whether it takes a connection."""
        try:
            psycopg.connect(_address(self.folder)).close()
        except psycopg.OperationalError:
            return False
        return True

    def run(self, *statements: str) -> None:
        """As its owner, in one session, each outside any transaction."""
        with psycopg.connect(_address(self.folder), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT is its "fast" shutdown, in which sessions are ended; SIGQUIT gives up everything at once, as a crash."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait()

    def remove(self) -> None:
        """Stop it and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder)


@contextmanager
def postgresql_server() -> Iterator[Path]:
    """A server that runs; gives the folder of its socket."""
    server = PostgresqlServer()
    try:
        server.start()
        yield server.folder
    finally:
        server.remove()
