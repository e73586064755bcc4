"""A release of other columns than the device has judges nothing, is named, and costs nothing that was learnt."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest
from agent_loop_world import World, judged, world
from agent_world import SPEC, healthy, int8_model, make_bundle, manifest_of
from test_agent_pipeline import V2, Device, device

from edge_agent.outdated_state import set_outdated_aside
from models.errors import FeatureError
from protocol.manifest import FeatureSpec
from protocol.messages.payloads import Health

__all__ = ["device", "world"]  # the fixtures
pytestmark = pytest.mark.edge

ORDER = [1, 0, 2, 3, 4, 5]
SWAPPED = msgspec.structs.replace(SPEC, names=tuple(SPEC.names[i] for i in ORDER))
WIDER = msgspec.structs.replace(SPEC, names=(*SPEC.names, "extra"), channels=SPEC.channels)
UNLIKE = np.array([1, 1000, 1, 1, 1, 1], np.float32)
"""Units in which a swap of the first two columns is far out of scale."""


@pytest.mark.parametrize("source", [SWAPPED, WIDER])
def test_a_release_of_other_columns_judges_nothing_and_is_named(tmp_path: Path, source: FeatureSpec) -> None:
    """On 4dec79f: 349 of 349 windows over after a swap, a traceback after one more column, and no problem shown."""
    before = Device(tmp_path)
    before.adopt()
    before.watch(healthy(100) * UNLIKE)
    before.stores.close()
    told = set_outdated_aside(before.paths, source)
    after = Device(tmp_path, spec=source)
    after.pipeline.commissioning.begin(told)
    with pytest.raises(FeatureError, match=r"have moved|'extra' is new here"):
        after.adopt()
    rows = healthy(349, 2) * UNLIKE
    rows = rows[:, ORDER] if source is SWAPPED else np.column_stack([rows, rows[:, 0]])
    assert judged(after.watch(rows)) == []
    assert any("was made for other features" in problem for problem in after.pipeline.problems())
    assert after.pipeline.is_commissioned
    assert len(after.buffer) == 349


def test_why_a_device_commissions_anew_is_said_until_it_is_ready_also_over_a_restart(tmp_path: Path) -> None:
    before = Device(tmp_path)
    before.adopt()
    before.watch(healthy(100))
    before.stores.close()
    after = Device(tmp_path, spec=SWAPPED)
    after.pipeline.commissioning.begin(set_outdated_aside(before.paths, SWAPPED))
    after.watch(healthy(20))
    again = Device(tmp_path, spec=SWAPPED)
    assert any("have moved" in problem for problem in again.pipeline.problems())
    again.watch(healthy(60))
    assert again.pipeline.problems() == []


def test_the_release_before_goes_on_where_one_of_other_columns_is_offered(device: Device) -> None:
    device.watch(healthy(100))
    manifest = msgspec.structs.replace(manifest_of(make_bundle(2)), features=SWAPPED)
    with pytest.raises(FeatureError):
        device.pipeline.adopt(manifest, int8_model(), bundle_sha256=V2, is_trial=True)
    assert len(judged(device.watch(healthy(5)))) == 5


def test_the_agent_tells_of_a_release_of_other_columns_and_goes_on(world: World) -> None:
    world.installation.give(1, is_trial=False, generation=2)
    active = world.installation.now
    assert active is not None
    manifest = msgspec.structs.replace(active.bundle.manifest, features=SWAPPED)
    world.installation.now = dataclasses.replace(
        active, bundle=dataclasses.replace(active.bundle, manifest=manifest)
    )
    world.watch(healthy(100))
    world.now_s += 11
    world.turn()
    assert any("'feature-1', 'feature-0' have moved" in problem for problem in world.status().problems)
    health = world.said(Health)[-1]
    assert isinstance(health, Health)
    assert any("have moved" in problem for problem in health.problems)
    assert health.interval_judged == 0
