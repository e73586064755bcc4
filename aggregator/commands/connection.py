"""The options that say where an aggregator is and who calls; without them it is the plant's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.plant import look_for_plant

if TYPE_CHECKING:  # httpx need not be waited for by commands that ask nobody
    from service.client import ApiClient

__all__ = ["Ca", "TokenFile", "Url", "open_client"]

Url = Annotated[str | None, typer.Option("--url", envvar="FEDGE_AGGREGATOR_URL", help="https://host:port")]
Ca = Annotated[Path | None, typer.Option("--ca", envvar="FEDGE_AGGREGATOR_CA", help="CA certificate, PEM")]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", envvar="FEDGE_AGGREGATOR_TOKEN_FILE", help="file with an ao_… token"),
]


def open_client(url: str | None, ca: Path | None, token_file: Path | None, plant: Path | None) -> ApiClient:
    """A client of the aggregator that is named, or else of the plant's (`service.plant.look_for_plant`).

    Raises:
        SettingsError, ClientError: as `service.client.connect`, and as `service.plant.find_plant`.
    """
    from service.client import connect

    if url is None and token_file is None and (found := look_for_plant(plant)) is not None:
        url, ca, token_file = found.local_aggregator_url, ca or found.ca, found.operator_token
    return connect(url, ca, token_file, service="aggregator")
