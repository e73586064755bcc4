"""Flower's messages from the device's side: over HTTPS, each request signed for one use, each answer checked.

A thin client of our own because Flower's imports its server (docs/decisions/0002), and signs a time and nothing else (0025). It
speaks; it does not retry, wait or decide: `participation` does. Every failure is one of three errors, told apart by what helps: try
again, change nothing and give up, or drop this one message.

Safe to use from two threads (questions on one, heartbeats on the other).
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple

import httpx

from edge_agent.errors import (
    AggregatorAnswerError,
    AggregatorRefusedError,
    AggregatorUnreachableError,
    LearnerError,
)
from edge_agent.learner import flower_internals
from edge_agent.learner.learner_stats import Traffic
from edge_agent.pinned_tls import pinned_context
from protocol.errors import IdentityError
from protocol.signed_requests import ANSWER_HEADER, REQUEST_HEADER, RequestSigner, decode_step
from protocol.wire_bounds import check_wire

__all__ = ["FlowerClient"]

PREFIX: Final = "/v1/fleet/"

MAXIMUM_RESPONSE_BYTES: Final = 64 * 1024 * 1024
"""One response: 16 million parameters. Larger ones are refused while they are read."""

REQUEST_TIMEOUT_S: Final = 20.0
"""Of one step (connecting, a piece of a body, the next bytes of an answer): longer than a held pull and a slow uplink together."""

PIECE_BYTES: Final = 64 * 1024
"""Two seconds on a link of 300 kbit/s. The kernel holds no more either: what it holds is still to be sent when an answer is waited for."""

FAREWELL_TIMEOUT_S: Final = 2.0
"""Leaving is a courtesy; a learner that was told to end does not wait for it."""

STEPS: Final = 3
"""How often one request is signed anew at most: both threads may hear of a restart at once."""


class FlowerClient:
    """A device's connection to one aggregator.

    Args:
        address: ``host:port`` of the Fleet API.
        ca_file: PEM of the CA that must have signed the aggregator's certificate; no other is trusted.
        signer: with the device's identity key, for the aggregator's.

    Raises:
        SettingsError: the CA file cannot be used.
    """

    def __init__(self, address: str, ca_file: Path, signer: RequestSigner) -> None:
        self._signer = signer
        self.traffic = Traffic()
        # trust_env: neither a proxy nor a CA of the environment may come between device and aggregator.
        self._http = httpx.Client(
            base_url=f"https://{address}",
            transport=httpx.HTTPTransport(
                verify=pinned_context(ca_file, "flower.ca_file"),
                trust_env=False,
                socket_options=[(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE_BYTES)],
            ),
            timeout=REQUEST_TIMEOUT_S,
            trust_env=False,
        )

    def activate(self) -> None:
        """Say that this device is here; every other call needs it once.

        Raises:
            AggregatorRefusedError: the device's key is not in the aggregator's roster (or not yet), or another aggregator answers.
            AggregatorUnreachableError: try again later.
        """
        self._call("activate-node")

    def heartbeat(self) -> None:
        """Say that this device is still here; due every ten seconds. Raises like `activate`."""
        self._call("send-node-heartbeat")

    def deactivate(self) -> None:
        """Say that this device leaves, so that no round waits for it. Raises like `activate`."""
        self._call("deactivate-node", timeout_s=FAREWELL_TIMEOUT_S)

    def pull(self) -> flower_internals.Message | None:
        """The next question, or None where there is none; the aggregator may hold the call for a moment.

        Raises:
            AggregatorAnswerError: something came that is no message; it is lost, the next pull may be fine.
            AggregatorUnreachableError: try again later.
        """
        content = self._call("pull-messages")
        if not content:
            return None
        try:
            check_wire(content, flower_internals.MessageProto)
            return flower_internals.message_from_proto(flower_internals.MessageProto.FromString(content))
        except Exception as error:  # Flower's decoding raises whatever the bytes make it trip over
            raise AggregatorAnswerError(
                f"the aggregator sent a message that does not parse: {error!r}"[:300]
            ) from error

    def reply(self, message: flower_internals.Message) -> None:
        """Send an answer.

        Args:
            message: made with ``reply_to``.

        Raises:
            AggregatorAnswerError: its run is over or nobody waits for it any more: drop it.
            AggregatorUnreachableError: try again; sending the same answer twice is harmless.
        """
        with flower_internals.no_object_id_recompute():
            flower_internals.set_message_id(message)
            content = flower_internals.message_to_proto(message).SerializeToString(deterministic=True)
        self._call("push-messages", content)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _call(self, action: str, body: bytes = b"", *, timeout_s: float = REQUEST_TIMEOUT_S) -> bytes:
        """The body of the aggregator's own answer to a request that it took."""
        path = PREFIX + action
        for _ in range(STEPS):
            request = self._signer.sign("POST", path, body)
            answer = self._post(path, request, body, timeout_s)
            if answer.status == HTTPStatus.OK:
                self._check(request, answer, action)
                return answer.content
            step = decode_step(answer.content) if answer.status == HTTPStatus.UNAUTHORIZED else None
            if step is None:
                raise _refusal(action, answer)
            self._check(request, answer, action)
            self._signer.fall_in(step)
        raise AggregatorUnreachableError(f"{action}: this device does not fall into step with the aggregator")

    def _check(self, request: str, answer: _Answer, action: str) -> None:
        try:
            self._signer.check(request, answer.status, answer.content, answer.signature)
        except IdentityError:
            raise AggregatorRefusedError(
                f"{action}: who answers is not the aggregator whose key is pinned (flower.aggregator_key)"
            ) from None

    def _post(self, path: str, request: str, body: bytes, timeout_s: float) -> _Answer:
        content = bytearray()
        headers = {
            "accept-encoding": "identity",
            "content-length": str(len(body)),
            REQUEST_HEADER: request,
        }
        # Counted before it is known what becomes of it: a request whose response is cut off was sent all the same.
        self.traffic.sent_bytes += len(body)
        try:
            with self._http.stream(
                "POST", path, content=_pieces(body), headers=headers, timeout=timeout_s
            ) as answer:
                for chunk in answer.iter_raw():
                    content += chunk
                    if len(content) > MAXIMUM_RESPONSE_BYTES:
                        raise AggregatorAnswerError(
                            f"{path}: a response of more than {MAXIMUM_RESPONSE_BYTES} bytes"
                        )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            self.traffic.sent_bytes -= len(body)
            raise AggregatorUnreachableError(f"{path}: {error or type(error).__name__}") from None
        except (httpx.HTTPError, OSError) as error:
            raise AggregatorUnreachableError(f"{path}: {error or type(error).__name__}") from None
        self.traffic.received_bytes += len(content)
        return _Answer(answer.status_code, bytes(content), answer.headers.get(ANSWER_HEADER, ""))


def _pieces(body: bytes) -> Iterator[bytes]:
    """TLS takes what it is given in one go or times out: four megabytes in twenty seconds are more than a slow link has."""
    for at in range(0, len(body), PIECE_BYTES):
        yield body[at : at + PIECE_BYTES]


class _Answer(NamedTuple):
    """What came back: an HTTP status, a body, and the signature over both."""

    status: int
    content: bytes
    signature: str


def _refusal(action: str, answer: _Answer) -> LearnerError:
    words = f"{action}: HTTP {answer.status}: {answer.content[:200].decode('utf-8', 'replace')!r}"
    if answer.status in {401, 412}:
        return AggregatorRefusedError(
            f"{words} (is the device enrolled, and its aggregator_key the aggregator's?)"
        )
    if answer.status >= 500 or answer.status in {408, 429}:
        return AggregatorUnreachableError(words)
    return AggregatorAnswerError(words)
