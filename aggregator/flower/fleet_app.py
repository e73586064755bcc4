"""What a device reaches: Flower's Fleet API, ``/v1/fleet/*``, and not one route more.

::

    TLS ─► body limit ─► error translation ─► protobuf ─► node signature ─► roster ─► held pull ─► Flower's own handlers

No Control API (it starts runs with uploaded code), no Runtime API (it hands out task tokens), no FAB: this app cannot be
asked for them because it does not have them. Four things are added to Flower's own checks:

* A key that is not in the roster (now) is refused, also where Flower still knows its node.
* A reply must come from the node that signs the request; Flower checks only that the node was asked.
* A device that was killed may activate again at once, and the objects of open questions come from memory (`shelf`).
* ``pull-messages`` is held until a question for that node exists, at most `hold_s`: devices hear at once and
  twelve of them cost twelve requests a second instead of 120. Stock SuperNodes only see a slow answer.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Awaitable, Callable
from typing import Protocol

from fastapi import FastAPI, HTTPException, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from aggregator.flower import upstream
from aggregator.flower.doorbell import Doorbell
from aggregator.flower.shelf import Shelf
from protocol.names import DeviceId

__all__ = ["KeyRing", "LinkStateFactory", "fleet_app"]

CallNext = Callable[[Request], Awaitable[Response]]


class LinkStateFactory(Protocol):
    """Flower's, over the one database."""

    def state(self) -> upstream.LinkState:
        """The one state."""


class KeyRing(Protocol):
    """Who is let in, by public key (`aggregator.flower.roster.Roster`)."""

    def device_of_key(self, public_key: bytes) -> DeviceId | None:
        """The device whose key this is, or None for a stranger."""


def fleet_app(
    linkstate_factory: LinkStateFactory,
    keys: KeyRing,
    doorbell: Doorbell,
    shelf: Shelf,
    *,
    maximum_request_bytes: int,
    hold_s: float,
) -> FastAPI:
    """Build the app.

    Args:
        linkstate_factory: Flower's, over the one database.
        keys: who is let in.
        doorbell: rung when questions and answers are stored.
        shelf: objects that are answered from memory.
        maximum_request_bytes: larger bodies are refused unread.
        hold_s: longest time a pull is held open; well under a client's read timeout (stock SuperNode: 30 s).
    """
    guard = _Guard(keys, doorbell, shelf, linkstate_factory.state(), hold_s)
    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        middleware=[
            Middleware(_BodyLimit, maximum_bytes=maximum_request_bytes),
            Middleware(BaseHTTPMiddleware, dispatch=upstream.http_error_translator),
            Middleware(upstream.ProtobufTranslationMiddleware),
            Middleware(upstream.NodeAuthMiddleware),
            Middleware(BaseHTTPMiddleware, dispatch=guard),
        ],
    )
    app.state.linkstate_factory = linkstate_factory
    app.state.enable_supernode_auth = True
    app.state.fleet_event_log_plugin = None
    app.state.artifact_provider = None
    app.state.superlink_lifespan = None
    app.include_router(upstream.fleet_router)
    return app


class _Guard:
    """Runs behind Flower's signature check: what it reads from the request is signed for."""

    def __init__(
        self, keys: KeyRing, doorbell: Doorbell, shelf: Shelf, state: upstream.LinkState, hold_s: float
    ) -> None:
        self._keys, self._doorbell, self._shelf, self._state = keys, doorbell, shelf, state
        self._hold_s = hold_s
        # Nearly every handler writes, and SQLite has one writer: threads that meet at its lock sleep and try again,
        # up to 0.1 s at a time. One after the other none of them sleeps.
        self._turn = asyncio.Lock()

    async def __call__(self, request: Request, call_next: CallNext) -> Response:
        message = getattr(request.state, "protobuf_request", None)
        if message is None:
            # Nothing of the Fleet API: the router answers 404, and Flower's check has not run for it.
            return await call_next(request)
        key = b64decode(request.headers[upstream.FLEET_HTTP_PUBLIC_KEY_HEADER])
        if self._keys.device_of_key(key) is None:
            raise HTTPException(status_code=401, detail="This device key is not in the aggregator's roster")
        if isinstance(message, upstream.PushMessagesRequest):
            if len(message.messages_list) != 1 or len(message.message_object_trees) != 1:
                raise HTTPException(
                    status_code=400, detail="A reply is exactly one message with its object tree"
                )
            if message.messages_list[0].metadata.src_node_id != message.node.node_id:
                raise HTTPException(status_code=403, detail="A reply must come from the node that signs it")
        if isinstance(message, upstream.PullObjectRequest):
            content = self._shelf.take(message.run_id, message.object_id)
            if content is not None:
                request.state.protobuf_response = upstream.PullObjectResponse(
                    object_found=True, object_available=True, object_content=content
                )
                return Response()  # Flower's translation layer makes the body from the state
        if isinstance(message, upstream.ActivateNodeRequest):
            # A learner that was killed is online for Flower until its heartbeat is overdue, and would be refused.
            # The signature proves that this is the same device; its former self is gone.
            node_id = await run_in_threadpool(self._sign_off, key)
            self._doorbell.dismiss(node_id)
        if isinstance(message, upstream.PullMessagesRequest):
            may_pull = await self._doorbell.wait_for_question(message.node.node_id, self._hold_s)
            if not may_pull or await request.is_disconnected():
                # Pulling marks a question as delivered; nobody would hear it here.
                request.state.protobuf_response = upstream.PullMessagesResponse()
                return Response()
        async with self._turn:
            response = await call_next(request)
        if isinstance(message, upstream.PushMessagesRequest | upstream.PushObjectRequest):
            self._doorbell.ring_asker()
        return response

    def _sign_off(self, key: bytes) -> int:
        node_id = self._state.get_node_id_by_public_key(key) or 0
        self._state.deactivate_node(node_id)
        return node_id


class _BodyLimit:
    """Refuses bodies that are too large or of unknown length before a byte of them is read."""

    def __init__(self, app: ASGIApp, maximum_bytes: int) -> None:
        self._app, self._maximum_bytes = app, maximum_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            declared = dict(scope["headers"]).get(b"content-length", b"")
            if not declared.isdigit() or int(declared) > self._maximum_bytes:
                await Response(status_code=413)(scope, receive, send)
                return
        await self._app(scope, receive, send)
