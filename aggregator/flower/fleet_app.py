"""What a device reaches: five paths of Flower's Fleet API, ``/v1/fleet/*``, and nothing else.

::

    TLS ─► head ─► `door`: who? ─► path: how much may come? ─► body, in time ─► SHA-256 as signed ─► fields counted ─► protobuf
           └── 401 to strangers       └── 404, 411, 413, 415      └── 408           └── 401            └── 400

Of Flower it has the messages, and the nodes and runs of its database; not its app, its protobuf requests and its authentication,
which reads and parses a body before it asks who sends it. No Control API (it starts runs with uploaded code), no Runtime API (it
hands out task tokens): this app cannot be asked for them because it does not have them.

``pull-messages`` is held until a question for that node exists, at most `hold_s`: devices hear at once and twelve of
them cost twelve requests a second instead of 120.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

import structlog
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from aggregator.flower import flower_internals
from aggregator.flower.door import Door, RefusalError, StrangerError, Visitor, target_of
from aggregator.flower.message_store import MessageStore
from aggregator.flower.notifier import Notifier
from protocol.errors import MessageError
from protocol.signed_requests import ANSWER_HEADER
from protocol.wire_bounds import check_wire
from service.https_server import transfer_time_s

__all__ = ["FleetApp"]

PREFIX: Final = "/v1/fleet/"

HEARTBEAT_S: Final = 10.0
"""The shortest Flower allows: who is silent for twice this is given up."""

REQUESTS_AT_ONCE: Final = 4
"""Of one device: a pull, a heartbeat, an answer, and one whose connection broke."""

ANSWERS_AT_ONCE: Final = 2
"""Of one device, each as large as its question needs: one, and one whose connection broke unnoticed."""

_log = structlog.get_logger()


class FleetApp:
    """The ASGI app.

    Args:
        door: knows who is there.
        state: Flower's, over the one database.
        notifier: told when questions and answers are stored.
        messages: open questions and their replies.
        hold_s: longest time a pull is held open; well under a device's read timeout.
    """

    def __init__(
        self,
        door: Door,
        state: flower_internals.LinkState,
        notifier: Notifier,
        messages: MessageStore,
        *,
        hold_s: float,
    ) -> None:
        self._door, self._state, self._notifier, self._messages = door, state, notifier, messages
        self._hold_s = hold_s
        self._open: Counter[str] = Counter()
        # Nearly every call writes, and SQLite has one writer: threads that meet at its lock sleep and try again,
        # up to 0.1 s at a time. One after the other none of them sleeps.
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        try:
            visitor = self._door.know(scope)
        except StrangerError as error:
            await Response(f"{error}", HTTPStatus.UNAUTHORIZED, {"connection": "close"})(scope, receive, send)
            return
        device = visitor.member.device
        try:
            with self._one_more(device, REQUESTS_AT_ONCE):
                status, body = HTTPStatus.OK, await self._answer(visitor, scope, receive)
        except RefusalError as refusal:
            status, body = refusal.status, refusal.body
            if not refusal.is_step:
                _log.info(
                    "request_refused", device=device, path=scope["path"][:80], reason=str(refusal)[:200]
                )
        signature = self._door.signature(visitor, status, body)
        await Response(body, status, {ANSWER_HEADER: signature})(scope, receive, send)

    @contextmanager
    def _one_more(self, who: str, most: int) -> Iterator[None]:
        """Count one more of `who`; raises RefusalError where there are too many."""
        if self._open[who] >= most:
            raise RefusalError(HTTPStatus.TOO_MANY_REQUESTS, "the device has too many requests open; wait")
        self._open[who] += 1
        try:
            yield
        finally:
            self._open[who] -= 1
            if not self._open[who]:
                del self._open[who]

    async def _answer(self, visitor: Visitor, scope: Scope, receive: Receive) -> bytes:
        self._door.admit(visitor, scope)
        node_id, path = visitor.member.node_id, target_of(scope)
        action = path.removeprefix(PREFIX) if scope["method"] == "POST" and path.startswith(PREFIX) else ""
        if action == "push-messages":
            with self._one_more(f"{visitor.member.device} answers", ANSWERS_AT_ONCE):
                content = await _body(visitor, receive, self._messages.largest_reply(node_id))
                return self._take_reply(node_id, content)
        if action not in {"activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages"}:
            raise RefusalError(
                HTTPStatus.NOT_FOUND, "there is nothing here but the paths of Flower's Fleet API"
            )
        await _body(visitor, receive, 0)
        if action == "pull-messages":
            return await self._give_question(node_id, receive)
        return await self._mark(action, node_id)

    async def _mark(self, action: str, node_id: int) -> bytes:
        """Say to Flower's database that a node is there, or leaves."""
        async with self._turn:
            match action:
                case "activate-node":
                    # A learner that was killed is online for Flower until its heartbeat is overdue, and would be refused.
                    # The signature proves that this is the same device; its former self is gone.
                    await run_in_threadpool(self._state.deactivate_node, node_id)
                    self._notifier.dismiss(node_id)
                    is_known = await run_in_threadpool(self._state.activate_node, node_id, HEARTBEAT_S)
                case "send-node-heartbeat":
                    is_known = await run_in_threadpool(
                        self._state.acknowledge_node_heartbeat, node_id, HEARTBEAT_S
                    )
                case _:
                    await run_in_threadpool(self._state.deactivate_node, node_id)
                    is_known = True
        if not is_known:
            raise RefusalError(
                HTTPStatus.PRECONDITION_FAILED, "this aggregator does not know the device (yet)"
            )
        return b""

    async def _give_question(self, node_id: int, receive: Receive) -> bytes:
        asked = asyncio.ensure_future(self._notifier.wait_for_question(node_id, self._hold_s))
        gone = asyncio.ensure_future(_disconnect(receive))
        try:
            await asyncio.wait({asked, gone}, return_when=asyncio.FIRST_COMPLETED)
            # Taking a question marks it as delivered; nobody would hear it on a connection that is gone.
            may_pull = not gone.done() and asked.result()
        finally:
            asked.cancel()
            gone.cancel()
        question = self._messages.next_question(node_id) if may_pull else None
        return b"" if question is None else bytes(question.SerializeToString())

    def _take_reply(self, node_id: int, content: bytearray) -> bytes:
        try:
            check_wire(content, flower_internals.MessageProto)
            reply = flower_internals.MessageProto.FromString(bytes(content))
        except (MessageError, DecodeError) as error:
            raise RefusalError(HTTPStatus.BAD_REQUEST, f"not an answer: {error}"[:200]) from None
        if reply.metadata.src_node_id != node_id:
            raise RefusalError(HTTPStatus.FORBIDDEN, "a reply must come from the node that signs it")
        if not self._messages.accept_reply(node_id, reply, len(content)):
            raise RefusalError(
                HTTPStatus.GONE, "nobody waits for this answer any more: its question is closed"
            )
        self._notifier.notify_asker()
        return b""


