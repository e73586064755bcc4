"""Whether a message from the broker may be stored: a pure rule over topic and payload.

A refused message cannot become right by being sent again. It may become right by a newer fleet: `dead_letters`.
"""

from __future__ import annotations

import base64
import binascii
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec

from protocol.errors import (
    MalformedMessageError,
    MessageTooLargeError,
    ProtocolError,
    TopicError,
    UnknownVersionError,
)
from protocol.limits import MAX_PAYLOAD_BYTES
from protocol.messages.envelope import Event, decode, read_identity
from protocol.messages.kinds import Kind
from protocol.messages.payloads import AnomalyEvent
from protocol.topics import UPLINK_KINDS, parse_device_topic

__all__ = ["UNKNOWN", "Accepted", "Arrival", "Refusal", "RefusalReason", "judge", "refuse"]


UNKNOWN: Final = "?"
"""The device of a message whose topic names none of ours."""


class RefusalReason(StrEnum):
    """Why a message was not taken; a label of the metrics."""

    TOPIC = "topic"
    MALFORMED = "malformed"
    VERSION = "version"
    TOO_LARGE = "too_large"
    WRONG_SOURCE = "wrong_source"
    UNKNOWN_DEVICE = "unknown_device"
    UNSTORABLE = "unstorable"
    UNSIGNED = "unsigned"
    FORGED = "forged"


_REASONS: Final[dict[type[ProtocolError], RefusalReason]] = {
    TopicError: RefusalReason.TOPIC,
    MessageTooLargeError: RefusalReason.TOO_LARGE,
    UnknownVersionError: RefusalReason.VERSION,
}
"""Of what cannot be read; any other error is a malformed message."""


class Arrival(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A message as the broker handed it over. `received_at` is Unix seconds by our clock.

    `retained`: kept by the broker, or by us as a dead letter, so that it says nothing about now.
    """

    topic: str
    payload: bytes
    retained: bool
    received_at: float


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A message that may be stored, decoded once. `window` is an anomaly's raw window: little-endian float32."""

    arrival: Arrival
    kind: Kind
    event: Event
    window: bytes | None


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A message that is not taken: whose topic it came on (`UNKNOWN` if that is wrong already), why, in one line.

    `identity` is the boot and the sequence that it names, if that much can be read.
    """

    arrival: Arrival
    device: str
    reason: RefusalReason
    message: str
    identity: tuple[str, int] | None = None


def judge(arrival: Arrival, tenant: str) -> Accepted | Refusal:
    """Decode an arrival, or say why it is refused. Does not know which devices are enrolled.

    Checked here: the topic is one of this tenant's uplink topics, the payload decodes as that topic's kind, the sender
    named inside is the device of the topic, the sequence can be stored, and an anomaly's raw window has its shape.

    Args:
        arrival: a message as the broker handed it over.
        tenant: whose topics these are.

    Returns:
        What may be stored, decoded once; or a refusal that stands in the audit log as it is.
    """
    device: str = UNKNOWN
    try:
        topic = parse_device_topic(arrival.topic)
        if topic.tenant != tenant or topic.kind not in UPLINK_KINDS:
            raise TopicError(f"topic {arrival.topic[:120]!r} is not an uplink topic of tenant {tenant!r}")
        device = topic.device
        event = _storable(decode(arrival.payload, topic.kind), arrival.payload)
        window = _window(event.data) if isinstance(event.data, AnomalyEvent) else None
        if event.source == topic.device:
            _check_identity(event, topic.kind)
            return Accepted(arrival=arrival, kind=topic.kind, event=event, window=window)
    except ProtocolError as error:
        return refuse(arrival, device, _REASONS.get(type(error), RefusalReason.MALFORMED), str(error))
    return refuse(
        arrival,
        device,
        RefusalReason.WRONG_SOURCE,
        f"message of source {event.source[:80]!r} arrived on the topic of device {topic.device!r}",
    )


def refuse(arrival: Arrival, device: str, reason: RefusalReason, message: str) -> Refusal:
    """The refusal of a message, with what it says of itself."""
    return Refusal(
        arrival=arrival,
        device=device,
        reason=reason,
        message=message,
        identity=read_identity(arrival.payload),
    )


def _storable(event: Event, payload: bytes) -> Event:
    """The event without NUL in its texts: PostgreSQL keeps one in JSON, but no query can look into that any more.

    One device with it in a label or a problem would make every query for devices fail.
    """
    if rb"\u0000" not in payload:
        return event
    data = msgspec.convert(_without_nul(msgspec.to_builtins(event.data)), type(event.data))
    return msgspec.structs.replace(event, data=data)


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, list | tuple):
        return [_without_nul(item) for item in value]
    if isinstance(value, dict):
        return {_without_nul(name): _without_nul(item) for name, item in value.items()}
    return value


def _window(anomaly: AnomalyEvent) -> bytes | None:
    """The raw window's bytes, or None where the device left it out; raises MalformedMessageError."""
    if not anomaly.window:
        return None
    try:
        window = base64.b64decode(anomaly.window, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedMessageError("the anomaly's window is not base64") from None
    shape = anomaly.window_shape
    # judged before it is multiplied: a thousand extents of 19 digits would keep us busy, and be a long log line
    if len(shape) not in {1, 2} or not all(0 < extent <= MAX_PAYLOAD_BYTES for extent in shape):
        raise MalformedMessageError(
            f"the anomaly's window_shape {str(shape[:4])[:120]} is not (samples, channels), each at least 1"
        )
    if len(window) != 4 * math.prod(shape):
        raise MalformedMessageError(
            f"the anomaly's window has {len(window)} bytes; shape {shape} of float32 needs {4 * math.prod(shape)}"
        )
    return window


def _check_identity(event: Event, kind: Kind) -> None:
    """Sequences count from 1; 0 is a last will, which the broker sends for a device that cannot count any more."""
    if event.sequence == 0 and kind is not Kind.DEATH:
        raise MalformedMessageError(
            f"a {kind.value} message has sequence 0, which only a last will may; count from 1"
        )
    if "\0" in event.boot_id:
        raise MalformedMessageError(f"the boot id {event.boot_id!r} holds a NUL, which no database keeps")
