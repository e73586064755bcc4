"""Strangers at the Flower door with odd requests: a refusal or nothing, no traceback, and the next device is served."""

from __future__ import annotations

import base64
import contextlib
from http.client import HTTPException

import pytest
from door_world import PULL, Site, site, tls
from odd_requests import head, odd_requests

__all__ = ["site", "tls"]


def _claims(content: bytes) -> str:
    return f"authorization: Fedge {base64.urlsafe_b64encode(content).rstrip(b'=').decode()}.AA"


ODD = odd_requests(PULL) | {
    "claims of 600 brackets": head(PULL, _claims(b'{"x":' + b"[" * 600)),
    "claims of 120 objects": head(PULL, _claims(b'{"x":' * 120)),
    "claims beyond ASCII": head(PULL, "authorization: Fedge \xe9.\xe9"),
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
