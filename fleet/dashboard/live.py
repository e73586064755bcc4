"""Pages that stay true while they are looked at: what changed on one is sent to all who have it open.

::

    ChangeHub ─► a desk for each session ─► its open pages that show this kind ─► the page is rendered again (`Renderer`) ─► regions
                                                                                                                whose HTML is another

Rendering is shared by everybody of one person who looks at the same page, and takes at most `SHARE` of a core in all: each is
followed by a pause in proportion to what it took. So a fleet in which a thousand things happen in a second costs no more than a
quiet one, and fifty open pages no more than that.

Source: WHATWG HTML, section 9.2, "Server-sent events".
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from hashlib import blake2b
from http import HTTPStatus
from typing import Annotated, Any, Final

import msgspec
import structlog
from fastapi import Query, Request
from fastapi.responses import StreamingResponse
from starlette.types import ASGIApp, Message

from fleet.changes.change import Change, ChangeKind
from fleet.changes.hub import ChangeHub, Listener
from fleet.errors import NotFoundError
from runtime.errors import FedgeError
from service.roles import Caller

__all__ = ["LivePages"]

SHARE: Final = 0.08
"""Of a core, for all that is rendered because something changed."""

LONGEST_PAUSE_S: Final = 2.0
"""A page that waited for somebody (the aggregator, a busy disk) took time and no processor: the others do not wait for it as long."""

EVERY_S: Final = 2.0
"""At most so often one page."""

ANYHOW_S: Final = 60.0
"""At least so often: "3 min ago" has become 4."""

HEARTBEAT_S: Final = 15.0
WAITING: Final = 4
"""Sets of regions that wait for a slow browser; one that does not read is ended, and comes back."""

_REGION: Final = re.compile(
    r'<(?P<tag>\w+) data-region="(?P<name>[\w-]+)"[^>]*>(?P<html>.*?)</(?P=tag)><!--/(?P=name)-->', re.DOTALL
)

_log = structlog.get_logger()

Regions = dict[str, str]


class Renderer:
    """Asks the pages for a page as a browser would, one at a time, and never for more than its share of the processor."""

    def __init__(self, pages: ASGIApp) -> None:
        self._pages = pages
        self._turn = asyncio.Lock()

    async def render(self, address: str, cookie: bytes, host: bytes) -> tuple[int, Regions, tuple[str, ...]]:
        """Status, regions, and after which changes the page wants to be rendered again."""
        path, _, query = address.partition("?")
        state: dict[str, Any] = {}
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "https",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(b"cookie", cookie), (b"host", host)],
            "client": None,
            "server": None,
            "state": state,
        }
        status, parts = 500, []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                parts.append(message.get("body", b""))

        loop = asyncio.get_running_loop()
        async with self._turn:
            begun = loop.time()
            await self._pages(scope, receive, send)
            took = loop.time() - begun
            await asyncio.sleep(min(took * (1 / SHARE - 1), LONGEST_PAUSE_S))
        html = b"".join(parts).decode()
        regions = {match["name"]: match["html"] for match in _REGION.finditer(html)}
        return status, regions, state.get("live", ())


class _OpenPage:
    """One address that somebody has open, perhaps in several windows."""

    def __init__(self, address: str, cookie: bytes, host: bytes) -> None:
        self.address, self.cookie, self.host = address, cookie, host
        self.windows: set[asyncio.Queue[Regions | None]] = set()
        self.newcomers: set[asyncio.Queue[Regions | None]] = set()
        self.wants: tuple[str, ...] = ()
        self.shown: dict[
            str, bytes
        ] = {}  # the digest of each region: what fifty pages look like is some megabytes
        self.changed = asyncio.Event()

    def join(self, window: asyncio.Queue[Regions | None]) -> None:
        """What a page looked like when its browser loaded it may be over by now: it is told everything once."""
        self.windows.add(window)
        self.newcomers.add(window)
        self.changed.set()

    def leave(self, window: asyncio.Queue[Regions | None]) -> None:
        self.windows.discard(window)
        self.newcomers.discard(window)

    def hear(self, change: Change) -> None:
        if any(_is_meant(wish, change) for wish in self.wants):
            self.changed.set()

    def end(self) -> None:
        """Have every window load the page anew."""
        self._tell(self.windows, None)

    def _tell(self, windows: set[asyncio.Queue[Regions | None]], regions: Regions | None) -> None:
        for window in list(windows):
            if window.full():
                self.windows.discard(window)
                with suppress(asyncio.QueueEmpty):
                    window.get_nowait()
                regions_or_end: Regions | None = None
            else:
                regions_or_end = regions
            window.put_nowait(regions_or_end)

    async def run(self, renderer: Renderer) -> None:
        """Keep it true until canceled; one that is left at once is not made a second time."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                async with asyncio.timeout(ANYHOW_S):
                    await self.changed.wait()
            except TimeoutError:
                pass
            self.changed.clear()
            await self.refresh(renderer)

    async def refresh(self, renderer: Renderer) -> None:
        """Render it again, and tell what is another."""
        status, regions, wants = await renderer.render(self.address, self.cookie, self.host)
        if (
            status != HTTPStatus.OK
        ):  # it is gone, or nobody may see it any more: the browser shall ask by itself
            self.end()
            return
        self.wants = wants
        shown = {name: blake2b(html.encode(), digest_size=16).digest() for name, html in regions.items()}
        changed = {name: regions[name] for name in shown if self.shown.get(name) != shown[name]}
        newcomers, self.newcomers, self.shown = self.newcomers, set(), shown
        if regions:
            self._tell(newcomers, regions)
        if changed:
            self._tell(self.windows - newcomers, changed)


