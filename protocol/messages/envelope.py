"""The CloudEvents 1.0 envelope (structured mode, JSON) around every message.

The event id is ``device/boot/sequence``: storing an event twice is seen, a gap is seen. `encode` is deterministic
(field order of the structs), which the golden vectors of the tests hold fast.

Source: CloudEvents 1.0.2, https://github.com/cloudevents/spec; extension attributes `bootid`, `bootnumber`, `sequence`,
and those of a seal: `notafter`, `nonce`, `signature`.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec

from protocol.errors import MalformedMessageError, MessageTooLargeError, UnknownVersionError
from protocol.limits import MAX_INTEGER, MAX_NESTING_DEPTH, MAX_PAYLOAD_BYTES
from protocol.messages.commands import CommandResult, Commands
from protocol.messages.kinds import Kind
from protocol.messages.payloads import (
    Ack,
    AnomalyClosed,
    AnomalyEvent,
    Birth,
    Death,
    DesiredState,
    DriftReport,
    Health,
    InstallReport,
    Payload,
    TrainingInvitation,
)
from protocol.messages.seals import Seal
from runtime.unreadable import UNREADABLE

__all__ = ["CLOUD_EVENT", "Event", "decode", "encode", "kind_of", "read_identity"]

CLOUD_EVENT: Final = "application/cloudevents+json"
"""The media type of an encoded event (structured mode), where a message travels over HTTP."""

VERSION: Final = 1
LATEST_S: Final = 253_402_300_799.0
"""The last second of the year 9999, which is where ISO 8601 ends; a clock beyond either end counts as being there."""
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)]
PAYLOAD_OF: Final[dict[Kind, type[Payload]]] = {
    Kind.BIRTH: Birth,
    Kind.DEATH: Death,
    Kind.ANOMALY: AnomalyEvent,
    Kind.CLOSED: AnomalyClosed,
    Kind.DRIFT: DriftReport,
    Kind.HEALTH: Health,
    Kind.REPORT: InstallReport,
    Kind.DESIRED: DesiredState,
    Kind.ACK: Ack,
    Kind.COMMANDS: Commands,
    Kind.RESULT: CommandResult,
    Kind.TRAINING: TrainingInvitation,
}
_KINDS: Final = {kind.value for kind in Kind}
_KIND_OF_TYPE: Final = {f"dev.fedge.{kind.value}.v{VERSION}": kind for kind in Kind}
_KIND_OF: Final = {payload: kind for kind, payload in PAYLOAD_OF.items()}
# Possessive, and an unfinished string reaches to the end: each byte is looked at once, whatever an attacker sends.
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_BRACKET: Final = re.compile(rb"[\[\]{}]")
_TYPE: Final = re.compile(r"dev\.fedge\.([a-z]+)\.v([1-9][0-9]{0,3})")


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One message with its origin.

    Attributes:
        source: the device id, or ``fleet`` / ``aggregator``.
        boot_id: random per start of the sender; sequences count from 1 within it (0: a last will).
        boot_number: which start of the sender that is, so that (boot_number, sequence) is the order of its events; 0: not told.
        sequence: position in the sender's stream of this boot.
        time: when the sender made the message, Unix seconds.
        data: the payload struct; its type decides the kind.
        seal: its sender's signature (`protocol.sealed_events`), where the kind has one.
    """

    source: str
    boot_id: str
    sequence: int
    time: float
    data: Payload
    boot_number: int = 0
    seal: Seal | None = None

    @property
    def id(self) -> str:
        """The idempotency key ``source/boot/sequence``."""
        return f"{self.source}/{self.boot_id}/{self.sequence}"


class _Wire(msgspec.Struct, frozen=True, kw_only=True):
    specversion: str
    id: str
    source: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    type: str
    time: datetime
    datacontenttype: str = "application/json"
    bootid: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    sequence: Count
    data: msgspec.Raw
    bootnumber: Count | msgspec.UnsetType = msgspec.UNSET
    notafter: Count | msgspec.UnsetType = msgspec.UNSET
    nonce: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")] | msgspec.UnsetType = msgspec.UNSET
    signature: Annotated[str, msgspec.Meta(max_length=128)] | msgspec.UnsetType = msgspec.UNSET


