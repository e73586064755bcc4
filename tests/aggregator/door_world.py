"""The Flower door with one device in the roster, and hands that send it exactly the bytes that a test wants to send."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPResponse
from pathlib import Path
from typing import Self

import flower_world as world
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flower_rounds_world import fit
from odd_requests import head

from aggregator.flower.server import FlowerServer, FlowerServerSettings
from protocol.identity import public_key_pem
from protocol.names import DeviceId
from protocol.signed_requests import RequestSigner, decode_step

DEVICE = DeviceId("press-0")
KEY = ec.derive_private_key(0xDEF1CE, ec.SECP256R1())
PULL, PUSH = "/v1/fleet/pull-messages", "/v1/fleet/push-messages"


@dataclass(frozen=True)
class Answer:
    """What the door said."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class Caller:
    """One TLS connection that sends what it is told; ends with the block."""

    def __init__(self, port: int, tls: world.Tls) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout=60)
        context = ssl.create_default_context(cafile=str(tls.ca))
        self.socket = context.wrap_socket(plain, server_hostname="127.0.0.1")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, content: bytes) -> None:
        self.socket.sendall(content)

    def answer(self) -> Answer:
        response = HTTPResponse(self.socket, method="POST")
        response.begin()
        return Answer(response.status, response.read(), {k.lower(): v for k, v in response.getheaders()})

    def is_waiting(self, later_s: float = 0.5) -> bool:
        """Whether there is no answer yet, so many seconds later."""
        return not select.select([self.socket], [], [], later_s)[0]

    def is_ended(self) -> bool:
        """Whether the other side has ended the connection, having said whatever it said."""
        self.socket.settimeout(0.01)
        try:
            while self.socket.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            return True
        return True


@dataclass
class Site:
    """A server that can be restarted, and its device's signatures."""

    tls: world.Tls
    server: FlowerServer
    identity: ec.EllipticCurvePrivateKey = world.IDENTITY

    def __post_init__(self) -> None:
        self.signer = RequestSigner(KEY, self.identity.public_key(), clock=time.monotonic)

    def caller(self) -> Caller:
        return Caller(self.server.port, self.tls)

    def signed(self, path: str, body: bytes = b"") -> bytes:
        """A whole request, signed for once."""
        return self.signed_head(path, body) + body

    def signed_head(self, path: str, body: bytes = b"", *headers: str) -> bytes:
        length = (
            ()
            if any("content-length" in h or "transfer" in h for h in headers)
            else (f"content-length: {len(body)}",)
        )
        return head(path, f"authorization: {self.signer.sign('POST', path, body)}", *length, *headers)

    def send(self, content: bytes) -> Answer:
        """Over a connection of its own."""
        with self.caller() as caller:
            caller.send(content)
            return caller.answer()

    def fall_in(self) -> None:
        """As a device does with its first request."""
        step = decode_step(self.send(self.signed(PULL)).body)
        assert step is not None
        self.signer.fall_in(step)

    def ask(self, answer_size: int) -> None:
        """A question to the device, whose answer has this many entries."""
        self.server.link(self.server.start_run()).ask(
            [DEVICE], fit(), {}, lifetime_s=1e6, answer_size=answer_size
        )


@contextlib.contextmanager
def serving(
    directory: Path,
    tls: world.Tls,
    identity: ec.EllipticCurvePrivateKey = world.IDENTITY,
    *,
    hold_s: float = 0.01,
) -> Iterator[Site]:
    """A site with `DEVICE` in its roster."""
    settings = FlowerServerSettings(tls_cert=tls.cert, tls_key=tls.key, data_dir=directory, hold_s=hold_s)
    with FlowerServer(settings, identity) as server:
        server.sync_roster({DEVICE: public_key_pem(KEY.public_key())})
        yield Site(tls, server, identity)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> world.Tls:
    return world.make_tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, tls: world.Tls) -> Iterator[Site]:
    with serving(tmp_path_factory.mktemp("site"), tls) as found:
        found.fall_in()
        yield found
