"""A device's requests to the aggregator, each signed so that it is good for one use in one place; and the answers, signed back.

::

    device ── authorization: Fedge <claims>.<signature> ──► aggregator      over: its key, session and number, method, path, body
    device ◄── fedge-signature: <signature> ─────────────── aggregator      over: that very request, the status, the answer's body

The signature is in the head and names the SHA-256 of the body, so that who sends is known before a byte of the body is read.
A request that was caught is of no use: not at another aggregator (its key), not at another path or with another body, not a
second time (the number), not after a restart of the aggregator (the session, which it draws anew), not an hour later (the time).

A device needs no clock and no memory for this. Session, number and time are the aggregator's own: it tells them, in an answer
with status 401 that is signed like any other, to whoever proved its key with a request that is out of step; and the
device signs again. Numbers may overtake each other on two connections, by less than `WINDOW`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import threading
from collections.abc import Callable
from typing import Annotated, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Meta, Struct

from protocol.errors import IdentityError
from protocol.identity import IdentityKey, fingerprint, sign_statement, verify_statement
from runtime.unreadable import UNREADABLE

__all__ = [
    "ANSWER_HEADER",
    "REQUEST_HEADER",
    "RequestClaims",
    "RequestSigner",
    "SignedRequest",
    "Step",
    "StepCounter",
    "decode_step",
    "encode_step",
    "read_request",
    "sign_answer",
]

REQUEST_HEADER: Final = "authorization"
SCHEME: Final = "Fedge "
ANSWER_HEADER: Final = "fedge-signature"

REQUEST_DOMAIN: Final = "flower-request/v1"
ANSWER_DOMAIN: Final = "flower-answer/v1"

MAXIMUM_HEADER_CHARS: Final = 1024
"""Ours have 492."""

WINDOW: Final = 1024
"""How far a request may come after one that was signed later: two threads send, and one waits for an upload."""

TIME_WINDOW_S: Final = 60.0
"""How long a signed request may be on its way: a slow link's TLS takes seconds."""

Fingerprint = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
Session = Annotated[str, Meta(pattern=r"^([0-9a-f]{32})?$(?!\n)")]
Number = Annotated[int, Meta(ge=0, le=(1 << 53) - 1)]


class RequestClaims(Struct, frozen=True, kw_only=True):
    """What a request says about itself; method and path stand in the request itself and are signed along."""

    device_key: Fingerprint
    aggregator_key: Fingerprint
    session: Session
    number: Number
    time: float
    body_sha256: Fingerprint


class Step(Struct, frozen=True, kw_only=True):
    """What a device that is out of step is told: the aggregator's session, a number that is still free, its time."""

    session: Session
    number: Number
    time: float


class SignedRequest:
    """A request's head as it came: claims that nobody has vouched for until `check`."""

    def __init__(self, claims: RequestClaims, text: str, signed: bytes, signature: bytes) -> None:
        self.claims, self.text = claims, text
        self._signed, self._signature = signed, signature

    def check(self, device_key: ec.EllipticCurvePublicKey) -> None:
        """Raise IdentityError unless the device with this key signed exactly this."""
        verify_statement(device_key, REQUEST_DOMAIN, self._signed, self._signature)


def read_request(header: str, method: str, path: str) -> SignedRequest:
    """Read the value of `REQUEST_HEADER`; raises IdentityError where it is none. Says nothing of who sent it."""
    if len(header) > MAXIMUM_HEADER_CHARS or not header.startswith(SCHEME) or not header.isascii():
        raise IdentityError("a request is signed by the device: authorization: Fedge <claims>.<signature>")
    try:
        claims, signature = (_unpacked(part) for part in header.removeprefix(SCHEME).split("."))
        parsed = msgspec.json.decode(claims, type=RequestClaims)
    except (ValueError, *UNREADABLE) as error:
        raise IdentityError(f"the request's signature does not parse: {error}") from None
    return SignedRequest(parsed, header, _statement(method, path, claims), signature)


