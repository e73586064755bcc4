"""What becomes normal on a device: no fault, no drift nobody looked into, unless a person says so; over power cuts too."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from agent_loop_world import SIGHT, World, judged, world
from agent_world import healthy
from test_agent_pipeline import V2, Device, device

from edge_agent.commands.status_table import print_status
from edge_agent.commissioning import Commissioning
from edge_agent.detection_memory import DetectionMemory
from edge_agent.kept_rows import KeptRows
from edge_agent.own_normal import OwnNormal
from protocol.messages.commands import CommandResult
from protocol.messages.kinds import CommandStatus, DriftState
from protocol.messages.payloads import DriftReport, Health

__all__ = ["device", "world"]  # the fixtures
pytestmark = pytest.mark.edge


# --- 8: faults do not become normal -----------------------------------------------------------------------------------


def fault(count: int, seed: int = 9) -> np.ndarray:
    return healthy(count, seed) + np.array([0, 0, 0, 6, 0, 0], np.float32)


def test_no_window_of_a_lasting_fault_is_learnt(device: Device, tmp_path: Path) -> None:
    """On 4dec79f 566 of 1,009 buffered windows were over the threshold of an alarm that went on."""
    device.watch(healthy(200))
    assert device.pipeline.set_aside_windows == 0
    device.watch(fault(566))
    assert device.pipeline.alarm_is_open
    assert device.pipeline.set_aside_windows == 566
    assert len(device.buffer) == 200
    assert (device.buffer.newest(2000).rows[:, 3] < 5).all()
    device.pipeline.commit()
    well = Device(tmp_path / "well")
    well.adopt()
    well.watch(healthy(200))
    well.pipeline.commit()
    assert device.pipeline.normal.threshold == well.pipeline.normal.threshold


def test_what_was_set_aside_may_be_learnt_once_a_person_has_called_it_normal(device: Device) -> None:
    device.watch(healthy(200))
    device.watch(fault(100))
    device.accept()
    assert (device.pipeline.set_aside_windows, len(device.buffer)) == (0, 300)
    until_s = device._wall()
    device.watch(fault(20, 10))
    again = device.restart()
    again.adopt()
    assert again.pipeline.accept_normal(until_s) is None
    assert again.pipeline.set_aside_windows == 20, "an old word says nothing of what came after it"


def test_drift_nobody_has_looked_into_is_neither_learnt_nor_made_the_new_normal(device: Device) -> None:
    device.watch(healthy(200))
    device.watch(healthy(150, 3) * 0.5 + 0.8)
    assert device.pipeline.normal.drift.is_resting
    assert device.pipeline.set_aside_windows > 100
    device.adopt(V2, version=2, is_trial=True)
    assert device.pipeline.commit() is None
    assert device.pipeline.normal.is_drifted
    device.pipeline.save()
    again = device.restart()
    again.adopt(V2, version=2)
    recovered = again.accept()
    assert recovered is not None, "the release that was committed meanwhile gets the reference it was owed"
    assert not again.pipeline.normal.is_drifted
    assert not any(j.drift for j in judged(again.watch(healthy(200, 5) * 0.5 + 0.8)))


def test_once_drift_is_accepted_its_later_windows_are_learnt_as_they_come(device: Device) -> None:
    device.watch(healthy(200))
    device.watch(healthy(100, 3) * 0.5 + 0.8)
    device.accept()
    before = len(device.buffer)
    device.watch(healthy(50, 4) * 0.5 + 0.8)
    assert len(device.buffer) == before + 50
    device.pipeline.save()
    again = device.restart()
    again.adopt()
    again.watch(healthy(50, 5) * 0.5 + 0.8)
    assert again.pipeline.set_aside_windows == 0


def test_drift_that_passes_by_itself_leaves_only_its_own_windows_aside(device: Device) -> None:
    device.watch(healthy(200))
    device.watch(healthy(100, 3) + np.array([0, 0, 0, 0, 0, 1.2], np.float32))
    assert device.pipeline.normal.is_drifted
    device.watch(healthy(400, 4))
    assert not device.pipeline.normal.is_drifted
    waiting, kept = device.pipeline.set_aside_windows, len(device.buffer)
    device.watch(0.5 * healthy(20, 5))
    assert (device.pipeline.set_aside_windows, len(device.buffer)) == (waiting, kept + 20)


def test_status_says_where_a_machine_has_settled_and_which_sensors_are_unlike_the_reference(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.watch(healthy(150))
    world.watch(healthy(300, 3) + np.array([0, 0, 0, 2, 0, 0], np.float32))
    world.now_s += 11
    world.turn()
    status = world.status()
    assert status.health.drift_score == 1.0, "at least, until it is back"
    assert status.drift_shapes[0].sensor == "feature-3"
    print_status(status, SIGHT)
    shown = " ".join(capsys.readouterr().out.split())
    assert "settled" in shown
    assert "deviations" in shown
    assert "PSI" in shown


def test_the_word_of_a_person_reaches_the_rows_by_the_broker_and_health_says_so(world: World) -> None:
    world.watch(healthy(150))
    world.watch(healthy(200, 3) + 1.0)
    world.now_s += 11
    world.turn()
    waiting = world.status().health.set_aside_windows
    assert waiting > 100
    world.accept_as_normal(7)
    for _ in range(4):
        world.turn()
    (said,) = world.said(CommandResult)
    assert isinstance(said, CommandResult)
    assert (said.number, said.status, said.reason) == (
        7,
        CommandStatus.DONE,
        f"{waiting} windows may be learnt",
    )
    world.now_s += 11
    world.turn()
    health = world.said(Health)[-1]
    assert isinstance(health, Health)
    assert (health.set_aside_windows, health.obeyed, health.buffered_windows) == (0, 7, 350)
    states = [report.state for report in world.said(DriftReport) if isinstance(report, DriftReport)]
    assert states == [DriftState.DRIFTED, DriftState.SETTLED], "learning ends a drift, not a word"
    assert health.drifted
    assert health.drift_severity == pytest.approx(1.4, abs=0.5), "the worst of six sensors that moved by 1"


def test_a_drift_that_ends_with_a_word_is_accepted_and_not_recovered(world: World) -> None:
    world.watch(healthy(150))
    world.watch(healthy(200, 3) + 1.0)
    world.installation.give(2, is_trial=True, generation=2)
    world.watch(healthy(10, 4) + 1.0)
    world.installation.give(2, is_trial=False, generation=2)  # it owes a reference while nobody has looked
    world.watch(healthy(3, 5) + 1.0)
    world.accept_as_normal(7)
    for _ in range(6):
        world.now_s += 11
        world.turn()
    states = [report.state for report in world.said(DriftReport) if isinstance(report, DriftReport)]
    assert states == [DriftState.DRIFTED, DriftState.SETTLED, DriftState.ACCEPTED]
    health = world.said(Health)[-1]
    assert isinstance(health, Health)
    assert (health.drifted, health.drift_accepted) == (False, True)


def test_an_old_word_says_nothing_of_a_fault_while_the_clock_stands_in_the_past(device: Device) -> None:
    """A board without a clock of its own says 1970 after each power cut, until it finds the network."""
    device.watch(healthy(200))
    device.watch(fault(50))
    device.accept()
    again = device.restart()
    again._wall = lambda: 1000.0 + again.index  # type: ignore[method-assign] # the clock that begins anew
    again.pipeline._wall = again.pipeline.normal._wall = again._wall
    again.adopt()
    again.watch(fault(100, 11))
    assert again.pipeline.set_aside_windows == 100
    last = again.restart()
    assert last.pipeline.set_aside_windows == 100, "nobody has called these windows normal"


def test_drift_found_while_the_clock_stands_in_the_past_is_investigated(device: Device) -> None:
    device.watch(healthy(200))
    device.accept()
    device.pipeline._wall = device.pipeline.normal._wall = lambda: 1000.0
    device.watch(healthy(200, 3) * 0.5 + 0.8)
    assert device.pipeline.normal.is_drifted
    assert device.pipeline.normal.is_investigating


def test_windows_that_built_up_an_alarm_of_windows_with_gaps_are_set_aside(device: Device) -> None:
    device.watch(healthy(200))
    device.watch(fault(1))
    gappy = fault(40, 12)
    gappy[:, 0] = np.nan
    device.watch(gappy)
    assert device.pipeline.alarm_is_open
    well = healthy(60, 13)
    well[:, 0] = np.nan
    device.watch(well)
    assert not device.pipeline.alarm_is_open
    device.watch(healthy(20, 14))
    assert (device.buffer.newest(2000).rows[:, 3] < 5).all()


def test_what_lies_at_the_end_of_the_scale_is_measured_beside_a_dead_sensor(device: Device) -> None:
    device.watch(healthy(100))
    rows = healthy(400, 5)
    rows[:, 0], rows[:, 1] = np.nan, 20
    device.watch(rows)
    assert device.pipeline.commissioning.clipping.share == pytest.approx(1 / 6, abs=0.03)


# --- 7: a power cut between a new scale and what depends on it -----------------------------------------------------------


class PowerCutError(Exception):
    """The process is gone."""


CUTS = [
    (DetectionMemory, "preserve_scale"),
    (DetectionMemory, "save_standardiser"),
    (OwnNormal, "begin_anew"),
    (KeptRows, "restart"),
    (OwnNormal, "commit"),
    (Commissioning, "taken_up"),
]


@pytest.mark.parametrize("where", CUTS, ids=lambda cut: cut[1])
@pytest.mark.parametrize("is_done", [False, True])
def test_after_a_cut_no_scale_is_beside_rows_and_threshold_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[type, str], is_done: bool
) -> None:
    def cut(*_: object, **__: object) -> None:
        raise PowerCutError

    preserves_nothing = where[1] == "preserve_scale" and not is_done

    def watched(made: Device, *, breaks: bool) -> Device:
        made.adopt()
        if is_done:
            made.watch(healthy(200))
            made.pipeline.commissioning.restart(is_afresh=True)
        made.watch(second[:-1])
        with monkeypatch.context() as broken:
            if breaks:
                broken.setattr(*where, cut)
            dies = breaks and not preserves_nothing
            with pytest.raises(PowerCutError) if dies else contextlib.nullcontext():
                made.watch(second[-1:])
        return made

    second = healthy(60, 4) * 5 + 30
    well = watched(Device(tmp_path / "well"), breaks=False)
    watched(Device(tmp_path / "cut"), breaks=True)
    again = Device(tmp_path / "cut")
    again.adopt()
    assert again.pipeline.commissioning.standardiser == well.pipeline.commissioning.standardiser
    assert again.pipeline.normal.threshold == well.pipeline.normal.threshold
    np.testing.assert_array_equal(again.buffer.newest(999).rows, well.buffer.newest(999).rows)
    assert not again.pipeline.commissioning.is_gathering
    assert again.pipeline.normal.drift.monitor is not None
