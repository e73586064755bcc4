"""The figures of a run: computed from a record that is small enough to check by hand."""

from __future__ import annotations

import html
import io
import json
from dataclasses import asdict
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from aggregator.privacy.modes import who_learns_what
from protocol.privacy_claim import Mode
from simulations.figures import compute_figures
from simulations.picture import draw_picture, is_worth_a_picture, take_picture
from simulations.record import (
    NO_HEALTH,
    Alarm,
    ChapterState,
    DeviceSeen,
    FaultInjected,
    Record,
    RolloutSeen,
    ScoreTrace,
    TrainingSeen,
)
from simulations.report import write_json, write_report
from simulations.screen import draw_world
from simulations.story import new_chapters
from simulations.summary import draw_summary, summary_rows


def trace(device: str, *, over_from: float = 1e9) -> ScoreTrace:
    """One window a second for 100 s; 36 machine seconds a window: 1 machine hour in 100 s."""
    at = np.arange(100.0)
    over = at >= over_from
    return ScoreTrace(
        device=device,
        at_s=at,
        machine_s=at * 36,
        score=np.where(over, 2.0, 0.5),
        threshold=np.ones(100),
        over=over,
        release=np.where(at < 50, 1, 2),
    )


def alarm(device: str, at_s: float) -> Alarm:
    return Alarm(device=device, at_s=at_s)


@pytest.fixture
def record() -> Record:
    chapters = new_chapters()
    for number, chapter in enumerate(chapters):
        chapter.state, chapter.began_s, chapter.ended_s = ChapterState.DONE, number * 10.0, number * 10.0 + 10
    seen = DeviceSeen(
        device="d01",
        hardware="rpi4",
        release="f/2",
        health=msgspec.structs.replace(
            NO_HEALTH,
            windows=100,
            raw_bytes=1_000_000,
            telemetry_bytes=5_000,
            inference_p50_us=10,
            inference_p99_us=20,
            memory_pss_bytes=50_000_000,
            machine_time_s=3600,
        ),
    )
    return Record(
        title="t",
        chapters=chapters,
        devices={
            "d01": seen,
            "d02": DeviceSeen(
                device="d02",
                hardware="jetson",
                release="f/2",
                health=msgspec.structs.replace(NO_HEALTH, inference_p50_us=30, inference_p99_us=90),
            ),
        },
        alarms=[alarm("d01", 25.0), alarm("d01", 62.0), alarm("d02", 70.0)],
        faults=[FaultInjected(device="d01", kind="x", at_s=60.0, ended_s=65.0, caught_s=62.0, published=1)],
        trainings={
            "r": TrainingSeen(
                run="r",
                state="COMPLETED",
                began_s=30,
                ended_s=40,
                rounds=[
                    {"seconds": 3.0, "participants": ["d01", "d02"]},
                    {"seconds": 9.0, "void": True},
                    {"seconds": 5.0, "participants": ["d01"]},
                ],
                evaluation={"int8_error": 0.01, "champion_loss": 2.0, "candidate_loss": 1.0},
            )
        },
        rollouts={
            "a": RolloutSeen(rollout="a", release="f/1", state="COMPLETED", began_s=1, ended_s=2),
            "b": RolloutSeen(rollout="b", release="f/2", state="COMPLETED", began_s=40, ended_s=50),
            "c": RolloutSeen(
                rollout="c", release="f/3", state="ROLLED_BACK", began_s=80, ended_s=85, recovered_s=86
            ),
        },
        traces={"d01": trace("d01"), "d02": trace("d02", over_from=90)},
        now_s=100.0,
    )


def test_a_caught_fault_is_counted_with_its_delay(record: Record) -> None:
    figures = compute_figures(record)
    assert (figures.faults_injected, figures.faults_caught, figures.faults_missed) == (1, 1, 0)
    assert figures.seconds_to_catch == 2.0


