"""The embedded broker: loopback only, no stranger, and each device its own topics."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from free_ports import free_port, is_taken
from paho.mqtt.enums import CallbackAPIVersion
from waiting import wait_until

from simulations.broker import may
from simulations.mosquitto_passwords import parse_password_line


def password_line(user: str, password: str) -> str:
    salt = b"0123456789ab"
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    return f"{user}:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    passwords = tmp_path_factory.mktemp("broker") / "passwords"
    passwords.write_text("\n".join(password_line(u, f"{u}-secret") for u in ("d01", "d02", "fleet")) + "\n")
    port = free_port()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "simulations.broker",
            "--listen",
            f"127.0.0.1:{port}",
            "--passwords",
            str(passwords),
        ]
    )
    try:
        yield port, passwords
    finally:
        process.terminate()
        process.wait()


def connect(port: int, user: str | None, password: str | None) -> tuple[mqtt.Client, list[str], list[str]]:
    """Returns (client, connect reasons, messages)."""
    reasons: list[str] = []
    messages: list[str] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"{user}-{time.monotonic_ns()}")
    client.on_connect = lambda *a: reasons.append(str(a[3]))
    client.on_message = lambda _c, _u, m: messages.append(m.topic)
    client.on_disconnect = lambda *_: reasons.append("gone")
    if user:
        client.username_pw_set(user, password)
    wait_until(lambda: is_taken(port), "the broker to listen")
    client.connect("127.0.0.1", port, 10)
    turn(client, lambda: bool(reasons))
    return client, reasons, messages


def turn(client: mqtt.Client, done: object, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not done() and time.monotonic() < deadline:  # type: ignore[operator] # a predicate
        client.loop(0.05)


@pytest.mark.parametrize(("user", "password"), [(None, None), ("d01", "wrong"), ("stranger", "x")])
def test_a_stranger_is_turned_away(broker: tuple[int, Path], user: str | None, password: str | None) -> None:
    _, reasons, _ = connect(broker[0], user, password)
    assert reasons[0] != "Success"


def test_a_device_reaches_its_own_topics_and_nobody_elses(broker: tuple[int, Path]) -> None:
    fleet, _, heard = connect(broker[0], "fleet", "fleet-secret")
    fleet.subscribe("fedge/v1/+/+/health", 1)
    turn(fleet, lambda: False, 0.5)
    device, reasons, _ = connect(broker[0], "d01", "d01-secret")
    assert reasons == ["Success"]
    device.publish("fedge/v1/demo/d02/health", b"forged", 1)
    device.publish("fedge/v1/demo/d01/health", b"mine", 1)
    turn(device, lambda: False, 0.5)
    turn(fleet, lambda: bool(heard))
    turn(fleet, lambda: False, 0.3)
    assert heard == ["fedge/v1/demo/d01/health"]


def test_a_device_enrolled_later_is_let_in_without_a_restart(broker: tuple[int, Path]) -> None:
    port, passwords = broker
    passwords.write_text(passwords.read_text() + password_line("d09", "new") + "\n")
    _, reasons, _ = connect(port, "d09", "new")
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


def test_it_refuses_to_listen_beyond_loopback(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "simulations.broker",
            "--listen",
            "0.0.0.0:1",
            "--passwords",
            str(tmp_path / "p"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "not loopback" in done.stderr


def test_a_port_in_use_is_one_clear_line(broker: tuple[int, Path], tmp_path: Path) -> None:
    connect(broker[0], "d01", "d01-secret")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "simulations.broker",
            "--listen",
            f"127.0.0.1:{broker[0]}",
            "--passwords",
            str(tmp_path / "p"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{broker[0]}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_password_line_of_another_format_is_refused_without_showing_it() -> None:
    with pytest.raises(ValueError, match="'bob'") as refused:
        parse_password_line("bob:hunter2")
    assert "hunter2" not in str(refused.value)
