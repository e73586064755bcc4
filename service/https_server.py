"""The HTTPS server of the cloud services: uvicorn, with an end to everything that a caller could draw out.

::

    accept ─► TLS handshake ─► head of a request ─► body ─► answer ─► next head, or the end
      book      HANDSHAKE_S        HEAD_S, HEAD_BYTES  (the app)   by its size     keep-alive

uvicorn waits without end for the head of a first request, for the rest of a body once it has been refused, and for a
caller who does not read. Nothing here waits longer than a caller at `SLOWEST_BYTES_PER_S` needs. The body's deadline is
the app's (`body_limit`), which knows what may come.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import h11
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.connections import BoundedListener, ConnectionBook
from service.served_certificate import LOOK_S, ServedCertificate

__all__ = ["SLOWEST_BYTES_PER_S", "HttpsServer", "transfer_time_s"]

SLOWEST_BYTES_PER_S: Final = 16_000
"""128 kbit/s: less than half of what a device on a link of 300 has. Strangers are not read at all."""

GRACE_S: Final = 10.0
"""For a body of no length: a modem's round trips, and a busy machine."""

HANDSHAKE_S: Final = 10.0
HEAD_S: Final = 10.0
HEAD_BYTES: Final = 16 * 1024
"""Ours have one kilobyte; a token or a cookie of somebody's proxy may be some more."""

LINGER_S: Final = 1.0
"""How long whoever is told that the connection ends may take to read why."""

KEEP_ALIVE_S: Final = 30
FLUSH_S: Final = 30.0
"""For what is left to send once a connection is closed: some 600 kB, which asyncio buffers without asking."""

PIECE_BYTES: Final = 64 * 1024

TLS_BYTES: Final = 16 * 1024
"""What asyncio reads of TLS at once, and keeps a buffer for as long as a connection is open: of its own accord 256 kB, for each page that
somebody looks at, and each device that waits. One record of TLS is as long."""

TICKS_OF_A_LOOK: Final = round(LOOK_S / 0.1)
"""uvicorn ticks ten times a second."""


def transfer_time_s(size: int) -> float:
    """How long `size` bytes may take on the slowest link."""
    return GRACE_S + size / SLOWEST_BYTES_PER_S


class HttpsServer(uvicorn.Server):
    """One ASGI app over TLS, on sockets that are bound already.

    The app finds the book of connections at ``scope["state"]["connections"]``. Signals are the caller's, who sets `should_exit`.

    Args:
        app: what answers.
        certificate: what is shown; None only on loopback, where nothing leaves the machine.
        book: who may hold a connection.
        has_lifespan: whether the app has a beginning and an end of its own.
        before_stop: called when it shall end, before it waits for the answers that are under way: ends those that have no end.
    """

    def __init__(
        self,
        app: ASGIApp,
        certificate: ServedCertificate | None,
        book: ConnectionBook,
        *,
        has_lifespan: bool = False,
        before_stop: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                _InPieces(app),
                # Not uvloop, which takes connections past the listener that counts them.
                loop="asyncio",
                log_config=None,
                access_log=False,
                ws="none",
                lifespan="on" if has_lifespan else "off",
                # There is no proxy before us: whoever sends X-Forwarded-For makes it up.
                proxy_headers=False,
                h11_max_incomplete_event_size=HEAD_BYTES,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=2,
                server_header=False,
            )
        )
        self._certificate, self._book = certificate, book
        self._before_stop = before_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, with deadlines for TLS and a book of connections."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            self.should_exit = True
            return
        tls: dict[str, Any] = {}
        if self._certificate is not None:
            tls = {
                "ssl": self._certificate.context,
                "ssl_handshake_timeout": HANDSHAKE_S,
                "ssl_shutdown_timeout": FLUSH_S,
            }
        # of the whole process: asyncio has no place to say it of one server
        asyncio.sslproto.SSLProtocol.max_size = TLS_BYTES
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(
                self._protocol,
                sock=BoundedListener(listener, self._book),
                backlog=self.config.backlog,
                **tls,
            )
            for listener in sockets or []
        ]
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, once whoever answers without end was told."""
        self._before_stop()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """As uvicorn's, and a look at the certificate's files now and then."""
        if self._certificate is not None and counter % TICKS_OF_A_LOOK == 0:
            self._certificate.look()
        return await super().on_tick(counter)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """No signal is ours; uvicorn would raise the ones it caught once more when it is done."""
        yield

    def _protocol(self) -> BoundedHttp:
        return BoundedHttp(
            config=self.config, server_state=self.server_state, app_state={"connections": self._book}
        )


class _InPieces:
    """Hands a long answer on in pieces: uvicorn waits for a slow reader between two writes, and never within one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_pieces(message: Message) -> None:
            body = memoryview(message.get("body", b""))
            while len(body) > PIECE_BYTES:
                await send(
                    {"type": "http.response.body", "body": bytes(body[:PIECE_BYTES]), "more_body": True}
                )
                body = body[PIECE_BYTES:]
            await send({**message, "body": bytes(body)} if "body" in message else message)

        await self._app(scope, receive, send_pieces)


class BoundedHttp(H11Protocol):
    """One connection."""

    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """TLS is up: a head must follow."""
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Hand bytes on, so few at a time that no head is longer than `HEAD_BYTES` twice."""
        while data and not self._is_refused and not self.transport.is_closing():
            step = HEAD_BYTES if self.conn.their_state is h11.IDLE else len(data)
            super().data_received(data[:step])
            data = data[step:]
        if self.transport.is_closing():
            self._end_soon()
        elif self.conn.their_state is h11.IDLE:
            self._expect_head()
        else:
            self._stop_timer("_head_timer")

    def on_response_complete(self) -> None:
        """Go on to the next request; or, where a body was refused, to the end."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._end_soon()
        elif self.conn.their_state is h11.SEND_BODY:
            # Unread: with every part of it that came the keep-alive would begin anew.
            self._is_refused = True
            self._unset_keepalive_if_required()
            self.flow.pause_reading()
            self._end_soon()
        elif self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            # Half of the next head came with the request before.
            self._expect_head()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP: say so, if nothing was said yet. Whatever answers at this moment has nobody to answer."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            super().send_400_response(msg)
        else:
            self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """The next request did not come; where the answer is still on its way nobody can have sent it."""
        if self.flow.write_paused:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        else:
            super().timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        """There is more to send than the road takes at once."""
        super().pause_writing()
        self._stop_timer("_write_timer")
        patience_s = transfer_time_s(self.transport.get_write_buffer_size())
        self._write_timer = self.loop.call_later(patience_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The other side reads."""
        self._stop_timer("_write_timer")
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._stop_timer("_head_timer")
        self._stop_timer("_write_timer")
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self.transport.abort)

    def _end_soon(self) -> None:
        """Whether or not the other side takes part in the end of TLS, for which asyncio would wait as long as for a flush."""
        self._stop_timer("_head_timer")
        left_s = self.transport.get_write_buffer_size() / SLOWEST_BYTES_PER_S
        self.loop.call_later(LINGER_S + left_s, self.transport.abort)

    def _stop_timer(self, name: str) -> None:
        timer: asyncio.TimerHandle | None = getattr(self, name)
        if timer is not None:
            timer.cancel()
        setattr(self, name, None)
