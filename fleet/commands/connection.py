"""The options that commands share: the settings file; or where the fleet is, who calls, and how to print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service import client

__all__ = ["CaOption", "ConfigOption", "JsonOption", "LimitOption", "TokenFileOption", "UrlOption", "connect"]

ConfigOption = Annotated[Path, typer.Option("--config", help="fleet.toml")]
UrlOption = Annotated[
    str | None, typer.Option("--url", envvar="FEDGE_FLEET_URL", help="Base URL, e.g. https://fleet:8443")
]
CaOption = Annotated[
    Path | None,
    typer.Option("--ca", envvar="FEDGE_FLEET_CA", help="PEM of the CA that signed the fleet's certificate"),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option("--token-file", envvar="FEDGE_FLEET_TOKEN_FILE", help="File with your operator token"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, help="Most items")]


def connect(url: str | None, ca: Path | None, token_file: Path | None) -> client.ApiClient:
    """A client of the fleet; raises as `service.client.connect`."""
    return client.connect(url, ca, token_file, service="fleet")
