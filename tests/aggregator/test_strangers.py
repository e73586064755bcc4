"""Strangers at the Flower door with odd requests: a refusal or nothing, no traceback, and the next device is served."""

from __future__ import annotations

import base64
import contextlib
from http.client import HTTPException

import pytest
from door_world import PULL, PUSH, Site, head, site, tls

__all__ = ["site", "tls"]


def _claims(content: bytes) -> str:
    return f"authorization: Fedge {base64.urlsafe_b64encode(content).rstrip(b'=').decode()}.AA"


ODD = {
    "claims of 600 brackets": head(PULL, _claims(b'{"x":' + b"[" * 600)),
    "claims of 120 objects": head(PULL, _claims(b'{"x":' * 120)),
    "claims beyond ASCII": head(PULL, "authorization: Fedge \xe9.\xe9"),
    "a NUL in the path": head("/v1/fleet/%00pull", "authorization: Fedge a.b"),
    "a path beyond ASCII": b"POST /v1/fl\xffeet HTTP/1.1\r\nhost: x\r\n\r\n",
    "a whole URL": head("https://x/v1/fleet/pull-messages"),
    "CONNECT": head("x:1", method="CONNECT"),
    "HTTP/1.0": b"POST /v1/fleet/pull-messages HTTP/1.0\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a web socket": head(PULL, "upgrade: websocket", "connection: upgrade", method="GET"),
    "an endless chunk extension": head(PUSH, "transfer-encoding: chunked") + b"1;" + b"a" * 200_000,
    "a header of three megabytes": b"POST / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 3_000_000,
    "9,000 headers": b"POST / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 9000 + b"\r\n",
    "2,000 requests at once": head(PULL) * 2000,
    "two lengths": head(PUSH, "content-length: 1", "content-length: 2") + b"ab",
    "a negative length": head(PUSH, "content-length: -1"),
    "a folded header": b"POST / HTTP/1.1\r\nhost: x\r\na: b\r\n c\r\n\r\n",
    "a body to be asked for": head(PUSH, "expect: 100-continue", "content-length: 9999999999"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_request_of_a_stranger_is_refused_and_breaks_nothing(
    site: Site, name: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    # Whether it is answered or cut off, and how much of it was taken before, is the server's to choose.
    with contextlib.suppress(OSError, HTTPException), site.caller() as stranger:
        with contextlib.suppress(OSError):
            stranger.send(ODD[name])
        assert 400 <= stranger.answer().status < 500
    assert site.send(site.signed(PULL)).status == 200
    assert "Traceback" not in capfd.readouterr().err + caplog.text
