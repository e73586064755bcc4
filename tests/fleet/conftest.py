"""Every fleet test that touches a database runs on SQLite and on PostgreSQL; see `databases`.

Rules of rollouts play hours of a fleet in one process, one writer at a time: on PostgreSQL they are `long`, for `make prove`.
What writes at once, migrates, reads, is killed or comes back is on both in `make test`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

import pytest
import structlog
from databases import (
    LASTING,
    Databases,
    PostgresqlDatabases,
    PostgresqlServer,
    SqliteDatabases,
    postgresql_server,
)
from mosquitto_broker import installed_program
from plant_world import init_plant, port_options
from rollout_world import RolloutWorld

from fleet.migrations.upgrade import open_storage
from fleet.retention.pruning import Pruning
from fleet.storage.base import Database
from service.plant import Plant, load_plant

# By default rich renders a traceback with all its locals, whole bundles among them: seconds for each answer of status 500.
structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.dev.set_exc_info,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ],
    # a command's answer is read by tests in the process that also plays the service: click puts its own in the place of both
    logger_factory=lambda *_: structlog.PrintLogger(sys.__stderr__),
)

RULES_OF_ROLLOUTS = {
    "test_foresight",
    "test_gate_evidence",
    *(
        f"test_rollouts_{part}"
        for part in ("api", "blindness", "engine", "gated", "kept_past", "later", "memory", "story")
    ),
}


@pytest.hookimpl(tryfirst=True)  # before `-m` is looked at
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in RULES_OF_ROLLOUTS and "postgresql" in item.name:
            item.add_marker(pytest.mark.long)


@pytest.fixture(autouse=True)
def the_service_of_a_test_prunes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices of tests speak at a fixed time, which is further back each day than what is kept; `test_pruning` prunes by hand."""

    async def rest(_self: Pruning) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Pruning, "run", rest)


@pytest.fixture(scope="session", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def databases(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Databases]:
    """Databases of either kind; once per pytest process."""
    if request.param == "sqlite":
        yield SqliteDatabases(tmp_path_factory.mktemp("databases"))
        return
    yield request.getfixturevalue("postgresql_databases")


@pytest.fixture(scope="session")
def postgresql_databases() -> Iterator[PostgresqlDatabases]:
    """Databases of PostgreSQL; once per pytest process."""
    with postgresql_server() as folder:
        yield PostgresqlDatabases(folder)


@pytest.fixture(scope="session")
def made_plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    """A plant on this machine alone, with Mosquitto and SQLite; nothing of it runs. For whoever copies it or only looks."""
    installed_program("mosquitto")
    folder = tmp_path_factory.mktemp("plants") / "plant"
    done = init_plant(folder, "--host", "localhost", "--tenant", "acme", *port_options())
    assert done.returncode == 0, done.stderr
    return load_plant(folder)


@pytest.fixture
def postgresql_url(postgresql_databases: PostgresqlDatabases) -> Iterator[str]:
    """An empty database of PostgreSQL, for what several processes do on one."""
    with postgresql_databases.fresh() as url:
        yield url


@pytest.fixture
def server() -> Iterator[PostgresqlServer]:
    """A PostgreSQL of this test's own, with an empty database ``fleet``: it may be killed, and keeps what it committed."""
    made = PostgresqlServer(LASTING)
    try:
        made.start()
        made.run("CREATE DATABASE fleet")
        yield made
    finally:
        made.remove()


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    """An empty database of this test's own."""
    with databases.fresh() as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The same, open."""
    opened = open_storage(database_url)
    yield opened
    opened.close()


@pytest.fixture
def world(database_url: str) -> Iterator[RolloutWorld]:
    """Twelve devices in an empty database, for rollouts."""
    world = RolloutWorld(database_url)
    yield world
    world.close()
