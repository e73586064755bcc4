"""The example configurations of deploy/ are read by the real loaders, and say the defaults that the code has."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

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
