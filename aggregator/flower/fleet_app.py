"""What a device reaches: Flower's Fleet API, ``/v1/fleet/*``, and not one route more.

::

    TLS ─► error translation ─► body limit ─► protobuf ─► node signature ─► roster ─┬─► messages, objects: `message_store`
                                                                                    └─► the rest: Flower's own handlers

No Control API (it starts runs with uploaded code), no Runtime API (it hands out task tokens), no FAB: this app cannot be
asked for them because it does not have them. Four things are added to Flower's own checks:

* A key that is not in the roster (now) is refused, also where Flower still knows its node.
* A reply must come from the node that signs the request; Flower checks only that the node was asked.
* A device that was killed may activate again at once, and messages come from memory, not from Flower's database (`message_store`).
* ``pull-messages`` is held until a question for that node exists, at most `hold_s`: devices hear at once and
  twelve of them cost twelve requests a second instead of 120. Stock SuperNodes only see a slow answer.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import FastAPI, HTTPException, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware

from aggregator.flower import flower_internals
from aggregator.flower.message_store import MessageStore
from aggregator.flower.notifier import Notifier
from aggregator.flower.roster import Roster
from protocol.questions import WHOLE_MESSAGES_HEADER
from service.body_limit import BodyLimit

__all__ = ["fleet_app"]

BODY_TIME_S: Final = 120.0
"""How long a whole body may take: 4 MB, an update of a million parameters, at 300 kbit/s."""

CallNext = Callable[[Request], Awaitable[Response]]


def fleet_app(
    linkstate_factory: flower_internals.LinkStateFactory,
    keys: Roster,
    notifier: Notifier,
    messages: MessageStore,
    *,
    maximum_request_bytes: int,
    hold_s: float,
) -> FastAPI:
    """Build the app.

    Args:
        linkstate_factory: Flower's, over the one database.
        keys: who is let in.
        notifier: told when questions and answers are stored.
        messages: open questions and their replies.
        maximum_request_bytes: larger bodies are refused unread.
        hold_s: longest time a pull is held open; well under a client's read timeout (stock SuperNode: 30 s).
    """
    guard = _Guard(keys, notifier, messages, linkstate_factory.state(), hold_s)
    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        middleware=[
            Middleware(BaseHTTPMiddleware, dispatch=flower_internals.http_error_translator),
            Middleware(
                ExceptionMiddleware
            ),  # the body limit's refusals are Starlette's, which Flower does not know
            Middleware(BodyLimit, maximum_bytes=maximum_request_bytes, body_time_s=BODY_TIME_S),
            Middleware(flower_internals.ProtobufTranslationMiddleware),
            Middleware(flower_internals.NodeAuthMiddleware),
            Middleware(BaseHTTPMiddleware, dispatch=guard),
        ],
    )
    app.state.linkstate_factory = linkstate_factory
    app.state.enable_supernode_auth = True
    app.state.fleet_event_log_plugin = None
    app.state.artifact_provider = None
    app.state.superlink_lifespan = None
    app.include_router(flower_internals.fleet_router)
    return app


class _Guard:
    """Runs behind Flower's signature check: what it reads from the request is signed for."""

    def __init__(
        self,
        keys: Roster,
        notifier: Notifier,
        messages: MessageStore,
        state: flower_internals.LinkState,
        hold_s: float,
    ) -> None:
        self._keys, self._notifier, self._messages, self._state = keys, notifier, messages, state
        self._hold_s = hold_s
        # Nearly every handler writes, and SQLite has one writer: threads that meet at its lock sleep and try again,
        # up to 0.1 s at a time. One after the other none of them sleeps.
        self._turn = asyncio.Lock()

    async def __call__(self, request: Request, call_next: CallNext) -> Response:
        message = getattr(request.state, "protobuf_request", None)
        if message is None:
            # Nothing of the Fleet API: the router answers 404, and Flower's check has not run for it.
            return await call_next(request)
        key = b64decode(request.headers[flower_internals.FLEET_HTTP_PUBLIC_KEY_HEADER])
        if self._keys.device_of_key(key) is None:
            raise HTTPException(status_code=401, detail="This device key is not in the aggregator's roster")
        if isinstance(message, flower_internals.ActivateNodeRequest):
            # A learner that was killed is online for Flower until its heartbeat is overdue, and would be refused.
            # The signature proves that this is the same device; its former self is gone.
            node_id = await run_in_threadpool(self._sign_off, key)
            self._notifier.dismiss(node_id)
        response = await self._from_message_store(request, message)
        if response is None:
            async with self._turn:
                return await call_next(request)
        request.state.protobuf_response = response
        return Response()  # Flower's translation layer makes the body from the state

    async def _from_message_store(self, request: Request, message: object) -> object | None:
        """What is answered to a request about messages; None for every other request."""
        match message:
            case flower_internals.PullMessagesRequest():
                return await self._give_question(request, message.node.node_id)
            case flower_internals.PullObjectRequest():
                content = self._messages.take_object(message.run_id, message.object_id)
                is_there = content is not None
                return flower_internals.PullObjectResponse(
                    object_found=is_there, object_available=is_there, object_content=content or b""
                )
            case flower_internals.PushMessagesRequest():
                return self._take_reply(message)
            case flower_internals.PushObjectRequest():
                is_stored = self._messages.accept_object(
                    message.node.node_id, message.session_id, message.object_id, message.object_content
                )
                self._notifier.notify_asker()
                return flower_internals.PushObjectResponse(stored=is_stored)
            case flower_internals.ConfirmMessageReceivedRequest():
                return flower_internals.ConfirmMessageReceivedResponse()
            case _:
                return None

    async def _give_question(self, request: Request, node_id: int) -> object:
        may_pull = await self._notifier.wait_for_question(node_id, self._hold_s)
        if not may_pull or await request.is_disconnected():
            # Pulling marks a question as delivered; nobody would hear it here.
            return flower_internals.PullMessagesResponse()
        return self._messages.next_question(node_id, is_whole=WHOLE_MESSAGES_HEADER in request.headers)

    def _take_reply(self, message: flower_internals.PushMessagesRequest) -> object:
        if len(message.messages_list) != 1 or len(message.message_object_trees) > 1:
            raise HTTPException(
                status_code=400, detail="A reply is exactly one message, whole or with its object tree"
            )
        stub, node_id = message.messages_list[0], message.node.node_id
        if stub.metadata.src_node_id != node_id:
            raise HTTPException(status_code=403, detail="A reply must come from the node that signs it")
        response = self._messages.accept_reply(
            node_id, stub, message.message_object_trees, message.ByteSize()
        )
        self._notifier.notify_asker()
        return response

    def _sign_off(self, key: bytes) -> int:
        node_id = self._state.get_node_id_by_public_key(key) or 0
        self._state.deactivate_node(node_id)
        return node_id
