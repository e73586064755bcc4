"""Which broker a simulated world embeds: ours on amqtt against iotcore (rumqttd in a wheel), Mosquitto beside them.

    python benchmarks/embedded_broker.py [amqtt] [iotcore] [mosquitto]

Each broker runs as a child process over TLS on loopback and answers the same questions, asked by paho over MQTT 3.1.1;
one JSON object a broker. iotcore is no dependency of ours: it is installed into a temporary folder. Mosquitto is asked where
it is installed. docs/decisions/0011 has the table and what follows from it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from simulations.addresses import free_ports
from simulations.certificates import Certificates, create_certificates

MESSAGES: Final = 3000
PAYLOAD: Final = b"x" * 1000
USERS: Final = ("fleet", "d01", "d02")
PINNED: Final = {"amqtt": "amqtt==0.11.4", "iotcore": "iotcore==0.4.0"}
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


def refuses_strangers(site: Site) -> bool:
    """Nobody in without a user name."""
    return _is_refused(site, None)


def refuses_plain_mqtt(site: Site) -> bool:
    """A TLS port answers nobody who speaks in clear."""
    with socket.create_connection(("127.0.0.1", site.port), 5) as plain:
        plain.sendall(bytes.fromhex("101000044d5154540402003c000462656e63"))
        try:
            answer = plain.recv(4)
        except (ConnectionError, TimeoutError):
            return True
    return not answer.startswith(b"\x20")


def keeps_retained(site: Site) -> bool:
    """A device that comes later learns what it shall run."""
    fleet = site.client("fleet")
    fleet.publish("fedge/v1/demo/d01/desired", retain=True)
    device = site.client("d01")
    device.subscribe("fedge/v1/demo/d01/desired")
    found = device.hears()
    fleet.leave()
    device.leave()
    return found


def keeps_sessions(site: Site) -> bool:
    """What was sent while a subscriber was away reaches it when it is back."""
    first = site.client("d01", clean=False, name="d01-session")
    first.subscribe("fedge/v1/demo/d01/ack")
    first.leave()
    fleet = site.client("fleet")
    for number in range(10):
        fleet.publish("fedge/v1/demo/d01/ack", str(number).encode())
    again = site.client("d01", clean=False, name="d01-session")
    found = again.hears(10)
    fleet.leave()
    again.leave()
    return found


def speaks_wills(site: Site) -> bool:
    """The fleet hears of a device that vanished."""
    fleet = site.client("fleet")
    fleet.subscribe("fedge/v1/demo/d01/death")
    site.client("d01", will="fedge/v1/demo/d01/death").die()
    found = fleet.hears()
    fleet.leave()
    return found


def keeps_devices_apart(site: Site) -> bool:
    """A device can neither speak for another nor overhear it."""
    fleet, device = site.client("fleet"), site.client("d01")
    fleet.subscribe("fedge/v1/demo/d02/health")
    device.subscribe("fedge/v1/demo/d02/desired")
    device.publish("fedge/v1/demo/d02/health", b"forged")
    fleet.publish("fedge/v1/demo/d02/desired", b"secret")
    found = not fleet.hears() and not device.hears()
    fleet.leave()
    device.leave()
    return found


def lets_new_accounts_in(site: Site) -> bool:
    """A device that enrols while the broker runs comes in, and nobody is sent away for it."""
    standing = site.client("d01")
    gone: list[object] = []
    standing.paho.on_disconnect = lambda *a: gone.append(a)
    ADD_ACCOUNT[site.name](site, "d09")
    started = time.monotonic()
    while (is_out := _is_refused(site, "d09")) and time.monotonic() - started < SILENCE_S:
        time.sleep(0.1)
    standing.leave()
    return not is_out and len(gone) <= 1


def messages_per_s(site: Site) -> float:
    """QoS 1 both ways, 1 kB each, one publisher and one subscriber."""
    fleet, device = site.client("fleet"), site.client("d01")
    fleet.subscribe("fedge/v1/demo/+/anomaly")
    started = time.perf_counter()
    for _ in range(MESSAGES):
        device.paho.publish("fedge/v1/demo/d01/anomaly", PAYLOAD, 1)
    last = time.monotonic()
    while (seen := len(fleet.heard)) < MESSAGES and time.monotonic() - last < PATIENCE_S:
        time.sleep(0.01)
        if len(fleet.heard) > seen:
            last = time.monotonic()
    seconds = time.perf_counter() - started
    delivered = len(fleet.heard)
    fleet.leave()
    device.leave()
    return round(delivered / seconds)


QUESTIONS: Final[dict[str, Callable[[Site], Any]]] = {
    "refuses_strangers": refuses_strangers,
    "refuses_plain_mqtt": refuses_plain_mqtt,
    "retained": keeps_retained,
    "sessions_over_a_clients_restart": keeps_sessions,
    "wills": speaks_wills,
    "topic_rights": keeps_devices_apart,
    "accounts_added_while_it_runs": lets_new_accounts_in,
    "messages_per_s": messages_per_s,
}


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
    return (_mosquitto() or "mosquitto", "-c", str(config))


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


def measure(name: str) -> dict[str, Any]:
    """Every answer of one broker."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        figures: dict[str, Any] = {"broker": name, **_installed(name, folder)}
        with running(name, folder) as site:
            for key, question in QUESTIONS.items():
                try:
                    figures[key] = question(site)
                except (PermissionError, OSError) as error:
                    figures[key] = f"failed: {error}"
            figures["memory_mb"] = _memory_mb(site)
        return figures


def main() -> None:
    """Ask each broker that was named, or all that can be had."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("brokers", nargs="*", metavar="BROKER", help=", ".join(COMMANDS))
    for name in parser.parse_args().brokers or [n for n in COMMANDS if n != "mosquitto" or _mosquitto()]:
        print(json.dumps(measure(name)), flush=True)


def _installed(name: str, folder: Path) -> dict[str, Any]:
    if name not in PINNED:
        return {}
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder / "packages"), PINNED[name]],
        check=True, capture_output=True,
    )  # fmt: skip
    packages = folder / "packages"
    return {
        "packages": len(list(packages.glob("*.dist-info"))),
        "installed_mb": round(sum(p.stat().st_size for p in packages.rglob("*") if p.is_file()) / 1e6, 1),
    }


def _password_line(user: str) -> str:
    salt = b"0123456789ab"
    digest = hashlib.pbkdf2_hmac("sha512", f"{user}-secret".encode(), salt, 101)
    return f"{user}:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}\n"


def _is_refused(site: Site, user: str | None) -> bool:
    try:
        site.client(user).leave()
    except PermissionError:
        return True
    return False


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


def _memory_mb(site: Site) -> float:
    assert site.process is not None
    lines = Path(f"/proc/{site.process.pid}/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024, 1)


def _mosquitto() -> str | None:
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


if __name__ == "__main__":
    main()
