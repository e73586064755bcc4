"""What becomes normal on a device: nothing of other columns, no fault, no drift nobody looked into, unless a person says so."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest
from agent_loop_world import SIGHT, World, world
from agent_world import SPEC, healthy, int8_model, make_bundle, manifest_of
from test_agent_pipeline import V2, Device, device

from edge_agent.commands.recommissioning import ask_for_commissioning
from edge_agent.commands.status_table import print_status
from edge_agent.commissioning import Commissioning
from edge_agent.detection_memory import DetectionMemory, RecommissionRequest
from edge_agent.judgement import Judged, Unjudged
from edge_agent.kept_rows import KeptRows
from edge_agent.outdated_state import set_outdated_aside
from edge_agent.own_normal import OwnNormal
from edge_agent.settings import DetectionSettings, load_agent_settings
from models.errors import FeatureError
from models.standardiser import CLIP
from models.thresholds import Opened
from protocol.manifest import FeatureSpec
from protocol.messages.commands import CommandResult
from protocol.messages.kinds import AgentState, CommandStatus, DriftState
from protocol.messages.payloads import DriftReport, Health
from runtime.durable_files import write_durably

__all__ = ["device", "world"]  # the fixtures
pytestmark = pytest.mark.edge

ORDER = [1, 0, 2, 3, 4, 5]
SWAPPED = msgspec.structs.replace(SPEC, names=tuple(SPEC.names[i] for i in ORDER))
WIDER = msgspec.structs.replace(SPEC, names=(*SPEC.names, "extra"), channels=SPEC.channels)
UNLIKE = np.array([1, 1000, 1, 1, 1, 1], np.float32)
"""Units in which a swap of the first two columns is far out of scale."""


def judged(judgements: list[Judged | Unjudged]) -> list[Judged]:
    return [j for j in judgements if isinstance(j, Judged)]


# --- 2: columns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [SWAPPED, WIDER])
def test_a_release_of_other_columns_judges_nothing_and_is_named(tmp_path: Path, source: FeatureSpec) -> None:
    """On 4dec79f: 349 of 349 windows over after a swap, a traceback after one more column, and no problem shown."""
    before = Device(tmp_path)
    before.adopt()
    before.watch(healthy(100) * UNLIKE)
    before.stores.close()
    told = set_outdated_aside(before.paths, source)
    after = Device(tmp_path, spec=source)
    after.pipeline.commissioning.begin(told)
    with pytest.raises(FeatureError, match=r"have moved|'extra' is new here"):
        after.adopt()
    rows = healthy(349, 2) * UNLIKE
    rows = rows[:, ORDER] if source is SWAPPED else np.column_stack([rows, rows[:, 0]])
    assert judged(after.watch(rows)) == []
    assert any("was made for other features" in problem for problem in after.pipeline.problems())
    assert after.pipeline.is_commissioned
    assert len(after.buffer) == 349


def test_why_a_device_commissions_anew_is_said_until_it_is_ready_also_over_a_restart(tmp_path: Path) -> None:
    before = Device(tmp_path)
    before.adopt()
    before.watch(healthy(100))
    before.stores.close()
    after = Device(tmp_path, spec=SWAPPED)
    after.pipeline.commissioning.begin(set_outdated_aside(before.paths, SWAPPED))
    after.watch(healthy(20))
    again = Device(tmp_path, spec=SWAPPED)
    assert any("have moved" in problem for problem in again.pipeline.problems())
    again.watch(healthy(60))
    assert again.pipeline.problems() == []


def test_the_release_before_goes_on_where_one_of_other_columns_is_offered(device: Device) -> None:
    device.watch(healthy(100))
    manifest = msgspec.structs.replace(manifest_of(make_bundle(2)), features=SWAPPED)
    with pytest.raises(FeatureError):
        device.pipeline.adopt(manifest, int8_model(), bundle_sha256=V2, is_trial=True)
    assert len(judged(device.watch(healthy(5)))) == 5


def test_the_agent_tells_of_a_release_of_other_columns_and_goes_on(world: World) -> None:
    world.installation.give(1, is_trial=False, generation=2)
    active = world.installation.now
    assert active is not None
    manifest = msgspec.structs.replace(active.bundle.manifest, features=SWAPPED)
    world.installation.now = dataclasses.replace(
        active, bundle=dataclasses.replace(active.bundle, manifest=manifest)
    )
    world.watch(healthy(100))
    world.now_s += 11
    world.turn()
    assert any("'feature-1', 'feature-0' have moved" in problem for problem in world.status().problems)
    health = world.said(Health)[-1]
    assert isinstance(health, Health)
    assert any("have moved" in problem for problem in health.problems)
    assert health.interval_judged == 0


# --- 6, 7: commissioning ----------------------------------------------------------------------------------------------


def test_a_glitch_in_the_first_windows_deafens_nothing(tmp_path: Path) -> None:
    made = Device(tmp_path)
    made.adopt()
    rows = healthy(60)
    rows[11, 3] = -127.0
    made.watch(rows)
    shifted = healthy(1, 2)
    shifted[0, 3] = 12
    assert made.pipeline.standardise(shifted[0])[3] == CLIP


def test_a_constant_sensor_does_not_alarm_for_ever_at_its_first_step(tmp_path: Path) -> None:
    made = Device(tmp_path)
    made.adopt()
    rows = healthy(360)
    rows[:, 4] = 21.5
    made.watch(rows[:100])
    rows[100:, 4] = 21.501
    after = judged(made.watch(rows[100:]))
    assert not any(isinstance(j.alarm, Opened) for j in after)
    assert made.pipeline.commissioning.problems() == []


def test_health_says_how_far_commissioning_is_and_how_much_is_at_the_end_of_the_scale(world: World) -> None:
    world.watch(healthy(30))
    world.now_s += 11
    world.turn()
    health = world.status().health
    assert health.commissioned_share == pytest.approx(0.45, abs=0.02)
    assert health.state is AgentState.COMMISSIONING
    world.watch(healthy(330, 2))
    night = healthy(700, 3)
    night[:, 2] += 12
    world.watch(night)
    world.now_s += 11
    world.turn()
    health = world.status().health
    assert health.commissioned_share == 1
    assert health.clipped_share == pytest.approx(1 / 6, abs=0.03)
    assert any("feature-2 at the end of the scale" in problem for problem in health.problems)


def test_a_person_asks_for_another_commissioning_while_the_agent_runs(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load_agent_settings(world.paths.root.parent / "agent.toml")
    world.watch(healthy(330, 2))
    night = healthy(400, 3)
    night[:, 2] += 12
    world.watch(night[:300])
    assert "the agent does not run" in ask_for_commissioning(settings, is_afresh=False)
    world.watch(night[300:330])
    assert not world.paths.recommission.exists()
    print_status(world.status(), SIGHT)
    assert "% commissioned" in capsys.readouterr().out
    world.watch(night[330:])
    pipeline = world.agent._pipeline
    assert pipeline.commissioning.share == 1
    assert np.abs(pipeline.standardise(night[0])).max() < CLIP
    assert np.abs(pipeline.standardise(healthy(1)[0])).max() < CLIP
    assert len(world.buffer) < 100
    assert (world.paths.outdated / "1" / "standardiser.json").exists()
    world.watch(night[:200])
    world.now_s += 11
    world.turn()
    assert not any("end of the scale" in problem for problem in world.status().problems)


def test_an_agent_that_did_not_run_commissions_again_with_its_next_start(tmp_path: Path) -> None:
    before = Device(tmp_path)
    before.adopt()
    before.watch(healthy(100))
    write_durably(before.paths.recommission, msgspec.json.encode(RecommissionRequest(is_afresh=True)))
    after = before.restart()
    after.adopt()
    after.pipeline.recommission_if_asked()
    assert len(judged(after.watch(healthy(59, 4) + 5))) == 59
    assert after.pipeline.commissioning.is_gathering
    after.watch(healthy(1, 5) + 5)
    assert not after.pipeline.commissioning.is_gathering
    assert abs(float(after.pipeline.standardise(healthy(1, 6)[0] + 5).mean())) < 2
    assert np.mean([j.is_over for j in judged(after.watch(healthy(50, 7) + 5))]) < 0.1


@pytest.mark.parametrize("content", [b"", b"garbage", b"[]"])
def test_a_request_that_cannot_be_read_is_taken_away(device: Device, content: bytes) -> None:
    device.watch(healthy(100))
    device.paths.recommission.write_bytes(content)
    device.pipeline.recommission_if_asked()
    assert not device.paths.recommission.exists()
    assert not device.pipeline.commissioning.is_gathering


def test_a_release_that_does_not_fit_this_machine_is_said_with_its_figures(tmp_path: Path) -> None:
    """7 of 120 windows usable was silence on 4dec79f."""
    made = Device(tmp_path, DetectionSettings(commissioning_windows=120, reference_windows=120))
    made.adopt(threshold=1e-3)
    made.watch(healthy(120))
    (problem,) = made.pipeline.problems()
    assert problem.startswith("pump/1 does not fit this machine: ")
    assert problem.endswith(" of 120 windows usable")
    again = made.restart()
    again.adopt(threshold=1e-3)
    assert problem in again.pipeline.problems()
    again.adopt(V2, version=2)
    assert again.pipeline.problems() == []


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
    device.watch(healthy(200, 3) * 0.5 + 0.8)
    assert device.pipeline.normal.is_drifted
    assert device.pipeline.set_aside_windows > 150
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

    def watched(made: Device, *, breaks: bool) -> Device:
        made.adopt()
        if is_done:
            made.watch(healthy(200))
            made.pipeline.commissioning.restart(is_afresh=True)
        made.watch(second[:-1])
        with monkeypatch.context() as broken:
            if breaks:
                broken.setattr(*where, cut)
            with pytest.raises(PowerCutError) if breaks else contextlib.nullcontext():
                made.watch(second[-1:])
        return made

    second = healthy(60, 4) * 5 + 30
    well = watched(Device(tmp_path / "well"), breaks=False)
    if where[1] == "preserve_scale" and not is_done:
        return  # there is none to preserve
    watched(Device(tmp_path / "cut"), breaks=True)
    again = Device(tmp_path / "cut")
    again.adopt()
    assert again.pipeline.commissioning.standardiser == well.pipeline.commissioning.standardiser
    assert again.pipeline.normal.threshold == well.pipeline.normal.threshold
    np.testing.assert_array_equal(again.buffer.newest(999).rows, well.buffer.newest(999).rows)
    assert not again.pipeline.commissioning.is_gathering
    assert again.pipeline.normal.drift.monitor is not None
