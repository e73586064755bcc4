"""The fleet's door under those who draw everything out, send too much, or send what no program of ours sends. A real process."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest
from fleet_door_world import DESIRED, Caller, Site, is_ended, serving, site
from mosquitto_broker import LocalCertificates
from odd_requests import head, odd_requests
from waiting import wait_until

__all__ = ["site"]

pytestmark = pytest.mark.slow

HALF_HEADS = (
    b"",
    b"GET / HT",
    b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-a",
    b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /healthz HTTP/1.1\r\nhos",
)
ADDRESSES = tuple(f"127.0.1.{number}" for number in range(1, 21))
"""Of strangers: one address alone has few places, so they come from twenty."""


def test_300_half_sent_heads_are_gone_and_a_device_is_answered_meanwhile(site: Site) -> None:
    known = Caller(site)
    known.send(site.poll())
    assert known.status() == 204
    callers: list[Caller] = []
    for number in range(300):
        with contextlib.suppress(OSError):  # all places of strangers are taken
            callers.append(Caller(site, ADDRESSES[number % len(ADDRESSES)]))
            callers[-1].send(HALF_HEADS[number % len(HALF_HEADS)])
    assert len(callers) > 200, "the door must have been full, or nothing was tried"
    known.send(site.poll())
    assert known.status() == 204
    wait_until(lambda: all(caller.is_ended() for caller in callers), "the end of every connection")
    known.close()
    assert site.is_polled()
    assert site.faults() == []


def test_handshakes_that_are_held_are_ended(site: Site) -> None:
    begun = (b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 40)
    callers = [
        socket.create_connection(("127.0.0.1", site.port), source_address=(ADDRESSES[number % 20], 0))
        for number in range(100)
    ]
    for number, caller in enumerate(callers):
        caller.sendall(begun[number % 3])
    assert site.is_polled()
    wait_until(lambda: all(is_ended(caller) for caller in callers), "the end of every connection")


@pytest.mark.parametrize("strangers", [1500, pytest.param(10_000, marks=pytest.mark.long)])
def test_a_flood_of_strangers_connections_leaves_a_known_device_its_place(site: Site, strangers: int) -> None:
    known = Caller(site)
    known.send(site.poll())
    assert known.status() == 204
    held: list[socket.socket] = []
    is_over = threading.Event()

    def flood() -> None:
        for number in range(strangers):
            stranger = socket.socket()
            stranger.bind((ADDRESSES[number % len(ADDRESSES)], 0))
            stranger.settimeout(10)
            with contextlib.suppress(OSError):
                stranger.connect(("127.0.0.1", site.port))
            held.append(stranger)
            if len(held) > 400:
                held.pop(0).close()
        is_over.set()

    flooding = threading.Thread(target=flood)
    flooding.start()
    while not is_over.is_set():
        known.send(site.poll())
        assert known.status() == 204
    flooding.join()
    known.send(site.poll())
    assert known.status() == 204
    for stranger in held:
        stranger.close()
    known.close()
    wait_until(site.is_polled, "a place for a device that was not there before")
    assert site.faults() == []


def test_a_strangers_body_is_not_read_however_it_comes(site: Site) -> None:
    for lines in (["content-length: 100000"], ["transfer-encoding: chunked"]):
        stranger = Caller(site)
        stranger.send(head("/v1/enrolments", "authorization: Bearer fc_none", *lines))
        assert stranger.status() == 401  # before a byte of the body was sent
        wait_until(stranger.is_ended, "its end")


def test_a_known_device_that_dribbles_a_body_or_never_ends_it_is_told_and_ended(site: Site) -> None:
    dribbling = Caller(site)
    dribbling.send(
        head("/v1/device/results", site.bearer(), "content-length: 1000", "content-type: application/json")
    )

    def dribble() -> bool:
        dribbling.send(b"{")
        time.sleep(0.2)
        return dribbling.is_ended()

    endless = Caller(site)
    endless.send(head("/v1/device/results", site.bearer(), "transfer-encoding: chunked"))
    for _ in range(200):
        endless.send(b"400\r\n" + b" " * 1024 + b"\r\n")
    assert endless.status() in {413, 422}  # the door, or whoever reads it in parts
    wait_until(endless.is_ended, "the end of the endless one")
    wait_until(dribble, "the end of the one that dribbles")
    assert site.faults() == []


ODD = odd_requests(DESIRED)


@pytest.mark.parametrize("name", ODD)
def test_an_odd_request_of_a_stranger_is_refused_and_breaks_nothing(site: Site, name: str) -> None:
    # Whether it is answered or cut off, and how much of it was taken before, is the server's to choose.
    with contextlib.suppress(OSError), contextlib.closing(Caller(site)) as stranger:
        stranger.send(ODD[name])
        assert stranger.status() in {0, *range(400, 500)}
    assert site.is_polled()
    assert site.faults() == []


SECOND = f"GET {DESIRED} HTTP/1.1\r\nhost: x\r\n%s\r\n\r\n"
SMUGGLED = {
    "length and chunks": (["content-length: 4", "transfer-encoding: chunked"], "0\r\n\r\n"),
    "chunks and length": (["transfer-encoding: chunked", "content-length: 4"], "0\r\n\r\n"),
    "two lengths": (["content-length: 0", "content-length: 5"], ""),
    "lengths in a list": (["content-length: 0, 5"], ""),
    "a signed length": (["content-length: +0"], ""),
    "a length in hex": (["content-length: 0x0"], ""),
    "chunks by another name": (["transfer-encoding: xchunked"], "0\r\n\r\n"),
    "chunks and something": (["transfer-encoding: chunked, identity"], "0\r\n\r\n"),
    "chunks twice": (["transfer-encoding: chunked", "transfer-encoding: chunked"], "0\r\n\r\n"),
    "a space before the colon": (["content-length : 5"], ""),
    "a tab before the name": (["\tcontent-length: 5"], ""),
    "a line end within": (["x: a\rcontent-length: 5"], ""),
    "a NUL in a header": (["x: a\x00b"], ""),
    "a chunk of a negative size": (["transfer-encoding: chunked"], "-1\r\n\r\n"),
    "a chunk of an endless size": (["transfer-encoding: chunked"], "f" * 40 + "\r\n\r\n"),
    "a chunk size in hex, twice": (["transfer-encoding: chunked"], "0x0\r\n\r\n"),
}


@pytest.mark.parametrize("name", SMUGGLED)
def test_a_request_whose_end_is_doubtful_hides_no_second_one(site: Site, name: str) -> None:
    lines, body = SMUGGLED[name]
    hidden = SECOND % site.bearer()
    known = Caller(site)
    known.send(
        "\r\n".join(
            ["POST /v1/device/results HTTP/1.1", "host: x", site.bearer(), *lines, "", body + hidden]
        ).encode()
    )
    assert known.status() in {400, 401, 413, 422}
    assert known.status() == 0, "the hidden request was answered"
    known.close()
    assert site.is_polled()
    assert site.faults() == []


def test_requests_in_a_row_are_answered_in_their_order_and_old_http_once(site: Site) -> None:
    known = Caller(site)
    known.send(site.poll() + b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n" + site.poll())
    assert [known.status() for _ in range(3)] == [204, 200, 204]
    known.send(site.poll().replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert known.status() == 204
    wait_until(known.is_ended, "the end after an answer in HTTP/1.0")


def test_a_byte_of_plain_http_is_not_answered(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.port), timeout=60) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert plain.recv(100)[:4] != b"HTTP"


def test_a_device_has_so_many_connections_and_then_is_told(site: Site) -> None:
    callers = [Caller(site) for _ in range(9)]
    for caller in callers:
        caller.send(site.poll())
    assert sorted(caller.status() for caller in callers) == [204] * 8 + [429]
    for caller in callers:
        caller.close()


def test_a_renewed_certificate_is_shown_without_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path) as site:
        with contextlib.closing(Caller(site)) as before:
            first = before.socket.getpeercert(binary_form=True)
        kept = Caller(site)
        kept.send(site.poll())
        assert kept.status() == 204
        fresh = LocalCertificates(tmp_path / "renewed")
        site.tls.load_verify_locations(fresh.ca_file)
        for name in ("server.pem", "server.key"):
            (tmp_path / "renewed" / name).replace(tmp_path / "pki" / name)

        def is_shown() -> bool:
            with contextlib.closing(Caller(site)) as caller:
                return caller.socket.getpeercert(binary_form=True) != first

        wait_until(is_shown, "the renewed certificate")
        kept.send(site.poll())
        assert kept.status() == 204, "who was connected before is not thrown out"
        kept.close()
        assert site.is_polled()
