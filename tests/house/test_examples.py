"""The example configurations of deploy/ are read by the real loaders, and say the defaults that the code has."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import msgspec
from cryptography import x509

from aggregator.family_file import load_spec
from aggregator.settings import load_aggregator_settings
from edge_agent.settings import load_agent_settings as load_agent
from fleet.rollouts.plans import RolloutPlan
from fleet.settings import load_fleet_settings
from models.features import vibration_spec

DEPLOY = Path(__file__).parents[2] / "deploy"
EXAMPLES = DEPLOY / "examples"


def test_agent_toml_is_read_and_shows_the_defaults() -> None:
    settings = load_agent(EXAMPLES / "agent.toml")
    for section in ("detection", "outbox", "buffer", "learner", "health", "debug"):
        assert getattr(settings, section) == type(getattr(settings, section))()
    for name in (settings.family, settings.tenant):
        assert name
    assert settings.source.speed == 1.0
    assert msgspec.json.encode(settings.labels) == b'{"line":"3"}'


def test_fleet_toml_is_read_and_agrees_with_the_agents() -> None:
    fleet, agent = load_fleet_settings(EXAMPLES / "fleet.toml"), load_agent(EXAMPLES / "agent.toml")
    assert fleet.tenant == agent.tenant
    assert fleet.offline_after_s == 4 * agent.health.every_s


def test_aggregator_toml_is_read_and_its_rollout_is_a_plan_that_the_fleet_takes() -> None:
    settings = load_aggregator_settings(EXAMPLES / "aggregator.toml")
    family = settings.families[load_agent(EXAMPLES / "agent.toml").family]
    plan = msgspec.convert(
        {"name": "x", "release": f"{family.name}/2", **(family.rollout or {})}, RolloutPlan
    )
    assert [group.percentage for group in plan.groups] == [5, 25, 100]
    assert settings.tenant == load_fleet_settings(EXAMPLES / "fleet.toml").tenant


def test_the_plan_that_the_documents_show_is_one_that_the_fleet_takes() -> None:
    shown = re.findall(r"```json\n(.*?)```", (DEPLOY.parent / "docs/fleet.md").read_text(), re.DOTALL)
    (plan,) = (one for one in map(msgspec.json.decode, shown) if "groups" in one)
    assert msgspec.convert(plan, RolloutPlan).is_gated


def test_family_toml_describes_what_the_agents_source_delivers() -> None:
    spec = load_spec(EXAMPLES / "family.toml")
    assert spec.features.spec() == vibration_spec(12_800.0, 2048)
    assert spec.family == load_agent(EXAMPLES / "agent.toml").family


def certificates(pki: Path, *command: str, refused: str = "") -> None:
    script = str(DEPLOY / "certificates.sh")
    done = subprocess.run([script, str(pki), *command], check=False, capture_output=True, text=True)
    assert done.returncode == (2 if refused else 0), done.stderr
    assert refused in done.stderr


def is_good(pki: Path, service: str, purpose: str, *name: str) -> bool:
    check = ["openssl", "verify", "-x509_strict", "-CAfile", str(pki / "ca.pem"), "-purpose", purpose, *name]
    done = subprocess.run([*check, str(pki / f"{service}.pem")], check=False, capture_output=True)
    return done.returncode == 0


def test_each_service_gets_a_certificate_for_its_own_names_and_the_brokers_opens_no_broker(
    tmp_path: Path,
) -> None:
    pki = tmp_path / "pki"
    certificates(pki, "make", "fleet", "127.0.0.1", "fleet.example.com")
    certificates(pki, "make", "broker", "broker.example.com")
    assert is_good(pki, "fleet", "sslserver", "-verify_ip", "127.0.0.1")
    assert is_good(pki, "fleet", "sslclient", "-verify_hostname", "fleet.example.com")
    assert is_good(pki, "broker", "sslserver", "-verify_hostname", "broker.example.com")
    assert not is_good(pki, "broker", "sslserver", "-verify_hostname", "fleet.example.com")
    assert not is_good(pki, "broker", "sslclient")
    names = {
        service: x509.load_pem_x509_certificate((pki / f"{service}.pem").read_bytes()).subject
        for service in ("fleet", "broker")
    }
    assert [name.rfc4514_string() for name in names.values()] == ["CN=fleet", "CN=broker"]
    for secret in ("ca.key", "fleet.key", "broker.key"):
        assert (pki / secret).stat().st_mode & 0o077 == 0


def test_a_certificate_is_renewed_with_a_new_key_for_the_same_names_and_never_overwritten_unasked(
    tmp_path: Path,
) -> None:
    pki = tmp_path / "pki"
    certificates(pki, "make", "fleet", "127.0.0.1", "fleet.example.com", "::1")
    former = (pki / "fleet.key").read_bytes()
    certificates(pki, "make", "fleet", "127.0.0.1", refused="exists and is not overwritten")
    assert (pki / "fleet.key").read_bytes() == former
    certificates(pki, "renew", "fleet")
    assert (pki / "fleet.key").read_bytes() != former
    for name in (
        ("-verify_ip", "127.0.0.1"),
        ("-verify_hostname", "fleet.example.com"),
        ("-verify_ip", "::1"),
    ):
        assert is_good(pki, "fleet", "sslserver", *name)
    (pki / "ca.key").rename(tmp_path / "offline")
    certificates(pki, "renew", "fleet", refused="ca.key are needed to renew")
    certificates(pki, "make", "broker", "b.example", refused="bring the key back")
    certificates(pki, "make", "press-7", "b.example", refused="press-7 is none of fleet, broker, aggregator")
    assert is_good(pki, "fleet", "sslserver")
