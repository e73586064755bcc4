"""What an upgrade would do to a fleet: looked at, and nothing changed.

Compared are the build that is installed (or a wheel that is offered), the schema of the database, and the agents that devices said
they run. A step of the schema is told by the first sentence of its module.
"""

from __future__ import annotations

import ast
import re
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from sqlalchemy import func, inspect, select, text

from fleet.migrations.upgrade import FOLDER
from fleet.storage.base import Database
from fleet.storage.device_tables import Device, DeviceState
from runtime.errors import SettingsError

__all__ = [
    "AgentVersion",
    "Build",
    "Outlook",
    "Step",
    "installed_build",
    "look_ahead",
    "offered_build",
    "words_of",
]

OLDEST_AGENT: Final = "0.1.0"
"""Agents from here on are understood: what they send and keep is frozen byte for byte in tests/golden, tests/protocol/golden."""

_STEPS: Final = "fleet/migrations/versions"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One change of the schema, and what it does in a sentence."""

    revision: str
    does: str


@dataclass(frozen=True, kw_only=True)
class Build:
    """A build of Fedge: its version, and the steps that its schema is made of, the oldest first."""

    version: str
    steps: tuple[Step, ...]

    @property
    def schema(self) -> str:
        """The newest step."""
        return self.steps[-1].revision


@dataclass(frozen=True, kw_only=True)
class AgentVersion:
    """How many devices said that they run it, and when one of them was heard last. None: of devices that never said it."""

    version: str | None
    devices: int
    last_heard_at: float | None


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What stands where. `schema` None: an empty database."""

    installed: Build
    offered: Build
    python: str
    schema: str | None
    agents: tuple[AgentVersion, ...]

    @property
    def pending(self) -> tuple[Step, ...]:
        """The steps that the first start of the offered build would take."""
        known = [step.revision for step in self.offered.steps]
        if self.schema is None:
            return self.offered.steps
        if self.schema not in known:
            return ()
        return self.offered.steps[known.index(self.schema) + 1 :]

    @property
    def against(self) -> tuple[str, ...]:
        """What stands against it, in sentences; empty where nothing does."""
        found = []
        if self.schema is not None and self.schema not in {step.revision for step in self.offered.steps}:
            found.append(
                f"the database's schema {self.schema} is of a newer build than {self.offered.version} (schema {self.offered.schema}):"
                " it would refuse to start; install the build that wrote it, or a newer one"
            )
        if _number(self.offered.version) < _number(self.installed.version):
            found.append(f"{self.offered.version} is older than what is installed ({self.installed.version})")
        old = [
            agent for agent in self.agents if agent.version and _number(agent.version) < _number(OLDEST_AGENT)
        ]
        if old:
            found.append(
                f"{_devices(sum(agent.devices for agent in old))} with an agent older than {OLDEST_AGENT}: upgrade them first"
            )
        return tuple(found)


def installed_build() -> Build:
    """What runs this."""
    sources = (
        (path.name, path.read_text(encoding="utf-8")) for path in (FOLDER / "versions").glob("[0-9]*.py")
    )
    return Build(version=version("fedge"), steps=_steps(sources))


