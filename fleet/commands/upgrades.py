"""``upgrade``: what an upgrade would find and do (on the server). It changes nothing; pip, or your package manager, does."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fleet.commands.connection import JsonOption
from runtime.errors import SettingsError
from service.plant import PlantOption, find_plant

__all__ = ["upgrade"]


def upgrade(
    plant: PlantOption = None,
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Look, and change nothing: all that this command does")
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", help="fleet.toml, of a fleet without a plant")
    ] = None,
    to: Annotated[Path | None, typer.Option("--to", help="The wheel that would be installed")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is installed, how the database stands, which agents run what, and what an upgrade would do.

    Exit status 1 where something stands against it.
    """
    if not check:
        raise SettingsError(
            "`fedge upgrade --check` looks and changes nothing; the upgrade itself is four commands: fedge backup, fedge down,"
            " pip install, fedge up (docs/operations.md)"
        )
    from fleet.settings import load_fleet_settings
    from fleet.storage.addresses import parsed_address
    from fleet.storage.base import open_database
    from fleet.upgrade_check import installed_build, look_ahead, offered_build, words_of

    settings = load_fleet_settings(config if config is not None else find_plant(plant).fleet_config)
    offered = installed_build() if to is None else offered_build(to)
    url = parsed_address(settings.effective_database_url)
    kind = "SQLite" if url.get_backend_name() == "sqlite" else "PostgreSQL"
    if kind == "SQLite" and not Path(url.database or "").exists():
        outlook = look_ahead(None, offered)  # to open it would make it
    else:
        with closing(open_database(settings.effective_database_url)) as database:
            outlook = look_ahead(database, offered)
    if as_json:
        said = asdict(outlook) | {
            "database": kind,
            "pending": [asdict(step) for step in outlook.pending],
            "against": outlook.against,
        }
        for build in ("installed", "offered"):
            said[build] = {"version": said[build]["version"], "schema": getattr(outlook, build).schema}
        print(json.dumps(said, indent=2))
    else:
        print("\n".join(words_of(outlook, kind)))
    if outlook.against:
        raise typer.Exit(1)