class _Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of a message of which nothing else may be readable."""

    bootid: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    sequence: Annotated[int, msgspec.Meta(ge=1, le=MAX_INTEGER)]


_encoder: Final = msgspec.json.Encoder()
_wire_decoder: Final = msgspec.json.Decoder(_Wire)
_identity_decoder: Final = msgspec.json.Decoder(_Identity)
_data_decoders: Final = {kind: msgspec.json.Decoder(payload) for kind, payload in PAYLOAD_OF.items()}


def kind_of(payload: Payload) -> Kind:
    """The kind of message a payload struct is the data of."""
    return _KIND_OF[type(payload)]


def encode(event: Event) -> bytes:
    """Write an event as UTF-8 JSON.

    Raises:
        MessageTooLargeError: it would exceed `MAX_PAYLOAD_BYTES`; leave the raw window out.
        MalformedMessageError: it holds NaN or infinity, which JSON has no word for.
    """
    kind = kind_of(event.data)
    data = _encoder.encode(event.data)
    # it is written as null: few messages hold one, and looking at each of their numbers costs as much as writing them
    if b"null" in data and _has_non_finite(event.data):
        raise MalformedMessageError(f"a {kind.value} message holds NaN or infinity; send finite numbers only")
    wire = _Wire(
        specversion="1.0",
        id=event.id,
        source=event.source,
        type=f"dev.fedge.{kind.value}.v{VERSION}",
        time=datetime.fromtimestamp(min(max(event.time, 0.0), LATEST_S), UTC),
        bootid=event.boot_id,
        sequence=event.sequence,
        data=msgspec.Raw(data),
        bootnumber=event.boot_number or msgspec.UNSET,
        notafter=event.seal.not_after if event.seal else msgspec.UNSET,
        nonce=event.seal.nonce if event.seal else msgspec.UNSET,
        signature=event.seal.signature if event.seal else msgspec.UNSET,
    )
    payload = _encoder.encode(wire)
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise MessageTooLargeError(
            f"a {kind.value} message of {len(payload)} bytes exceeds {MAX_PAYLOAD_BYTES}"
        )
    return payload


def decode(payload: bytes, expected: Kind | None = None) -> Event:
    """Read an event, checking size and depth before anything is parsed.

    Unknown fields are ignored. `expected` is the kind the topic promised.

    Raises:
        MessageTooLargeError: too many bytes or too deep.
        MalformedMessageError: truncated, not JSON, a field missing or of the wrong type, or not the expected kind.
        UnknownVersionError: a kind or version this build does not know.
    """
    _check_limits(payload)
    try:
        wire = _wire_decoder.decode(payload)
    except UNREADABLE as error:
        raise MalformedMessageError(
            f"not a Fedge message ({error}); expected a CloudEvents 1.0 JSON object"
        ) from None
    kind = _check_type(wire)
    if expected is not None and kind is not expected:
        raise MalformedMessageError(
            f"message type {wire.type!r} arrived on the topic of {expected.value!r} messages"
        )
    try:
        data = _data_decoders[kind].decode(wire.data)
    except UNREADABLE as error:
        raise MalformedMessageError(f"the data of this {kind.value} message is wrong: {error}") from None
    if wire.time.tzinfo is None:
        raise MalformedMessageError(
            f"time {wire.time.isoformat()!r} has no zone; expected e.g. 2026-01-31T12:00:00Z"
        )
    event = Event(
        source=wire.source,
        boot_id=wire.bootid,
        sequence=wire.sequence,
        time=wire.time.timestamp(),
        data=data,
        boot_number=wire.bootnumber or 0,
        seal=_seal(wire),
    )
    if wire.id != event.id:
        raise MalformedMessageError(f"id {wire.id[:200]!r} is not source/bootid/sequence ({event.id!r})")
    return event


def read_identity(payload: bytes) -> tuple[str, int] | None:
    """The boot id and the sequence of a message that `decode` refuses, so that it can be named; None if it tells none."""
    try:
        _check_limits(payload)
        identity = _identity_decoder.decode(payload)
    except (MessageTooLargeError, *UNREADABLE):
        return None
    return identity.bootid, identity.sequence


def _seal(wire: _Wire) -> Seal | None:
    if wire.notafter is msgspec.UNSET or wire.nonce is msgspec.UNSET or wire.signature is msgspec.UNSET:
        return None
    digest = hashlib.sha256(wire.data).hexdigest()
    return Seal(not_after=wire.notafter, nonce=wire.nonce, signature=wire.signature, data_sha256=digest)


def _check_type(wire: _Wire) -> Kind:
    if wire.specversion != "1.0":
        raise UnknownVersionError(
            f"CloudEvents specversion {wire.specversion!r} is not spoken here; expected '1.0'"
        )
    if (known := _KIND_OF_TYPE.get(wire.type)) is not None:
        return known
    match = _TYPE.fullmatch(wire.type)
    if not match or match[1] not in _KINDS:
        raise UnknownVersionError(
            f"message type {wire.type[:80]!r} is not known; expected dev.fedge.<kind>.v{VERSION} with kind one of {[k.value for k in Kind]}"
        )
    raise UnknownVersionError(
        f"message type {wire.type!r} has version {match[2]}; this build speaks version {VERSION}: upgrade the older side"
    )


def _check_limits(payload: bytes) -> None:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise MessageTooLargeError(f"payload of {len(payload)} bytes exceeds {MAX_PAYLOAD_BYTES}")
    # so few cannot be too deep, wherever they stand: nearly every message, for a tenth of what looking closer costs
    if payload.count(b"[") + payload.count(b"{") <= MAX_NESTING_DEPTH:
        return
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", payload)):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_NESTING_DEPTH:
            raise MessageTooLargeError(f"payload nests deeper than {MAX_NESTING_DEPTH} levels")


def _has_non_finite(value: object) -> bool:
    if isinstance(value, float):
        return value != value or value in (float("inf"), float("-inf"))  # noqa: PLR0124 - NaN is what differs from itself
    if isinstance(value, msgspec.Struct):
        return any(_has_non_finite(getattr(value, name)) for name in value.__struct_fields__)
    if isinstance(value, dict):
        return any(map(_has_non_finite, value.values()))
    return isinstance(value, tuple | list) and any(map(_has_non_finite, value))
