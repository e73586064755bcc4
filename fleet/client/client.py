"""The fleet's API as a command, or another program of ours, sees it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Self

from fleet.changes.change import Change
from fleet.client.event_stream import read_events
from service.client import ApiClient, open_connection

__all__ = ["FleetClient"]


class FleetClient(ApiClient):
    """Calls the fleet with one operator token. Use as a context manager."""

    @classmethod
    def open(cls, url: str | None, ca: Path | None, token_file: Path | None) -> Self:
        """A client for `url`; raises as `service.client.connect`."""
        return cls(open_connection(url, ca, token_file, service="fleet"), service="fleet")

    def events(self, kinds: str, name: str | None = None) -> Iterator[Change]:
        """See `fleet.client.event_stream.read_events`."""
        return read_events(self._http, kinds=kinds, name=name, sleep=self._sleep)
