"""Where the installer gets bundles: from the fleet, with every byte counted; without a fleet each download fails clearly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from edge_agent.errors import FleetUnreachableError
from edge_agent.fleet_client import BundleStream, FleetClient
from edge_agent.health import Counters

__all__ = ["CountedBundles"]


class CountedBundles:
    """`BundleSource` that counts what updates cost; without a fleet every download fails clearly."""

    def __init__(self, fleet: FleetClient | None, counters: Counters) -> None:
        self._fleet = fleet
        self._counters = counters

    @contextmanager
    def bundle(self, path: str, *, offset: int = 0) -> Iterator[BundleStream]:
        """See `FleetClient.bundle`."""
        if self._fleet is None:
            raise FleetUnreachableError(
                "agent.toml has no [fleet] table, so there is no one to fetch a bundle from"
            )
        opened: AbstractContextManager[BundleStream] = self._fleet.bundle(path, offset=offset)
        with opened as stream:
            yield BundleStream(offset=stream.offset, chunks=self._counted(stream.chunks))

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._counters.update_bytes += len(chunk)
            yield chunk
