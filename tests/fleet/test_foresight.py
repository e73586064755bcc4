"""What the gates of a plan would see is foretold from the fleet's own past, or it is said why it cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from gated_machines import GATES, SOAK_S, Machines
from rollout_world import PLAN

from fleet.gates.plan import Metric
from fleet.rollouts.foresight import Foresight
from fleet.rollouts.plans import RolloutPlan
from fleet.rollouts.target_devices import preview_rollout


@pytest.fixture
def machines(database_url: str) -> Iterator[Machines]:
    machines = Machines(database_url)
    yield machines
    machines.world.close()


def foretold(machines: Machines, canaries: int = 10, **changes: Any) -> Foresight:
    groups = [{"count": canaries, "soak_s": SOAK_S}, {"percentage": 100}]
    plan = msgspec.convert(PLAN | {"groups": groups, "gates": GATES} | changes, RolloutPlan)
    _, foresight = preview_rollout(
        machines.world.database, plan, "ro-1", machines.world.now, offline_after_s=120.0
    )
    return foresight


def test_more_canaries_see_more_and_the_same_plan_foretells_the_same(machines: Machines) -> None:
    machines.live(3 * 3600.0)
    many, few = foretold(machines), foretold(machines, 3)
    assert foretold(machines) == many
    latency, blindness = (
        {line.metric: line for line in many.lines}[metric] for metric in (Metric.LATENCY_P99, Metric.SIGHT)
    )
    assert min(latency.low, blindness.low) > 0.7, "what anybody would see"
    assert (latency.canaries, latency.minutes) == (10, 60)
    for line in few.lines:
        (same,) = [one for one in many.lines if one.metric is line.metric]
        assert line.high <= same.high
    assert [line.words for line in many.lines] == list(many.words[:-2])
    assert many.words[-2] == "group 1 (30 devices) does not soak: the gates do not judge it"
    assert many.words[-1].startswith("group 0: 10 devices with the release and 30 without are too few")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gates": None}, "the plan has no gates"),
        ({"gates": {"metrics": []}}, "the plan has no gates"),
        ({"groups": [{"percentage": 100}]}, "group 0 (40 devices) does not soak"),
        ({"groups": [{"percentage": 100, "soak_s": 60}]}, "cannot be foretold"),
        ({}, "the fleet's past is too short"),
    ],
)
def test_why_nothing_can_be_foretold_is_said(machines: Machines, changes: dict[str, Any], words: str) -> None:
    foresight = foretold(machines, **changes)
    assert foresight.lines == ()
    assert words in foresight.words[0]
