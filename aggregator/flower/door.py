"""Who is there: each request is known by its head alone, before a byte of its body is read.

::

    head ─► one signature ─► roster: whose key? ─► does it verify? ─► for this aggregator? ─► connection counted ─► number, session, time
              └──────────────── stranger: 401, unsigned, connection closed ─────────────┘        429                 401 with the step

What a stranger gets costs one look at a dictionary and at most one verification. Where anything after that is refused, the answer
is signed: the device can believe it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from aggregator.flower.roster import Member, Roster
from protocol.errors import IdentityError
from protocol.identity import fingerprint
from protocol.signed_requests import (
    REQUEST_HEADER,
    SignedRequest,
    StepCounter,
    encode_step,
    read_request,
    sign_answer,
)
from service.connections import has_place

__all__ = ["Door", "Headers", "RefusalError", "StrangerError", "Visitor", "target_of"]

CONNECTIONS_OF_DEVICE: Final = 8
"""A learner has two; those of one that was killed stay for a while."""

Headers = dict[str, list[str]]
"""Values by lower-case name, in the order in which they came."""


def target_of(scope: Mapping[str, Any]) -> str:
    """Path and query as they came, not as they were unescaped: two ways to write a path are two paths."""
    query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
    return f"{scope['raw_path'].decode('latin-1')}{query}"


class RefusalError(Exception):
    """A device of the roster is refused; `body` is words, or the step it should fall in with."""

    def __init__(self, status: HTTPStatus, body: str | bytes) -> None:
        super().__init__(f"{status.value} {body!r}")
        self.status, self.body = status, body.encode() if isinstance(body, str) else body
        self.is_step = isinstance(body, bytes)


class StrangerError(Exception):
    """Nobody in the roster has signed this."""


@dataclass(frozen=True, kw_only=True)
class Visitor:
    """A device that proved its key, and what it signed."""

    member: Member
    request: SignedRequest
    headers: Headers


class Door:
    """Knows visitors and answers them under the aggregator's signature.

    Args:
        roster: who is let in.
        identity: the aggregator's key.
        steps: takes each request once.
    """

    def __init__(self, roster: Roster, identity: ec.EllipticCurvePrivateKey, steps: StepCounter) -> None:
        self._roster, self._identity, self._steps = roster, identity, steps
        self._name: Final = fingerprint(identity.public_key())

    def know(self, scope: Mapping[str, Any]) -> Visitor:
        """Who sends the request with this head.

        Raises:
            StrangerError: nobody of the roster, or nobody who speaks to this aggregator.
        """
        headers: Headers = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        signatures = headers.get(REQUEST_HEADER, [])
        if len(signatures) != 1:
            raise StrangerError("a request bears exactly one signature of a device in the roster")
        try:
            request = read_request(signatures[0], scope["method"], target_of(scope))
            member = self._roster.find(request.claims.device_key)
            if member is None:
                raise StrangerError("this device key is not in the aggregator's roster")
            request.check(member.key)
        except IdentityError as error:
            raise StrangerError(str(error)) from None
        if request.claims.aggregator_key != self._name:
            raise StrangerError("the request is signed for an aggregator with another key")
        return Visitor(member=member, request=request, headers=headers)

    def admit(self, visitor: Visitor, scope: Mapping[str, Any]) -> None:
        """Take the request, which was never taken before and never will be again.

        Raises:
            RefusalError: the device has too many connections, or is out of step.
        """
        claims = visitor.request.claims
        if not self._steps.take(claims):
            raise RefusalError(HTTPStatus.UNAUTHORIZED, encode_step(self._steps.step(claims.device_key)))
        # Not before: a request that was caught, sent once more, must take none of the device's places.
        if not has_place(scope, visitor.member.device, CONNECTIONS_OF_DEVICE):
            raise RefusalError(
                HTTPStatus.TOO_MANY_REQUESTS, "the device has too many connections; close some"
            )

    def signature(self, visitor: Visitor, status: int, body: bytes) -> str:
        """Over the answer to a visitor."""
        return sign_answer(self._identity, visitor.request.text, status, body)
