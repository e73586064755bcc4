"""Which broker a world takes, and that Mosquitto is told nothing but what deploy/ tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulations.certificates import create_certificates
from simulations.errors import ScenarioError
from simulations.mosquitto import BrokerChoice, Mosquitto, choose_broker

ROOT = Path(__file__).parents[2]


def test_the_embedded_broker_is_taken_when_it_is_asked_for() -> None:
    assert choose_broker(BrokerChoice.EMBEDDED) is None


def test_without_mosquitto_the_embedded_broker_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulations.mosquitto.shutil.which", lambda *_, **__: None)
    assert choose_broker(BrokerChoice.AUTO) is None
    with pytest.raises(ScenarioError, match="apt-get install mosquitto"):
        choose_broker(BrokerChoice.MOSQUITTO)


def test_mosquitto_gets_the_rights_that_deploy_has_and_keeps_its_secrets(tmp_path: Path) -> None:
    (tmp_path / "broker").mkdir()
    certificates = create_certificates(tmp_path / "pki")
    broker = Mosquitto(program="mosquitto", plugin=Path("/usr/lib/plugin.so"))
    command = broker.configure(tmp_path / "broker", "127.0.0.1:8884", certificates, b"{}")
    written = (tmp_path / "broker" / "mosquitto.conf").read_text().splitlines()
    assert command == ("mosquitto", "-c", str(tmp_path / "broker" / "mosquitto.conf"))
    assert {"allow_anonymous false", "listener 8884 127.0.0.1", f"keyfile {certificates.server_key}"} <= set(
        written
    )
    deployed = (ROOT / "deploy" / "mosquitto" / "acl").read_bytes()
    assert (tmp_path / "broker" / "acl").read_bytes() == deployed
    for secret in (tmp_path / "broker" / "dynamic-security.json", certificates.server_key):
        assert secret.stat().st_mode & 0o077 == 0
