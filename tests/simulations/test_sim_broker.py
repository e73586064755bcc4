"""The embedded broker: loopback only, no stranger, and each device its own topics."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import paho.mqtt.client as mqtt
import pytest
from free_ports import free_port, is_taken
from paho.mqtt.enums import CallbackAPIVersion
from waiting import died, wait_until

from simulations.broker import may
from simulations.certificates import Certificates, create_certificates


def password_line(user: str, password: str) -> str:
    salt = b"0123456789ab"
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    return f"{user}:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


class Embedded(NamedTuple):
    """The broker under test: where it listens, whose accounts it reads, whom its clients trust."""

    port: int
    passwords: Path
    certificates: Certificates


def command(listen: str, passwords: Path, certificates: Certificates) -> list[str]:
    return [
        *(sys.executable, "-m", "simulations.broker", "--listen", listen, "--passwords", str(passwords)),
        *("--certificate", str(certificates.server_certificate), "--key", str(certificates.server_key)),
    ]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    folder = tmp_path_factory.mktemp("broker")
    passwords = folder / "passwords"
    lines = [password_line(user, f"{user}-secret") for user in ("d01", "d02", "fleet")]
    passwords.write_text("\n".join((*lines, "bob:hunter2", "")))
    made = Embedded(free_port(), passwords, create_certificates(folder))
    log = folder / "broker.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command(f"127.0.0.1:{made.port}", passwords, made.certificates), stderr=sink
        )
    try:
        wait_until(lambda: is_taken(made.port), "the broker to listen", unless=lambda: died(process, log))
        yield made
    finally:
        process.terminate()
        process.wait()


def connect(
    broker: Embedded, user: str | None, password: str | None
) -> tuple[mqtt.Client, list[str], list[str]]:
    """Returns (client, connect reasons, messages)."""
    reasons: list[str] = []
    messages: list[str] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"{user}-{time.monotonic_ns()}")
    client.tls_set(str(broker.certificates.ca))
    client.on_connect = lambda *a: reasons.append(str(a[3]))
    client.on_message = lambda _c, _u, m: messages.append(m.topic)
    client.on_disconnect = lambda *_: reasons.append("gone")
    if user:
        client.username_pw_set(user, password)
    client.connect("127.0.0.1", broker.port, 10)
    turn(client, lambda: bool(reasons), "the broker's answer")
    return client, reasons, messages


def turn(client: mqtt.Client, done: Callable[[], bool], what: str) -> None:
    """Give the client's network the processor until something has happened."""

    def is_done() -> bool:
        client.loop(0.05)
        return done()

    wait_until(is_done, what)


@pytest.mark.parametrize(
    ("user", "password"), [(None, None), ("d01", "wrong"), ("stranger", "x"), ("bob", "hunter2")]
)
def test_who_has_no_account_with_this_password_is_turned_away(
    broker: Embedded, user: str | None, password: str | None
) -> None:
    _, reasons, _ = connect(broker, user, password)
    assert reasons[0] != "Success"


def test_nobody_is_heard_without_tls(broker: Embedded) -> None:
    connected, gone = [], []
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.username_pw_set("d01", "d01-secret")
    client.on_connect = lambda *a: connected.append(a)
    client.on_disconnect = lambda *a: gone.append(a)
    client.connect("127.0.0.1", broker.port, 10)
    turn(client, lambda: bool(gone), "the end of the connection")
    assert not connected


def test_a_device_reaches_its_own_topics_and_nobody_elses(broker: Embedded) -> None:
    fleet, _, heard = connect(broker, "fleet", "fleet-secret")
    subscribed: list[object] = []
    fleet.on_subscribe = lambda *a: subscribed.append(a)
    fleet.subscribe("fedge/v1/+/+/health", 1)
    turn(fleet, lambda: bool(subscribed), "the subscription")
    device, reasons, _ = connect(broker, "d01", "d01-secret")
    assert reasons == ["Success"]
    device.publish("fedge/v1/demo/d02/health", b"forged", 1)
    mine = device.publish("fedge/v1/demo/d01/health", b"mine", 1)
    turn(device, mine.is_published, "the broker's acknowledgement")
    turn(fleet, lambda: bool(heard), "the message")
    assert heard == ["fedge/v1/demo/d01/health"]


def test_a_device_enrolled_later_is_let_in_without_a_restart(broker: Embedded) -> None:
    passwords = broker.passwords
    passwords.write_text(passwords.read_text() + password_line("d09", "new") + "\n")
    _, reasons, _ = connect(broker, "d09", "new")
    assert reasons[0] == "Success"


@pytest.mark.parametrize(
    ("user", "topic", "publish", "allowed"),
    [
        ("d01", "fedge/v1/demo/d01/anomaly", True, True),
        ("d01", "fedge/v1/demo/d02/anomaly", True, False),
        ("d01", "fedge/v1/demo/d01/desired", True, False),
        ("d01", "fedge/v1/demo/d01/desired", False, True),
        ("d01", "fedge/v1/demo/d02/desired", False, False),
        ("d01", "fedge/v1/demo/training/pump", False, True),
        ("d01", "fedge/v1/demo/training/pump", True, False),
        ("d01", "fedge/v1/demo/training/#", False, False),
        ("d01", "fedge/#", False, False),
        ("d01", "#", False, False),
        ("d01", "fedge/v1/demo/+/desired", False, False),
        ("fleet", "fedge/v1/demo/+/anomaly", False, True),
        ("fleet", "$SYS/#", False, False),
        ("aggregator", "fedge/v1/demo/training/pump", True, True),
        ("aggregator", "fedge/v1/demo/+/drift", False, True),
        ("aggregator", "fedge/v1/demo/d01/desired", True, False),
    ],
)
def test_rights_of_a_user_on_a_topic(user: str, topic: str, publish: bool, allowed: bool) -> None:
    assert may(user, topic, publish=publish) is allowed


def refusal(listen: str, broker: Embedded, passwords: Path) -> str:
    done = subprocess.run(
        command(listen, passwords, broker.certificates), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("listen", "says"), [("0.0.0.0:1", "not loopback"), ("8883", "is not host:port, e.g. 127.0.0.1:8443")]
)
def test_it_refuses_to_listen_beyond_loopback(
    broker: Embedded, tmp_path: Path, listen: str, says: str
) -> None:
    assert says in refusal(listen, broker, tmp_path / "p")


def test_a_port_in_use_is_one_clear_line(broker: Embedded, tmp_path: Path) -> None:
    taken = f"127.0.0.1:{broker.port}"
    assert f"cannot listen on {taken}" in refusal(taken, broker, tmp_path / "p")
