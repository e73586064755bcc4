"""A session of a hollow device reads all that has come in one turn: the fleet's word never waits behind the broker's."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress

import pytest

from service.mqtt_packets import Published, puback, publish
from simulations.hollow.session import UNSENT_BYTES, Session, _Line


class Far:
    """The other end of a connection by TLS, each word in a record of its own; without certificates."""

    def __init__(self) -> None:
        near, self.plain = socket.socketpair()
        near.setblocking(False)
        contexts = [ssl.SSLContext(kind) for kind in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER)]
        for one in contexts:
            one.check_hostname, one.verify_mode = False, ssl.CERT_NONE
            one.maximum_version = ssl.TLSVersion.TLSv1_2
            one.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")
        self.line = _Line(near, contexts[0], "far")
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = contexts[1].wrap_bio(self._in, self._out, server_side=True)
        is_greeted = False
        while not is_greeted:
            is_greeted = self.line.is_greeted()
            self._in.write(self.line.to_send())
            with suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()
            if self._out.pending:
                self.line.come(self._out.read())

    def say(self, words: list[bytes]) -> None:
        for word in words:
            self._tls.write(word)
        self.plain.sendall(self._out.read())

    def heard(self) -> bytes:
        """All that was sent so far."""
        found = bytearray()
        self.plain.setblocking(False)
        with suppress(BlockingIOError):
            while come := self.plain.recv(1 << 16):
                self._in.write(come)
        with suppress(ssl.SSLWantReadError):
            while self._in.pending:
                found += self._tls.read(1 << 16)
        return bytes(found)

    def close(self) -> None:
        self.line.plain.close()
        self.plain.close()


@pytest.fixture
def far() -> Iterator[Far]:
    end = Far()
    yield end
    end.close()


def test_an_acknowledgement_behind_many_words_of_the_broker_is_heard_when_the_socket_is_readable_once(
    far: Far,
) -> None:
    heard: list[Published] = []

    async def main() -> int:
        session = Session(far.line, heard.append, lambda: None)
        far.say([*(puback([one]) for one in range(1, 301)), publish(b"t/ack", b"stored")])
        session._readable()
        return session.broker_acks

    assert asyncio.run(main()) == 300
    assert [one.payload for one in heard] == [b"stored"]


def test_what_a_slow_broker_does_not_take_leaves_later_and_in_its_order(far: Far) -> None:
    words = [b"%06d" % one * 2000 for one in range(50)]

    async def main() -> bytes:
        session = Session(far.line, lambda _message: None, lambda: None)
        assert all(session.publish(b"t", word) for word in words)
        assert 0 < len(session._unsent) < UNSENT_BYTES
        found = b""
        while session._unsent:
            found += far.heard()
            session._writable()
        return found + far.heard()

    sent = [publish(b"t", word, identifier=number) for number, word in enumerate(words, 1)]
    assert asyncio.run(main()) == b"".join(sent)


def test_a_broker_that_takes_nothing_and_one_that_hangs_up_are_given_up_once(far: Far) -> None:
    lost: list[str] = []

    async def main() -> None:
        session = Session(far.line, lambda _message: None, lambda: lost.append("lost"))
        while session.publish(b"t", bytes(100_000)):
            pass
        session._readable()

    asyncio.run(main())
    assert lost == ["lost"]
    other = Far()

    async def hang_up() -> None:
        session = Session(other.line, lambda _message: None, lambda: lost.append("hung up"))
        other.plain.close()
        session._readable()
        assert not session.is_open

    asyncio.run(hang_up())
    assert lost == ["lost", "hung up"]
