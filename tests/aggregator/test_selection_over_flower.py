"""Row 2 of the review over real Flower: four learner processes are asked about their windows, then three of them.

The difference of two such sums is one device's own; before, with a selection of the newest window, it was that window.
"""

from __future__ import annotations

import sqlite3
import time
from itertools import combinations
from pathlib import Path

import flower_world as world
import pytest
from flower_rounds_world import bundle, server, tls
from masked_rounds_world import fleet, masked_collector
from waiting import AMPLE_S, wait_until

from aggregator.flower.server import FlowerServer
from aggregator.privacy.accounts import PrivacyAccounts
from aggregator.rounds.admission import admit_assessment
from aggregator.rounds.cohorts import Cohort
from aggregator.rounds.collector import CohortQuestion
from aggregator.rounds.reports import QuorumMissedError
from models.architecture import initial_parameters
from protocol.questions import AssessQuestion, assess_layout

__all__ = ["bundle", "fleet", "server", "tls"]  # the fixtures
pytestmark = pytest.mark.slow

ARRAYS = {"candidate": initial_parameters(world.ARCHITECTURE, 3)}
LAYOUT = assess_layout(world.ARCHITECTURE.tensor_count, world.ARCHITECTURE.feature_count)
QUESTION = AssessQuestion(
    run_id="run-1", layout_sha256=world.ARCHITECTURE.layout_sha256, profile_sha256=world.PROFILE.sha256
)


def revealed(device: world.Device) -> list[str]:
    with sqlite3.connect(f"file:{device.paths.privacy}?mode=ro", uri=True) as db:
        return [survivors for (survivors,) in db.execute("SELECT survivors FROM reveals")]


def test_row_2_three_of_four_learners_do_not_answer_what_the_four_have_answered(
    tmp_path: Path, bundle: bytes, tls: world.Tls, server: FlowerServer, fleet: world.FamilyFleet
) -> None:
    accounts = PrivacyAccounts(tmp_path / "privacy.sqlite", {}, now=time.time)
    devices = [world.make_device(tmp_path, f"press-{i}", bundle, tls, seed=i, fleet=fleet) for i in range(4)]
    server.sync_roster({device.id: device.public_key for device in devices})
    norm_limit = world.PROFILE.update_norm or 1.0
    collector = masked_collector(
        server, server.start_run(), devices, accounts, norm_limit=norm_limit, grace_s=AMPLE_S
    )
    asked = CohortQuestion(question=QUESTION, arrays=ARRAYS, layout=LAYOUT, admission=admit_assessment())
    with world.learners(devices, server.port):
        wait_until(lambda: len(server.online_devices()) == 4, "all online")

        def ask(cohort: tuple[world.Device, ...]) -> int:
            names = tuple(device.id for device in cohort)
            limits = Cohort(devices=names, quorum=len(names), enough=len(names))
            return len(collector.collect(asked, limits, deadline_s=AMPLE_S).participants)

        assert ask(tuple(devices)) == 4
        for cohort in [*combinations(devices, 3), tuple(devices)]:
            with pytest.raises(QuorumMissedError) as missed:
                ask(cohort)
            assert {each.reason for each in missed.value.report.refused} == {"refused: SNAPSHOT"}
    everybody = str(sorted(device.id for device in devices)).replace("'", '"')
    assert [revealed(device) for device in devices] == [[everybody]] * 4
    accounts.close()
