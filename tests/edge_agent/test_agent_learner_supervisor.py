"""The learner's supervisor and the readiness rule."""

from __future__ import annotations

import dataclasses
import itertools
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from waiting import wait_until

from edge_agent.learner_supervisor import LearnerSupervisor, end_orphan
from edge_agent.readiness import Conditions, Device, read_conditions, refusal
from edge_agent.settings import LearnerSettings, StatePaths
from protocol.messages.payloads import TrainingInvitation

pytestmark = pytest.mark.edge
LAYOUT = "a" * 64


def invitation(run_id: str = "run-1", **changes: object) -> TrainingInvitation:
    made = TrainingInvitation(
        run_id=run_id,
        family="pump",
        base_release="pump/1",
        layout_sha256=LAYOUT,
        flower_address="127.0.0.1:9",
        issued_at=0.0,
        expires_at=1000.0,
    )
    return msgspec.structs.replace(made, **changes)


class FakeChild:
    """A learner that ends when it is told, or stubbornly does not."""

    def __init__(self, pid: int, *, is_stubborn: bool = False) -> None:
        self.pid = pid
        self.status: int | None = None
        self.signals: list[int] = []
        self.is_stubborn = is_stubborn

    def poll(self) -> int | None:
        return self.status

    def send_signal(self, sig: int, /) -> None:
        self.signals.append(sig)
        if sig == signal.SIGKILL or not self.is_stubborn:
            self.status = -sig


