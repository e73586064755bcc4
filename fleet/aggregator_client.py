"""The aggregator as the dashboard sees it: its HTTP API, asked with a token of the fleet's own, and never waited for long.

::

    page ─► get ─► what was said within the last seconds?  yes ─► that
                      │ no
                      ├─ somebody asks the same just now?  yes ─► wait for their answer
                      ├─ it did not answer a moment ago?   yes ─► "not reachable", with what it said last
                      └─ ask, PATIENCE_S in all ─► answer, refusal or silence: each is kept for FRESH_S

Nothing here raises for what the aggregator does: an answer, or words. What it says is bounded in bytes and time, then parsed as the
types of `fleet.aggregator_answers`; what is none of these is shown as words, too. One event loop.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote

import httpx
import msgspec
from msgspec import Struct

from fleet.settings import AggregatorSettings
from runtime.errors import SettingsError
from runtime.printable import printable
from service.client import refusal_words
from service.token_file import TokenFile

__all__ = ["NOT_CONFIGURED", "AggregatorClient", "Said", "open_aggregator"]

PATIENCE_S: Final = 1.8
"""For connection, answer and all its bytes together: a page with nothing of the aggregator on it comes in the rest of two seconds."""

FRESH_S: Final = 4.0
"""How long an answer, or a silence, stands."""

MOST_BYTES: Final = 8 * 1024 * 1024
"""A run of a hundred rounds with a thousand devices in each has four."""

MOST_KEPT: Final = 128
"""Answers."""

NOT_CONFIGURED: Final = "This fleet knows no aggregator. Give url, ca_file and token_file in [aggregator] of fleet.toml, and its training runs appear here."

T = TypeVar("T", bound=Struct)


@dataclass(frozen=True, kw_only=True)
class Said(Generic[T]):
    """What the aggregator said: `what`, at Unix second `at`; or in words, why there is nothing, or nothing newer than `what`.

    `is_missing`: it answered that there is no such thing.
    """

    what: T | None = None
    at: float | None = None
    trouble: str = ""
    is_missing: bool = False


@dataclass(frozen=True)
class _Kept:
    said: Said[Any]
    until: float


class AggregatorClient:
    """Asks the aggregator; without `http` there is none, and everything is `NOT_CONFIGURED`.

    Args:
        http: where to, and with which token.
        now: Unix seconds, for people.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        http: httpx.AsyncClient | None,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http, self._now, self._clock = http, now, clock
        self._kept: dict[str, _Kept] = {}
        self._asking: dict[str, asyncio.Task[Said[Any]]] = {}
        self._away_until = 0.0
        self._away = ""

    @property
    def is_configured(self) -> bool:
        """Whether there is one to ask."""
        return self._http is not None

    async def close(self) -> None:
        """Close its connections."""
        for task in self._asking.values():
            task.cancel()
        if self._http is not None:
            await self._http.aclose()

    async def get(self, kind: type[T], *parts: str, **query: str | int | None) -> Said[T]:
        """What is at the address of these `parts` (each a segment, of any text) under ``/v1``; never raises, never waits beyond `PATIENCE_S`."""
        if self._http is None:
            return Said(trouble=NOT_CONFIGURED)
        given = {key: value for key, value in query.items() if value is not None}
        # a segment of dots alone is a way up, which httpx would walk
        path = "/v1/" + "/".join(quote(part, safe="").replace(".", "%2E") for part in parts)
        key = f"{path}?{httpx.QueryParams(given)}" if given else path
        kept = self._kept.get(key)
        if kept is not None and self._clock() < kept.until:
            return kept.said
        if key not in self._asking:
            if self._clock() < self._away_until:
                return self._keep(key, self._stale(key, self._away))
            task = asyncio.create_task(self._ask(self._http, kind, key))
            self._asking[key] = task
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        # who leaves the page does not end the question for the others
        return await asyncio.shield(self._asking[key])

    async def _ask(self, http: httpx.AsyncClient, kind: type[T], key: str) -> Said[T]:
        try:
            async with asyncio.timeout(PATIENCE_S):
                status, content = await _read(http, key)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:  # a TimeoutError is one of these
            why = (
                f"no answer within {PATIENCE_S:g} s"
                if isinstance(error, TimeoutError)
                else _first_line(error)
            )
            self._away = f"The aggregator at {http.base_url} is not reachable: {why}."
            self._away_until = self._clock() + FRESH_S
            return self._keep(key, self._stale(key, self._away))
        except _TooLongError:
            return self._keep(
                key,
                Said(
                    trouble=f"The aggregator's answer is longer than {MOST_BYTES >> 20} MB, and is not shown."
                ),
            )
        return self._keep(key, self._understand(kind, key, status, content))

    def _understand(self, kind: type[T], key: str, status: int, content: bytes) -> Said[T]:
        if status == httpx.codes.NOT_FOUND:
            return Said(trouble=f"The aggregator says: {_words(status, content)}", is_missing=True)
        if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            words = f"The aggregator refuses the fleet's token (token_file in [aggregator] of fleet.toml): {_words(status, content)}"
            return Said(trouble=words)
        if status != httpx.codes.OK:
            return self._stale(key, f"The aggregator answered {status}: {_words(status, content)}")
        try:
            return Said(what=msgspec.json.decode(content, type=kind), at=self._now())
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            words = (
                f"The aggregator's answer is no {kind.__name__}: {_first_line(error)}; is it another version?"
            )
            return Said(trouble=words)

    def _stale(self, key: str, trouble: str) -> Said[Any]:
        """What it said last at this address, if it is still kept, with the words beside it."""
        kept = self._kept.get(key)
        return Said(trouble=trouble) if kept is None else replace(kept.said, trouble=trouble)

    def _keep(self, key: str, said: Said[T]) -> Said[T]:
        self._kept.pop(key, None)
        self._kept[key] = _Kept(said, self._clock() + FRESH_S)
        while len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        return said


class _TooLongError(Exception):
    """More bytes than are read."""


async def _read(http: httpx.AsyncClient, key: str) -> tuple[int, bytes]:
    content = bytearray()
    async with http.stream("GET", key) as answer:
        async for chunk in answer.aiter_bytes():
            content += chunk
            if len(content) > MOST_BYTES:
                raise _TooLongError
    return answer.status_code, bytes(content)


def _words(status: int, content: bytes) -> str:
    return refusal_words(httpx.Response(status, content=content))


def _first_line(error: Exception) -> str:
    return printable(str(error).split("\n", 1)[0][:200]) or type(error).__name__


def open_aggregator(settings: AggregatorSettings | None) -> AggregatorClient:
    """A client as the settings say; raises SettingsError for a CA or token that cannot be used."""
    if settings is None:
        return AggregatorClient(None)
    token = TokenFile(settings.token_file, "aggregator.token_file")
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"aggregator.ca_file {settings.ca_file} holds no usable CA: {printable(str(error))}"
        ) from None
    limits = httpx.Limits(max_connections=4, max_keepalive_connections=2)
    return AggregatorClient(
        httpx.AsyncClient(
            base_url=settings.url, verify=context, timeout=PATIENCE_S, auth=token, limits=limits
        )
    )
