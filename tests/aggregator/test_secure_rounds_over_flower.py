"""Secure rounds over the real Flower server with real learner processes and a fleet's roster over HTTPS, and what goes over the wire."""

from __future__ import annotations

import time
from pathlib import Path

import flower_world as world
import numpy as np
import pytest
from flower_rounds_world import ADMISSION, LAYOUT, PARAMETERS, bundle, fit, server, tls
from masked_rounds_world import fleet, masked_collector
from waiting import AMPLE_S, wait_until

from aggregator.flower.server import FlowerRun, FlowerServer
from aggregator.privacy.accounts import PrivacyAccounts
from aggregator.rounds.cohorts import Cohort
from aggregator.rounds.collector import CohortQuestion, PlainCollector
from aggregator.rounds.reports import CohortSum, QuorumMissedError

__all__ = ["bundle", "fleet", "server", "tls"]  # the fixtures
pytestmark = pytest.mark.slow


def collect(
    server: FlowerServer,
    run: FlowerRun,
    cohort: list[world.Device],
    accounts: PrivacyAccounts,
    number: int,
    *,
    quorum: int,
) -> CohortSum:
    collector = masked_collector(server, run, cohort, accounts)
    return collector.collect(
        CohortQuestion(
            question=fit(number),
            arrays={"parameters": PARAMETERS},
            layout=LAYOUT,
            admission=ADMISSION,
        ),
        Cohort(devices=tuple(device.id for device in cohort), quorum=quorum, enough=quorum),
        deadline_s=AMPLE_S,
    )


def test_learner_processes_sum_under_masks_through_a_kill_and_answer_nothing_in_plain(
    tmp_path: Path, bundle: bytes, tls: world.Tls, server: FlowerServer, fleet: world.FamilyFleet
) -> None:
    cohort = [world.make_device(tmp_path, f"press-{i}", bundle, tls, seed=i, fleet=fleet) for i in range(4)]
    server.sync_roster({device.id: device.public_key for device in cohort})
    run = server.start_run()
    accounts = PrivacyAccounts(tmp_path / "privacy.sqlite", {}, now=time.time)
    with world.learners(cohort, server.port) as children:
        wait_until(lambda: len(server.online_devices()) == 4, "all online")
        first = collect(server, run, cohort, accounts, 1, quorum=4)
        parts = LAYOUT.unpack(first.total)
        assert parts["votes"] == [4]
        assert np.isfinite(first.total).all()
        assert all("/v1/device/roster" in path for path in fleet.asked)
        # A killed learner is online for Flower still. Without it the three refuse: the sum of four, less that of three, is one's own.
        children[cohort[0].id].kill()
        children[cohort[0].id].wait()
        with pytest.raises(QuorumMissedError, match="refused: COHORT"):
            collect(server, run, cohort, accounts, 2, quorum=3)
        with pytest.raises(QuorumMissedError) as missed:
            PlainCollector(server.link(run)).collect(
                CohortQuestion(
                    question=fit(3),
                    arrays={"parameters": PARAMETERS},
                    layout=LAYOUT,
                    admission=ADMISSION,
                ),
                Cohort(devices=tuple(device.id for device in cohort[1:]), quorum=1),
                deadline_s=AMPLE_S,
            )
        assert {r.reason for r in missed.value.report.refused} == {"refused: PLAIN"}
    accounts.close()
