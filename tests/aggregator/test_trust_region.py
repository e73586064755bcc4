"""The server's step stays where devices let themselves be asked: around the release that runs, and around the approved one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from aggregator_world import ARCHITECTURE, FAMILY, POLICY, TRUSTED, World, first_bundle
from family_changes import changed
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.rounds.champion import fetch_anchor, read_champion
from aggregator.rounds.journal import ANCHOR
from aggregator.rounds.ports import ReleaseRecord
from aggregator.rounds.runs import RunState
from aggregator.rounds.trust_region import anchor_release, project

TIGHT = changed(POLICY, training__trust_radius=0.5, training__update_norm=0.1)


def record(version: int, *, approved: bool = False, withdrawn: bool = False) -> ReleaseRecord:
    return ReleaseRecord(
        release=f"pump/{version}", version=version, is_approved=approved, is_withdrawn=withdrawn
    )


@given(st.integers(0, 2**32), st.floats(0.01, 2.0), st.floats(0.0, 3.0), st.floats(0.0, 0.999))
@settings(max_examples=60, deadline=None)
def test_what_is_drawn_back_lies_within_the_radius_of_both_anchors(
    seed: int, radius: float, beyond: float, apart: float
) -> None:
    rng = np.random.default_rng(seed)
    first, way, step = rng.normal(size=(3, 40))
    anchors = np.stack([first, first + apart * radius * way / np.linalg.norm(way)])
    moved = project(anchors[0] + beyond * radius * step / np.linalg.norm(step), anchors, radius)
    assert moved.dtype == np.float32
    # As a device measures it: of float32 parameters.
    distances = np.linalg.norm(moved.astype(np.float64) - anchors.astype(np.float32), axis=1)
    assert distances.max() <= radius * (1 + 1e-6)


def test_what_lies_within_is_left_as_it_is_and_what_does_not_keeps_its_direction() -> None:
    anchor, inside = np.ones((1, 3)), np.array([1.1, 1.0, 0.9])
    assert np.array_equal(project(inside, anchor, 0.5), inside.astype(np.float32))
    drawn = project(np.array([3.0, 1.0, 1.0]), anchor, 0.5)
    np.testing.assert_allclose(drawn, [1.5, 1.0, 1.0], atol=1e-4)


@pytest.mark.parametrize(
    ("releases", "champion", "anchor"),
    [
        ([record(1)], 1, None),
        ([record(1), record(2), record(3)], 3, 1),
        ([record(1), record(2, approved=True), record(3)], 3, 2),
        ([record(1), record(2, approved=True), record(3, approved=True)], 3, None),
        # Approved after the champion: devices that run the champion have not installed it.
        ([record(1, approved=True), record(2), record(3, approved=True)], 2, 1),
        ([record(1), record(2, approved=True, withdrawn=True), record(3)], 3, 1),
        ([], 3, None),
    ],
)
def test_devices_hold_on_to_what_a_person_approved_last_or_to_the_first(
    releases: list[ReleaseRecord], champion: int, anchor: int | None
) -> None:
    found = anchor_release(releases, f"pump/{champion}")
    assert (None if found is None else found.version) == anchor


def test_a_run_learns_the_anchor_from_the_fleet_and_never_leaves_its_ball(tmp_path: Path) -> None:
    world = World(tmp_path, policy=TIGHT)
    coordinator, run = world.coordinator(), world.add_run()
    run = coordinator._take_step(run)
    held = np.frombuffer(world.store.artifact(run.id, ANCHOR), np.float32)
    champion = read_champion(world.fleet.bundles[1], TRUSTED)
    assert np.array_equal(held, champion.parameters)
    radius = champion.manifest.training.trust_radius
    assert radius == 0.5
    # The approved release lies almost a radius away: what is left of the way is all that the run may go.
    way = np.random.default_rng(0).normal(size=held.size)
    anchor = (champion.parameters + 0.99 * radius * way / np.linalg.norm(way)).astype(np.float32)
    world.store.save(run, {ANCHOR: anchor.tobytes()})
    while run.state is RunState.ROUND:
        run = coordinator._take_step(run)
        model = coordinator._journal.model(run).parameters.astype(np.float64)
        assert np.linalg.norm(model - champion.parameters) <= radius
        assert np.linalg.norm(model - anchor) <= radius
    coordinator._dismiss(run)


@pytest.mark.parametrize("optimizer", ["fedadam", "fedavgm"])
def test_no_server_optimizer_steps_out_of_it(tmp_path: Path, optimizer: str) -> None:
    world = World(
        tmp_path, policy=changed(TIGHT, rounds__server_optimizer=optimizer, rounds__server_learning_rate=5.0)
    )
    coordinator, run = world.coordinator(), world.add_run()
    while run.state in {RunState.INVITING, RunState.ROUND}:
        run = coordinator._take_step(run)
    champion = read_champion(world.fleet.bundles[1], TRUSTED)
    moved = np.linalg.norm(coordinator._journal.model(run).parameters - champion.parameters)
    assert moved == pytest.approx(champion.manifest.training.trust_radius, rel=1e-3)
    coordinator._dismiss(run)


def test_an_anchor_that_cannot_be_read_is_the_champion_itself(tmp_path: Path) -> None:
    world = World(tmp_path)
    champion = read_champion(first_bundle(version=2), TRUSTED)
    world.fleet.bundles = {1: b"no bundle", 2: first_bundle(version=2)}
    assert np.array_equal(fetch_anchor(world.fleet, champion, TRUSTED), champion.parameters)
    assert champion.manifest.family == FAMILY
    assert champion.architecture == ARCHITECTURE
