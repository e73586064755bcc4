"""The broker that other tests stand on: it is a real one, speaks TLS, and is never missed in silence."""

from __future__ import annotations

import ssl
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from mosquitto_broker import LocalCertificates, MosquittoBroker, installed_program
from paho.mqtt.enums import CallbackAPIVersion


def greeting(broker: MosquittoBroker, own: tuple[Path, Path] | None = None, ca: Path | None = None) -> str:
    heard: list[str] = []
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv311)
    context = ssl.create_default_context(cafile=ca or broker.ca_file)
    if own is not None:
        context.load_cert_chain(*own)
    client.tls_set_context(context)
    client.on_connect = lambda *a: heard.append(str(a[3]))
    client.on_disconnect = lambda *_: heard.append("hung up")
    client.connect("127.0.0.1", broker.port)
    while not heard:
        client.loop(0.05)
    client.disconnect()
    return heard[0]


def test_it_speaks_tls_and_comes_back_on_its_port_after_it_was_killed(tmp_path: Path) -> None:
    with MosquittoBroker(tmp_path) as broker:
        assert greeting(broker) == "Success"
        broker.kill()
        with pytest.raises(ConnectionRefusedError):
            greeting(broker)
        broker.start()
        assert greeting(broker) == "Success"
        with pytest.raises(ssl.SSLCertVerificationError):
            greeting(broker, ca=LocalCertificates(tmp_path / "strangers").ca_file)


def test_where_it_knows_clients_it_admits_nobody_else(tmp_path: Path) -> None:
    with MosquittoBroker(tmp_path, knows_clients=True) as broker:
        assert greeting(broker, broker.certificates.device("d-1")) == "Success"
        assert greeting(broker, broker.certificates.service("fleet")) == "Success"
        assert greeting(broker, LocalCertificates(tmp_path / "strangers").device("d-1")) == "hung up"
        assert greeting(broker) == "hung up"


def test_where_it_is_missing_a_test_is_skipped_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(pytest.skip.Exception, match="apt-get install mosquitto"):
        installed_program("mosquitto")