def test_a_fault_nobody_reported_is_missed(record: Record) -> None:
    record.faults[0].caught_s = None
    assert compute_figures(record).faults_missed == 1


def test_the_alarm_of_a_faulty_machine_is_not_a_false_one(record: Record) -> None:
    after = compute_figures(record).false_alarms_after_learning
    assert after.alarms == 1  # d02 at 70 s; d01 at 62 s had a fault
    assert after.device_hours == pytest.approx((29 + 29 - 7) * 36 / 3600, rel=0.05)


def test_alarms_are_told_apart_by_phase(record: Record) -> None:
    figures = compute_figures(record)
    assert figures.false_alarms_at_first.alarms == 0
    assert figures.false_alarms_after_change.alarms == 1


def test_bandwidth_saved_is_telemetry_against_raw_streaming(record: Record) -> None:
    assert compute_figures(record).bandwidth_saved_pct == pytest.approx(99.5)


def test_whether_the_promise_was_kept_is_shown_for_each_device_and_for_all(record: Record) -> None:
    quiet, loud = list(record.devices.values())
    quiet.health = msgspec.structs.replace(
        quiet.health,
        promised_per_1000=1.0,
        realised_windows=2000,
        realised_alarms=2,
        realised_low_per_1000=0.12,
    )
    loud.health = msgspec.structs.replace(
        loud.health,
        promised_per_1000=1.0,
        realised_windows=1000,
        realised_alarms=9,
        realised_low_per_1000=4.1,
    )
    promised = compute_figures(record).promised
    assert (promised.per_1000, promised.alarms, promised.windows) == (1.0, 11, 3000)
    assert (promised.kept_on, promised.devices) == (1, 2)
    assert promised.low_per_1000 == pytest.approx(5.49 / 3, rel=0.01)
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(draw_world(record))
    shown = console.export_text()
    assert "1 of 1" in shown
    assert "9 of 1" in shown
    (row,) = [row for row in summary_rows(compute_figures(record)) if row[0].startswith("alarms in 1000")]
    assert row[1] == "≤ 1 / 3.7"
    assert "kept on 1 of 2 devices" in row[2]


def test_void_rounds_do_not_count_as_rounds(record: Record) -> None:
    figures = compute_figures(record)
    assert figures.rounds == 2
    assert figures.seconds_per_round == 4.0
    assert figures.devices_per_round == 1.5


def test_times_of_rollout_and_recovery(record: Record) -> None:
    figures = compute_figures(record)
    assert (figures.seconds_to_roll_out, figures.seconds_to_recover) == (10, 6)
    assert figures.final_release == "f/2"


def test_an_empty_record_has_figures_too() -> None:
    figures = compute_figures(Record(title="t", chapters=new_chapters()))
    assert figures.windows == 0
    assert figures.seconds_to_recover is None


@pytest.mark.slow
def test_json_and_report_hold_the_same_figures_and_need_no_network(record: Record, tmp_path: Path) -> None:
    figures = compute_figures(record)
    write_json(tmp_path / "f.json", record, figures)
    write_report(tmp_path / "r.html", record, figures)
    assert json.loads((tmp_path / "f.json").read_text())["figures"]["bandwidth_saved_pct"] == pytest.approx(
        99.5
    )
    page = (tmp_path / "r.html").read_text()
    assert "99.50 % saved" in page
    assert page.count("<svg") == 4
    assert "<script" not in page
    assert 'src="http' not in page


def test_a_report_of_a_story_that_broke_off_is_written_all_the_same(tmp_path: Path) -> None:
    record = Record(title="t", chapters=new_chapters(), exit_reason="The story broke off: <no broker>")
    write_report(tmp_path / "r.html", record, compute_figures(record))
    assert "&lt;no broker&gt;" in (tmp_path / "r.html").read_text()


