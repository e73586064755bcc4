"""Who listens where, by the kernel's own books: every socket of a process and its children that takes in what others send.

A TCP socket in state LISTEN, or any bound UDP socket: with nobody it talks to, everybody may send to it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import struct
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Listener", "addresses_of_this_machine", "answers_plain_http", "listeners", "speaks_tls"]

PROC: Final = Path("/proc")
LISTEN: Final = "0A"
UNCONNECTED_UDP: Final = "07"


class Listener(NamedTuple):
    """A socket that anybody may reach who reaches its address."""

    protocol: str
    address: str
    port: int

    @property
    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self.address).is_loopback


def listeners(pid: int) -> set[Listener]:
    """Of `pid` and all that descend from it."""
    inodes: set[str] = set()
    for process in _family(pid):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            for descriptor in (PROC / str(process) / "fd").iterdir():
                with contextlib.suppress(OSError):
                    inodes.add(str(descriptor.readlink()))
    found = set()
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        awaited = LISTEN if protocol.startswith("tcp") else UNCONNECTED_UDP
        for line in (PROC / "net" / protocol).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == awaited and f"socket:[{words[9]}]" in inodes:
                address, port = words[1].split(":")
                found.add(Listener(protocol[:3], _address(address), int(port, 16)))
    return found


def _family(pid: int) -> set[int]:
    parents: dict[int, int] = {}
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def _address(text: str) -> str:
    # The kernel prints each 32 bits as a number of this machine's byte order.
    words = (int(text[i : i + 8], 16) for i in range(0, len(text), 8))
    return str(ipaddress.ip_address(b"".join(struct.pack("=I", word) for word in words)))


def addresses_of_this_machine() -> list[str]:
    """By which other machines can reach this one; IPv4."""
    lines = (PROC / "net" / "fib_trie").read_text().splitlines()
    local = {before.split()[-1] for before, line in pairwise(lines) if "/32 host LOCAL" in line}
    return sorted(address for address in local if not ipaddress.ip_address(address).is_loopback)


def answers_plain_http(address: str, port: int) -> bool:
    """Whether a request without TLS gets any HTTP back."""
    with socket.create_connection((address, port), timeout=60) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            return b"HTTP" in plain.recv(1000)
    return False


def speaks_tls(address: str, port: int) -> bool:
    """Whether it shows a certificate, whoever's."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((address, port), timeout=60) as plain,
            context.wrap_socket(plain) as secure,
        ):
            return secure.getpeercert(binary_form=True) is not None
    except ssl.SSLError:
        return False
