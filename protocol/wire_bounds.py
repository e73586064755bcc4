"""Counts what a protobuf message holds before anything parses it: its memory follows from fields, not from bytes.

Two bytes on the wire make an empty message in a list, some fifty bytes in memory: 60 MiB became 3 GB and 13 s. Here the
tags are walked and the contents stepped over, so a message is refused after as many fields as an honest one may have,
however long it is. An unknown field or a group, which Flower never writes, is refused too. Knows protobuf's encoding, and imports
nothing of it: a message's class is handed in.

Source: Protocol Buffers, Encoding, https://protobuf.dev/programming-guides/encoding/ (2024); field types: descriptor.proto.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from protocol.errors import MalformedMessageError

__all__ = ["MAXIMUM_FIELDS", "check_wire"]

MAXIMUM_FIELDS: Final = 500
"""Of one message between aggregator and device; a question with ten arrays has some hundred, an answer forty."""

MAXIMUM_DEPTH: Final = 16
"""Messages within messages; Flower's has 6."""

LENGTH: Final = 2
"""The wire type of whatever has a length; 0, 1 and 5 are numbers, 3 and 4 groups."""

TEXTS: Final = frozenset({9, 12})
"""Field types string and bytes."""


def check_wire(content: bytes | bytearray, kind: type[Any], most: int = MAXIMUM_FIELDS) -> None:
    """Refuse what cannot be a protobuf message of this `kind` with at most `most` fields.

    An entry of a packed list counts by its bytes: one byte may be one number.

    Raises:
        MalformedMessageError: drop it; it was not parsed.
    """
    _walk(content, 0, len(content), kind.DESCRIPTOR, most, 0)


@dataclass(frozen=True, kw_only=True)
class _Field:
    """What may stand behind a length: a message, a packed list, or a text."""

    message: Any
    is_packable: bool
    is_text: bool


def _walk(content: bytes | bytearray, at: int, end: int, kind: Any, budget: int, depth: int) -> int:
    """Step over the message in content[at:end]; returns what is left of the budget."""
    if depth > MAXIMUM_DEPTH:
        raise MalformedMessageError(f"messages are nested deeper than {MAXIMUM_DEPTH}")
    fields = _fields(kind)
    while at < end:
        tag, at = _varint(content, at, end)
        field, wire, budget = fields.get(tag >> 3), tag & 7, budget - 1
        if field is None:
            raise MalformedMessageError(f"field {tag >> 3} of {kind.name} is unknown here")
        if wire == LENGTH:
            length, at = _varint(content, at, end)
            if length > end - at:
                raise MalformedMessageError("a field is longer than its message")
            if field.message is not None:
                budget = _walk(content, at, at + length, field.message, budget, depth + 1)
            elif field.is_packable:
                budget -= length
            elif not field.is_text:
                raise MalformedMessageError(f"field {tag >> 3} of {kind.name} has no length")
            at += length
        else:
            at = _after_number(content, at, end, wire)
        if budget < 0:
            raise MalformedMessageError("the message has more fields than an honest one can have")
    return budget


def _after_number(content: bytes | bytearray, at: int, end: int, wire: int) -> int:
    match wire:
        case 0:  # of any length
            _, at = _varint(content, at, end)
        case 1:
            at += 8
        case 5:
            at += 4
        case _:
            raise MalformedMessageError(f"wire type {wire} is not one that Flower writes")
    if at > end:
        raise MalformedMessageError("the message ends within a field")
    return at


def _varint(content: bytes | bytearray, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = content[at]
        at, value = at + 1, value | (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise MalformedMessageError("a number does not end")


@cache
def _fields(kind: Any) -> dict[int, _Field]:
    return {
        field.number: _Field(
            message=field.message_type,
            is_packable=field.is_repeated and field.message_type is None and field.type not in TEXTS,
            is_text=field.type in TEXTS,
        )
        for field in kind.fields
    }
