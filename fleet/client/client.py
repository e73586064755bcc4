"""The fleet's API as a command, or another program of ours, sees it: answers as the types that the service makes them of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError

from fleet.changes.change import Change
from fleet.client.event_stream import read_events
from service.client import ApiClient, Query, open_connection
from service.errors import ClientError

__all__ = ["FleetClient"]

V = TypeVar("V", bound=BaseModel)


class FleetClient(ApiClient):
    """Calls the fleet with one operator token. Use as a context manager. Everything here raises ClientError."""

    public_url: str | None = None
    """How browsers reach the fleet, where it is not as this client does."""

    @classmethod
    def open(
        cls, url: str | None, ca: Path | None, token_file: Path | None, *, public_url: str | None = None
    ) -> Self:
        """A client for `url`; raises as `service.client.connect`."""
        client = cls(open_connection(url, ca, token_file, service="fleet"), service="fleet")
        client.public_url = public_url
        return client

    def show(self, kind: type[V], path: str, query: Query | None = None) -> V:
        """What is at `path`."""
        return _as(kind, self.get(path, query))

    def listing(self, kind: type[V], path: str, query: Query, limit: int) -> Iterator[V]:
        """Up to `limit` items of a paged listing; 0: all."""
        return (_as(kind, item) for item in self.pages(path, query, limit))

    def ask(
        self,
        kind: type[V],
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        if_match: str | None = None,
    ) -> V:
        """Post, and what came of it; under `key` it is done once."""
        return _as(kind, self.post(path, body, key=key, if_match=if_match))

    def set(self, kind: type[V], path: str, body: Any, *, if_match: str | None = None) -> V:
        """Put, and what is there now."""
        return _as(kind, self.put(path, body, if_match=if_match))

    def sign_in_url(self) -> str:
        """An address that signs one browser in as the holder of this token, once."""
        at = self.public_url or str(self._http.base_url)
        return f"{at.rstrip('/')}{self.post('/v1/sign-in-links')['path']}"

    def events(self, kinds: str, name: str | None = None) -> Iterator[Change]:
        """See `fleet.client.event_stream.read_events`."""
        return read_events(self._http, kinds=kinds, name=name, sleep=self._sleep)


def _as(kind: type[V], answer: Any) -> V:
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        wrong = error.errors()[0]
        place = ".".join(map(str, wrong["loc"]))
        raise ClientError(
            f"the fleet's answer is no {kind.__name__}: {place}: {wrong['msg']}; is it another version?"
        ) from None
