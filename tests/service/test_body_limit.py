"""Request bodies are bounded in bytes and time: who sends too much, or a byte now and then, is answered and gone."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from service.body_limit import BODY_TIME_S, STALL_S, BodyLimit

UPLOAD = "/v1/releases"


async def drip() -> Message:
    """A part of a body every 10 ms, without end."""
    await asyncio.sleep(0.01)
    return {"type": "http.request", "body": b"x", "more_body": True}


async def read_all(_scope: Scope, receive: Receive, _send: Send) -> None:
    while (await receive()).get("more_body"):
        pass


def run(path: str, receive: Receive, length: str | None = None, **limits: Any) -> list[Message]:
    """Send a request for `path` through the limits; what was answered."""
    answered: list[Message] = []

    async def send(message: Message) -> None:
        answered.append(message)

    headers = [] if length is None else [(b"content-length", length.encode())]
    limited = BodyLimit(read_all, uploads=frozenset({UPLOAD}), **({"maximum_bytes": 1000} | limits))
    asyncio.run(limited({"type": "http", "path": path, "headers": headers}, receive, send))
    return answered


def test_a_body_that_drips_is_ended_although_each_part_comes_soon() -> None:
    with pytest.raises(HTTPException, match="in time") as caught:
        run("/v1/enrolments", drip, body_time_s=0.1)
    assert caught.value.status_code == 408


def test_an_upload_may_take_long_but_not_stall() -> None:
    parts = 0

    async def then_stall() -> Message:
        nonlocal parts
        parts += 1
        if parts <= 5:
            return {
                "type": "http.request",
                "body": b"x",
                "more_body": True,
            }  # at once, however slow the machine
        return await asyncio.sleep(3600, {})

    with pytest.raises(HTTPException, match="in time"):
        run(UPLOAD, then_stall, body_time_s=0.0, stall_s=0.1)
    assert parts == 6


async def nothing_is_read() -> Message:
    pytest.fail("the body was read")


@pytest.mark.parametrize("length", ["1001", "9" * 5000, "-1", "ten", "1e3"])
def test_a_body_that_says_it_is_too_long_is_refused_unread(length: str) -> None:
    start, body = run("/v1/enrolments", nothing_is_read, length)
    assert start["status"] == 413
    assert json.loads(body["body"])["detail"] == "the body may have at most 1000 bytes"


def test_a_body_that_does_not_say_how_long_it_is_is_counted_as_it_comes() -> None:
    sent = 0

    async def hundred_bytes() -> Message:
        nonlocal sent
        sent += 100
        return {"type": "http.request", "body": b"x" * 100, "more_body": sent < 10_000}

    with pytest.raises(HTTPException, match="at most 1000 bytes"):
        run("/v1/enrolments", hundred_bytes)
    assert sent == 1100
    sent = 0
    assert run(UPLOAD, hundred_bytes) == []
    assert sent == 10_000


def test_a_body_of_exactly_the_limit_passes() -> None:
    async def whole() -> Message:
        return {"type": "http.request", "body": b"x" * 1000}

    assert run("/v1/enrolments", whole, "1000") == []


def test_nobody_holds_a_connection_longer_than_twenty_seconds_for_a_body_or_a_part_of_an_upload() -> None:
    # At 256 KB that is a modem; more would let a stranger hold connections open.
    assert (BODY_TIME_S, STALL_S) == (20.0, 20.0)


@pytest.mark.parametrize("ends", [{}, {"more_body": False}])
def test_a_client_that_waits_for_its_answer_may_take_longer_than_a_body(ends: dict[str, bool]) -> None:
    parts = iter([{"type": "http.request", "body": b"x", **ends}])

    async def then_wait() -> Message:
        for part in parts:
            return part
        await asyncio.sleep(0.2)
        return {"type": "http.disconnect"}

    async def waits_for_the_disconnect(_scope: Scope, receive: Receive, _send: Send) -> None:
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"

    limited = BodyLimit(waits_for_the_disconnect, maximum_bytes=10, body_time_s=0.1)

    async def send(_message: Message) -> None:
        pytest.fail("nothing is answered")

    asyncio.run(limited({"type": "http", "path": "/", "headers": []}, then_wait, send))


def test_an_upload_whose_parts_keep_coming_is_let_through() -> None:
    parts = iter(range(5))

    async def soon() -> Message:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"x", "more_body": next(parts) < 4}

    assert run(UPLOAD, soon, body_time_s=0.0, stall_s=60.0) == []
    assert next(parts, None) is None
