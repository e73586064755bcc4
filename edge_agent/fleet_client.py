"""What an enrolled device asks of its fleet over HTTPS: desired state, commands, bundles, the family's roster, its certificate.

Standard library only, because it stays in the resident agent. Every failure is one of the `FleetError`s of `edge_agent.errors`;
nothing is retried here, because only the caller knows how urgent it is.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final, Generic, TypeVar
from urllib.parse import quote

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from edge_agent.errors import FleetAnswerError, FleetDeniedError
from edge_agent.fleet_endpoint import Answer, FleetEndpoint
from edge_agent.trusted_clock import boot_clock_s
from edge_agent.update_trust import Fetched
from protocol.enrolment import CertificateAnswer, certificate_question
from protocol.errors import IdentityError, MessageError
from protocol.identity import TOKEN_LIFETIME_S, IdentityKey, issue_token, key_from_compressed
from protocol.limits import MAX_PAYLOAD_BYTES
from protocol.messages.envelope import CLOUD_EVENT, Event, decode
from protocol.messages.kinds import Kind
from protocol.names import DeviceId
from runtime.unreadable import UNREADABLE

__all__ = ["BundleStream", "FleetClient", "FleetEndpoint", "FleetWord"]

log: Final = logging.getLogger(__name__)
T = TypeVar("T")

AUDIENCE: Final = "fleet"
WRONG_BY_S: Final = 60.0
"""A clock that is off by less is not why a token was refused."""
CHUNK_BYTES: Final = 64 * 1024
MAX_ROSTER_PAGES: Final = 100
"""50 000 devices at 500 a page: beyond any secure sum."""
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


@dataclass(frozen=True, kw_only=True)
class FleetWord(Generic[T]):
    """What was answered in the fleet's name: a message as it came, whose seal is not yet checked.

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

    def desired(self, etag: str = "") -> FleetWord[Event]:
        """Ask what this device shall run; for devices behind a firewall that blocks MQTT.

        Args:
            etag: that of the last answer; an unchanged state then costs some hundred bytes.

        Raises:
            FleetError: see `FleetEndpoint.exchange`; FleetAnswerError also for a malformed state.
        """
        return self._word("/v1/device/desired", etag, Kind.DESIRED)

    def commands(self, etag: str = "") -> FleetWord[Event]:
        """Ask what this device shall do and be; arguments and errors as `desired`."""
        return self._word("/v1/device/commands", etag, Kind.COMMANDS)

    def tell_result(self, message: bytes) -> None:
        """Say what became of a command, in a sealed message; for devices whose events do not reach the broker. Raises FleetError."""
        self._ask("/v1/device/results", {"Content-Type": CLOUD_EVENT}, body=message)

    def certificate(self, request: str) -> str:
        """Ask for the next certificate of this device: a PKCS#10 request, answered by a chain, both PEM. Raises FleetError."""
        path = "/v1/device/certificate"
        body = msgspec.json.encode(certificate_question(self._key, self._device, request))
        answer = self._ask(path, {"Content-Type": "application/json"}, body=body)
        try:
            return msgspec.json.decode(answer.body, type=CertificateAnswer).certificate
        except UNREADABLE as error:
            raise FleetAnswerError(f"POST {path}: the fleet's answer is no certificate: {error}") from None

    def _word(self, path: str, etag: str, kind: Kind) -> FleetWord[Event]:
        answer = self._ask(path, {"Accept": f"{CLOUD_EVENT}, application/problem+json", **_unless(etag)})
        if answer.status == 304:
            return FleetWord(state=None, etag=etag, is_unchanged=True)
        new_etag = answer.headers.get("etag", "")
        if answer.status == 204:
            return FleetWord(state=None, etag=new_etag, is_unchanged=False)
        if not answer.headers.get("content-type", "").startswith(CLOUD_EVENT):
            raise FleetAnswerError(
                f"GET {path}: the fleet's answer is not sealed: the fleet is older than this agent; nothing is obeyed before it has been"
                " upgraded"
            )
        try:
            event = decode(answer.body, kind)
        except MessageError as error:
            raise FleetAnswerError(f"GET {path}: the fleet's answer is malformed: {error}") from None
        return FleetWord(state=event, etag=new_etag, is_unchanged=False)

    def family_roster(self) -> dict[DeviceId, EllipticCurvePublicKey]:
        """The identity keys of all devices of this device's family that the fleet lets in, this one included.

        Raises:
            FleetError: see `FleetEndpoint.exchange`; FleetAnswerError also for a malformed roster.
        """
        keys: dict[DeviceId, EllipticCurvePublicKey] = {}
        cursor: str | None = None
        for _ in range(MAX_ROSTER_PAGES):
            query = f"?after={quote(cursor)}" if cursor else ""
            path = f"/v1/device/roster{query}"
            answer = self._ask(path, {})
            try:
                page = msgspec.json.decode(answer.body, type=_RosterPage)
                keys |= {DeviceId(name): key_from_compressed(point) for name, point in page.devices.items()}
            except (*UNREADABLE, IdentityError) as error:
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
        answer = self._ask(f"/v1/trust/{quote(name)}", _unless(etag), most_bytes=most_bytes)
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
                    self._endpoint.open("GET", path, headers={**self._bearer(), **headers})
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

    def _ask(
        self,
        path: str,
        headers: Mapping[str, str],
        *,
        body: bytes | None = None,
        most_bytes: int = MAX_PAYLOAD_BYTES,
    ) -> Answer:
        """POST where there is a body; the token is made anew with each try."""
        method = "GET" if body is None else "POST"
        return self._in_time(
            lambda: self._endpoint.exchange(
                method, path, headers={**self._bearer(), **headers}, body=body, most_bytes=most_bytes
            )
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

    def _bearer(self) -> dict[str, str]:
        token, good_until = self._token
        now = self._now()
        # A clock that was set back makes the cached token come from the future: made anew as well.
        if not good_until - TOKEN_LIFETIME_S <= now < good_until - TOKEN_LIFETIME_S / 2:
            token = issue_token(self._key, self._device, AUDIENCE, now)
            self._token = (token, now + TOKEN_LIFETIME_S)
        return {"Authorization": f"Bearer {token}"}


def _unless(etag: str) -> dict[str, str]:
    """The header that asks for an answer only where it is another than the one of `etag`."""
    return {"If-None-Match": etag} if etag else {}
