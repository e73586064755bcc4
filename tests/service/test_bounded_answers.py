"""A server that was taken answers without end, by the dribble, or with a bomb: whoever asked goes on."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from itertools import repeat

import httpx
import pytest

from service.bounded_answers import bounded_request


def answering(answer: Callable[[httpx.Request], httpx.Response]) -> httpx.Client:
    return httpx.Client(base_url="https://fleet", transport=httpx.MockTransport(answer))


def ask(answer: Callable[[httpx.Request], httpx.Response], **options: float) -> httpx.Response:
    with answering(answer) as http:
        return bounded_request(http, "GET", "/v1/releases", most_bytes=1000, **options)  # type: ignore[arg-type] # numbers


class Stream(httpx.SyncByteStream):
    def __init__(self, parts: Iterator[bytes]) -> None:
        self.parts, self.taken = parts, 0

    def __iter__(self) -> Iterator[bytes]:
        for part in self.parts:
            self.taken += len(part)
            yield part


def test_an_answer_within_bounds_is_what_it_was() -> None:
    answer = ask(
        lambda request: httpx.Response(
            201, stream=Stream(iter([request.headers["accept-encoding"].encode()]))
        )
    )
    assert (answer.status_code, answer.content) == (201, b"identity")
    assert answer.request.url.path == "/v1/releases"


def test_an_answer_without_end_is_left() -> None:
    stream = Stream(repeat(b"x" * 100))
    with pytest.raises(httpx.ReadError, match="more than 1000 bytes"):
        ask(lambda _: httpx.Response(200, stream=stream))
    assert stream.taken <= 1100


def test_an_answer_that_dribbles_is_left() -> None:
    clock = iter(range(1000))
    with pytest.raises(httpx.ReadTimeout, match="after 60 s"):
        ask(
            lambda _: httpx.Response(200, stream=Stream(repeat(b"x"))),
            most_s=60,
            now=lambda: float(next(clock)),
        )  # type: ignore[arg-type] # a clock


def test_a_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(50_000_000))

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Stream(iter([bomb[:900]])), headers={"Content-Encoding": "gzip"})

    with pytest.raises(httpx.DecodingError, match="not asked for"):
        ask(answer)