def offered_build(wheel: Path) -> Build:
    """What a wheel would install; raises SettingsError where it is no wheel of Fedge."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if re.fullmatch(rf"{_STEPS}/\d+\w*\.py", name)]
            sources = [(name, archive.read(name).decode()) for name in names]
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise SettingsError(f"--to {wheel} cannot be read as a wheel: {error}") from None
    named = re.match(r"fedge-([^-]+)-", wheel.name)
    if not names or named is None:
        raise SettingsError(f"--to {wheel} is no wheel of Fedge; expected fedge-VERSION-py3-none-any.whl")
    return Build(version=named[1], steps=_steps(sources))


def look_ahead(database: Database | None, offered: Build) -> Outlook:
    """Look at a database of any build, also one that is served; nothing is written, no step taken. None: there is none yet."""
    schema, agents = (None, []) if database is None else _read(database)
    return Outlook(
        installed=installed_build(),
        offered=offered,
        python=".".join(map(str, sys.version_info[:3])),
        schema=schema,
        agents=tuple(agents),
    )


def words_of(outlook: Outlook, database: str) -> list[str]:
    """The outlook for a person, a line each; `database` names its kind."""
    offered, pending = outlook.offered, outlook.pending
    lines = [
        f"installed: fedge {outlook.installed.version}, Python {outlook.python}, schema {outlook.installed.schema}"
    ]
    if offered != outlook.installed:
        lines.append(f"offered: fedge {offered.version}, schema {offered.schema}")
    lines.append(f"database: {database}, schema {outlook.schema or 'none yet'}")
    lines += [
        f"agents: {_devices(agent.devices)} with {agent.version or 'a version not said yet'}"
        for agent in outlook.agents
    ]
    if not outlook.agents:
        lines.append("agents: no device yet")
    if outlook.against:
        return [*lines, *(f"AGAINST IT: {sentence}" for sentence in outlook.against)]
    if pending:
        lines.append(
            f"the first start of {offered.version} takes {len(pending)} step{'s' * (len(pending) > 1)} in one transaction, whole or"
            " not at all, and then no older build starts on it:"
        )
        lines += [f"  {step.revision} {step.does}" for step in pending]
        lines.append("so: fedge backup first, stop every service, install, start")
    else:
        lines.append(
            "the schema stays as it is: stop every service, install, start; the build before it could start again"
        )
    ahead = [a for a in outlook.agents if a.version and _number(a.version) > _number(offered.version)]
    if ahead:
        lines.append(
            f"{_devices(sum(a.devices for a in ahead))} with a newer agent than {offered.version}; it is understood as far as it says the same"
        )
    lines.append(
        f"agents go on meanwhile and may be upgraded later, in any order: those since {OLDEST_AGENT} are understood"
    )
    return lines


def _read(database: Database) -> tuple[str | None, list[AgentVersion]]:
    agents: list[AgentVersion] = []
    schema = None
    with database.read() as session:
        tables = set(inspect(session.connection()).get_table_names())
        if "alembic_version" in tables:
            schema = session.execute(text("SELECT version_num FROM alembic_version")).scalar()
        columns = (
            {c["name"] for c in inspect(session.connection()).get_columns("devices")}
            if "devices" in tables
            else set()
        )
        if {"agent_version", "state", "last_seen"} <= columns:
            rows = session.execute(
                select(Device.agent_version, func.count(), func.max(Device.last_seen))
                .where(Device.state != DeviceState.REVOKED)
                .group_by(Device.agent_version)
                .order_by(Device.agent_version)
            )
            agents = [AgentVersion(version=row[0], devices=row[1], last_heard_at=row[2]) for row in rows]
    return (None if schema is None else str(schema)), agents


def _steps(sources: Iterable[tuple[str, str]]) -> tuple[Step, ...]:
    found = []
    for name, source in sources:
        tree = ast.parse(source)
        said = (ast.get_docstring(tree) or name).split("\n")[0].strip()
        revision = re.search(r"^revision\s*(?::[^=]*)?=\s*['\"](\w+)['\"]", source, re.MULTILINE)
        if revision is not None:
            found.append(Step(revision=revision[1], does=said))
    return tuple(sorted(found, key=lambda step: step.revision))


def _devices(count: int) -> str:
    return f"{count} device{'s' * (count != 1)}"


def _number(said: str) -> tuple[int, ...]:
    """What two versions are compared by: their leading numbers.

    >>> _number("0.10.1") > _number("0.9.12.dev3")
    True
    """
    leading = re.match(r"\d+(?:\.\d+)*", said)
    return tuple(map(int, leading[0].split("."))) if leading else ()
