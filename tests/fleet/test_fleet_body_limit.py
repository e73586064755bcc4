"""Request bodies are bounded in time: who sends a byte now and then is answered and gone."""

from __future__ import annotations

import asyncio

import pytest
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from fleet.api import body_limit
from fleet.api.body_limit import BodyLimit


async def drip() -> Message:
    """A part of a body every 10 ms, without end."""
    await asyncio.sleep(0.01)
    return {"type": "http.request", "body": b"x", "more_body": True}


async def read_all(_scope: Scope, receive: Receive, _send: Send) -> None:
    while (await receive()).get("more_body"):
        pass


async def send(_message: Message) -> None:
    """Nobody listens."""


def run(path: str, receive: Receive) -> None:
    asyncio.run(BodyLimit(read_all)({"type": "http", "path": path}, receive, send))


def test_a_body_that_drips_is_ended_although_each_part_comes_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "BODY_TIME_S", 0.1)
    with pytest.raises(HTTPException, match="in time") as caught:
        run("/v1/enrolments", drip)
    assert caught.value.status_code == 408


def test_an_upload_may_take_long_but_not_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "BODY_TIME_S", 0.02)
    monkeypatch.setattr(body_limit, "STALL_S", 0.2)
    parts = 0

    async def then_stall() -> Message:
        nonlocal parts
        parts += 1
        return await drip() if parts <= 5 else await asyncio.sleep(60, {})

    with pytest.raises(HTTPException, match="in time"):
        run("/v1/releases", then_stall)
    assert parts == 6
