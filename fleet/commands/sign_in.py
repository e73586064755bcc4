"""``sign-in``: have a browser signed in without typing a token into it."""

from __future__ import annotations

from fleet.client.client import FleetClient
from fleet.commands.connection import asks_fleet

__all__ = ["sign_in"]


@asks_fleet
def sign_in(client: FleetClient) -> None:
    """Print a link that signs one browser in as the holder of the token, once, within five minutes."""
    print(client.sign_in_url())
