"""A session of a hollow device reads all that has come in one turn: the fleet's word never waits behind the broker's."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any, cast

import pytest

from service.mqtt_packets import Published, puback, publish
from simulations.hollow import session as sessions
from simulations.hollow.session import Session


class Line:
    """A TLS connection on which each record is received by itself, and nothing shows as decrypted beforehand."""

    def __init__(self, records: list[bytes]) -> None:
        self.records = records
        self.near, self.far = socket.socketpair()

    def fileno(self) -> int:
        return self.near.fileno()

    def recv(self, _most: int) -> bytes:
        if not self.records:
            raise ssl.SSLWantReadError
        return self.records.pop(0)

    def pending(self) -> int:
        return 0

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.mark.parametrize("confirmed", [20, 3 * sessions.RECORDS_AT_ONCE])
def test_an_acknowledgement_behind_many_words_of_the_broker_is_heard_when_the_socket_is_readable_once(
    confirmed: int,
) -> None:
    heard: list[Published] = []

    async def main() -> int:
        line = Line([*(puback([one]) for one in range(1, confirmed + 1)), publish(b"t/ack", b"stored")])
        loop = asyncio.get_running_loop()
        session = Session(cast("Any", line), heard.append, lambda: None)
        loop.remove_reader(line.fileno())
        session._readable()
        for _ in range(confirmed // sessions.RECORDS_AT_ONCE):
            await asyncio.sleep(0)
        line.close()
        return session.broker_acks

    assert asyncio.run(main()) == confirmed
    assert [one.payload for one in heard] == [b"stored"]
