"""The fleet service of a dashboard's tests: a real process over HTTPS, on a folder whose past is told or empty.

A past takes seconds to make, so the first process of a test run that wants one makes it, and everybody takes a copy.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fleet_world import TENANT, fleet_process
from mosquitto_broker import LocalCertificates
from seeded_fleet import OFFLINE_AFTER_S, SeededFleet
from seeded_story import LASTS_S, raise_alarms, tell_story
from seeded_verdicts import judge_alarms

from service.roles import Role

__all__ = ["PEOPLE", "DashboardSite", "copy_of", "make_empty", "make_seeded", "read_rollouts", "serve_site"]

PEOPLE = {Role.VIEWER: "vera", Role.OPERATOR: "otto", Role.ADMIN: "ada", Role.PUBLISHER: "aggregator"}
NOTES = "notes.json"


@dataclass(frozen=True, kw_only=True)
class DashboardSite:
    """A fleet that runs.

    Attributes:
        url: of its pages and its API.
        folder: with its ``data``.
        tokens: one of each role.
        rollouts: ids, by what became of them.
    """

    url: str
    folder: Path
    tokens: dict[Role, str]
    rollouts: dict[str, str] = field(default_factory=dict)

    @property
    def database_url(self) -> str:
        """Of the database that the process serves."""
        return f"sqlite:///{self.folder}/data/fleet.sqlite"


def make_empty(folder: Path) -> None:
    """A fleet that nobody has used yet, but for its tokens."""
    with closing(SeededFleet(folder, time.time())) as fleet:
        _note(folder, fleet, {})


def make_seeded(folder: Path, *, is_polite: bool = False) -> None:
    """A fleet with a past."""
    with closing(SeededFleet(folder, time.time() - LASTS_S, is_polite=is_polite)) as fleet:
        rollouts = tell_story(fleet, raise_alarms, judge_alarms)
        _note(folder, fleet, rollouts)


def _note(folder: Path, fleet: SeededFleet, rollouts: dict[str, str]) -> None:
    tokens = {role.value: fleet.token(name, role) for role, name in PEOPLE.items()}
    (folder / NOTES).write_text(json.dumps({"tokens": tokens, "rollouts": rollouts}))


def read_rollouts(folder: Path) -> dict[str, str]:
    """The rollouts of a made folder: ids, by what became of them."""
    rollouts: dict[str, str] = json.loads((folder / NOTES).read_text())["rollouts"]
    return rollouts


def copy_of(kind: str, make: Callable[[Path], None], shared: Path, folder: Path) -> None:
    """A copy in `folder` of what `make` makes once for all who share `shared`."""
    with (shared / f"{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / kind / NOTES).exists():
            make(shared / kind)
    shutil.copytree(shared / kind, folder)


@contextmanager
def serve_site(
    folder: Path, certificates: LocalCertificates, *, more_settings: str = ""
) -> Iterator[DashboardSite]:
    """Serve a made folder until the block ends; `more_settings` are tables of fleet.toml."""
    config = folder / "fleet.toml"
    config.write_text(
        f"""
        listen = "127.0.0.1:0"
        tls_cert = "{certificates.certificate}"
        tls_key = "{certificates.key}"
        data_dir = "data"
        tenant = "{TENANT}"
        offline_after_s = {OFFLINE_AFTER_S}
        {more_settings}
        """
    )
    notes = json.loads((folder / NOTES).read_text())
    with fleet_process(config, folder / "fleet.log") as (_, url):
        yield DashboardSite(
            url=url,
            folder=folder,
            tokens={Role(role): token for role, token in notes["tokens"].items()},
            rollouts=read_rollouts(folder),
        )
