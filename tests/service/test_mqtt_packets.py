"""The packets of MQTT 3.1.1: what a real client library writes and reads, and that no stream confuses the reader."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.mqtt_packets import (
    PUBLISH,
    PacketError,
    PacketReader,
    connect,
    puback,
    publish,
    read_publish,
    subscribe,
)

MESSAGES = st.lists(
    st.tuples(
        st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20),
        st.binary(max_size=400) | st.just(bytes(20_000)),
        st.integers(0, 65535),
        st.booleans(),
    ),
    max_size=8,
)


@given(MESSAGES, st.integers(1, 300))
def test_messages_come_out_as_they_went_in_however_the_stream_is_cut(
    messages: list[tuple[str, bytes, int, bool]], size: int
) -> None:
    stream = b"".join(
        publish(topic.encode(), payload, identifier=number, retain=retain)
        for topic, payload, number, retain in messages
    )
    reader = PacketReader(100_000)
    packets = [one for at in range(0, len(stream), size) for one in reader.feed(stream[at : at + size])]
    assert all(head >> 4 == PUBLISH for head, _ in packets)
    read = [read_publish(head, body) for head, body in packets]
    assert [(one.topic, one.payload, one.identifier, one.retained) for one in read] == messages
    assert [one.qos for one in read] == [int(number > 0) for _, _, number, _ in messages]


@given(st.binary(max_size=500))
def test_whatever_comes_ends_in_packets_or_in_one_error(stream: bytes) -> None:
    try:
        for head, body in PacketReader(1000).feed(stream):
            if head >> 4 == PUBLISH:
                read_publish(head, body)
    except PacketError:
        pass


def test_what_announces_too_much_is_refused_before_it_is_kept() -> None:
    with pytest.raises(PacketError, match="at most 1000"):
        PacketReader(1000).feed(b"\x30\xff\xff\x7f")
    with pytest.raises(PacketError, match="more than four bytes"):
        PacketReader(1000).feed(b"\x30\xff\xff\xff\xff\x01")


def test_packets_are_those_of_the_standard() -> None:
    assert connect("d", keepalive_s=60, will=("t", b"gone")) == (
        b"\x10\x16\x00\x04MQTT\x04\x2e\x00\x3c\x00\x01d\x00\x01t\x00\x04gone"
    )
    assert subscribe(7, ["a/b"]) == b"\x82\x08\x00\x07\x00\x03a/b\x01"
    assert puback([1, 258]) == b"\x40\x02\x00\x01\x40\x02\x01\x02"
    assert publish(b"t", b"x", identifier=5, retain=True) == b"\x33\x06\x00\x01t\x00\x05x"
    assert publish(b"t", b"x") == b"\x30\x04\x00\x01tx"
