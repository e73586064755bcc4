"""The options that commands share: the settings file; or where the fleet is, who calls, and how to print."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from fleet.client.client import FleetClient
from service.durations import read_past
from service.plant import PlantOption, look_for_plant

__all__ = [
    "ConfigOption",
    "IfMatchOption",
    "JsonOption",
    "KeyOption",
    "LimitOption",
    "SinceOption",
    "UntilOption",
    "asks_fleet",
]

ConfigOption = Annotated[Path, typer.Option("--config", help="fleet.toml")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table")]
LimitOption = Annotated[int, typer.Option("--limit", min=0, help="Most items; 0: all")]
SinceOption = Annotated[
    float | None,
    typer.Option(
        "--since",
        parser=read_past,
        metavar="WHEN",
        help="Received at or after: 2h, 3d, 2026-11-30T08:00Z, Unix seconds",
    ),
]
UntilOption = Annotated[
    float | None,
    typer.Option("--until", parser=read_past, metavar="WHEN", help="Received before; as --since"),
]
KeyOption = Annotated[
    str | None, typer.Option("--idempotency-key", help="The same request under the same key is done once")
]
IfMatchOption = Annotated[
    str | None, typer.Option("--if-match", help="ETag of what you saw: refused where it was changed since")
]


def connect(
    url: str | None, ca: Path | None, token_file: Path | None, plant: Path | None = None
) -> FleetClient:
    """A client of the fleet that is named, or else of the plant's (`service.plant.look_for_plant`).

    Raises:
        SettingsError, ClientError: as `service.client.connect`, and as `service.plant.find_plant`.
    """
    if url is None and token_file is None and (found := look_for_plant(plant)) is not None:
        return FleetClient.open(
            found.local_fleet_url, ca or found.ca, found.admin_token, public_url=found.fleet_url
        )
    return FleetClient.open(url, ca, token_file)


def asks_fleet(command: Callable[..., None]) -> Callable[..., None]:
    """A command that asks the fleet: it gets the options that say where and who (else: the plant's), and is handed a `client`, closed after it."""

    def options(
        url: Annotated[
            str | None,
            typer.Option("--url", envvar="FEDGE_FLEET_URL", help="Base URL, e.g. https://fleet:8443"),
        ] = None,
        ca: Annotated[
            Path | None,
            typer.Option(
                "--ca", envvar="FEDGE_FLEET_CA", help="PEM of the CA that signed the fleet's certificate"
            ),
        ] = None,
        token_file: Annotated[
            Path | None,
            typer.Option(
                "--token-file", envvar="FEDGE_FLEET_TOKEN_FILE", help="File with your operator token"
            ),
        ] = None,
        plant: PlantOption = None,
    ) -> None: ...

    @wraps(command)
    def asking(
        *,
        url: str | None = None,
        ca: Path | None = None,
        token_file: Path | None = None,
        plant: Path | None = None,
        **given: Any,
    ) -> None:
        with connect(url, ca, token_file, plant) as client:
            command(client=client, **given)

    own = inspect.signature(command, eval_str=True).parameters.values()
    shared = inspect.signature(options, eval_str=True).parameters.values()
    shown = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own, *shared) if one.name != "client"
    ]
    # typer reads both
    asking.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined] # what inspect looks for
    asking.__annotations__ = {one.name: one.annotation for one in shown}
    return asking
