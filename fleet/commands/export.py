"""``export``: everything that the fleet tells, as files for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleet.client.client import FleetClient
from fleet.commands.connection import SinceOption, UntilOption, asks_fleet
from fleet.commands.printing import say
from fleet.export.files import FORMATS, open_file
from fleet.export.sources import SOURCES, read_source
from service.errors import ClientError

__all__ = ["export"]


@asks_fleet
def export(
    client: FleetClient,
    what: Annotated[list[str], typer.Argument(help=f"{', '.join(SOURCES)}; or all", metavar="WHAT...")],
    out: Annotated[Path, typer.Option("--out", help="Folder; a file for each is made in it")],
    file_format: Annotated[str, typer.Option("--format", help="csv, parquet or jsonl")] = "csv",
    since: SinceOption = None,
    until: UntilOption = None,
) -> None:
    """Write what the token may read to files, a row each; a file is there when it is whole, and not before."""
    names = list(SOURCES) if what == ["all"] else what
    for name in names:
        if name not in SOURCES:
            raise ClientError(
                f"there is nothing called {name[:40]!r} to export; valid: {', '.join(SOURCES)}, all"
            )
    if file_format not in FORMATS:
        raise ClientError(f"--format {file_format[:20]!r} is none; valid: {', '.join(FORMATS)}")
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = out / f"{name}.{file_format}"
        source = SOURCES[name]
        try:
            with open_file(path, source.columns, file_format) as rows:
                for row in read_source(client, source, since=since, until=until):
                    rows.write(row)
        except ClientError as error:
            if what != ["all"] or "(403)" not in str(error):
                raise
            say(f"{name}: left out, this token may not read it")
            continue
        say(f"{path}: {rows.count} rows")
