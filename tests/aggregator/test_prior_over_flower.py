"""The first question about the prior, with real learner processes over the real Flower server, under masks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import flower_world as world
import numpy as np
import pytest
from flower_rounds_world import bundle, server, tls
from masked_rounds_world import fleet, masked_collector
from numpy.typing import NDArray
from waiting import AMPLE_S, wait_until

from aggregator.flower.server import FlowerRun, FlowerServer
from aggregator.privacy.accounts import PrivacyAccounts
from aggregator.rounds.admission import admit_update
from aggregator.rounds.cohort_questions import layout_for
from aggregator.rounds.cohorts import Cohort
from aggregator.rounds.collector import CohortQuestion
from protocol.questions import Question, ScaleQuestion

__all__ = ["bundle", "fleet", "server", "tls"]  # the fixtures
pytestmark = pytest.mark.slow

ARCHITECTURE = world.ARCHITECTURE
LAYOUT_SHA256 = ARCHITECTURE.layout_sha256
RUN = "run-1"


def ask(
    server: FlowerServer,
    run: FlowerRun,
    cohort: list[world.Device],
    accounts: PrivacyAccounts,
    question: Question,
    arrays: Mapping[str, NDArray[np.float32]],
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    layout = layout_for(ARCHITECTURE, question)
    collector = masked_collector(server, run, cohort, accounts)
    total = collector.collect(
        CohortQuestion(
            question=question, arrays=arrays, layout=layout, admission=admit_update(norm_limit=10.0)
        ),
        Cohort(devices=tuple(device.id for device in cohort), quorum=len(cohort)),
        deadline_s=AMPLE_S,
    ).total
    return total, layout.unpack(total)


def test_a_part_of_the_prior_goes_through_masks(
    tmp_path: Path, bundle: bytes, tls: world.Tls, server: FlowerServer, fleet: world.FamilyFleet
) -> None:
    cohort = [world.make_device(tmp_path, f"press-{i}", bundle, tls, seed=i, fleet=fleet) for i in range(3)]
    server.sync_roster({device.id: device.public_key for device in cohort})
    run, accounts = server.start_run(), PrivacyAccounts(tmp_path / "privacy.sqlite", {}, now=time.time)
    with world.learners(cohort, server.port):
        wait_until(lambda: len(server.online_devices()) == 3, "all online")
        asked = ScaleQuestion(run_id=RUN, layout_sha256=LAYOUT_SHA256, profile_sha256=world.PROFILE.sha256)
        _, scale = ask(server, run, cohort, accounts, asked, {})
    # Each learner process read the scale of its device: deviations of 1 to 6, and windows that are nearly independent.
    np.testing.assert_array_equal(scale["scale_devices"], 3.0)
    np.testing.assert_allclose(scale["scale_logs"] / 3, 2 * np.log(np.arange(1, 7)), atol=0.1)
    accounts.close()
