"""Reads ``GET /v1/events`` as changes, across connections: who is cut off comes back and goes on where it was.

Source: WHATWG HTML, section 9.2, "Server-sent events".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import httpx
import msgspec

from fleet.changes.change import Change, ChangeKind
from service.client import LATER, refusal_words
from service.errors import ClientError

__all__ = ["read_events"]

SILENCE_S: Final = 40.0
"""The service says something every fifteen seconds."""

LONGEST_LINE: Final = 1_000_000

ATTEMPTS: Final = 10
"""Connections in a row that told nothing, before we give up."""


def read_events(
    http: httpx.Client, *, kinds: str, name: str | None, sleep: Callable[[float], None]
) -> Iterator[Change]:
    """Changes of these `kinds` (with commas; of one rollout or device where `name` is given), as they happen, without end.

    The first one is of kind SKIPPED: from here on nothing is missed, so what was before is to be read now.

    Raises:
        ClientError: the service refuses, or does not answer again and again.
    """
    place, failed = "", 0
    yield Change(kind=ChangeKind.SKIPPED, at=0.0)
    query = {"kinds": kinds} | ({} if name is None else {"name": name})
    while True:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": place} if place else {})
        why = "the fleet ends every connection to /v1/events at once; is it the fleet?"
        try:
            with http.stream("GET", "/v1/events", params=query, headers=headers, timeout=SILENCE_S) as answer:
                if not answer.is_success:
                    answer.read()
                    why = f"the fleet refused GET /v1/events ({answer.status_code}): {refusal_words(answer)}"
                    if answer.status_code not in LATER:
                        raise ClientError(why)
                for line in answer.iter_lines() if answer.is_success else ():
                    field, _, value = line[:LONGEST_LINE].partition(": ")
                    if field == "id":
                        place, failed = value, 0
                    elif field == "data" and (change := _read(value)).kind is not ChangeKind.END:
                        yield change
        except httpx.HTTPError as error:
            why = f"no answer from the fleet at {http.base_url}: {error}; is it running?"
        failed += 1
        if failed > ATTEMPTS:
            raise ClientError(why)
        sleep(min(failed, 5.0))


def _read(data: str) -> Change:
    try:
        return msgspec.json.decode(data, type=Change)
    except msgspec.MsgspecError as error:
        raise ClientError(f"the fleet's event is malformed: {error}; is it another version?") from None
