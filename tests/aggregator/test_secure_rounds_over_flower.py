"""Secure rounds over the real Flower server with real learner processes and a fleet's roster over HTTPS, and what goes over the wire."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import flower_world as world
import numpy as np
import pytest
from waiting import AMPLE_S, wait_until

from aggregator.flower.server import FlowerRun, FlowerServer, FlowerServerSettings
from aggregator.privacy.accounts import PrivacyAccounts
from aggregator.rounds.admission import admit_update
from aggregator.rounds.cohorts import Cohort
from aggregator.rounds.collector import CohortQuestion, PlainCollector
from aggregator.rounds.reports import CohortSum, QuorumMissedError
from aggregator.rounds.secure_collector import SecureCollector
from aggregator.rounds.sum_policy import SecureSumSettings, SumPolicy
from models.architecture import initial_parameters
from protocol.names import FamilyName
from protocol.questions import FitQuestion, fit_layout

pytestmark = pytest.mark.slow

PARAMETERS = initial_parameters(world.ARCHITECTURE, 3)
LAYOUT = fit_layout(len(PARAMETERS))


@pytest.fixture(scope="module")
def bundle() -> bytes:
    return world.build_bundle()


@pytest.fixture
def tls(tmp_path: Path) -> world.Tls:
    return world.make_tls(tmp_path)


@pytest.fixture
def fleet(tls: world.Tls) -> Iterator[world.FamilyFleet]:
    with world.FamilyFleet().serving(tls) as served:
        yield served


@pytest.fixture
def server(tmp_path: Path, tls: world.Tls) -> Iterator[FlowerServer]:
    settings = FlowerServerSettings(tls_cert=tls.cert, tls_key=tls.key, data_dir=tmp_path / "aggregator")
    with FlowerServer(settings, world.IDENTITY) as running:
        yield running


def question(number: int) -> FitQuestion:
    return FitQuestion(
        run_id="run-1",
        round_number=number,
        layout_sha256=world.ARCHITECTURE.layout_sha256,
        profile_sha256=world.PROFILE.sha256,
    )


def collect(
    server: FlowerServer,
    run: FlowerRun,
    cohort: list[world.Device],
    accounts: PrivacyAccounts,
    number: int,
    *,
    quorum: int,
) -> CohortSum:
    collector = SecureCollector(
        server.stage_link(run),
        roster={device.id: device.key.public_key() for device in cohort},
        policy=SumPolicy(
            norm_limit=10.0,
            maximum_examples=world.PROFILE.maximum_examples,
            stages=SecureSumSettings(stage_deadline_s=AMPLE_S, grace_s=0.5),
        ),
        accounts=accounts,
        family=FamilyName("press"),
        random_bytes=os.urandom,
    )
    return collector.collect(
        CohortQuestion(
            question=question(number),
            arrays={"parameters": PARAMETERS},
            layout=LAYOUT,
            admission=admit_update(norm_limit=10.0),
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
                    question=question(3),
                    arrays={"parameters": PARAMETERS},
                    layout=LAYOUT,
                    admission=admit_update(norm_limit=10.0),
                ),
                Cohort(devices=tuple(device.id for device in cohort[1:]), quorum=1),
                deadline_s=AMPLE_S,
            )
        assert {r.reason for r in missed.value.report.refused} == {"refused: PLAIN"}
    accounts.close()
