"""The device's side of the fleet's HTTPS API: desired state, bundles, enrolment.

Standard library only (`http.client`, `ssl`), because it stays in the resident agent. One connection per call; no
redirects, no proxies, no cookies. The only trusted CA is the pinned one; there is no way to switch verification off.

Every failure is one of the `FleetError`s of `edge_agent.errors` with one line that says what happened and what to do;
nothing is retried here, because only the caller knows how urgent it is.
"""

from __future__ import annotations

import http.client
import logging
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, Generic, TypeVar
from urllib.parse import quote, urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from edge_agent.errors import (
    FleetAnswerError,
    FleetConflictError,
    FleetDeniedError,
    FleetNotFoundError,
    FleetTlsError,
    FleetUnreachableError,
)
from edge_agent.pinned_tls import KnownTime, SlowPeerError, pinned_context
from edge_agent.trusted_clock import boot_clock_s
from edge_agent.update_trust import Fetched
from protocol.errors import IdentityError, MessageError
from protocol.identity import TOKEN_LIFETIME_S, IdentityKey, issue_token, key_from_compressed
from protocol.limits import MAX_PAYLOAD_BYTES
from protocol.messages.commands import CommandResult, Commands
from protocol.messages.envelope import CLOUD_EVENT, decode
from protocol.messages.kinds import Kind
from protocol.messages.payloads import DesiredState
from protocol.names import DeviceId
from runtime.errors import SettingsError

__all__ = ["Answer", "BundleStream", "FleetClient", "FleetEndpoint", "FleetWord"]

log: Final = logging.getLogger(__name__)
T = TypeVar("T")

AUDIENCE: Final = "fleet"
WRONG_BY_S: Final = 60.0
"""A clock that is off by less is not why a token was refused."""
CHUNK_BYTES: Final = 64 * 1024
MAX_ROSTER_PAGES: Final = 100
"""50 000 devices at 500 a page: beyond any secure sum."""
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")
_OK: Final = frozenset({200, 201, 204, 206, 304})


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A complete HTTP answer with a good status; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True)
class FleetWord(Generic[T]):
    """What the fleet says to this device.

    `state` is None where it says nothing, or where nothing changed since `etag` was given (`is_unchanged`).
    """

    state: T | None
    etag: str
    is_unchanged: bool


@dataclass(frozen=True, kw_only=True)
class BundleStream:
    """Bytes of a bundle from `offset` on: 0 where the server ignored the wish to resume. Iterate once."""

    offset: int
    chunks: Iterator[bytes]


class _RosterPage(msgspec.Struct):
    devices: dict[str, str]
    next_cursor: str | None = None


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