class World:
    def __init__(self, directory: Path) -> None:
        self.paths = StatePaths(directory)
        self.children: list[FakeChild] = []
        self.reason: str | None = None
        self.distrust: str | None = None
        self.is_stubborn = False
        self.start_error: OSError | None = None
        self.supervisor = self.made()

    def made(self, draw: float = 0.0) -> LearnerSupervisor:
        return LearnerSupervisor(
            self.paths,
            start=self._start,
            distrust=lambda _invitation, _now: self.distrust,
            refusal=lambda _invitation, _now: self.reason,
            draw=lambda: draw,
        )

    def _start(self) -> FakeChild:
        if self.start_error is not None:
            raise self.start_error
        self.children.append(FakeChild(1000 + len(self.children), is_stubborn=self.is_stubborn))
        return self.children[-1]

    def stats(self, sent: int, received: int) -> None:
        self.paths.learner_stats.write_bytes(
            msgspec.json.encode(
                {"run_id": "x", "state": "answering", "sent_bytes": sent, "received_bytes": received}
            )
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_ready_device_starts_one_learner_and_leaves_it_the_invitation(world: World) -> None:
    world.supervisor.invite(invitation(), 0.0)
    for now in (0.0, 1.0, 2.0):
        world.supervisor.tick(now)
    assert len(world.children) == 1
    assert world.supervisor.run_id == "run-1"
    stored = msgspec.json.decode(world.paths.invitation.read_bytes(), type=TrainingInvitation)
    assert stored == invitation()


def test_a_forged_invitation_neither_starts_a_learner_nor_ends_the_one_that_works(world: World) -> None:
    world.distrust = "it is not signed"
    world.supervisor.invite(invitation(), 0.0)
    world.supervisor.tick(0.0)
    assert (world.children, world.supervisor.note) == ([], "it is not signed")
    world.distrust = None
    world.supervisor.invite(invitation(), 0.0)
    world.supervisor.tick(0.0)
    world.distrust = "it is not signed"
    world.supervisor.invite(invitation("run-2"), 1.0)
    world.supervisor.tick(1.0)
    assert (world.supervisor.run_id, world.children[0].signals) == ("run-1", [])


def test_an_old_invitation_that_is_replayed_is_not_followed_also_after_a_restart(world: World) -> None:
    world.supervisor.invite(invitation(), 0.0)
    world.supervisor.tick(0.0)
    world.supervisor.invite(None, 1.0)
    world.children[0].status = 1
    world.supervisor.tick(2.0)
    for supervisor in (world.supervisor, world.made()):
        supervisor.invite(invitation(), 3.0)
        supervisor.tick(4.0)
        assert supervisor.run_id is None
    assert len(world.children) == 1


def test_a_run_that_goes_on_is_invited_to_anew_and_its_first_invitation_is_over(world: World) -> None:
    world.supervisor.invite(invitation(), 0.0)
    world.supervisor.tick(0.0)
    world.supervisor.invite(invitation(issued_at=5.0), 5.0)
    assert (world.supervisor.run_id, world.children[0].signals) == ("run-1", [])
    world.supervisor.invite(invitation("run-0", issued_at=-5.0), 6.0)
    world.supervisor.tick(7.0)
    assert world.supervisor.run_id == "run-0"
    for over in (invitation(), invitation(issued_at=5.0)):
        world.supervisor.invite(over, 8.0)
        world.supervisor.tick(8.0)
        assert (world.supervisor.run_id, world.children[1].signals) == ("run-0", [])


def test_the_learner_waits_its_random_part_of_the_spread(world: World) -> None:
    supervisor = world.made(draw=0.5)
    supervisor.invite(invitation(spread_s=10.0), 100.0)
    supervisor.tick(104.9)
    assert world.children == []
    supervisor.tick(105.0)
    assert len(world.children) == 1


def test_a_device_that_is_not_ready_is_asked_again_later(world: World) -> None:
    world.reason = "it is 91 °C hot"
    world.supervisor.invite(invitation(), 0.0)
    world.supervisor.tick(0.0)
    assert world.supervisor.note == "it is 91 °C hot"
    world.reason = None
    world.supervisor.tick(1.0)
    assert world.children == []
    world.supervisor.tick(6.0)
    assert len(world.children) == 1


def test_a_finished_run_is_not_joined_again_not_even_after_a_restart_of_the_agent(world: World) -> None:
    world.supervisor.invite(invitation(), 0.0)
    world.supervisor.tick(0.0)
    world.children[0].status = 0
    world.supervisor.tick(1.0)
    assert world.supervisor.run_id is None
    world.supervisor.invite(invitation(), 2.0)
    world.supervisor.tick(2.0)
    restarted = world.made()
    restarted.invite(invitation(), 3.0)
    restarted.tick(3.0)
    assert len(world.children) == 1
    restarted.invite(invitation("run-2"), 4.0)
    restarted.tick(4.0)
    assert len(world.children) == 2


def test_a_crashing_learner_is_restarted_with_growing_pauses_and_at_most_three_times(world: World) -> None:
    world.supervisor.invite(invitation(), 0.0)
    starts = []
    for tenth in range(1000):
        now = tenth / 10
        before = len(world.children)
        world.supervisor.tick(now)
        if len(world.children) > before:
            starts.append(now)
            world.children[-1].status = 1
    assert len(starts) == 4
    pauses = [b - a for a, b in itertools.pairwise(starts)]
    assert pauses == pytest.approx([1.1, 2.1, 4.1], abs=0.11), "this world draws the shortest pauses"
    assert "4 times" in world.supervisor.note


def test_not_ready_is_no_crash(world: World) -> None:
    world.supervisor.invite(invitation(), 0.0)
    for now in range(0, 100, 6):
        world.supervisor.tick(float(now))
        world.supervisor.tick(now + 0.1)
        world.children[-1].status = 3
    assert len(world.children) > 8


def test_a_cleared_invitation_ends_the_learner_and_a_stubborn_one_is_killed(world: World) -> None:
    world.is_stubborn = True
    world.supervisor.invite(invitation(), 0.0)
    world.supervisor.tick(0.0)
    world.supervisor.invite(None, 1.0)
    world.supervisor.tick(2.0)
    assert world.children[0].signals == [signal.SIGTERM]
    world.supervisor.tick(7.0)
    assert world.children[0].signals == [signal.SIGTERM, signal.SIGKILL]
    world.supervisor.tick(7.1)
    assert world.supervisor.pid is None


def test_an_expired_invitation_ends_the_learner(world: World) -> None:
    world.supervisor.invite(invitation(expires_at=10.0), 0.0)
    world.supervisor.tick(0.0)
    world.supervisor.tick(10.0)
    world.supervisor.tick(10.1)
    assert world.children[0].signals == [signal.SIGTERM]
    assert world.supervisor.pid is None


def test_a_newer_run_replaces_the_one_before(world: World) -> None:
    world.supervisor.invite(invitation("run-1"), 0.0)
    world.supervisor.tick(0.0)
    world.supervisor.invite(invitation("run-2"), 1.0)
    world.supervisor.tick(1.0)
    world.supervisor.tick(1.1)
    assert world.children[0].signals == [signal.SIGTERM]
    assert world.supervisor.run_id == "run-2"
    assert len(world.children) == 2


def test_bytes_are_counted_once_also_those_of_the_last_moment_and_of_a_restarted_learner(
    world: World,
) -> None:
    world.supervisor.invite(invitation(), 0.0)
    world.supervisor.tick(0.0)
    world.stats(100, 50)
    assert world.supervisor.tick(1.0) == 150
    assert world.supervisor.tick(2.0) == 0
    world.stats(120, 50)
    world.children[0].status = 1
    assert world.supervisor.tick(3.0) == 20
    world.supervisor.tick(10.0)
    world.stats(10, 0)
    assert world.supervisor.tick(11.0) == 10


def test_garbage_in_the_stats_counts_as_nothing(world: World) -> None:
    world.supervisor.invite(invitation(), 0.0)
    world.supervisor.tick(0.0)
    world.paths.learner_stats.write_bytes(b'{"sent_bytes": "many"}')
    assert world.supervisor.tick(1.0) == 0


def test_a_process_that_cannot_be_started_is_told_and_tried_again(world: World) -> None:
    world.start_error = OSError(12, "Cannot allocate memory")
    world.supervisor.invite(invitation(), 0.0)
    world.supervisor.tick(0.0)
    assert "Cannot allocate memory" in world.supervisor.note
    world.start_error = None
    world.supervisor.tick(6.0)
    assert len(world.children) == 1


def test_a_learner_left_by_a_killed_agent_is_ended_and_a_strangers_process_is_not(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path)
    paths.learner.mkdir()
    wait = "import sys, time; time.sleep(60)"
    orphan = subprocess.Popen([sys.executable, "-c", wait, "edge_agent.learner", str(paths.invitation)])
    stranger = subprocess.Popen([sys.executable, "-c", wait])
    try:
        (paths.learner / "pid").write_text(str(stranger.pid))
        assert not end_orphan(paths)
        # For a moment after its start a process has no command line yet.
        wait_until(Path(f"/proc/{orphan.pid}/cmdline").read_bytes, "the orphan's command line")
        (paths.learner / "pid").write_text(str(orphan.pid))
        assert end_orphan(paths)
        assert orphan.wait() == -signal.SIGTERM
        assert stranger.poll() is None
        for nonsense in ("", "abc", "99999999999999"):
            (paths.learner / "pid").write_text(nonsense)
            assert not end_orphan(paths)
    finally:
        for process in (orphan, stranger):
            process.kill()
            process.wait()


READY = Device(
    layout_sha256=LAYOUT,
    buffered_windows=500,
    is_installing=False,
)


def test_a_cool_powered_taught_device_is_ready() -> None:
    assert refusal(invitation(), READY, Conditions(), LearnerSettings(), minimum_windows=32) is None
    warm = Conditions(temperature_c=79.0, on_mains=True)
    assert refusal(invitation(), READY, warm, LearnerSettings(require_power=True), minimum_windows=32) is None


@pytest.mark.parametrize(
    ("device", "conditions", "settings", "asked", "expected"),
    [
        ({}, Conditions(), LearnerSettings(enabled=False), {}, "switched off"),
        ({"layout_sha256": None}, Conditions(), LearnerSettings(), {}, "no model"),
        ({"layout_sha256": "b" * 64}, Conditions(), LearnerSettings(), {}, "another model layout"),
        ({"is_installing": True}, Conditions(), LearnerSettings(), {}, "being installed"),
        (
            {"buffered_windows": 63},
            Conditions(),
            LearnerSettings(),
            {},
            "63 windows are buffered, 64 are needed (32 by privacy.minimum_windows here, 64",
        ),
        ({}, Conditions(), LearnerSettings(), {"minimum_windows": 501}, "501 are needed"),
        ({}, Conditions(temperature_c=91.0), LearnerSettings(), {}, "91.0 °C"),
        ({}, Conditions(on_mains=False), LearnerSettings(require_power=True), {}, "battery"),
    ],
)
def test_each_reason_not_to_train_is_one_line(
    device: dict[str, object],
    conditions: Conditions,
    settings: LearnerSettings,
    asked: dict[str, object],
    expected: str,
) -> None:
    reason = refusal(
        invitation(**asked),
        dataclasses.replace(READY, **device),
        conditions,
        settings,  # type: ignore[arg-type] # of the table
        minimum_windows=32,
    )
    assert reason is not None
    assert expected in reason


def test_limits_are_met_at_their_value() -> None:
    def reason(*, windows: int = 500, celsius: float | None = None) -> str | None:
        device = dataclasses.replace(READY, buffered_windows=windows)
        asked = invitation(expires_at=1000.0, minimum_windows=64)
        return refusal(
            asked, device, Conditions(temperature_c=celsius), LearnerSettings(), minimum_windows=32
        )

    assert reason(windows=64) is None
    assert (reason(windows=63) or "").startswith("63 windows are buffered, 64 are needed (32 by")
    # A Raspberry Pi throttles at 80 °C, and inference comes first.
    assert reason(celsius=80.0) is None
    assert reason(celsius=80.1) == "it is 80.1 °C hot, the limit is 80.0 °C"


def test_a_zone_that_sleeps_hides_none_of_those_after_it(tmp_path: Path) -> None:
    for zone, text in (
        ("thermal_zone0", "asleep"),
        ("thermal_zone1", "61500\n"),
        ("thermal_zone2", "40000\n"),
    ):
        (tmp_path / "thermal" / zone).mkdir(parents=True)
        (tmp_path / "thermal" / zone / "temp").write_text(text)
    for supply, text in (("battery", "0\n"), ("mains", "1\n")):
        (tmp_path / "power_supply" / supply).mkdir(parents=True)
        (tmp_path / "power_supply" / supply / "online").write_text(text)
    assert read_conditions(tmp_path) == Conditions(temperature_c=61.5, on_mains=True)
    (tmp_path / "power_supply" / "mains" / "online").write_text("0\n")
    assert read_conditions(tmp_path).on_mains is False


def test_the_kernels_sensors_are_read_and_sleeping_ones_skipped(tmp_path: Path) -> None:
    for zone, text in (
        ("thermal_zone0", "45000\n"),
        ("thermal_zone1", "71500\n"),
        ("thermal_zone2", "N/A\n"),
    ):
        (tmp_path / "thermal" / zone).mkdir(parents=True)
        (tmp_path / "thermal" / zone / "temp").write_text(text)
    (tmp_path / "power_supply" / "AC").mkdir(parents=True)
    (tmp_path / "power_supply" / "AC" / "online").write_text("0\n")
    assert read_conditions(tmp_path) == Conditions(temperature_c=71.5, on_mains=False)
    assert read_conditions(tmp_path / "missing") == Conditions()
