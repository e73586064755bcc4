"""The example configurations of deploy/ are read by the real loaders, and say the defaults that the code has."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

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
    assert msgspec.json.encode(settings.labels) == b'{"site":"hall-1"}'


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


def test_family_toml_describes_what_the_agents_source_delivers() -> None:
    spec = load_spec(EXAMPLES / "family.toml")
    assert spec.features.spec() == vibration_spec(12_800.0, 2048)
    assert spec.family == load_agent(EXAMPLES / "agent.toml").family


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_certificates_of_the_script_are_trusted_for_their_names_and_never_overwritten(
    tmp_path: Path,
) -> None:
    command = [str(DEPLOY / "certificates.sh"), str(tmp_path / "pki"), "127.0.0.1", "fleet.example.com"]
    subprocess.run(command, check=True, capture_output=True)
    pki = tmp_path / "pki"
    for purpose in (["-verify_ip", "127.0.0.1"], ["-verify_hostname", "fleet.example.com"]):
        verify = [
            "openssl",
            "verify",
            "-x509_strict",
            "-CAfile",
            str(pki / "ca.pem"),
            *purpose,
            str(pki / "server.pem"),
        ]
        subprocess.run(verify, check=True, capture_output=True)
    assert (pki / "server.key").stat().st_mode & 0o077 == 0
    key = (pki / "server.key").read_bytes()
    again = subprocess.run(command, check=False, capture_output=True, text=True)
    assert again.returncode == 2
    assert "exists and is not overwritten" in again.stderr
    assert (pki / "server.key").read_bytes() == key
