"""A candidate beside a commissioned device: given to the loop, waited for, and what was told of it."""

from __future__ import annotations

import numpy as np
from agent_loop_world import World
from agent_world import TRUSTED, healthy, make_bundle
from waiting import wait_until

from edge_agent.installation.active import ActiveRelease
from edge_agent.installation.journal import BundleRef
from models.bundles import read_bundle
from models.detection.prior import FleetPrior
from protocol.bundle import open_bundle
from protocol.messages.payloads import ShadowReport


def candidate(version: int = 2, *, threshold: float = 4.0, prior: FleetPrior | None = None) -> ActiveRelease:
    bundle = read_bundle(open_bundle(make_bundle(version, threshold=threshold, prior=prior), TRUSTED))
    ref = BundleRef(release=f"pump/{version}", sha256=bundle.sha256)
    return ActiveRelease(ref=ref, bundle=bundle, generation=0, is_trial=True)


def commissioned(world: World, prior: FleetPrior | None = None) -> World:
    world.installation.give(1, is_trial=False, generation=1, prior=prior)
    world.watch(healthy(150))
    return world


def put_beside(world: World, release: ActiveRelease | None) -> None:
    """Give the loop a candidate, and wait until it is ready."""
    assert release is not None
    world.installation.beside = release
    world.turn()
    run = world.agent._shadowing._run
    if run is not None:
        wait_until(lambda: run._preparation.done or run._preparation.error, "the candidate to be ready")
        world.turn()


def one_by_one(world: World, rows: np.ndarray) -> None:
    """Windows with time between them."""
    for row in rows:
        world.watch(row[None, :])


def told(world: World) -> ShadowReport | str:
    (sha256, what) = world.installation.shadows[-1]
    assert world.installation.beside is not None
    assert sha256 == world.installation.beside.ref.sha256
    return what
