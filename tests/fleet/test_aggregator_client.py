"""The aggregator as the fleet asks it, and every way in which it may not answer: words, soon, and what it said before."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trustme
from secret_file import secret_file

from fleet import aggregator_client
from fleet.aggregator_answers import DevicePrivacy, RunPage
from fleet.aggregator_client import NOT_CONFIGURED, AggregatorClient, open_aggregator
from fleet.settings import AggregatorSettings
from runtime.errors import SettingsError

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
PAGE = json.dumps(
    {"items": [{"id": "run-1", "family": "pump", "state": "ROUND", "new": 1}], "next_cursor": None}
)


def told(body: str, status: str = "200 OK") -> Answer:
    async def answer(_head: bytes, out: asyncio.StreamWriter) -> None:
        out.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body.encode())}\r\n\r\n{body}".encode())

    return answer


async def silence(_head: bytes, _out: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def dripping_head(_head: bytes, out: asyncio.StreamWriter) -> None:
    out.write(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        out.write(b"x")
        await out.drain()
        await asyncio.sleep(0.02)


async def dripping_body(_head: bytes, out: asyncio.StreamWriter) -> None:
    out.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        out.write(b" ")
        await out.drain()
        await asyncio.sleep(0.02)


async def hanging_up(_head: bytes, out: asyncio.StreamWriter) -> None:
    out.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")


class Place:
    """A server that answers as it is told; `heads` are what it was asked, `clock` the client's."""

    def __init__(self, url: str) -> None:
        self.url, self.heads, self.clock = url, list[bytes](), 0.0
        self.answer: Answer = told(PAGE)
        self.client = AggregatorClient(
            httpx.AsyncClient(base_url=url, timeout=30), now=lambda: 50.0, clock=lambda: self.clock
        )

    async def page(self, **query: str | int | None) -> aggregator_client.Said[RunPage]:
        return await self.client.get(RunPage, "training-runs", **query)


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    async def serve(reader: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        found.heads.append(await reader.readuntil(b"\r\n\r\n"))
        try:
            await found.answer(found.heads[-1], out)
            await out.drain()
        except ConnectionError:
            pass
        finally:
            out.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    found = Place(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield found
    finally:
        await found.client.close()
        server.close()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (silence, "not reachable: no answer within"),
        (dripping_head, "not reachable: no answer within"),
        (dripping_body, "not reachable: no answer within"),
        (hanging_up, "not reachable: "),
        (told("x" * 70_000), "is no RunPage"),
        (told('{"items": 7}'), "is no RunPage"),
        (told('{"items": [{"id": "a", "family": "b"}]}'), "is no RunPage"),
        (told("[" * 20_000), "is no RunPage"),
        (told('{"detail": "a\\nb\\u001b[31m"}', "500 No"), "answered 500: a\\nb\\x1b[31m"),
        (told('{"detail": "expired"}', "401 No"), "refuses the fleet's token"),
        (told('{"detail": "no such run"}', "404 No"), "no such run"),
        (told("", "302 Found\r\nLocation: http://127.0.0.1:1/"), "answered 302"),
    ],
)
def test_whatever_it_does_the_page_has_words_and_does_not_wait(
    answer: Answer, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aggregator_client, "PATIENCE_S", 0.3)

    async def ask() -> aggregator_client.Said[RunPage]:
        async with place() as site:
            site.answer = answer
            return await site.page()

    said = asyncio.run(ask())
    assert (said.what, words in said.trouble) == (None, True), said.trouble
    assert said.trouble.isprintable()


def test_an_answer_without_an_end_is_not_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregator_client, "MOST_BYTES", 1 << 20)
    sent = 0

    async def endless(_head: bytes, out: asyncio.StreamWriter) -> None:
        nonlocal sent
        out.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            out.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
            await out.drain()
            sent += 65536

    async def ask() -> str:
        async with place() as site:
            site.answer = endless
            return (await site.page()).trouble

    assert "longer than 1 MB" in asyncio.run(ask())
    assert sent < 32 << 20


