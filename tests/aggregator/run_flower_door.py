"""A Flower door in a process of its own, so that its memory and processor time can be read: one device, asked one large question."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import flower_world as world
from door_world import serving


def main(data: Path, ready: Path, answer_size: int) -> None:
    tls = world.Tls(ca=data / "ca.pem", cert=data / "cert.pem", key=data / "key.pem")
    with serving(data / "aggregator", tls) as site:
        site.ask(answer_size)
        ready.write_text(str(site.server.port))
        signal.sigwait({signal.SIGTERM})


signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
