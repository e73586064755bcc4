"""Flower's Fleet protocol from the device's side: protobuf over HTTPS, each request signed with the device key.

A thin client of our own because Flower's imports its server (docs/decisions/0002). It speaks; it does not retry, wait or
decide: `participation` does. Every failure is one of three errors, told apart by what helps: try again, change
nothing and give up, or drop this one message.

Safe to use from two threads (questions on one, heartbeats on the other).
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types

from edge_agent.errors import (
    AggregatorAnswerError,
    AggregatorRefusedError,
    AggregatorUnreachableError,
)
from edge_agent.learner import flower_internals
from edge_agent.learner.learner_stats import Traffic
from edge_agent.pinned_tls import pinned_context
from protocol.identity import public_key_pem
from protocol.questions import WHOLE_MESSAGES_HEADER

__all__ = ["FlowerClient"]

HEARTBEAT_INTERVAL_S: Final = 10.0
"""The shortest Flower allows: the aggregator gives a silent device up after twice this."""

MAXIMUM_OBJECTS: Final = 256
"""Objects of one question; ours has about ten. An aggregator must not make a device fetch without end."""

MAXIMUM_RESPONSE_BYTES: Final = 64 * 1024 * 1024
"""One response: 16 million parameters. Larger ones are refused while they are read."""

REQUEST_TIMEOUT_S: Final = 20.0
"""Longer than a held pull and a slow uplink together, shorter than the patience of a round."""

FAREWELL_TIMEOUT_S: Final = 2.0
"""Leaving is a courtesy; a learner that was told to end does not wait for it."""


class FlowerClient:
    """A device's connection to one aggregator.

    Args:
        address: ``host:port`` of the Fleet API.
        ca_file: PEM of the CA that must have signed the aggregator's certificate; no other is trusted.
        key: the device's identity key, which is its node key.
        now: Unix seconds; signed into each request, so it must be right within five minutes.

    Raises:
        SettingsError: the CA file cannot be used.
    """

    def __init__(
        self, address: str, ca_file: Path, key: ec.EllipticCurvePrivateKey, *, now: Callable[[], float]
    ) -> None:
        self._key, self._now = key, now
        self._public_key = public_key_pem(key.public_key())
        self._node: Any = None
        self._sends_whole = False
        self.traffic = Traffic()
        # trust_env: neither a proxy nor a CA of the environment may come between device and aggregator.
        self._http = httpx.Client(
            base_url=f"https://{address}/v1/fleet/",
            verify=pinned_context(ca_file, "flower.ca_file"),
            timeout=REQUEST_TIMEOUT_S,
            trust_env=False,
        )

    def activate(self) -> None:
        """Say that this device is here; every other call needs it once.

        Raises:
            AggregatorRefusedError: the device's key is not in the aggregator's roster (or not yet), or the clock is wrong.
            AggregatorUnreachableError: try again later.
        """
        response = self._call(
            "activate-node",
            flower_internals.ActivateNodeRequest(
                public_key=self._public_key, heartbeat_interval=HEARTBEAT_INTERVAL_S
            ),
            flower_internals.ActivateNodeResponse(),
        )
        self._node = flower_internals.Node(node_id=response.node_id)

    def heartbeat(self) -> None:
        """Say that this device is still here; due every `HEARTBEAT_INTERVAL_S`. Raises like `activate`."""
        self._call(
            "send-node-heartbeat",
            flower_internals.SendNodeHeartbeatRequest(
                node=self._node, heartbeat_interval=HEARTBEAT_INTERVAL_S
            ),
            flower_internals.SendNodeHeartbeatResponse(),
        )

    def deactivate(self) -> None:
        """Say that this device leaves, so that no round waits for it. Raises like `activate`."""
        self._call(
            "deactivate-node",
            flower_internals.DeactivateNodeRequest(node_id=self._node.node_id),
            flower_internals.DeactivateNodeResponse(),
            timeout_s=FAREWELL_TIMEOUT_S,
        )

    def pull(self) -> flower_internals.Message | None:
        """The next question, whole, or None where there is none; the aggregator may hold the call for a moment.

        Raises:
            AggregatorAnswerError: something came that is no message; it is lost, the next pull may be fine.
            AggregatorUnreachableError: try again later.
        """
        response = self._call(
            "pull-messages",
            flower_internals.PullMessagesRequest(node=self._node),
            flower_internals.PullMessagesResponse(),
        )
        if not response.messages_list:
            return None
        try:
            stub = flower_internals.message_from_proto(response.messages_list[0])
        except Exception as error:  # Flower's decoding raises whatever the bytes make it trip over
            raise AggregatorAnswerError(
                f"the aggregator sent a message that does not parse: {error!r}"
            ) from error
        self._sends_whole = not response.message_object_trees
        return stub if self._sends_whole else self._fetch(stub, response.message_object_trees[0])

    def reply(self, message: flower_internals.Message, seconds: float) -> None:
        """Send an answer with all its objects.

        Args:
            message: made with ``reply_to``.
            seconds: what the answer took, for Flower's own statistics.

        Raises:
            AggregatorAnswerError: its run is over or nobody waits for it any more: drop it.
            AggregatorUnreachableError: try again; sending the same answer twice is harmless.
        """
        run_id = message.metadata.run_id
        with flower_internals.no_object_id_recompute():
            flower_internals.set_message_id(message)
            if self._sends_whole:
                taken = self._call(
                    "push-messages",
                    flower_internals.PushMessagesRequest(
                        node=self._node,
                        messages_list=[flower_internals.message_to_proto(message)],
                        clientapp_runtime_list=[seconds],
                    ),
                    flower_internals.PushMessagesResponse(),
                )
                # Only an answer to an open question gets a session: without one it enters no sum, and an update can wait.
                if not taken.session_id:
                    raise AggregatorAnswerError(
                        "nobody waits for this answer any more: its question is closed"
                    )
                return
            objects = flower_internals.get_all_nested_objects(message)
            response = self._call(
                "push-messages",
                flower_internals.PushMessagesRequest(
                    node=self._node,
                    messages_list=[
                        flower_internals.message_to_proto(
                            flower_internals.remove_content_from_message(message)
                        )
                    ],
                    message_object_trees=[flower_internals.get_object_tree(message)],
                    clientapp_runtime_list=[seconds],
                ),
                flower_internals.PushMessagesResponse(),
            )
            for object_id in response.objects_to_push:
                if object_id not in objects:
                    raise AggregatorAnswerError(
                        f"the aggregator asks for object {object_id[:80]!r}, which the answer does not have"
                    )
                self._call(
                    "push-object",
                    flower_internals.PushObjectRequest(
                        node=self._node,
                        run_id=run_id,
                        object_id=object_id,
                        object_content=objects[object_id].deflate(),
                        session_id=response.session_id,
                    ),
                    flower_internals.PushObjectResponse(),
                )

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _fetch(self, stub: flower_internals.Message, tree: Any) -> flower_internals.Message:
        # Flower's own client also confirms the receipt, so that the server may delete the objects. Ours deletes them
        # when the answer is in or the round closes; one request in eight is saved.
        run_id, message_id = stub.metadata.run_id, stub.metadata.message_id
        contents: dict[str, bytes] = {}
        for node in flower_internals.iterate_object_tree(tree):
            if len(contents) >= MAXIMUM_OBJECTS:
                raise AggregatorAnswerError(f"a question has more than {MAXIMUM_OBJECTS} objects")
            part = self._call(
                "pull-object",
                flower_internals.PullObjectRequest(node=self._node, run_id=run_id, object_id=node.object_id),
                flower_internals.PullObjectResponse(),
            )
            if not part.object_found or not part.object_available:
                raise AggregatorAnswerError(
                    f"object {node.object_id[:16]} of a question is not there: it was withdrawn"
                )
            contents[node.object_id] = part.object_content
        try:
            message = flower_internals.inflate_object_from_contents(message_id, contents)
        except Exception as error:  # as in `pull`: garbage may trip Flower's decoding anywhere
            raise AggregatorAnswerError(f"a question's objects do not parse: {error!r}"[:300]) from error
        if not isinstance(message, flower_internals.Message):
            raise AggregatorAnswerError(f"expected a message, got a {type(message).__name__}")
        # Whom the answer goes to is what the signed-for transport said, not what the object says.
        return flower_internals.replace_metadata(message, stub.metadata)

    def _call(self, path: str, request: Any, response: Any, *, timeout_s: float = REQUEST_TIMEOUT_S) -> Any:
        body = request.SerializeToString(deterministic=True)
        content = self._post(path, body, timeout_s)
        self.traffic.received_bytes += len(content)
        try:
            response.ParseFromString(content)
        except DecodeError:
            raise AggregatorAnswerError(f"{path}: {len(content)} bytes that are no Flower response") from None
        return response

    def _post(self, path: str, body: bytes, timeout_s: float) -> bytes:
        content = bytearray()
        # Counted before it is known what becomes of it: a request whose response is cut off was sent all the same.
        self.traffic.sent_bytes += len(body)
        try:
            with self._http.stream(
                "POST", path, content=body, headers=self._headers(), timeout=timeout_s
            ) as answer:
                for chunk in answer.iter_raw():
                    content += chunk
                    if len(content) > MAXIMUM_RESPONSE_BYTES:
                        raise AggregatorAnswerError(
                            f"{path}: a response of more than {MAXIMUM_RESPONSE_BYTES} bytes"
                        )
                status = answer.status_code
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            self.traffic.sent_bytes -= len(body)
            raise AggregatorUnreachableError(f"{path}: {error or type(error).__name__}") from None
        except (httpx.HTTPError, OSError) as error:
            raise AggregatorUnreachableError(f"{path}: {error or type(error).__name__}") from None
        if status == httpx.codes.OK:
            return bytes(content)
        words = f"{path}: HTTP {status}: {bytes(content[:200]).decode('utf-8', 'replace')}"
        if status in {401, 412}:
            raise AggregatorRefusedError(f"{words} (is the device enrolled, and its clock right?)")
        if status >= 500 or status in {408, 429}:
            raise AggregatorUnreachableError(words)
        raise AggregatorAnswerError(words)

    def _headers(self) -> dict[str, str]:
        stamp = datetime.fromtimestamp(self._now(), UTC).isoformat()
        signature = self._key.sign(stamp.encode("ascii"), ec.ECDSA(hashes.SHA256()))
        return {
            "content-type": flower_internals.PROTOBUF_MEDIA_TYPE,
            "accept": flower_internals.PROTOBUF_MEDIA_TYPE,
            "accept-encoding": "identity",
            flower_internals.FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(self._public_key).decode("ascii"),
            flower_internals.TIMESTAMP_HEADER: stamp,
            flower_internals.FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(signature).decode("ascii"),
            flower_internals.FLWR_PACKAGE_NAME_METADATA_KEY: "flwr",
            flower_internals.FLWR_PACKAGE_VERSION_METADATA_KEY: flower_internals.FLOWER_VERSION,
            flower_internals.FLWR_COMPONENT_NAME_METADATA_KEY: "SuperNode",
            WHOLE_MESSAGES_HEADER: "1",
        }
