"""Who may hold a connection open: few for strangers, whatever they ask for; more for callers who proved who they are.

::

    accept ─► admit: few strangers from one address, few in all ─► TLS ─► a request ─► know: no stranger any more, few for each caller
       └─ over the limit: closed unanswered                                                        closed ─► leave

A limit by address alone would shut out a plant whose devices share one; so it holds until the first request that proves a
caller. Who shares an address with an attacker waits with the attacker for a free place.
One thread, the server's event loop.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["BoundedListener", "ConnectionBook", "Peer", "has_place"]

Peer = tuple[str, int]
"""Address and port of the other side."""

STRANGERS_OF_ADDRESS: Final = 32
"""Of a plant whose devices come back together each is a stranger for some milliseconds."""

STRANGERS: Final = 256
"""A quarter of the 1,024 descriptors that a process may have by default."""


class ConnectionBook:
    """Counts open connections.

    Args:
        of_address: most connections of strangers from one address (of IPv6: one /64, which is one customer's).
        of_strangers: most connections of strangers altogether.
        in_all: most connections, known callers' too: each takes a descriptor, and a process that has none left can open no file.
    """

    def __init__(
        self,
        *,
        of_address: int = STRANGERS_OF_ADDRESS,
        of_strangers: int = STRANGERS,
        in_all: int = sys.maxsize,
    ) -> None:
        self._of_address, self._of_strangers, self._in_all = of_address, of_strangers, in_all
        self._strangers: dict[Peer, str] = {}
        self._known: dict[Peer, str] = {}
        self._by_address: Counter[str] = Counter()
        self._by_caller: Counter[str] = Counter()

    def admit(self, peer: Peer) -> bool:
        """Count a new connection; False where it must be closed."""
        address = _network(peer[0])
        if (
            self._by_address[address] >= self._of_address
            or len(self._strangers) >= self._of_strangers
            or len(self) >= self._in_all
        ):
            return False
        self._strangers[peer] = address
        self._by_address[address] += 1
        return True

    def know(self, peer: Peer, caller: str, most: int) -> bool:
        """Its request proved that this connection is `caller`'s; False where the caller, who may have `most`, has too many.

        One that is not counted (a test without a listener) is let through.
        """
        if self._known.get(peer) == caller or (peer not in self._strangers and peer not in self._known):
            return True
        if self._by_caller[caller] >= most:
            return False
        self.leave(peer)
        self._known[peer] = caller
        self._by_caller[caller] += 1
        return True

    def leave(self, peer: Peer) -> None:
        """The connection is closed."""
        for book, counts in ((self._strangers, self._by_address), (self._known, self._by_caller)):
            if (owner := book.pop(peer, None)) is not None:
                counts[owner] -= 1
                if not counts[owner]:
                    del counts[owner]

    def __len__(self) -> int:
        """How many connections are open."""
        return len(self._strangers) + len(self._known)


def has_place(scope: Mapping[str, Any], caller: str, most: int) -> bool:
    """Whether the connection of an ASGI request, which `caller` has proved to be its own, is not one more than `most`; always where no book is kept."""
    book, peer = scope.get("state", {}).get("connections"), scope.get("client")
    if not isinstance(book, ConnectionBook) or peer is None:
        return True
    return book.know((peer[0], peer[1]), caller, most)


class BoundedListener(socket.socket):
    """A listening socket that enters each connection in a book before TLS begins; takes `listener` over."""

    def __init__(self, listener: socket.socket, book: ConnectionBook) -> None:
        super().__init__(fileno=listener.detach())
        self._book = book

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        """The next connection that may stay; raises ConnectionAbortedError for one that may not, as if it had gone by itself."""
        connection, address = super().accept()
        peer = (str(address[0]), int(address[1]))
        if not self._book.admit(peer):
            connection.close()
            raise ConnectionAbortedError(f"too many connections from {peer[0]}")
        return _Counted(connection, peer, self._book), address


class _Counted(socket.socket):
    def __init__(self, connection: socket.socket, peer: Peer, book: ConnectionBook) -> None:
        super().__init__(fileno=connection.detach())
        self._peer, self._book = peer, book

    def close(self) -> None:
        super().close()
        self._book.leave(self._peer)


def _network(address: str) -> str:
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is None:
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)
