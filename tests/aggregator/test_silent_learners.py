"""Real learners over Flower, of which one stops answering: at each stage the others go on, and the next draw is without it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import flower_world as world
import numpy as np
import pytest
from aggregator_world import BoardInMemory
from family_changes import family
from flower_rounds_world import ADMISSION, LAYOUT, PARAMETERS, bundle, fit, server, tls
from masked_rounds_world import fleet
from waiting import AMPLE_S, wait_until

from aggregator.federation import FlowerFederation
from aggregator.flower.server import FlowerRun, FlowerServer
from aggregator.privacy.accounts import PrivacyAccounts
from aggregator.privacy.ledger_entries import Outcome
from aggregator.rounds.attendance import Attendance, Pacing
from aggregator.rounds.cohort_link import DeviceReply, Ticket
from aggregator.rounds.cohorts import Cohort
from aggregator.rounds.collector import CohortQuestion
from aggregator.rounds.ports import Member
from aggregator.rounds.reports import CohortReport, QuorumMissedError
from aggregator.rounds.runs import RunState, TrainingRun
from aggregator.rounds.stage_link import StageLink, StageRequest
from edge_agent.privacy.account import DeviceAccount
from edge_agent.settings import load_agent_settings
from protocol.names import DeviceId, FamilyName, RunId
from protocol.questions import FIT
from protocol.sum_terms import SumStage

pytestmark = pytest.mark.slow
__all__ = ["bundle", "fleet", "server", "tls"]  # the fixtures

FAMILY = FamilyName("press")


class Stopper:
    """A link under which one process stops just before it would hear of a stage.

    `clock` is monotonic seconds that jump once everybody else has answered: the deadline is over then, and never before.
    """

    def __init__(
        self,
        link: StageLink,
        stage: str,
        victim: DeviceId,
        children: Mapping[DeviceId, subprocess.Popen[bytes]],
    ) -> None:
        self._link, self._stage = link, stage
        self._victim, self._process = victim, children[victim]
        self._ahead_s, self._is_stopped = 0.0, False
        self._waiting: dict[Ticket, DeviceId] = {}

    def clock(self) -> float:
        return time.monotonic() + self._ahead_s

    def send(self, request: StageRequest, *, lifetime_s: float) -> dict[Ticket, DeviceId]:
        if request.kind == self._stage:
            os.kill(self._process.pid, signal.SIGSTOP)
            self._is_stopped = True
        self._waiting = self._link.send(request, lifetime_s=lifetime_s)
        return dict(self._waiting)

    def replies(self, tickets: Collection[Ticket], *, wait_s: float) -> list[DeviceReply[bytes]]:
        found = self._link.replies(tickets, wait_s=min(wait_s, 0.25))
        for reply in found:
            del self._waiting[reply.ticket]
        if self._is_stopped and set(self._waiting.values()) == {self._victim}:
            self._ahead_s += 2 * AMPLE_S
        return found

    def withdraw(self, tickets: Collection[Ticket]) -> None:
        self._link.withdraw(tickets)


class Site:
    """An aggregator's side over real learners."""

    def __init__(self, server: FlowerServer, folder: Path, cohort: list[world.Device]) -> None:
        self.server, self.cohort = server, cohort
        self.accounts = PrivacyAccounts(folder / "ledger.sqlite", {}, now=time.time)
        self.rounds = 0
        self.policy = family(
            FAMILY,
            training=world.PROFILE,
            cohort={"minimum_devices": 3, "over_selection": 1.0},
            secure_sum={"stage_deadline_s": AMPLE_S, "grace_s": 0.5},
            rounds={"deadline_s": AMPLE_S, "join_timeout_s": AMPLE_S, "join_settle_s": 0.2},
        )

    @contextmanager
    def attendance(self) -> Iterator[Attendance]:
        run = TrainingRun(
            id=RunId("run-1"),
            family=FAMILY,
            trigger="person",
            reason="",
            requested_by="anna",
            rounds=1,
            state=RunState.ROUND,
            created_at=0.0,
            updated_at=0.0,
            base_release="press/1",
            layout_sha256=world.ARCHITECTURE.layout_sha256,
        )
        members = [
            Member(device=device.id, public_key=device.public_key, is_online=True) for device in self.cohort
        ]
        attendance = Attendance(
            run,
            self.policy,
            members,
            federation=FlowerFederation(self.server, self.accounts),
            board=BoardInMemory(),
            flower_address=f"127.0.0.1:{self.server.port}",
            pacing=Pacing(now=time.time, sleep=time.sleep, is_stopping=lambda: False, draw=lambda: 0.5),
            is_canceled=lambda: False,
        )
        try:
            yield attendance
        finally:
            attendance.close("COMPLETED", is_over=True)

    def ask(self, attendance: Attendance, devices: frozenset[DeviceId]) -> CohortReport:
        self.rounds += 1
        collector: Any = attendance._session.collector
        collector._clock = collector._link.clock
        asked = CohortQuestion(
            question=fit(self.rounds),
            arrays={"parameters": PARAMETERS},
            layout=LAYOUT,
            admission=ADMISSION,
        )
        return attendance.ask(asked, Cohort(devices=tuple(sorted(devices)), quorum=3))

    def joins_anew(self, device: world.Device, former: str) -> None:
        wait_until(lambda: self.server.joinings().get(device.id, former) != former, "it joins anew")

    def charged(self) -> list[int]:
        """Answers by the devices' own accounts."""
        found = []
        for device in self.cohort:
            settings = load_agent_settings(device.directory / "agent.toml")
            with DeviceAccount(settings.paths.privacy, settings.privacy) as account:
                found.append(account.spending().participations)
        return found

    def outcomes(self) -> list[Outcome | None]:
        return [held.closed.outcome if held.closed else None for held in self.accounts.rounds(FAMILY)]


