"""Request bodies are bounded in bytes and time: who sends too much, or a byte now and then, is answered and gone."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from service.body_limit import BodyLimit
from service.https_server import transfer_time_s
from service.roles import Caller

UPLOAD = "/v1/releases"


async def drip() -> Message:
    """A part of a body every 10 ms, without end."""
    await asyncio.sleep(0.01)
    return {"type": "http.request", "body": b"x", "more_body": True}


async def read_all(_scope: Scope, receive: Receive, _send: Send) -> None:
    while (await receive()).get("more_body"):
        pass


def largest(_caller: Caller | None, method: str, path: str) -> int:
    return 20_000 if (method, path) == ("POST", UPLOAD) else 1000


def run(path: str, receive: Receive, length: str | None = None, **limits: Any) -> list[Message]:
    """Send a request for `path` through the limits; what was answered."""
    answered: list[Message] = []

    async def send(message: Message) -> None:
        answered.append(message)

    headers = [] if length is None else [(b"content-length", length.encode())]
    limited = BodyLimit(read_all, largest=largest, **limits)
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    asyncio.run(limited(scope, receive, send))
    return answered


def test_a_body_that_drips_is_ended_although_each_part_comes_soon() -> None:
    with pytest.raises(HTTPException, match="in time") as caught:
        run("/v1/enrolments", drip, time_s=lambda _taken: 0.1)
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
        run(UPLOAD, then_stall, time_s=lambda taken: 60.0 if taken < 5 else 0.1)
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


@pytest.mark.parametrize(("taken", "seconds"), [(0, 10), (256 * 1024, 27), (64 << 20, 4205)])
def test_a_body_may_take_as_long_as_it_takes_on_the_slowest_link(taken: int, seconds: int) -> None:
    assert transfer_time_s(taken) == pytest.approx(seconds, abs=1)


@pytest.mark.parametrize(
    "more", [[(b"content-length", b"5")], [(b"content-length", b"6")], [(b"transfer-encoding", b"chunked")]]
)
def test_a_body_whose_end_is_said_in_two_ways_is_refused_unread(more: list[tuple[bytes, bytes]]) -> None:
    answered: list[Message] = []

    async def send(message: Message) -> None:
        answered.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-length", b"5"), *more]}
    asyncio.run(BodyLimit(read_all, largest=largest)(scope, nothing_is_read, send))
    assert answered[0]["status"] == 400


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

    limited = BodyLimit(waits_for_the_disconnect, largest=largest, time_s=lambda _taken: 0.1)

    async def send(_message: Message) -> None:
        pytest.fail("nothing is answered")

    asyncio.run(limited({"type": "http", "method": "POST", "path": "/", "headers": []}, then_wait, send))
