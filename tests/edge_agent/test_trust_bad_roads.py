"""A repository's files over a road that is too long, too slow, false or gone: given up in time, and nothing is believed."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from https_world import Reply, make_certificate
from trust_device import TrustDevice, https_device
from trust_repository import TrustRepository

from edge_agent import pinned_tls
from edge_agent.errors import FleetError, FleetUnreachableError, UpdateTrustError
from edge_agent.fleet_client import FleetClient, FleetEndpoint

pytestmark = pytest.mark.edge


@pytest.fixture
def device(tmp_path: Path) -> Iterator[TrustDevice]:
    with https_device(tmp_path, TrustRepository()) as made:
        yield made


NAMES = ["2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json", "2.family-pump.json"]
BOUNDS = {
    "2.root.json": 64,
    "timestamp.json": 16,
    "2.snapshot.json": 256,
    "2.targets.json": 1024,
    "2.family-pump.json": 1024,
}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_beyond_its_bound_is_given_up(device: TrustDevice, name: str) -> None:
    device.replies[name] = Reply(200, b" " * (BOUNDS[name] * 1024 + 1))
    with pytest.raises((FleetError, UpdateTrustError), match=f"exceeds {BOUNDS[name] * 1024} bytes"):
        _update(device)
    assert device.trust.fleet_keys() == ()


def _update(device: TrustDevice) -> None:
    device.trust.refresh()
    device.trust.check_listed("pump/1", "0" * 64, 1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[" * 15_000,
        b'{"signed": ' * 1300,
        b'{"signed": {"version": ' + b"9" * 15_000 + b"}}",
        b"\xff\xfe" * 100,
        b'"' + b"\\u0000" * 2000 + b'"',
        b"null",
        json.dumps({"signed": {"_type": "timestamp"}, "signatures": [{}] * 1000}).encode(),
        gzip.compress(b" " * 10_000_000),
    ],
    ids=["nothing", "deep", "torn", "long number", "no text", "zeros", "null", "signatures", "zip bomb"],
)
@pytest.mark.parametrize("name", NAMES[:2])
def test_nonsense_is_no_metadata(device: TrustDevice, name: str, content: bytes) -> None:
    device.replies[name] = Reply(200, content[: BOUNDS[name] * 1024], {"Content-Encoding": "gzip"})
    with pytest.raises(UpdateTrustError, match="not believed"):
        device.trust.refresh()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirection_is_not_followed(device: TrustDevice, status: int) -> None:
    device.replies["timestamp.json"] = Reply(status, b"", {"Location": "/v1/trust/2.snapshot.json"})
    with pytest.raises(FleetError, match=f"answered {status}"):
        device.trust.refresh()
    assert device.asked[-1] == "timestamp.json"


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_a_root_that_is_withheld_is_not_taken_for_the_newest(device: TrustDevice, status: int) -> None:
    """Only 404 says that there is none: a device that was revoked must not conclude that the repository is unchanged."""
    device.replies["2.root.json"] = Reply(status, b"{}")
    with pytest.raises(FleetError):
        device.trust.refresh()
    assert device.asked == ["2.root.json"]


def test_a_fleet_that_is_not_there_leaves_everything_as_it_was(device: TrustDevice) -> None:
    device.trust.refresh()
    device.is_away = True
    with pytest.raises(FleetUnreachableError):
        device.trust.refresh()
    assert len(device.trust.fleet_keys()) == 1
    assert device.trust.problems() == []


@contextmanager
def dribbling(folder: Path, serve: Callable[[ssl.SSLSocket, threading.Event], None]) -> Iterator[FleetClient]:
    """A TLS server that reads a request and leaves the rest to `serve`; and a client of it."""
    ca, certificate, key = make_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    ended = threading.Event()

    def run(listener: socket.socket) -> None:
        with suppress(OSError):
            plain, _ = listener.accept()
            with context.wrap_socket(plain, server_side=True) as peer:
                peer.recv(4096)
                serve(peer, ended)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=run, args=(listener,), daemon=True)
        thread.start()
        endpoint = FleetEndpoint(url=f"https://127.0.0.1:{listener.getsockname()[1]}", ca_file=ca)
        try:
            key_of_device = ec.generate_private_key(ec.SECP256R1())
            yield FleetClient(endpoint=endpoint, device="pump-07", key=key_of_device)
        finally:
            ended.set()
            thread.join(5)


def _send_slowly(peer: ssl.SSLSocket, ended: threading.Event) -> None:
    while not ended.wait(0.01):
        peer.sendall(b"x")


def _body(peer: ssl.SSLSocket, ended: threading.Event) -> None:
    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    _send_slowly(peer, ended)


def _chunks(peer: ssl.SSLSocket, ended: threading.Event) -> None:
    peer.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not ended.wait(0.01):
        peer.sendall(b"1\r\nx\r\n")


@pytest.mark.parametrize("serve", [_send_slowly, _body, _chunks], ids=["the head", "the body", "chunks"])
def test_who_dribbles_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[[ssl.SSLSocket, threading.Event], None]
) -> None:
    """A byte now and then keeps every limit on silence; the average does not hold."""
    monkeypatch.setattr(pinned_tls, "PATIENCE_S", 0.2)
    monkeypatch.setattr(pinned_tls, "LEAST_BYTES_PER_S", 10_000.0)
    with dribbling(tmp_path, serve) as client, pytest.raises(FleetUnreachableError, match="leads nowhere"):
        client.trust_file("timestamp.json", 16_384)


def test_an_answer_without_end_is_read_to_its_bound_and_no_further(tmp_path: Path) -> None:
    sent = [0]

    def endless(peer: ssl.SSLSocket, ended: threading.Event) -> None:
        peer.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while not ended.is_set():
            sent[0] += peer.send(b"x" * 16_384)

    with dribbling(tmp_path, endless) as client, pytest.raises(FleetError, match="exceeds 16384 bytes"):
        client.trust_file("timestamp.json", 16_384)
    assert sent[0] < 20_000_000
