"""Free ports for a plant of a test, as `fedge init plant` takes them."""

from __future__ import annotations

import socket
from contextlib import ExitStack

SERVICES = ("fleet", "aggregator", "flower", "broker")


def port_options() -> list[str]:
    """``--port fleet=N`` and so on; all were free a moment ago, and differ."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in SERVICES]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        pairs = zip(SERVICES, sockets, strict=True)
        return [word for name, one in pairs for word in ("--port", f"{name}={one.getsockname()[1]}")]