class RequestSigner:
    """The device's side: signs requests to one aggregator. Safe to use from two threads.

    Args:
        key: the device's identity key.
        aggregator_key: the pinned one.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        key: IdentityKey,
        aggregator_key: ec.EllipticCurvePublicKey,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._key, self._aggregator, self._clock = key, aggregator_key, clock
        self._names = {
            "device_key": fingerprint(key.public_key()),
            "aggregator_key": fingerprint(aggregator_key),
        }
        self._lock = threading.Lock()
        self._session, self._number, self._offset_s = "", 0, 0.0

    def sign(self, method: str, path: str, body: bytes) -> str:
        """The value of `REQUEST_HEADER` for this request, good once."""
        with self._lock:
            self._number += 1
            claims = RequestClaims(
                **self._names,
                session=self._session,
                number=self._number,
                time=self._clock() + self._offset_s,
                body_sha256=hashlib.sha256(body).hexdigest(),
            )
        content = msgspec.json.encode(claims)
        signature = sign_statement(self._key, REQUEST_DOMAIN, _statement(method, path, content))
        return f"{SCHEME}{_packed(content)}.{_packed(signature)}"

    def check(self, request: str, status: int, body: bytes, signature: str) -> None:
        """Raise IdentityError unless this aggregator gave exactly this answer to exactly this request."""
        try:
            unpacked = _unpacked(signature)
        except ValueError:
            unpacked = b""
        verify_statement(self._aggregator, ANSWER_DOMAIN, _answer_statement(request, status, body), unpacked)

    def fall_in(self, step: Step) -> None:
        """Go on where the aggregator says."""
        with self._lock:
            if step.session != self._session:
                self._session, self._number = step.session, 0
            self._number = max(self._number, step.number)
            self._offset_s = step.time - self._clock()


class StepCounter:
    """The aggregator's side: takes each number of each device once. In memory; a restart draws a new session and voids the old.

    Args:
        session: 32 hex digits, drawn anew by each process.
        now: Unix seconds.
    """

    def __init__(self, session: str, *, now: Callable[[], float]) -> None:
        self._session, self._now = session, now
        self._highest: dict[str, int] = {}
        self._taken: dict[str, int] = {}

    def take(self, claims: RequestClaims) -> bool:
        """Whether this request comes for the first time, in this session and in time; then it never will again."""
        device, number = claims.device_key, claims.number
        if claims.session != self._session or not abs(self._now() - claims.time) <= TIME_WINDOW_S:
            return False
        highest, taken = self._highest.get(device, 0), self._taken.get(device, 0)
        ahead = number - highest
        if ahead > 0:
            # One bit for each of the last numbers, the newest lowest.
            taken = ((taken << ahead) | 1) & ((1 << WINDOW) - 1) if ahead < WINDOW else 1
            highest = number
        elif -ahead >= WINDOW or taken >> -ahead & 1:
            return False
        else:
            taken |= 1 << -ahead
        self._highest[device], self._taken[device] = highest, taken
        return True

    def step(self, device_key: str) -> Step:
        """What a device that is out of step is told."""
        return Step(session=self._session, number=self._highest.get(device_key, 0), time=self._now())


def encode_step(step: Step) -> bytes:
    """JSON: the body of the answer to a request that is out of step."""
    return msgspec.json.encode(step)


def decode_step(body: bytes) -> Step | None:
    """Read `encode_step`; None where it is something else: a refusal in words."""
    try:
        return msgspec.json.decode(body, type=Step)
    except UNREADABLE:
        return None


def sign_answer(key: IdentityKey, request: str, status: int, body: bytes) -> str:
    """The value of `ANSWER_HEADER`; `request` is the value of `REQUEST_HEADER` that is answered."""
    return _packed(sign_statement(key, ANSWER_DOMAIN, _answer_statement(request, status, body)))


def _statement(method: str, path: str, claims: bytes) -> bytes:
    return f"{method} {path}\n".encode() + claims


def _answer_statement(request: str, status: int, body: bytes) -> bytes:
    return f"{hashlib.sha256(request.encode()).hexdigest()}\n{status}\n{hashlib.sha256(body).hexdigest()}".encode()


def _packed(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _unpacked(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
