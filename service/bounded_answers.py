"""Asks a server that may have been taken: its answer ends, in bytes and in time, and is not unpacked.

httpx keeps whatever comes, for as long as something comes, and unpacks what calls itself compressed: an endless answer, one that
dribbles, and a few bytes that become gigabytes would each end whoever asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import httpx

__all__ = ["bounded_request"]

MOST_S: Final = 300.0
"""The largest bundle at 220 kB a second."""


def bounded_request(
    http: httpx.Client,
    method: str,
    path: str,
    *,
    most_bytes: int,
    most_s: float = MOST_S,
    now: Callable[[], float] = time.monotonic,
    **request: Any,
) -> httpx.Response:
    """Ask, and read at most `most_bytes` of the answer within `most_s` seconds.

    Raises:
        httpx.HTTPError: no connection, or an answer that is too long, takes too long, or is compressed.
    """
    headers = {"Accept-Encoding": "identity"} | request.pop("headers", {})
    until = now() + most_s
    with http.stream(method, path, headers=headers, **request) as answer:
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise httpx.DecodingError("the answer is compressed, which was not asked for")
        body = bytearray()
        for part in answer.iter_raw():
            body += part
            if len(body) > most_bytes:
                raise httpx.ReadError(f"the answer has more than {most_bytes} bytes")
            if now() > until:
                raise httpx.ReadTimeout(f"the answer was not there after {most_s:.0f} s")
    return httpx.Response(
        answer.status_code, headers=answer.headers, content=bytes(body), request=answer.request
    )
