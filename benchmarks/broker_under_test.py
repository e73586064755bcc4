"""One broker under test for `embedded_broker.py`: amqtt or Mosquitto as a child process, and who speaks to it.

Both know everybody by a certificate, and have the rights of the tenant ``demo``.
"""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from mosquitto_broker import LocalCertificates  # noqa: E402 - needs the path above

from fleet.broker_door.broker_files import acl  # noqa: E402 - as above
from simulations.addresses import free_ports  # noqa: E402 - as above

TENANT: Final = "demo"
PATIENCE_S: Final = 60.0
SILENCE_S: Final = 2.0
"""How long nothing must come before it counts as not delivered."""


@dataclass(kw_only=True)
class Site:
    """One broker under test and its files."""

    name: str
    folder: Path
    port: int
    certificates: LocalCertificates
    process: subprocess.Popen[bytes] | None = None

    @property
    def shut_out(self) -> Path:
        """Names that the embedded broker keeps out."""
        return self.folder / "shut-out"

    def client(self, user: str | None, *, clean: bool = True, will: str = "") -> Client:
        """A connected client; raises PermissionError where the broker refuses it."""
        return Client(self, user, clean=clean, will=will)

    def context(self, user: str | None) -> ssl.SSLContext:
        """What a client uses: `user`'s certificate, or none."""
        if user is None:
            return self.certificates.context()
        give = self.certificates.service if user == "fleet" else self.certificates.device
        return self.certificates.context(give(user))


class Client:
    """A paho client whose network runs in a thread of its own."""

    def __init__(self, site: Site, user: str | None, *, clean: bool, will: str) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self._answer: list[bool] = []
        self._known = threading.Event()
        self.paho = paho.Client(CallbackAPIVersion.VERSION2, client_id=user or "nobody", clean_session=clean)
        self.paho.max_inflight_messages_set(100)
        if will:
            self.paho.will_set(will, b"gone", 1)
        self.paho.tls_set_context(site.context(user))
        self.paho.on_connect = lambda *a: self._decide(is_in=not a[3].is_failure)
        self.paho.on_disconnect = lambda *_: self._decide(is_in=False)
        self.paho.on_message = lambda _c, _u, m: self.heard.append((m.topic, m.payload))
        self.paho.connect("127.0.0.1", site.port, 30)
        self.paho.loop_start()
        if not self._known.wait(PATIENCE_S) or not self._answer[0]:
            self.paho.loop_stop()
            raise PermissionError(f"{site.name} refused {user}")

    def _decide(self, *, is_in: bool) -> None:
        self._answer.append(is_in)
        self._known.set()

    def subscribe(self, *topics: str) -> None:
        """Subscribe with QoS 1 and wait for the broker's word, whatever it is."""
        done = threading.Event()
        self.paho.on_subscribe = lambda *_: done.set()
        self.paho.subscribe([(topic, 1) for topic in topics])
        done.wait(PATIENCE_S)

    def publish(self, topic: str, payload: bytes = b"here", *, retain: bool = False) -> None:
        """Publish with QoS 1 and wait for the acknowledgement (a broker may also never give one)."""
        self.paho.publish(topic, payload, 1, retain).wait_for_publish(SILENCE_S)

    def hears(self, count: int = 1) -> bool:
        """Whether `count` messages come before it falls silent."""
        last, seen = time.monotonic(), len(self.heard)
        while len(self.heard) < count and time.monotonic() - last < SILENCE_S:
            time.sleep(0.02)
            if len(self.heard) > seen:
                last, seen = time.monotonic(), len(self.heard)
        return len(self.heard) >= count

    def leave(self) -> None:
        """Disconnect politely."""
        self.paho.disconnect()
        self.paho.loop_stop()

    def die(self) -> None:
        """Vanish without a word, as at a power cut."""
        self.paho.loop_stop()
        sock = self.paho.socket()
        if sock is not None:
            sock.shutdown(socket.SHUT_RDWR)
            sock.close()


def amqtt_command(site: Site) -> Sequence[str]:
    """Our own embedded broker."""
    return (
        *(sys.executable, "-m", "simulations.broker", "--listen", f"127.0.0.1:{site.port}"),
        *("--tenant", TENANT, "--shut-out", str(site.shut_out)),
        *("--clients", str(site.certificates.clients_file)),
        *("--certificate", str(site.certificates.certificate), "--key", str(site.certificates.key)),
    )


def mosquitto_command(site: Site) -> Sequence[str]:
    """Debian's Mosquitto with the rights that the fleet writes for it."""
    (site.folder / "acl").write_text(acl(TENANT))
    config = site.folder / "mosquitto.conf"
    config.write_text(
        f"listener {site.port} 127.0.0.1\nuser root\nallow_anonymous false\nacl_file {site.folder / 'acl'}\n"
        f"cafile {site.certificates.clients_file}\ncertfile {site.certificates.certificate}\n"
        f"keyfile {site.certificates.key}\nrequire_certificate true\nuse_identity_as_username true\n"
        "use_username_as_clientid true\nmax_queued_messages 0\n"
    )
    return (mosquitto_program() or "mosquitto", "-c", str(config))


COMMANDS: Final = {"amqtt": amqtt_command, "mosquitto": mosquitto_command}


@contextmanager
def running(name: str, folder: Path) -> Iterator[Site]:
    """The broker as a child process, ended by its id."""
    site = Site(
        name=name, folder=folder, port=free_ports(1)[0], certificates=LocalCertificates(folder / "pki")
    )
    with (folder / "log").open("wb") as log:
        site.process = subprocess.Popen(COMMANDS[name](site), stdout=log, stderr=log)
    try:
        while not _speaks_tls(site):
            if site.process.poll() is not None:
                raise RuntimeError(f"{name} ended: {(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield site
    finally:
        site.process.terminate()
        site.process.wait()


def _speaks_tls(site: Site) -> bool:
    context = site.context("fleet")
    try:
        with (
            socket.create_connection(("127.0.0.1", site.port), 5) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1"),
        ):
            return True
    except OSError:
        return False


def mosquitto_program() -> str | None:
    """Where Mosquitto is installed, or None."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