@pytest.fixture
def site(
    tmp_path: Path, bundle: bytes, tls: world.Tls, server: FlowerServer, fleet: world.FamilyFleet
) -> Site:
    cohort = [world.make_device(tmp_path, f"press-{i}", bundle, tls, seed=i, fleet=fleet) for i in range(4)]
    for device in cohort:
        # sums over changing devices within one set of windows are refused otherwise, and this is about who is silent
        with (device.directory / "agent.toml").open("a") as file:
            file.write("fixed_companions = false\nfewest_exchanged = 1\n")
    return Site(server, tmp_path, cohort)


def test_whichever_stage_a_learner_stops_at_three_go_on_and_draw_without_it_until_it_joins_anew(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = site.cohort[-1]
    everybody = frozenset(device.id for device in site.cohort)
    link = site.server.stage_link
    site.server.sync_roster({device.id: device.public_key for device in site.cohort})
    with world.learners(site.cohort, site.server.port) as children:
        for stage in (SumStage.ADVERTISE.value, SumStage.SHARE.value, FIT):
            wait_until(lambda: site.server.online_devices() == everybody, "all online")

            def stopping(run: FlowerRun, stage: str = stage) -> Stopper:
                return Stopper(link(run), stage, victim.id, children)

            with monkeypatch.context() as patch:
                patch.setattr(site.server, "stage_link", stopping)
                with site.attendance() as attendance:
                    before = site.charged()
                    report = site.ask(attendance, attendance.gather())
                    assert report.participants == tuple(sorted(everybody - {victim.id}))
                    assert (report.lost, dict(report.stages)) == ((victim.id,), {victim.id: stage})
                    assert np.subtract(site.charged(), before).tolist() == [1, 1, 1, 0]
                    assert victim.id in site.server.online_devices(), "Flower takes it to be there"
                    assert attendance.gather() == everybody - {victim.id}
                    former = site.server.joinings()[victim.id]
                    children[victim.id].kill()
                    children[victim.id].wait()
                    children[victim.id] = world.start_learner(victim)
                    site.joins_anew(victim, former)
                    assert attendance.gather() == everybody


@pytest.mark.parametrize(
    ("stage", "cost", "outcome"),
    [
        pytest.param(SumStage.SHARE.value, 0, Outcome.VOID, marks=pytest.mark.long),
        (FIT, 1, Outcome.VOID),
        pytest.param(SumStage.UNMASK.value, 1, Outcome.WITHHELD, marks=pytest.mark.long),
    ],
)
def test_a_cohort_of_three_is_void_once_and_charges_whoever_sent_a_masked_input(
    site: Site, monkeypatch: pytest.MonkeyPatch, stage: str, cost: int, outcome: Outcome
) -> None:
    site.cohort = site.cohort[:3]
    victim, link = site.cohort[-1], site.server.stage_link
    everybody = frozenset(device.id for device in site.cohort)
    with world.learners(site.cohort, site.server.port) as children:
        monkeypatch.setattr(
            site.server, "stage_link", lambda run: Stopper(link(run), stage, victim.id, children)
        )
        with site.attendance() as attendance:
            assert attendance.gather() == everybody
            with pytest.raises(QuorumMissedError) as missed:
                site.ask(attendance, everybody)
            assert dict(missed.value.report.stages) == {victim.id: stage}
            assert site.charged() == [cost, cost, int(stage == SumStage.UNMASK)]
            assert site.outcomes() == [outcome]
            assert attendance.gather() == everybody - {victim.id}, "and nobody waits for it to join"
            assert f"press-2 did not answer {stage}" in attendance.shortage
            children[victim.id].kill()