def claim_of(mode: Mode, *, epsilon: float | None) -> dict[str, object]:
    """What the aggregator's API gives of a claim, with its own sentences."""
    learned = who_learns_what(mode, quorum=4, multiplier=1.0, colluders=0, groups=3)
    return {
        "server": {"epsilon": epsilon},
        "release": {"epsilon": epsilon},
        "delta": 1e-5,
        "rounds": {"released": 3},
        "mode": mode.value,
        **asdict(learned),
    }


def rows_with(record: Record, privacy: dict[str, object]) -> dict[str, tuple[str, str]]:
    next(iter(record.trainings.values())).privacy = privacy
    return {what.strip(): (value, remark) for what, value, remark in summary_rows(compute_figures(record))}


def test_last_screen_names_both_epsilons_or_says_that_nothing_limits_them(record: Record) -> None:
    row = "privacy ε: aggregator / who sees the release"
    assert rows_with(record, claim_of(Mode.PRIVATE, epsilon=7.51))[row] == ("7.51 / 7.51", "δ = 1e-05")
    assert rows_with(record, claim_of(Mode.ROBUST, epsilon=None))[row] == (
        "unlimited / unlimited",
        "without noise no number limits what sums say",
    )


@pytest.mark.slow
@pytest.mark.parametrize("mode", [Mode.ROBUST, Mode.PRIVATE])
def test_last_screen_says_the_mode_and_the_very_sentences_of_the_claim(
    record: Record, mode: Mode, tmp_path: Path
) -> None:
    claim = claim_of(mode, epsilon=None)
    rows = rows_with(record, claim)
    assert rows["privacy mode"] == (mode.value, "3 sums under masks, no single answer was seen")
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(draw_summary(compute_figures(record), record.title, 140))
    shown = " ".join(console.export_text().replace("│", " ").split())
    write_report(tmp_path / "r.html", record, compute_figures(record))
    page = html.unescape((tmp_path / "r.html").read_text())
    for what in ("curious", "lying", "poisoner"):
        assert str(claim[what]) in shown
        assert str(claim[what]) in page


def test_last_screen_of_a_run_without_masks_says_so(record: Record) -> None:
    seen = "no secure sum: the aggregator saw each device's answer"
    assert rows_with(record, claim_of(Mode.PLAIN, epsilon=None))["privacy mode"] == ("plain", seen)
    assert rows_with(record, {})["privacy mode"] == ("no claim", seen)


@pytest.mark.parametrize("width", [80, 140])
def test_the_last_screen_fits_its_terminal(record: Record, width: int) -> None:
    next(iter(record.trainings.values())).privacy = claim_of(Mode.ROBUST, epsilon=None)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(draw_summary(compute_figures(record), record.title, width))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) < 56
    assert any("bad release" in line for line in lines)


def test_the_live_view_draws_a_world_at_any_moment(record: Record) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(draw_world(Record(title="t", chapters=new_chapters())))
    console.print(draw_world(record))
    shown = console.export_text()
    assert "d02" in shown
    assert "f/3" in shown


def test_the_picture_is_taken_once_while_a_learned_release_spreads(record: Record, tmp_path: Path) -> None:
    newest = list(record.trainings.values())[-1]
    newest.release = "f/2"
    record.devices = {
        name: DeviceSeen(device=name, hardware="rpi4", release="f/1") for name in ("d01", "d02", "d03", "d04")
    }
    assert not is_worth_a_picture(record)
    for name in ("d01", "d02"):
        record.devices[name].release = "f/2"
    assert is_worth_a_picture(record)
    take_picture(record, tmp_path / "demo.svg")
    taken = (tmp_path / "demo.svg").read_text()
    assert "d04" in taken
    record.devices["d03"].release = "f/2"
    take_picture(record, tmp_path / "demo.svg")
    assert (tmp_path / "demo.svg").read_text() == taken


def test_the_picture_loads_nothing_from_a_network(record: Record) -> None:
    picture = draw_picture(record)
    assert "@font-face" not in picture
    assert "url(http" not in picture
    assert "<script" not in picture