async def _body(visitor: Visitor, receive: Receive, most: int) -> bytearray:
    """The body that the head has signed for, at most `most` bytes of it.

    Raises:
        RefusalError: it is longer, encoded, of unknown length, late, cut off, or another one.
    """
    headers = visitor.headers
    if headers.get("content-encoding", ["identity"]) != ["identity"]:
        raise RefusalError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a body is sent as it is, without an encoding")
    lengths = headers.get("content-length", ["0"])
    if "transfer-encoding" in headers or len(lengths) != 1 or not _is_length(lengths[0]):
        raise RefusalError(
            HTTPStatus.LENGTH_REQUIRED, "a request says in one Content-Length how long its body is"
        )
    length = int(lengths[0])
    if length > most:
        raise RefusalError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {most} bytes are expected of this device here, now"
        )
    content, is_whole, begun = bytearray(), False, asyncio.get_running_loop().time()
    try:
        while not is_whole:
            # By what has come and not by what was promised: whoever stalls is ended as soon, however long the body is.
            async with asyncio.timeout_at(begun + transfer_time_s(len(content))):
                message = await receive()
            if message["type"] != "http.request":
                raise RefusalError(HTTPStatus.BAD_REQUEST, "the body was cut off")
            content += message.get("body", b"")
            is_whole = not message.get("more_body", False)
    except TimeoutError:
        raise RefusalError(
            HTTPStatus.REQUEST_TIMEOUT, "the body did not arrive in time; send it again"
        ) from None
    if len(content) != length or hashlib.sha256(content).hexdigest() != visitor.request.claims.body_sha256:
        raise RefusalError(HTTPStatus.UNAUTHORIZED, "the body is not the one that the device has signed")
    return content


def _is_length(text: str) -> bool:
    # A number too long to be a length is not even parsed.
    return text.isascii() and text.isdecimal() and len(text) < 16


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
