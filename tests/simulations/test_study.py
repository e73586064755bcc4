"""The study: recordings in, and what their agents would have done on time that was held back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from study_folders import SENSORS, rows_of_a_machine, write_four_machines, write_machine
from training_models import COMMITTED

from edge_agent.detection_memory import DetectionMemory
from edge_agent.judgement import Judged
from edge_agent.kept_rows import open_stores
from edge_agent.pipeline import Pipeline
from edge_agent.settings import BufferSettings, StatePaths
from edge_agent.sources.replay import ReplaySource
from edge_agent.sources.settings import ReplaySettings
from models.architecture import Architecture
from models.features import passthrough_spec
from models.recordings.machines import Machine, Reading
from models.recordings.questions import Question, QuestionsOpen
from models.recordings.reading import read_machines
from models.recordings.suggestions import Suggestion, suggested
from models.thresholds import Opened
from simulations.errors import ScenarioError
from simulations.study import command, releases
from simulations.study.command import run_study
from simulations.study.document import document_of
from simulations.study.page import draw_page
from simulations.study.recommendation import recommend
from simulations.study.releases import ALONE, MIXTURE, NETWORK, Releases
from simulations.study.studying import Prepared, Study, learn, prepare, study
from simulations.study.understood import understood

TRAINING = (COMMITTED / "autoencoder.training.tflite").read_bytes()


def export(architecture: Architecture) -> bytes:
    """The committed training graph: of six features, with hidden layers of 4, 2 and 4."""
    assert architecture.layers == (len(SENSORS), 4, 2, 4, len(SENSORS))
    return TRAINING


@pytest.fixture(autouse=True, scope="module")
def _small_networks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(releases, "HIDDEN", (4, 2, 4))
        yield


def prepared_of(folder: Path, *, alarms_per_1000: float = 1.0) -> Prepared:
    return prepare(read_machines([folder]), alarms_per_1000=alarms_per_1000)


def study_of(folder: Path, *, alarms_per_1000: float = 1.0) -> Study:
    return study(prepared_of(folder, alarms_per_1000=alarms_per_1000), processes=1, export=export)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_four_machines(tmp_path_factory.mktemp("plant"))


@pytest.fixture(scope="module")
def found(folder: Path) -> Study:
    return study_of(folder)


def test_a_labelled_fault_in_held_back_time_is_seen_by_the_mixture(found: Study) -> None:
    tally = found.best.tally
    assert found.best.name == MIXTURE
    assert (tally.seen, tally.events) == (1, 1)
    assert tally.median_delay is not None
    assert tally.median_delay < 10
    broken = found.best.played[1]
    assert broken.worst[0].contributors[0] == "flow"
    assert broken.worst[0].ratio > 2


def test_every_way_is_played_on_every_machine_in_int8_and_in_float(found: Study) -> None:
    assert set(found.ways) == {ALONE, NETWORK, MIXTURE}
    for way in found.ways.values():
        assert [one.machine for one in way.int8] == ["pump-1", "pump-2", "pump-3", "pump-4"]
        assert way.tally.healthy + 30 == sum(one.judged for one in way.played) == 4 * 600
        assert way.float_tally.healthy == way.tally.healthy


def test_labels_choose_nothing(found: Study, tmp_path: Path) -> None:
    without = study_of(write_four_machines(tmp_path / "plant", has_labels=False))
    assert [one.alarms for one in without.best.played] == [one.alarms for one in found.best.played]
    assert [one.drift_reports for one in without.best.played] == [
        one.drift_reports for one in found.best.played
    ]
    assert any("nobody labelled faults" in reason for reason in recommend(without).reasons)
    assert without.best.tally.events == 0


def test_nothing_of_held_back_time_is_in_a_release(folder: Path, found: Study, tmp_path: Path) -> None:
    other = write_four_machines(tmp_path / "plant")
    for number in range(1, 5):
        rows = np.concatenate([rows_of_a_machine(number, 1000)[:400], rows_of_a_machine(90 + number, 600)])
        write_machine(other / f"pump-{number}.csv", rows)
    made, *_ = learn(prepared_of(other), lambda _stage, _share: None, export)
    assert parts(made) == parts(found.releases)


def parts(made: Releases) -> list[bytes]:
    mixture = made.mixture
    assert mixture is not None
    assert mixture.prior is not None
    return [
        made.averaged.parameters.tobytes(),
        mixture.prior.spread.correlation.tobytes(),
        mixture.int8_model,
    ]


def test_what_was_understood_is_said_before_anything_is_learnt(folder: Path) -> None:
    said = " ".join(understood(prepared_of(folder)))
    assert "4 machines, 4,000 rows, 6 sensors: pressure, flow, current, temperature, vibration, speed" in said
    assert "one row every 10 seconds" in said
    assert "1 faults; they judge, and choose nothing" in said
    assert "the first 1,600 windows of 4 machines; held back: the 2,400 that follow" in said


def test_the_page_is_one_file_without_script_or_another_host(found: Study) -> None:
    page = draw_page(found, recommend(found), title="pumps <&>", now_s=1.8e9)
    assert "<script" not in page
    assert not re.search(r"https?://|@import|url\(", page)
    assert "pumps &lt;&amp;&gt;" in page
    assert "prefers-color-scheme: dark" in page
    assert page.count("<svg") > 4 * 2
    assert "nothing of Fedge ran on a" in page


def test_the_figures_are_plain_json(found: Study) -> None:
    document = json.loads(json.dumps(document_of(found, recommend(found)), allow_nan=False))
    assert document["ways"][MIXTURE]["int8"]["false_alarms"] == found.best.tally.false_alarms
    assert document["machines"]["pump-2"]["ways"][MIXTURE]["events"][0]["seen_after"] is not None
    assert document["detection"]["commissioning_windows"] == 120


def test_a_machine_with_too_few_rows_is_named_and_the_others_are_studied(tmp_path: Path) -> None:
    folder = write_four_machines(tmp_path / "plant")
    write_machine(folder / "pump-5.csv", rows_of_a_machine(5, 80))
    prepared = prepared_of(folder)
    assert [one.said for one in prepared.too_short] == [
        "pump-5 has 80 windows, and 125 are needed: record for longer"
    ]
    assert len(prepared.subjects) == 4


def test_one_machine_is_studied_alone_and_told_that_it_has_nobody_to_learn_with(tmp_path: Path) -> None:
    write_machine(tmp_path / "pump.csv", rows_of_a_machine(1, 400))
    found = study_of(tmp_path)
    assert set(found.ways) == {ALONE, NETWORK}
    assert found.best.name == ALONE
    assert "cannot learn together" in found.privacy.said


def test_recordings_that_are_all_too_short_are_refused_with_what_would_be_enough(tmp_path: Path) -> None:
    write_machine(tmp_path / "pump.csv", rows_of_a_machine(1, 60))
    with pytest.raises(ScenarioError, match=r"pump has 60 windows, and 125 are needed"):
        prepared_of(tmp_path)


def test_a_waveform_is_cut_into_windows_and_slow_rows_are_taken_as_they_are() -> None:
    fast, slow = suggestion_for(100_000, 12_800.0), suggestion_for(100_000, 1.0)
    assert (fast.is_vibration, fast.window_rows) == (True, 2048)
    assert fast.features(("x", "y"), 12_800.0).feature_count == 48
    assert (slow.is_vibration, slow.window_rows) == (False, 1)
    assert slow.features(("x", "y"), 1.0) == passthrough_spec(("x", "y"))
    assert suggestion_for(200, None).longest_commissioning == 80


def test_a_course_that_repeats_is_a_suggested_period() -> None:
    found = suggestion_for(4000, 1.0, period=100).period_rows
    assert found is not None
    assert abs(found - 100) <= 2
    assert suggestion_for(4000, 1.0).period_rows is None


def suggestion_for(count: int, rate: float | None, *, period: int | None = None) -> Suggestion:
    rows = np.random.default_rng(3).normal(size=(count, 2)).astype(np.float32)
    if period is not None:
        rows += 3 * np.sin(2 * np.pi * np.arange(count) / period)[:, None].astype(np.float32)
    machine = Machine(
        name="m", rows=rows, times_s=None, labels=None, pieces=(slice(0, count),), path=Path("m.csv")
    )
    return suggested(
        Reading(
            sensors=("x", "y"),
            columns=(),
            sample_rate_hz=rate,
            machines=(machine,),
            notes=(),
            refused=(),
            answers={},
        )
    )


def test_the_command_writes_a_report_and_with_json_nothing_but_figures_to_stdout(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.html"
    assert call([folder], out=out, is_json=True) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["best"] == MIXTURE
    assert printed.err.index("Understood") < printed.err.index("false alarms, int8")
    assert f"report: {out}" in printed.err.replace("\n", "")
    assert "Would it help with" in out.read_text("utf-8")


def test_open_questions_end_with_status_3_and_the_command_to_go_on_with(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    question = Question(
        key="date_order",
        text="03/04/2026 is a day first or a month first",
        allowed=("day-first", "month-first"),
        path=Path("a b.csv"),
        line=7,
    )

    def ask(*_: object, **__: object) -> None:
        raise QuestionsOpen(question)

    monkeypatch.setattr(command, "read_machines", ask)
    assert call([Path("a b")], answers=["delimiter=;"]) == 3
    said = capsys.readouterr().out
    assert "a b.csv:7: 03/04/2026 is a day first or a month first" in said
    assert "date_order = day-first | month-first" in said
    assert "fedge study 'a b' --answer 'delimiter=;' --answer date_order=day-first" in said


@pytest.mark.parametrize(
    ("answers", "said"),
    [((), "no recording"), (("date_order",), "is no KEY=VALUE")],
)
def test_what_cannot_be_read_is_refused_with_status_2_in_one_line(
    tmp_path: Path, answers: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        call([tmp_path], answers=list(answers))
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def call(
    paths: list[Path], *, out: Path | None = None, is_json: bool = False, answers: list[str] | None = None
) -> int:
    return run_study(
        paths, out=out, is_json=is_json, answers=answers or [], alarms_per_1000=1.0, export=export
    )


def test_predicted_false_alarms_are_within_a_factor_2_of_what_an_agent_then_does(tmp_path: Path) -> None:
    """The study sees the first 1,500 rows; an agent with the release of those plays all 3,000 through its own source."""
    budget = 20.0
    first, whole = tmp_path / "first", tmp_path / "whole"
    first.mkdir()
    whole.mkdir()
    for number in range(1, 5):
        rows = rows_of_a_machine(number, 3000)
        write_machine(first / f"pump-{number}.csv", rows[:1500], has_labels=False)
        write_machine(whole / f"pump-{number}.csv", rows, has_labels=False)
    predicted = study_of(first, alarms_per_1000=budget)
    mixture = predicted.releases.mixture
    assert mixture is not None
    alarms = windows = same_time = 0
    for number in range(1, 5):
        source = ReplaySource(
            ReplaySettings(path=whole / f"pump-{number}.csv", row_every_s=10.0, columns=SENSORS, loop=False)
        )
        paths = StatePaths(tmp_path / f"state-{number}")
        pipeline = Pipeline(
            source.spec,
            predicted.prepared.settings,
            memory=DetectionMemory(paths, source.spec),
            stores=open_stores(paths, source.spec, BufferSettings()),
            clock=lambda: 0.0,
            wall=lambda: 0.0,
        )
        pipeline.adopt(
            mixture.manifest,
            mixture.int8_model,
            bundle_sha256=mixture.sha256,
            is_trial=False,
            prior=mixture.prior,
        )
        while (window := source.next_window(float("inf"))) is not None:
            judged = pipeline.observe(window)
            is_opened = isinstance(judged, Judged) and isinstance(judged.alarm, Opened)
            windows += window.index >= 1500
            alarms += is_opened and window.index >= 1500
            same_time += is_opened and 600 <= window.index < 1500
    rate = predicted.best.tally.per_1000()
    assert rate is not None
    assert windows == 4 * 1500
    assert same_time == predicted.best.tally.false_alarms  # in the same time it is the same agent
    assert alarms > 20  # enough to compare
    assert 0.5 <= (1000 * alarms / windows) / rate <= 2
