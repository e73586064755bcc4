"""Rounds under masks over a running Flower server with real learner processes, which ask a fleet for the roster of their family."""

from __future__ import annotations

import os
from collections.abc import Iterator

import flower_world as world
import pytest
from waiting import AMPLE_S

from aggregator.flower.server import FlowerRun, FlowerServer
from aggregator.privacy.accounts import PrivacyAccounts
from aggregator.rounds.secure_collector import SecureCollector
from aggregator.rounds.sum_policy import SecureSumSettings, SumPolicy
from protocol.names import FamilyName


@pytest.fixture
def fleet(tls: world.Tls) -> Iterator[world.FamilyFleet]:
    with world.FamilyFleet().serving(tls) as served:
        yield served


def masked_collector(
    server: FlowerServer,
    run: FlowerRun,
    cohort: list[world.Device],
    accounts: PrivacyAccounts,
    *,
    norm_limit: float = 10.0,
    grace_s: float = 0.5,
) -> SecureCollector:
    """As production collects, but for its deadline; `grace_s` as long as a test asks, where each answer of a device counts."""
    return SecureCollector(
        server.stage_link(run),
        roster={device.id: device.key.public_key() for device in cohort},
        policy=SumPolicy(
            norm_limit=norm_limit,
            maximum_examples=world.PROFILE.maximum_examples,
            stages=SecureSumSettings(stage_deadline_s=AMPLE_S, grace_s=grace_s),
        ),
        accounts=accounts,
        family=FamilyName("press"),
        random_bytes=os.urandom,
    )
