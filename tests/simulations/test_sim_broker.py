"""The embedded broker: loopback only, a certificate from everybody, and each device its own topics."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import paho.mqtt.client as mqtt
import pytest
from free_ports import free_port, is_taken
from mosquitto_broker import LocalCertificates
from paho.mqtt.enums import CallbackAPIVersion
from waiting import died, wait_until

from simulations.broker import may


class Embedded(NamedTuple):
    """The broker under test: where it listens, who is shut out, whom it and its clients trust."""

    port: int
    shut_out: Path
    certificates: LocalCertificates


def command(listen: str, shut_out: Path, certificates: LocalCertificates) -> list[str]:
    return [
        *(sys.executable, "-m", "simulations.broker", "--listen", listen, "--tenant", "demo"),
        *("--shut-out", str(shut_out), "--clients", str(certificates.clients_file)),
        *("--certificate", str(certificates.certificate), "--key", str(certificates.key)),
    ]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    folder = tmp_path_factory.mktemp("broker")
    made = Embedded(free_port(), folder / "shut-out", LocalCertificates(folder / "pki"))
    log = folder / "broker.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command(f"127.0.0.1:{made.port}", made.shut_out, made.certificates), stderr=sink
        )
    try:
        wait_until(lambda: is_taken(made.port), "the broker to listen", unless=lambda: died(process, log))
        yield made
    finally:
        process.terminate()
        process.wait()


class Client:
    """One connection, with what the broker said and when it ended."""

    def __init__(
        self,
        broker: Embedded,
        own: tuple[Path, Path] | None,
        client_id: str,
        *,
        will: str = "",
        tls: bool = True,
    ) -> None:
        self.reasons: list[str] = []
        self.heard: list[str] = []
        self._subscribed: list[object] = []
        self.paho = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id)
        if tls:
            self.paho.tls_set_context(broker.certificates.context(own))
        if will:
            self.paho.will_set(will, "will", 1)
        self.paho.on_connect = lambda *a: self.reasons.append(str(a[3]))
        self.paho.on_message = lambda _c, _u, m: self.heard.append(m.topic)
        self.paho.on_disconnect = lambda *_: self.reasons.append("gone")
        self.paho.on_subscribe = lambda *a: self._subscribed.append(a)
        with suppress(ssl.SSLError):
            self.paho.connect("127.0.0.1", broker.port, 10)
            turn(self.paho, lambda: bool(self.reasons), "the broker's answer")

    @property
    def is_in(self) -> bool:
        return self.reasons == ["Success"]

    def subscribe(self, topic: str) -> None:
        self._subscribed.clear()
        self.paho.subscribe(topic, 1)
        turn(self.paho, lambda: bool(self._subscribed), "the subscription")

    def publish(self, topic: str) -> None:
        sent = self.paho.publish(topic, b"x", 1)
        turn(self.paho, sent.is_published, "the broker's acknowledgement")


def service(broker: Embedded, name: str) -> Client:
    return Client(broker, broker.certificates.service(name), name)


def device(broker: Embedded, name: str) -> Client:
    return Client(broker, broker.certificates.device(name), name)


def turn(client: mqtt.Client, done: Callable[[], bool], what: str) -> None:
    """Give the client's network the processor until something has happened."""

    def is_done() -> bool:
        client.loop(0.05)
        return done()

    wait_until(is_done, what)


def test_who_shows_no_certificate_of_ours_or_another_name_than_his_is_turned_away(
    broker: Embedded, tmp_path: Path
) -> None:
    assert device(broker, "d01").is_in
    strangers = LocalCertificates(tmp_path / "strangers")
    own = broker.certificates.device("d02")
    for shown, client_id in ((None, "d01"), (strangers.device("d01"), "d01"), (own, "d01"), (own, "fleet")):
        assert "Success" not in Client(broker, shown, client_id).reasons


def test_nobody_is_heard_without_tls(broker: Embedded) -> None:
    assert Client(broker, None, "d01", tls=False).reasons == ["gone"]


def test_a_device_cannot_end_the_session_of_another_nor_leave_a_will_in_its_name(broker: Embedded) -> None:
    victim, thief = device(broker, "d03"), broker.certificates.device("d04")
    victim.subscribe("fedge/v1/demo/d03/ack")
    assert not Client(broker, thief, "d03").is_in
    assert not Client(broker, thief, "d04", will="fedge/v1/demo/d03/death").is_in
    service(broker, "fleet").publish("fedge/v1/demo/d03/ack")
    turn(victim.paho, lambda: bool(victim.heard), "the message")
    assert victim.is_in


def test_a_device_reaches_its_own_topics_and_nobody_elses(broker: Embedded) -> None:
    fleet, speaker = service(broker, "fleet"), device(broker, "d01")
    fleet.subscribe("fedge/v1/demo/+/health")
    speaker.publish("fedge/v1/demo/d02/health")
    speaker.publish("fedge/v1/demo/d01/health")
    turn(fleet.paho, lambda: bool(fleet.heard), "the message")
    assert fleet.heard == ["fedge/v1/demo/d01/health"]


def test_who_is_revoked_while_he_is_in_is_thrown_out_and_stays_out(broker: Embedded) -> None:
    stays, revoked = device(broker, "d05"), device(broker, "d06")
    broker.shut_out.write_text("d06\n")
    turn(revoked.paho, lambda: "gone" in revoked.reasons, "the broker to hang up")
    assert "Success" not in device(broker, "d06").reasons
    stays.publish("fedge/v1/demo/d05/health")
    assert stays.is_in


@pytest.mark.parametrize(
    ("user", "topic", "publish", "allowed"),
    [
        ("d01", "fedge/v1/demo/d01/anomaly", True, True),
        ("d01", "fedge/v1/demo/d02/anomaly", True, False),
        ("d01", "fedge/v1/another/d01/anomaly", True, False),
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
        ("fleet", "fedge/v1/another/+/anomaly", False, False),
        ("fleet", "fedge/v1/demo/d01/desired", True, True),
        ("fleet", "fedge/v1/demo/training/pump", True, False),
        ("fleet", "$SYS/#", False, False),
        ("aggregator", "fedge/v1/demo/training/pump", True, True),
        ("aggregator", "fedge/v1/demo/+/drift", False, False),
        ("aggregator", "fedge/v1/demo/d01/desired", True, False),
    ],
)
def test_rights_of_a_user_on_a_topic(user: str, topic: str, publish: bool, allowed: bool) -> None:
    assert may(user, topic, "demo", publish=publish) is allowed


def refusal(listen: str, broker: Embedded, shut_out: Path) -> str:
    done = subprocess.run(
        command(listen, shut_out, broker.certificates), capture_output=True, text=True, check=False
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