def test_fifty_pages_at_once_are_one_question_and_the_next_seconds_none() -> None:
    async def ask() -> None:
        async with place() as site:
            pages = await asyncio.gather(*(site.page() for _ in range(50)))
            assert {page.what and page.what.items[0].id for page in pages} == {"run-1"}
            site.clock += aggregator_client.FRESH_S - 0.1
            assert (await site.page()).at == 50.0
            assert len(site.heads) == 1
            site.clock += 0.2
            await site.page()
            await site.page(family="pump")
            assert len(site.heads) == 3

    asyncio.run(ask())


def test_who_leaves_the_page_does_not_end_the_question_of_the_others() -> None:
    async def ask() -> None:
        async with place() as site:
            first = asyncio.create_task(site.page())
            second = asyncio.create_task(site.page())
            await asyncio.sleep(0)
            first.cancel()
            assert (await second).what is not None

    asyncio.run(ask())


def test_an_aggregator_that_fell_silent_is_not_asked_by_every_page_and_what_it_said_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(aggregator_client, "PATIENCE_S", 0.2)

    async def ask() -> None:
        async with place() as site:
            await site.page()
            site.answer = silence
            site.clock += aggregator_client.FRESH_S + 1
            stale = await site.page()
            assert (stale.what is not None, stale.at, "not reachable" in stale.trouble) == (True, 50.0, True)
            for number in range(20):
                away = await site.page(family=f"f{number}")
                assert (away.what, "not reachable" in away.trouble) == (None, True)
            assert len(site.heads) == 2
            site.answer = told(PAGE)
            site.clock += aggregator_client.FRESH_S + 1
            back = await site.page()
            assert (back.trouble, back.what is not None) == ("", True)

    asyncio.run(ask())


def test_any_name_is_asked_for_at_its_own_address() -> None:
    async def ask() -> None:
        async with place() as site:
            site.answer = told('{"device": "x"}')
            for name in ("..", "a/../b", "?x=1", "#", "a b\r\nX: y", "press-7.2"):
                await site.client.get(DevicePrivacy, "privacy", "devices", name)
            assert [head.split(b" ")[1] for head in site.heads] == [
                b"/v1/privacy/devices/%2E%2E",
                b"/v1/privacy/devices/a%2F%2E%2E%2Fb",
                b"/v1/privacy/devices/%3Fx%3D1",
                b"/v1/privacy/devices/%23",
                b"/v1/privacy/devices/a%20b%0D%0AX%3A%20y",
                b"/v1/privacy/devices/press-7%2E2",
            ]

    asyncio.run(ask())


def test_what_is_kept_is_bounded() -> None:
    async def ask() -> None:
        async with place() as site:
            for number in range(aggregator_client.MOST_KEPT + 20):
                await site.page(family=str(number))
            assert len(site.client._kept) == aggregator_client.MOST_KEPT

    asyncio.run(ask())


def test_a_fleet_without_an_aggregator_says_how_to_name_one() -> None:
    said = asyncio.run(AggregatorClient(None).get(RunPage, "training-runs"))
    assert said.trouble == NOT_CONFIGURED
    assert open_aggregator(None).is_configured is False


def test_files_of_the_aggregator_are_checked_before_anything_starts(tmp_path: Path) -> None:
    authority, token = tmp_path / "ca.pem", secret_file(tmp_path / "token", "ao_x\n")
    trustme.CA().cert_pem.write_to_path(authority)

    def settings(**changed: Path) -> AggregatorSettings:
        return AggregatorSettings(url="https://a", **{"ca_file": authority, "token_file": token} | changed)

    with pytest.raises(SettingsError, match=r"aggregator\.token_file"):
        open_aggregator(settings(token_file=tmp_path / "none"))
    for path in (tmp_path / "none", token):
        with pytest.raises(SettingsError, match=r"aggregator\.ca_file .* holds no usable CA"):
            open_aggregator(settings(ca_file=path))
    asyncio.run(open_aggregator(settings()).close())
