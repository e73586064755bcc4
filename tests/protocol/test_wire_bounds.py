"""Counting a message's fields before it is parsed: whatever the bytes are, it says yes or no, and yes bounds the memory."""

from __future__ import annotations

import contextlib
import random

from flwr.proto.message_pb2 import Message
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import IdentityError, MalformedMessageError
from protocol.signed_requests import read_request
from protocol.wire_bounds import check_wire

MOST = 150


def honest(seed: int) -> bytes:
    """A message like a question or an answer, of random size."""
    rng = random.Random(seed)
    message = Message()
    message.metadata.run_id, message.metadata.message_type = rng.getrandbits(60), "train.fit"
    for _ in range(rng.randrange(4)):
        item = message.content.items.add(key="a" * rng.randrange(5))
        if rng.random() < 0.5:
            array = item.array_record.items.add(key="x").value
            array.dtype, array.stype, array.data = (
                "float32",
                "numpy.ndarray",
                rng.randbytes(rng.randrange(300)),
            )
            array.shape.extend(range(rng.randrange(3)))
        else:
            item.metric_record.items.add(key="y").value.double_list.vals.extend([0.5] * rng.randrange(3))
    if rng.random() < 0.2:
        message.error.code, message.error.reason = 2, "it broke"
    return bytes(message.SerializeToString())


def entries(message: object) -> int:
    """How many values a parsed message holds, entries of lists each."""
    total = 0
    for field, value in message.ListFields():  # type: ignore[attr-defined] # protobuf ships no types
        values = list(value) if field.is_repeated else [value]
        total += len(values) + sum(entries(part) for part in values if field.message_type is not None)
    return total


@given(seed=st.integers(0, 1 << 32))
def test_what_flower_writes_is_let_through(seed: int) -> None:
    check_wire(honest(seed), Message, MOST)


@settings(max_examples=300)
@given(
    seed=st.integers(0, 1 << 32), noise=st.binary(max_size=40), at=st.integers(0, 400), cut=st.integers(0, 40)
)
def test_whatever_the_bytes_are_it_says_yes_or_no_and_yes_bounds_what_is_parsed(
    seed: int, noise: bytes, at: int, cut: int
) -> None:
    content = honest(seed)
    content = content[:at] + noise + content[at + cut :]
    try:
        check_wire(content, Message, MOST)
    except MalformedMessageError:
        return
    with contextlib.suppress(DecodeError):  # a text that is no UTF-8
        assert entries(Message.FromString(content)) <= MOST + 1


@settings(max_examples=50)
@given(text=st.text(max_size=200) | st.binary(max_size=200).map(lambda b: "Fedge " + b.hex()))
def test_a_head_is_a_signed_request_or_a_strangers(text: str) -> None:
    with contextlib.suppress(IdentityError):
        read_request(text, "POST", "/")
        raise AssertionError("nobody has signed this")
