"""What it costs a device to ask whether the signed repository changed: bytes on the wire, by kind. Prints JSON lines.

``python benchmarks/update_check.py [--checks 5]``

The real fleet service over HTTPS, its own repository, and the agent's client and trust. Counted at the device:

* ``application``: heads and bodies of requests and answers, as they go into and come out of TLS: what a check is said to cost;
* ``tcp payload``: the same with TLS: handshake, certificates, records. A connection a check, and no session tickets.

An idle check is one conditional request for ``timestamp.json``. TUF's own client asks for the next root and the timestamp without
a device's token: 369 B of bodies and nothing else counted (`tests` of python-tuf), so its figure is no smaller than it looks.
Then: a first check, one after the fleet renewed its timestamp, and one after a release was listed.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aggregator.release_listing import ListedFile, sign_list
from edge_agent import pinned_tls
from edge_agent.enrolment import enrol_device
from edge_agent.fleet_client import FleetClient
from edge_agent.fleet_endpoint import FleetEndpoint
from edge_agent.identity_key import load_device_key
from edge_agent.settings import load_agent_settings
from edge_agent.update_trust import UpdateTrust
from edge_agent.update_trust_files import TrustFiles
from fleet.plant.certificates import ServicesCa, names_of
from fleet.trust.creation import create_repository

FAMILY, TENANT = "rotating-machine", "bench"
TARGET_BYTES = 1000


class CountedSocket(pinned_tls._DatedSocket):  # noqa: SLF001 - the seam between the application and TLS
    """Counts what goes into TLS and comes out of it."""

    sent = received = 0

    def send(self, data: Any, flags: int = 0) -> int:
        """As `ssl`."""
        count = super().send(data, flags)
        CountedSocket.sent += count
        return count

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """As `ssl`."""
        count = super().recv_into(buffer, nbytes, flags)
        CountedSocket.received += count
        return count


class Relay:
    """A port that leads to another, and counts the bytes of both directions."""

    def __init__(self, port: int) -> None:
        self.bytes, self._target = 0, port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            inner, _ = self._listener.accept()
            outer = socket.create_connection(("127.0.0.1", self._target))
            for source, sink in ((inner, outer), (outer, inner)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while part := source.recv(65_536):
                self.bytes += len(part)
                sink.sendall(part)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@contextmanager
def fleet(folder: Path) -> Iterator[int]:
    """The service as a process; gives its port."""
    log = folder / "fleet.log"
    with log.open("wb") as sink:
        child = subprocess.Popen(
            [sys.executable, "-m", "fleet", "serve", "--config", str(folder / "fleet.toml")],
            stdout=sink, stderr=sink,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while '"url": "' not in log.read_text():
            if child.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the fleet did not start: {log.read_text()[-1000:]}")
            time.sleep(0.05)
        yield int(log.read_text().partition('"url": "')[2].partition('"')[0].rpartition(":")[2])
    finally:
        child.terminate()
        child.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the check for updates")
    parser.add_argument("--checks", type=int, default=5, help="idle checks; the largest is told")
    options = parser.parse_args()
    pinned_tls._PinnedContext.sslsocket_class = CountedSocket  # noqa: SLF001 - as above
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name), options.checks)


def measure(folder: Path, checks: int) -> None:
    pki = folder / "pki"
    pki.mkdir()
    authority = ServicesCa(key_file=pki / "ca.key", file=pki / "ca.pem")
    authority.ensure(time.time())
    names = names_of("fleet", "localhost")
    authority.issue("fleet", names, file=pki / "fleet.pem", key_file=pki / "fleet.key", now=time.time())
    release_key = Ed25519PrivateKey.generate()
    repository = create_repository(
        folder / "data" / "trust",
        root_keys=[Ed25519PrivateKey.generate() for _ in range(3)],
        targets_key=Ed25519PrivateKey.generate(),
        online_keys=[Ed25519PrivateKey.generate() for _ in range(2)],
        families={FAMILY: [release_key.public_key()]},
        fleet_key=ec.generate_private_key(ec.SECP256R1()).public_key(),
        now=time.time(),
    )
    certificate = next(path for path in ("fleet", "server") if (folder / "pki" / f"{path}.pem").exists())
    (folder / "fleet.toml").write_text(
        f'listen = "127.0.0.1:0"\ntls_cert = "pki/{certificate}.pem"\ntls_key = "pki/{certificate}.key"\n'
        f'data_dir = "data"\ntenant = "{TENANT}"\n'
        '[mqtt]\nurl = "mqtt://127.0.0.1:9"\n'
    )
    (folder / "root.json").write_bytes(repository.read("1.root.json"))
    claim = subprocess.run(
        [sys.executable, "-m", "fleet", "claims", "create", "--family", FAMILY, "--unreleased", "--config", str(folder / "fleet.toml")],
        capture_output=True, text=True, check=True,
    ).stdout.split()[-1]  # fmt: skip
    (folder / "claim.token").write_text(claim)
    with fleet(folder) as port:
        relay = Relay(port)
        config = folder / "agent.toml"
        config.write_text(
            f'state_dir = "state"\ntenant = "{TENANT}"\nfamily = "{FAMILY}"\nhardware = "rpi4"\n'
            f'[fleet]\nurl = "https://127.0.0.1:{relay.port}"\nca_file = "pki/ca.pem"\nclaim_token_file = "claim.token"\n'
            '[trust]\nroot = "root.json"\n[source]\nkind = "simulated"\n'
        )
        settings = load_agent_settings(config)
        device = enrol_device(settings).device
        client = FleetClient(
            endpoint=FleetEndpoint(url=f"https://127.0.0.1:{relay.port}", ca_file=folder / "pki" / "ca.pem"),
            device=device,
            key=load_device_key(settings.paths.device_key),
        )
        trust = UpdateTrust(
            root=repository.read("1.root.json"),
            files=TrustFiles(settings.paths.trust),
            family=FAMILY,
            fetch=client.trust_file,
            earliest_s=time.time,
        )

        def check(what: str) -> int:
            relay.bytes = CountedSocket.sent = CountedSocket.received = 0
            started = time.process_time()
            trust.refresh()
            spent_s = time.process_time() - started
            time.sleep(0.2)  # what is under way on the wire
            application = CountedSocket.sent + CountedSocket.received
            report(f"{what}: application, request heads", CountedSocket.sent, "B")
            report(f"{what}: application, answers", CountedSocket.received, "B")
            report(f"{what}: application", application, "B")
            report(f"{what}: tcp payload with TLS", relay.bytes, "B")
            report(f"{what}: processor time at the device", round(1000 * spent_s, 1), "ms")
            return application

        check("first check")
        bundle = ListedFile(sha256="0" * 64, length=40_000)
        files = {f"{FAMILY}/{version}": bundle for version in range(1, 21)}
        now = time.time()
        repository.publish({f"1.family-{FAMILY}.json": sign_list(files, 1, release_key, now)}, now)
        check("after a list of 20 releases")
        worst = max(check("idle check") for _ in range(checks))
        report(
            "idle check: largest", worst, "B", "target", TARGET_BYTES, "TUF's two requests, bodies alone", 369
        )
        if worst > TARGET_BYTES:
            raise SystemExit(f"an idle check costs {worst} B, more than {TARGET_BYTES}")


def report(name: str, value: float, unit: str, *beside: object) -> None:
    """One JSON line a figure."""
    peers = dict(zip(beside[::2], beside[1::2], strict=True))
    print(json.dumps({"name": name, "value": value, "unit": unit, **({"beside": peers} if peers else {}), "cpus": os.cpu_count()}))  # fmt: skip


if __name__ == "__main__":
    main()
