"""Callers who draw everything out: half a handshake, half a head, half a body, nobody who reads. Real TLS, short deadlines."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path

import pytest
import trustme
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from waiting import AMPLE_S, wait_until

from service import https_server
from service.addresses import Endpoint
from service.connections import ConnectionBook
from service.https_server import HttpsServer, transfer_time_s
from service.listening import bind
from service.served_certificate import ServedCertificate

AT_ONCE = 30
CALLER = "x-caller"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers as many bytes as ``/<number>`` says; a body is read on ``/read``; a caller may say who it is."""
    request = Request(scope, receive)
    if (name := request.headers.get(CALLER)) is not None:
        book, peer = scope["state"]["connections"], scope["client"]
        if not book.know((peer[0], peer[1]), name, 2):
            await Response(status_code=429)(scope, receive, send)
            return
    if request.url.path == "/read":
        await Response(str(len(await request.body())))(scope, receive, send)
        return
    await Response(b"x" * int(request.url.path[1:]))(scope, receive, send)


@dataclass
class Site:
    """A running server."""

    port: int
    context: ssl.SSLContext
    book: ConnectionBook

    def plain(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def connect(self) -> ssl.SSLSocket:
        return self.context.wrap_socket(self.plain(), server_hostname="127.0.0.1")


@contextlib.contextmanager
def serving(folder: Path, book: ConnectionBook) -> Iterator[Site]:
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1")
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
    key.write_bytes(made.private_key_pem.bytes())
    listener = bind(Endpoint("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = HttpsServer(app, ServedCertificate(cert, key, time.time), book)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    wait_until(lambda: server.started, "the server")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    try:
        yield Site(port, context, book)
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("HANDSHAKE_S", "HEAD_S", "GRACE_S", "LINGER_S", "FLUSH_S"):
        monkeypatch.setattr(https_server, name, 0.4)
    with serving(tmp_path, ConnectionBook(of_address=AT_ONCE, of_strangers=2 * AT_ONCE)) as found:
        yield found


@pytest.fixture
def patient_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """One that ends nobody while others connect, however long that takes."""
    for name in ("HANDSHAKE_S", "HEAD_S"):
        monkeypatch.setattr(https_server, name, AMPLE_S)
    with serving(tmp_path, ConnectionBook(of_address=AT_ONCE, of_strangers=2 * AT_ONCE)) as found:
        yield found


def is_ended(connection: socket.socket) -> bool:
    connection.settimeout(0.005)
    try:
        while connection.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def status(connection: socket.socket) -> int:
    """Of the next answer; 0 where the connection ended without one."""
    response = HTTPResponse(connection)
    try:
        response.begin()
        response.read()
    except (OSError, HTTPException):
        return 0
    return response.status


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"GET / HT",
        b"GET /5 HTTP/1.1\r\nhost: x\r\nx-a",
        b"GET /5 HTTP/1.1\r\nhost: x\r\n\r\nGET /5 HTTP/1.1\r\nhos",
    ],
)
def test_30_of_30_half_sent_heads_are_ended(site: Site, begun: bytes) -> None:
    callers = [site.connect() for _ in range(AT_ONCE)]
    for caller in callers:
        caller.sendall(begun)
    wait_until(lambda: all(is_ended(caller) for caller in callers), "the end of every connection")
    wait_until(lambda: len(site.book) == 0, "their places")


def test_a_head_that_trickles_in_is_ended_too(site: Site) -> None:
    caller = site.connect()
    caller.sendall(b"GET /5 HTTP/1.1\r\n")

    def trickle() -> bool:
        with contextlib.suppress(OSError):
            caller.sendall(b"a: b\r\n")
        time.sleep(0.05)
        return is_ended(caller)

    wait_until(trickle, "its end")


def test_30_of_30_handshakes_that_do_not_begin_are_ended(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    # asyncio itself ends them after a minute; here it would not.
    monkeypatch.setattr(asyncio.constants, "SSL_HANDSHAKE_TIMEOUT", AMPLE_S)
    callers = [site.plain() for _ in range(AT_ONCE)]
    wait_until(lambda: all(is_ended(caller) for caller in callers), "the end of every connection")


def test_whoever_is_refused_in_the_middle_of_a_body_hears_why_and_is_ended_however_much_it_sends(
    site: Site,
) -> None:
    caller = site.connect()
    caller.sendall(b"POST /5 HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\nab")
    assert status(caller) == 200

    def trickle() -> bool:
        with contextlib.suppress(OSError):
            caller.sendall(b"x")
        return is_ended(caller)

    wait_until(trickle, "its end")


@pytest.mark.parametrize(
    "last", [b"GET /5 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"no http\r\n\r\n"]
)
def test_whoever_does_not_hang_up_after_the_last_answer_loses_the_place_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: bytes
) -> None:
    monkeypatch.setattr(https_server, "LINGER_S", 0.1)
    # asyncio waits so long for the other side's end of TLS: here for longer than this test waits.
    monkeypatch.setattr(https_server, "FLUSH_S", AMPLE_S)
    with serving(tmp_path, ConnectionBook()) as site:
        caller = site.connect()
        caller.sendall(last)
        assert status(caller) in {200, 400}
        wait_until(lambda: len(site.book) == 0, "its place")
        caller.close()


def test_an_answer_that_nobody_reads_is_dropped(site: Site) -> None:
    callers = [site.connect() for _ in range(4)]
    for caller in callers:
        caller.sendall(b"GET /30000000 HTTP/1.1\r\nhost: x\r\n\r\n")
    # 30 MB would have twenty minutes on the slowest link.
    assert transfer_time_s(30_000_000) > 1000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(https_server, "SLOWEST_BYTES_PER_S", 100_000_000)
        more = site.connect()
        more.sendall(b"GET /30000000 HTTP/1.1\r\nhost: x\r\n\r\n")
        wait_until(lambda: len(site.book) == len(callers), "the end of the one on the quick link")
    for caller in callers:
        caller.close()


def test_an_answer_that_is_read_slowly_arrives_whole_though_it_takes_longer_than_the_keep_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https_server, "KEEP_ALIVE_S", 1)
    monkeypatch.setattr(https_server, "FLUSH_S", 0.3)
    with serving(tmp_path, ConnectionBook()) as site:
        caller = site.connect()
        caller.sendall(b"GET /20000000 HTTP/1.1\r\nhost: x\r\n\r\n")
        received = 0
        for _ in range(20):
            received += len(caller.recv(1 << 16))
            time.sleep(0.1)
        while received < 20_000_000:
            received += len(part := caller.recv(1 << 20))
            assert part, f"cut off after {received} bytes"
        caller.close()


@pytest.mark.parametrize(
    ("request_", "answers"),
    [
        (b"GET /1 HTTP/1.1\r\nhost: x\r\na: " + b"b" * 15_000 + b"\r\n\r\n", {200}),
        (b"GET /1 HTTP/1.1\r\nhost: x\r\na: " + b"b" * 100_000 + b"\r\n\r\n", {400, 431}),
        (b"GET /1 HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 100_000 + b"\r\n", {400, 431}),
        (b"GET /" + b"1" * 100_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", {400, 431}),
        (b"POST /read HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc", {400, 431}),
        (b"POST /read HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", {400, 431}),
        (b"\x16\x03\x01\x00\x05 no http", {400, 431}),
        (b"POST /read HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n", {400, 501}),
    ],
    ids=[
        "15 kB",
        "one long header",
        "many headers",
        "long path",
        "two lengths",
        "negative",
        "garbage",
        "encoding",
    ],
)
def test_heads_are_bounded_and_unambiguous(site: Site, request_: bytes, answers: set[int]) -> None:
    caller = site.connect()
    with contextlib.suppress(OSError):
        caller.sendall(request_)
    assert status(caller) in answers
    caller.close()


def test_a_thousand_requests_in_one_go_are_answered_one_after_the_other(site: Site) -> None:
    caller = site.connect()
    caller.sendall(b"GET /1 HTTP/1.1\r\nhost: x\r\n\r\n" * 1000)
    received = b""
    while received.count(b"HTTP/1.1 200") < 1000:
        received += caller.recv(1 << 16)
    caller.close()


def test_strangers_of_one_address_have_few_places_and_known_callers_have_their_own(
    patient_site: Site,
) -> None:
    site = patient_site
    strangers = [site.connect() for _ in range(AT_ONCE - 1)]
    known = site.connect()
    known.sendall(b"GET /1 HTTP/1.1\r\nhost: x\r\nx-caller: a\r\n\r\n")
    assert status(known) == 200
    strangers.append(site.connect())
    with pytest.raises(OSError):  # noqa: PT011 - reset, or the end of the file in the handshake
        site.connect()
    known.sendall(b"GET /1 HTTP/1.1\r\nhost: x\r\nx-caller: a\r\n\r\n")
    assert status(known) == 200
    for stranger in strangers:
        stranger.close()
    wait_until(lambda: len(site.book) == 1, "free places")
    second = site.connect()
    second.sendall(b"GET /1 HTTP/1.1\r\nhost: x\r\nx-caller: a\r\n\r\n")
    assert status(second) == 200
    third = site.connect()
    third.sendall(b"GET /1 HTTP/1.1\r\nhost: x\r\nx-caller: a\r\n\r\n")
    assert status(third) == 429
    for caller in (known, second, third):
        caller.close()
    wait_until(lambda: len(site.book) == 0, "free places")


@pytest.mark.parametrize(
    ("first", "second", "are_one"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
    ],
)
def test_addresses_of_one_customer_count_together(first: str, second: str, *, are_one: bool) -> None:
    book = ConnectionBook(of_address=1)
    assert book.admit((first, 1))
    assert book.admit((second, 2)) is not are_one
    assert book.know((first, 1), "a", 1)
    assert book.admit((first, 3))
    book.leave((first, 1))
    book.leave((first, 1))
    assert book.know((first, 3), "a", 1)


def test_whoever_sends_x_forwarded_for_is_still_who_it_is(site: Site) -> None:
    for number in range(2):
        caller = site.connect()
        caller.sendall(
            f"GET /1 HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 10.0.0.{number}\r\nx-caller: b\r\n\r\n".encode()
        )
        assert status(caller) == 200
    assert len(site.book._by_caller) == 1


def test_a_connection_that_waits_holds_little_memory(patient_site: Site) -> None:
    with contextlib.ExitStack() as stack:
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        callers = [stack.enter_context(patient_site.connect()) for _ in range(AT_ONCE)]
        for caller in callers:
            caller.sendall(b"GET /5 HTTP/1.1\r\nhost: x\r\n\r\n")
            assert status(caller) == 200
        held = (tracemalloc.get_traced_memory()[0] - before) / AT_ONCE
    assert held < 100_000, "of its own accord asyncio keeps a buffer of 256 kB for each"