class _Desk:
    """Everything that one session has open, behind one listener of the hub."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.pages: dict[str, tuple[_OpenPage, asyncio.Task[None]]] = {}
        self.ear: asyncio.Task[None] | None = None


class LivePages:
    """Sends what changed to whoever has a page open.

    Args:
        hub: says what changed.
        pages: where pages come from.
    """

    def __init__(self, hub: ChangeHub, pages: ASGIApp) -> None:
        self._hub = hub
        self._desks: dict[str, _Desk] = {}
        self._renderer = Renderer(pages)

    async def stream(
        self,
        request: Request,
        page: Annotated[str, Query(max_length=2000, pattern=r"^/[^\r\n]*$")],
    ) -> StreamingResponse:
        """``/live?page=ADDRESS``: its regions as they change, as server-sent events; `end` says that it must be loaded anew."""
        if page.startswith(("/live", "//")):
            raise NotFoundError("there is no such page to look at")
        session: str = request.state.session
        window: asyncio.Queue[Regions | None] = asyncio.Queue(WAITING)
        desk = await self._desk(session, request.state.caller)
        opened = self._open(desk, page, request)
        opened.join(window)
        return StreamingResponse(
            self._told(session, opened, window),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    async def _told(
        self, session: str, opened: _OpenPage, window: asyncio.Queue[Regions | None]
    ) -> AsyncIterator[bytes]:
        try:
            yield b"retry: 3000\n\n"
            while True:
                try:
                    async with asyncio.timeout(HEARTBEAT_S):
                        regions = await window.get()
                except TimeoutError:
                    yield b": here\n\n"
                    continue
                if regions is None:
                    yield _event("end", {})
                    return
                yield _event("regions", regions)
        finally:
            opened.leave(window)
            self._close(session, opened)

    async def _desk(self, session: str, caller: Caller) -> _Desk:
        desk = self._desks.get(session)
        if desk is None:
            listener, told = await self._hub.listen(session, caller, None)
            if (desk := self._desks.get(session)) is not None:  # another window was quicker
                self._hub.leave(listener)
                return desk
            desk = self._desks[session] = _Desk(listener)
            desk.ear = asyncio.create_task(self._hear(session, desk, told))
        return desk

    async def _hear(
        self, session: str, desk: _Desk, told: AsyncIterator[tuple[object, Change | None]]
    ) -> None:
        try:
            async for _, change in told:
                if change is None:
                    continue
                if change.kind is ChangeKind.END:
                    break
                for opened, _task in desk.pages.values():
                    opened.hear(change)
        finally:
            # the session is over, or the service: each window asks for its page anew, and is told there
            for opened, _task in list(desk.pages.values()):
                opened.end()
            self._hub.leave(desk.listener)
            if self._desks.get(session) is desk:
                del self._desks[session]
            for _opened, task in desk.pages.values():
                task.cancel()

    def _open(self, desk: _Desk, address: str, request: Request) -> _OpenPage:
        known = desk.pages.get(address)
        if known is not None:
            return known[0]
        cookie, host = (request.headers.get(name, "").encode("latin-1") for name in ("cookie", "host"))
        opened = _OpenPage(address, cookie, host)
        task = asyncio.create_task(self._keep(opened))
        desk.pages[address] = opened, task
        return opened

    async def _keep(self, opened: _OpenPage) -> None:
        try:
            await opened.run(self._renderer)
        except Exception as error:  # noqa: BLE001 - whatever it was, the browser asks for the page by itself
            if not isinstance(error, FedgeError):
                _log.error("live_page_failed", page=opened.address, error=repr(error), exc_info=True)
            opened.end()

    def _close(self, session: str, opened: _OpenPage) -> None:
        desk = self._desks.get(session)
        if desk is None or opened.windows:
            return
        entry = desk.pages.pop(opened.address, None)
        if entry is not None:
            entry[1].cancel()
        if not desk.pages and desk.ear is not None:
            desk.ear.cancel()


def _event(name: str, data: Regions) -> bytes:
    return f"event: {name}\ndata: {msgspec.json.encode(data).decode()}\n\n".encode()


def _is_meant(wish: str, change: Change) -> bool:
    """Whether a change is what a page asked for: ``anomaly``, or ``rollout:ro-1`` for those of that one.

    >>> _is_meant("rollout:a", Change(kind=ChangeKind.ROLLOUT, at=0, name="a")), _is_meant("drift", Change(kind=ChangeKind.END, at=0))
    (True, False)
    """
    kind, _, name = wish.partition(":")
    if change.kind is ChangeKind.SKIPPED:
        return kind == change.name
    return kind == change.kind and name in {"", change.name}