class FleetClient:
    """What an enrolled device asks of its fleet; thread-safe as long as `key` is.

    Args:
        endpoint: the fleet.
        device: this device's id.
        key: its identity key; makes the short-lived bearer tokens.
        clock: Unix time, s. Tokens are dated by it until the fleet refuses one and says another time; from then on by that, and by
            the seconds that nobody can set.
        hear: told of such a time.
        boot: those seconds.
    """

    def __init__(
        self,
        *,
        endpoint: FleetEndpoint,
        device: str,
        key: IdentityKey,
        clock: Callable[[], float] = time.time,
        hear: Callable[[float], None] = lambda _: None,
        boot: Callable[[], float] = boot_clock_s,
    ) -> None:
        self._endpoint = endpoint
        self._device = device
        self._key = key
        self._clock, self._hear, self._boot = clock, hear, boot
        self._fleet_offset_s: float | None = None
        self._token = ("", float("-inf"))

    def desired(self, etag: str = "") -> FleetWord[DesiredState]:
        """Ask what this device shall run; for devices behind a firewall that blocks MQTT.

        Args:
            etag: that of the last answer; an unchanged state then costs some hundred bytes.

        Raises:
            FleetError: see `FleetEndpoint.exchange`; FleetAnswerError also for a malformed state.
        """
        return self._word("/v1/device/desired", etag, DesiredState, Kind.DESIRED)

    def commands(self, etag: str = "") -> FleetWord[Commands]:
        """Ask what this device shall do and be; arguments and errors as `desired`."""
        return self._word("/v1/device/commands", etag, Commands, Kind.COMMANDS)

    def tell_result(self, result: CommandResult) -> None:
        """Say what became of a command; for devices whose events do not reach the broker. Raises FleetError."""
        body = msgspec.json.encode(result)
        self._in_time(
            lambda: self._endpoint.exchange(
                "POST",
                "/v1/device/results",
                headers={**self._headers(), "Content-Type": "application/json"},
                body=body,
            )
        )

    def _word(self, path: str, etag: str, kind: type[T], said: Kind) -> FleetWord[T]:
        known = {"If-None-Match": etag} if etag else {}
        answer = self._ask(path, {"Accept": f"{CLOUD_EVENT}, application/problem+json", **known})
        if answer.status == 304:
            return FleetWord(state=None, etag=etag, is_unchanged=True)
        new_etag = answer.headers.get("etag", "")
        if answer.status == 204:
            return FleetWord(state=None, etag=new_etag, is_unchanged=False)
        try:
            state = decode(answer.body, said).data
        except MessageError as error:
            raise FleetAnswerError(f"GET {path}: the fleet's answer is malformed: {error}") from None
        if not isinstance(state, kind):
            raise FleetAnswerError(f"GET {path}: the fleet answered with a {type(state).__name__}")
        return FleetWord(state=state, etag=new_etag, is_unchanged=False)

    def family_roster(self) -> dict[DeviceId, EllipticCurvePublicKey]:
        """The identity keys of all devices of this device's family that the fleet lets in, this one included.

        Raises:
            FleetError: see `FleetEndpoint.exchange`; FleetAnswerError also for a malformed roster.
        """
        keys: dict[DeviceId, EllipticCurvePublicKey] = {}
        cursor: str | None = None
        for _ in range(MAX_ROSTER_PAGES):
            query = f"?cursor={quote(cursor)}" if cursor else ""
            path = f"/v1/device/roster{query}"
            answer = self._ask(path, {})
            try:
                page = msgspec.json.decode(answer.body, type=_RosterPage)
                keys |= {DeviceId(name): key_from_compressed(point) for name, point in page.devices.items()}
            except (msgspec.DecodeError, UnicodeDecodeError, IdentityError) as error:
                raise FleetAnswerError(f"GET {path}: the fleet's roster is malformed: {error}") from None
            cursor = page.next_cursor
            if cursor is None:
                return keys
        raise FleetAnswerError(f"the fleet's roster has more than {MAX_ROSTER_PAGES} pages; is it the fleet?")

    def trust_file(self, name: str, most_bytes: int, etag: str = "") -> Fetched:
        """A file of the signed repository; it is nobody's word, and believed by its signatures alone.

        Args:
            name: as the repository calls it, e.g. ``timestamp.json``.
            most_bytes: what is longer is not read to its end.
            etag: of the one that is known; where it is still that one, it costs some hundred bytes.

        Raises:
            FleetError: see `FleetEndpoint.exchange`; FleetNotFoundError: there is none.
        """
        headers = {**self._bearer(), **({"If-None-Match": etag} if etag else {})}
        answer = self._in_time(
            lambda: self._endpoint.exchange(
                "GET", f"/v1/trust/{quote(name)}", headers=headers, most_bytes=most_bytes
            )
        )
        is_unchanged = answer.status == 304
        return Fetched(content=None if is_unchanged else answer.body, etag=answer.headers.get("etag", ""))

    @contextmanager
    def bundle(self, path: str, *, offset: int = 0) -> Iterator[BundleStream]:
        """Open the bundle at `path` (``DesiredState.bundle_path``) from byte `offset` on.

        The stream ends where the connection ends: the caller compares with the length it was promised.

        Raises:
            FleetError: also while the chunks are read. A FleetAnswerError of status 416: nothing lies at `offset`.
        """
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with ExitStack() as stack:
            response = self._in_time(
                lambda: stack.enter_context(
                    self._endpoint.open("GET", path, headers={**self._headers(), **headers})
                )
            )
            start = 0
            if response.status == 206:
                found = _CONTENT_RANGE.fullmatch(response.getheader("Content-Range", ""))
                if found is None or int(found[1]) != offset:
                    raise FleetAnswerError(
                        f"GET {path}: asked for bytes from {offset} on, got Content-Range {response.getheader('Content-Range')!r}"
                    )
                start = offset
            yield BundleStream(offset=start, chunks=iter(lambda: response.read1(CHUNK_BYTES), b""))

    def _ask(self, path: str, headers: Mapping[str, str]) -> Answer:
        return self._in_time(
            lambda: self._endpoint.exchange("GET", path, headers={**self._headers(), **headers})
        )

    def _in_time(self, call: Callable[[], T]) -> T:
        """Call the fleet, and once more where it refuses a token of another time: its own time is taken over."""
        try:
            return call()
        except FleetDeniedError as error:
            if error.status != 401 or error.date_s is None or abs(error.date_s - self._now()) < WRONG_BY_S:
                raise
            log.warning("clock_wrong by_s=%.0f: tokens follow the fleet's", self._now() - error.date_s)
            self._fleet_offset_s = error.date_s - self._boot()
            self._hear(error.date_s)
        return call()

    def _now(self) -> float:
        return self._clock() if self._fleet_offset_s is None else self._fleet_offset_s + self._boot()

    def _headers(self) -> dict[str, str]:
        return {**self._bearer(), "Accept": "application/json, application/octet-stream"}

    def _bearer(self) -> dict[str, str]:
        token, good_until = self._token
        now = self._now()
        # A clock that was set back makes the cached token come from the future: made anew as well.
        if not good_until - TOKEN_LIFETIME_S <= now < good_until - TOKEN_LIFETIME_S / 2:
            token = issue_token(self._key, self._device, AUDIENCE, now)
            self._token = (token, now + TOKEN_LIFETIME_S)
        return {"Authorization": f"Bearer {token}"}


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
    except (msgspec.DecodeError, UnicodeDecodeError):
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
