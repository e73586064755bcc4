"""A link of so many bytes a second each way, between a client and a server on this machine."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

__all__ = ["relay"]

STEP_S = 0.05


@contextlib.contextmanager
def relay(port: int, bytes_per_s: float, listen: int = 0) -> Iterator[int]:
    """A port (`listen`, or any) that leads to `port` on this machine, slowly; connections end with the block."""
    ending = threading.Event()
    listener = socket.create_server(("127.0.0.1", listen))
    listener.settimeout(0.05)
    threads: list[threading.Thread] = []

    def carry(source: socket.socket, target: socket.socket) -> None:
        source.settimeout(STEP_S)
        free_at = time.monotonic()
        with contextlib.suppress(OSError):
            while not ending.is_set():
                try:
                    part = source.recv(int(bytes_per_s * STEP_S))
                except TimeoutError:
                    continue
                if not part:
                    break
                target.sendall(part)
                # By the clock, so that what a busy machine sleeps too long is made up for; an idle link saves nothing up.
                free_at = max(free_at, time.monotonic() - 1.0) + len(part) / bytes_per_s
                time.sleep(max(free_at - time.monotonic(), 0.0))
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        while not ending.is_set():
            with contextlib.suppress(TimeoutError):
                caller, _ = listener.accept()
                # Small, so that the kernel's buffers do not make a quick link of it.
                server = socket.create_connection(("127.0.0.1", port))
                for end in (caller, server):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
                for pair in ((caller, server), (server, caller)):
                    threads.append(threading.Thread(target=carry, args=pair, daemon=True))
                    threads[-1].start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        ending.set()
        acceptor.join()
        for thread in threads:
            thread.join()
        listener.close()
