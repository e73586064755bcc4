"""HTTPS to one fleet: one connection per call, one pinned CA, and every failure as an error that says what to do.

No redirects, no proxies, no cookies, and no way to switch verification off. It knows no identity; `edge_agent.fleet_client` does.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from edge_agent.errors import (
    FleetAnswerError,
    FleetConflictError,
    FleetDeniedError,
    FleetNotFoundError,
    FleetTlsError,
    FleetUnreachableError,
)
from edge_agent.pinned_tls import KnownTime, SlowPeerError, pinned_context
from protocol.limits import MAX_PAYLOAD_BYTES
from runtime.errors import SettingsError
from runtime.unreadable import UNREADABLE

__all__ = ["Answer", "FleetEndpoint"]

_OK: Final = frozenset({200, 201, 204, 206, 304})


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A complete HTTP answer with a good status; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Problem(msgspec.Struct):
    title: str = ""
    detail: str = ""


class FleetEndpoint:
    """HTTPS to one fleet, verified against one pinned CA. Knows no identity.

    Args:
        url: ``https://host[:port]``.
        ca_file: PEM of the CA that signs the fleet's certificate.
        timeout_s: longest silence on the socket. 10 s: a phone link stalls for seconds, a dead peer forever.
        now: what time is known, for dates of certificates; default the system's where a time service keeps it.

    Raises:
        SettingsError: not an https URL, or the CA file cannot be used.
    """

    def __init__(
        self, *, url: str, ca_file: Path, timeout_s: float = 10.0, now: KnownTime | None = None
    ) -> None:
        self._host, self._port = _host_and_port(url)
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._tls = pinned_context(ca_file, "fleet.ca_file", now, is_paced=True)

    def exchange(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        most_bytes: int = MAX_PAYLOAD_BYTES,
    ) -> Answer:
        """Send one request and read the whole answer (at most `most_bytes`).

        Raises:
            FleetUnreachableError, FleetTlsError: the road.
            FleetAnswerError: an error status, or an answer that is too large.
        """
        with self.open(method, path, headers=headers, body=body) as response:
            content = response.read(most_bytes + 1)
            if len(content) > most_bytes:
                raise FleetAnswerError(
                    f"{method} {path}: the answer exceeds {most_bytes} bytes; is {self._url} really the fleet?"
                )
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(status=response.status, headers=names, body=content)

    # The caller's own failures pass through untouched unless they are OSErrors: disk writes belong outside `open`
    # or raise errors of ours.
    @contextmanager
    def open(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """Send one request and hand out the answer unread; raises as `exchange`, also while the caller reads."""
        connection = http.client.HTTPSConnection(
            self._host, self._port, timeout=self._timeout_s, context=self._tls
        )
        try:
            connection.request(method, path, body=body, headers=dict(headers))
            response = connection.getresponse()
            if response.status not in _OK:
                raise _refusal(f"{method} {path}", response, response.read(MAX_PAYLOAD_BYTES))
            yield response
        except (OSError, http.client.HTTPException) as error:
            raise self._road_failure(error) from None
        finally:
            connection.close()

    def _road_failure(self, error: Exception) -> FleetTlsError | FleetUnreachableError:
        where = f"the fleet at {self._url}"
        if isinstance(error, ssl.SSLError) and not isinstance(
            error, ssl.SSLEOFError | ssl.SSLZeroReturnError
        ):
            if isinstance(error, ssl.SSLCertVerificationError):
                said = f"is not the one whose CA is pinned here: {error.verify_message}; check [fleet] url and ca_file"
            else:
                said = f"does not speak TLS 1.2 or newer: {error.reason or error}; check [fleet] url"
            return FleetTlsError(f"{where} {said}")
        match error:
            case SlowPeerError():
                said = f"{error}; try again later"
            case TimeoutError():
                said = f"was silent for {self._timeout_s:g} s; try again later"
            case ConnectionRefusedError():
                said = "refused the connection: nothing listens there; is it running?"
            case socket.gaierror():
                said = f"has no address: host {self._host!r} is unknown; check [fleet] url and DNS"
            case http.client.HTTPException() | ConnectionError() | ssl.SSLError():
                said = f"broke off the connection ({type(error).__name__}); try again later"
            case _:
                said = f"cannot be reached: {getattr(error, 'strerror', None) or error}"
        return FleetUnreachableError(f"{where} {said}")


def _host_and_port(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
        parts = urlsplit("")
    if parts.scheme != "https" or not host or parts.path not in {"", "/"} or parts.query:
        raise SettingsError(
            f"[fleet] url {url!r} is not an HTTPS address; write https://host[:port], e.g. https://127.0.0.1:8443"
        )
    return host, port or 443


def _date_s(response: http.client.HTTPResponse) -> float | None:
    """When the fleet answered, by its own clock."""
    try:
        return parsedate_to_datetime(response.getheader("Date", "")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _refusal(call: str, response: http.client.HTTPResponse, body: bytes) -> FleetAnswerError:
    status, date_s = response.status, _date_s(response)
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except UNREADABLE:
        problem = _Problem()
    said = " ".join((problem.detail or problem.title or http.client.responses.get(status, "")).split())[:300]
    line = f"{call}: the fleet answered {status}: {said}"
    match status:
        case 401:
            return FleetDeniedError(
                f"{line}; is this device enrolled, and is its clock right?", status=status, date_s=date_s
            )
        case 403:
            return FleetDeniedError(f"{line}; was this device or its claim revoked?", status=status)
        case 404:
            return FleetNotFoundError(line, status=status)
        case 409:
            return FleetConflictError(line, status=status)
        case _:
            return FleetAnswerError(line, status=status)
