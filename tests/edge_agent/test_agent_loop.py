"""The agent's loop with fakes at its ports: what is published, and what reaches the parts."""

from __future__ import annotations

import base64

import msgspec
import numpy as np
import pytest
from agent_loop_world import World, world
from agent_world import ARCHITECTURE, faulty, healthy
from sealing_world import fleet_event

from protocol.messages.envelope import decode
from protocol.messages.kinds import AgentState, DriftState, InstallStatus, InstallStep, Kind
from protocol.messages.payloads import (
    AnomalyEvent,
    Birth,
    Death,
    DesiredState,
    DriftReport,
    Health,
    InstallReport,
    TrainingInvitation,
)

__all__ = ["world"]  # the fixture
pytestmark = pytest.mark.edge
DESIRED = DesiredState(
    execution="e1", release="pump/2", counter=2, bundle_path="/v1/x", bundle_sha256="0" * 64, bundle_bytes=1
)


def test_an_anomaly_is_said_once_with_its_raw_window_and_health_counts_it(world: World) -> None:
    world.watch(healthy(100))
    world.watch(faulty(20))
    (anomaly,) = world.said(AnomalyEvent)
    assert isinstance(anomaly, AnomalyEvent)
    assert anomaly.release == "pump/1"
    assert anomaly.window_shape == (1, 6)
    raw = np.frombuffer(base64.b64decode(anomaly.window), "<f4")
    assert np.array_equal(raw, faulty(20)[anomaly.window_index - 100])
    world.now_s += 11
    world.turn()
    health = world.said(Health)[-1]
    assert isinstance(health, Health)
    assert (health.windows, health.anomalies, health.state) == (120, 1, AgentState.WATCHING)
    assert health.windows_over_threshold >= 20
    assert health.raw_bytes == 120 * 24
    assert health.machine_time_s == 119.0
    assert (health.buffered_windows, health.set_aside_windows) == (100, 20)


def test_drift_is_said_and_taken_back_when_a_new_release_is_committed(world: World) -> None:
    world.watch(healthy(150))
    world.watch(healthy(200, 3) + 1.0)
    world.installation.give(2, is_trial=True, generation=2)
    world.watch(healthy(10, 4) + 1.0)
    world.accept_as_normal(1)
    world.installation.give(2, is_trial=False, generation=2)
    world.watch(healthy(3, 5) + 1.0)
    reports = [r for r in world.said(DriftReport) if isinstance(r, DriftReport)]
    assert reports[1].shapes[0].psi > 3 * reports[1].shapes[0].psi_by_chance
    assert (reports[0].severity, reports[2].severity) == (None, None)
    assert reports[1].severity == pytest.approx(1.4, abs=0.5), "the worst of six sensors that moved by 1"
    assert [(r.release, r.state) for r in reports] == [
        ("pump/1", DriftState.DRIFTED),
        ("pump/1", DriftState.SETTLED),
        ("pump/2", DriftState.ACCEPTED),
    ]


def test_states_tell_what_the_agent_waits_for(world: World) -> None:
    release, world.installation.now = world.installation.now, None
    world.watch(healthy(2))
    assert world.vitals.state is AgentState.WAITING_FOR_RELEASE
    world.installation.now = release
    world.watch(healthy(2))
    assert world.vitals.state is AgentState.COMMISSIONING
    world.watch(healthy(60))
    assert world.vitals.state is AgentState.WATCHING


def test_a_first_release_that_was_undone_judges_no_more(world: World) -> None:
    world.watch(healthy(100))
    world.installation.now = None
    world.watch(faulty(20))
    assert world.said(AnomalyEvent) == []
    assert world.vitals.state is AgentState.WAITING_FOR_RELEASE
    assert world.vitals.release is None


def test_desired_states_of_both_roads_reach_the_installer_and_its_reports_the_fleet(world: World) -> None:
    world.arrive(Kind.DESIRED, DESIRED)
    world.polled.word = fleet_event(
        msgspec.structs.replace(DESIRED, counter=3), tenant="demo", device="pump-07"
    )
    world.watch(healthy(3))
    assert [d.counter for d in world.installation.asked] == [2, 3]
    report = InstallReport(
        execution="e1",
        release="pump/2",
        counter=2,
        step=InstallStep.COMMITTED,
        status=InstallStatus.SUCCEEDED,
    )
    world.installation.reports.append(report)
    world.now_s += 1
    world.turn()
    assert world.said(InstallReport) == [report]


def test_an_invitation_is_considered_and_an_expired_one_ignored(world: World) -> None:
    invitation = TrainingInvitation(
        run_id="r1",
        family="pump",
        base_release="pump/1",
        layout_sha256=ARCHITECTURE.layout_sha256,
        flower_address="127.0.0.1:1",
        issued_at=0.0,
        expires_at=world._wall() + 60,
    )
    world.arrive(Kind.TRAINING, msgspec.structs.replace(invitation, expires_at=1.0))
    world.turn()
    assert world.learner.note == "it has expired"
    world.arrive(Kind.TRAINING, invitation)
    world.now_s += 1
    world.turn()
    assert world.learner.note == "not in this test"


def test_a_new_connection_is_followed_by_health_at_once(world: World) -> None:
    world.watch(healthy(3))
    before = len(world.said(Health))
    world.link.connections += 1
    world.now_s += 0.3
    world.turn()
    assert len(world.said(Health)) == before + 1


def test_a_first_release_is_told_at_once(world: World) -> None:
    release, world.installation.now = world.installation.now, None
    world.watch(healthy(2))
    world.link.connections += 1
    world.now_s += 0.3
    world.turn()
    before = len(world.said(Health))
    world.now_s += 0.3
    world.turn()
    assert len(world.said(Health)) == before
    world.installation.now = release
    world.watch(healthy(2))
    assert [said.release for said in world.said(Health)[before:]] == ["pump/1"]


def test_the_run_begins_with_birth_and_ends_with_death(world: World) -> None:
    world.source.rows = list(healthy(5))
    turns = iter(range(20))
    step = world.agent.step

    def counted() -> float:
        if next(turns) == 10:
            world.agent.stop()
        return step()

    world.agent.step = counted  # type: ignore[method-assign] # the only way to stop after so many turns
    world.agent.run()
    (birth,) = world.said(Birth)
    assert isinstance(birth, Birth)
    assert birth.release == "pump/1"
    assert len(world.said(Death)) == 1
    assert isinstance(decode(world.link.sent[-1]).data, Death)
    assert world.source.is_closed
    assert world.status().health.state is AgentState.STOPPING


def test_the_status_file_says_everything(world: World) -> None:
    world.watch(healthy(100))
    world.now_s += 2
    world.turn()
    status = world.status()
    assert status.health.windows == 100
    assert status.threshold is not None
    assert status.commissioned
    assert (status.kernel_boot, status.written_boot_s) == ("k1", world.now_s - 0.1)
