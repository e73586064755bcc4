"""One broker under test for `embedded_broker.py`: amqtt, iotcore or Mosquitto as a child process, and who speaks to it.

Each is told its accounts in its own way; an account is added while it runs in the way the fleet has.
"""

from __future__ import annotations

import base64
import hashlib
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

from simulations.addresses import free_ports
from simulations.certificates import Certificates, create_certificates

USERS: Final = ("fleet", "d01", "d02")
PATIENCE_S: Final = 60.0
SILENCE_S: Final = 2.0
"""How long nothing must come before it counts as not delivered."""


@dataclass(kw_only=True)
class Site:
    """One broker under test and its files."""

    name: str
    folder: Path
    port: int
    certificates: Certificates
    process: subprocess.Popen[bytes] | None = None

    def client(self, user: str | None, *, clean: bool = True, name: str = "", will: str = "") -> Client:
        """A connected client; raises PermissionError where the broker refuses it."""
        return Client(self, user, clean=clean, name=name, will=will)


class Client:
    """A paho client whose network runs in a thread of its own."""

    def __init__(self, site: Site, user: str | None, *, clean: bool, name: str, will: str) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self._answer: list[bool] = []
        self._known = threading.Event()
        self.paho = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=name or f"{user}-{time.monotonic_ns()}",
            clean_session=clean,
        )
        self.paho.max_inflight_messages_set(100)
        if user:
            self.paho.username_pw_set(user, f"{user}-secret")
        if will:
            self.paho.will_set(will, b"gone", 1)
        self.paho.tls_set(str(site.certificates.ca))
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
    (site.folder / "passwords").write_text("".join(_password_line(user) for user in USERS))
    return (
        *(sys.executable, "-m", "simulations.broker", "--listen", f"127.0.0.1:{site.port}"),
        *("--passwords", str(site.folder / "passwords")),
        *("--certificate", str(site.certificates.server_certificate)),
        *("--key", str(site.certificates.server_key)),
    )


def iotcore_command(site: Site) -> Sequence[str]:
    """A rumqttd with TLS and static users: its file has no word for rights on topics, nor for another way to authenticate."""
    accounts = "".join(f'{user} = "{user}-secret"\n' for user in USERS)
    (site.folder / "rumqttd.toml").write_text(
        f"""id = 0
[router]
id = 0
max_connections = 1000
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v4.1]
name = "v4"
listen = "127.0.0.1:{site.port}"
next_connection_delay_ms = 1
[v4.1.tls]
certpath = "{site.certificates.server_certificate}"
keypath = "{site.certificates.server_key}"
[v4.1.connections]
connection_timeout_ms = 5000
max_payload_size = 131072
max_inflight_count = 500
dynamic_filters = true
[v4.1.connections.auth]
{accounts}"""
    )
    code = f"import sys; sys.path.insert(0, {str(site.folder / 'packages')!r}); from iotcore.__main__ import main; main()"
    return (
        sys.executable,
        "-c",
        code,
        "--config",
        str(site.folder / "rumqttd.toml"),
        "--log-level",
        "CRITICAL",
    )


def mosquitto_command(site: Site) -> Sequence[str]:
    """Debian's Mosquitto with a password file and the rights that deploy/mosquitto has."""
    passwords = site.folder / "passwords"
    passwords.write_text("".join(_password_line(user) for user in USERS))
    acl = "user fleet\ntopic readwrite fedge/#\n"
    acl += "pattern write fedge/v1/+/%u/anomaly\npattern write fedge/v1/+/%u/health\npattern write fedge/v1/+/%u/death\n"
    acl += "pattern read fedge/v1/+/%u/desired\npattern read fedge/v1/+/%u/ack\n"
    (site.folder / "acl").write_text(acl)
    config = site.folder / "mosquitto.conf"
    config.write_text(
        f"listener {site.port} 127.0.0.1\nuser root\nallow_anonymous false\npassword_file {passwords}\n"
        f"acl_file {site.folder / 'acl'}\ncertfile {site.certificates.server_certificate}\n"
        f"keyfile {site.certificates.server_key}\nmax_queued_messages 0\n"
    )
    return (mosquitto_program() or "mosquitto", "-c", str(config))


def add_to_password_file(site: Site, user: str) -> None:
    """The fleet's way with the embedded broker; Mosquitto needs a signal to look."""
    with (site.folder / "passwords").open("a") as file:
        file.write(_password_line(user))
    if site.name == "mosquitto" and site.process is not None:
        site.process.send_signal(1)


def add_to_rumqttd(site: Site, user: str) -> None:
    """Its only way: the file, which it reads once at its start."""
    with (site.folder / "rumqttd.toml").open("a") as file:
        file.write(f'{user} = "{user}-secret"\n')


COMMANDS: Final = {"amqtt": amqtt_command, "iotcore": iotcore_command, "mosquitto": mosquitto_command}
ADD_ACCOUNT: Final = {
    "amqtt": add_to_password_file,
    "iotcore": add_to_rumqttd,
    "mosquitto": add_to_password_file,
}


@contextmanager
def running(name: str, folder: Path) -> Iterator[Site]:
    """The broker as a child process, ended by its id."""
    site = Site(
        name=name, folder=folder, port=free_ports(1)[0], certificates=create_certificates(folder / "pki")
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


def _password_line(user: str) -> str:
    salt = b"0123456789ab"
    digest = hashlib.pbkdf2_hmac("sha512", f"{user}-secret".encode(), salt, 101)
    return f"{user}:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}\n"


def _speaks_tls(site: Site) -> bool:
    context = ssl.create_default_context(cafile=str(site.certificates.ca))
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
