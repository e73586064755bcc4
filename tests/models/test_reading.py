"""The reader as those who call it meet it: answers that last, questions of one line, folders of real recordings, little memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from recordings import DATA, needs
from ugly_world import START, World, table, text

from models.errors import RecordingError
from models.recordings.reading import ColumnKind, QuestionsOpen, read_machines, suggested

pytestmark = pytest.mark.edge


def test_a_shorter_file_of_the_same_logger_is_read_by_the_answers_of_the_longer_without_a_question(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(1)
    w = World(rng, 400, step_s=3600.0)
    lines = table(w, ";", ",", "%d/%m/%Y %H:%M:%S")
    meter = [f"{line};{k // 3}" for k, line in enumerate(lines[1:])]
    long = read_machines([text(tmp_path, [lines[0] + ";hours", *meter])], answers={"column:hours": "sensor"})
    assert long.answers["date_order"] == "day-month-year"
    short = read_machines(
        [text(tmp_path, [lines[0] + ";hours", *meter[:11]], name="y.csv")], answers=long.answers
    )
    assert short.sensors == long.sensors
    np.testing.assert_array_equal(short.machines[0].rows, long.machines[0].rows[:11])
    np.testing.assert_array_equal(short.machines[0].times_s, long.machines[0].times_s[:11])
    with pytest.raises(QuestionsOpen, match="date_order"):
        read_machines([tmp_path / "y.csv"])


def test_a_question_says_place_doubt_and_answers_in_one_line(tmp_path: Path) -> None:
    w = World(np.random.default_rng(2), 60)
    path = text(tmp_path, table(w, form="%d/%m/%Y %H:%M:%S"))
    with pytest.raises(QuestionsOpen) as error:
        read_machines([path])
    (question,) = error.value.questions
    assert (question.key, question.line) == ("date_order", 2)
    assert str(question).startswith(f"{path}:2: no date in column 'time' tells")
    assert str(question).endswith("answer date_order=day-month-year or date_order=month-day-year")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("dateorder", "x", "is date_order meant"),
        ("date_order", "dmy", "must be one of day-month-year"),
        ("column:temp", "sensr", "must be one of sensor"),
        ("sample_rate", "fast", "must be a number of rows a second"),
    ],
)
def test_an_answer_that_no_question_allows_is_refused_with_the_nearest(
    tmp_path: Path, key: str, value: str, says: str
) -> None:
    path = text(tmp_path, table(World(np.random.default_rng(3), 60)))
    with pytest.raises(RecordingError, match=says):
        read_machines([path], answers={key: value})


def test_progress_ends_at_one_and_never_falls(tmp_path: Path) -> None:
    said: list[float] = []
    for name in "ab":
        text(tmp_path, table(World(np.random.default_rng(4), 4000)), name=f"{name}.csv")
    read_machines([tmp_path], progress=said.append)
    assert said == sorted(said)
    assert said[-1] == pytest.approx(1.0)


def test_long_files_take_less_than_three_times_their_data(tmp_path: Path) -> None:
    # A part of it here; benchmarks/reading.py reads 5,000,000 rows, with the process's own memory.
    count = 200_000
    path = tmp_path / "x.csv"
    stamps = np.datetime_as_string(np.datetime64(START.replace(tzinfo=None), "s") + np.arange(count))
    with path.open("w") as file:
        file.write("time,a,b,c,d,e,f\n")
        file.writelines(
            f"{s},20.125,{k % 977}.25,-0.5,{k % 13}.75,7.5,{k % 101}.1\n" for k, s in enumerate(stamps)
        )
    tracemalloc.start()
    machine = read_machines([path]).machines[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert machine.times_s is not None
    assert machine.rows.shape == (count, 6)
    assert peak < 3 * (machine.rows.nbytes + machine.times_s.nbytes)


def test_a_period_is_suggested_where_the_load_repeats(tmp_path: Path) -> None:
    w = World(np.random.default_rng(5), 1500)
    w.rows = np.round(50 + 10 * np.sin(2 * np.pi * np.arange(w.n)[:, None] / 60) + np.zeros(3), 4)
    found = suggested(read_machines([text(tmp_path, table(w))]))
    assert found.period_rows == 60
    assert found.window_rows == 1
    assert len(found.why) == 3


@needs("skab")
def test_skab_is_understood_without_a_question() -> None:
    reading = read_machines([DATA / "skab"])
    assert (len(reading.machines), len(reading.sensors), reading.sample_rate_hz) == (35, 8, 1.0)
    assert sum(int((m.labels == 1).sum()) for m in reading.machines if m.labels is not None) == 13_067
    assert {c.name: c.kind for c in reading.columns}["changepoint"] is ColumnKind.LABEL


@pytest.mark.parametrize(
    ("folder", "rate", "machines", "sensors"),
    [
        pytest.param("smd", "0.0166667", 8, 38, marks=needs("smd")),
        pytest.param("pronostia", "0.1", 17, 46, marks=needs("pronostia")),
        pytest.param("cmapss", "none", 100, 24, marks=needs("cmapss")),
    ],
)
def test_arrays_without_a_time_need_no_more_than_their_rate(
    folder: str, rate: str, machines: int, sensors: int
) -> None:
    with pytest.raises(QuestionsOpen) as error:
        read_machines([DATA / folder])
    assert [question.key for question in error.value.questions] == ["sample_rate"]
    reading = read_machines([DATA / folder], answers={"sample_rate": rate})
    assert (len(reading.machines), len(reading.sensors)) == (machines, sensors)


def test_questions_about_times_and_columns_come_together(tmp_path: Path) -> None:
    w = World(np.random.default_rng(6), 60)
    lines = table(w, form="%d/%m/%Y %H:%M:%S")
    path = text(tmp_path, [lines[0] + ",alarm", *(f"{line},{k % 2}" for k, line in enumerate(lines[1:]))])
    with pytest.raises(QuestionsOpen) as error:
        read_machines([path])
    assert [question.key for question in error.value.questions] == ["column:alarm", "date_order"]


def test_a_column_that_float32_holds_coarsely_is_named(tmp_path: Path) -> None:
    w = World(np.random.default_rng(7), 80)
    lines = table(w)
    path = text(
        tmp_path,
        [lines[0] + ",p", *(f"{line},{101325 + k % 5 / 100:.2f}" for k, line in enumerate(lines[1:]))],
    )
    assert any("column 'p'" in note and "float32" in note for note in read_machines([path]).notes)


def test_names_of_two_folders_that_are_given_are_asked_about_too(tmp_path: Path) -> None:
    for folder in ("ok", "nok"):
        text(tmp_path, table(World(np.random.default_rng(8), 80)), name=f"{folder}/x.csv")
    paths = [tmp_path / "ok", tmp_path / "nok"]
    with pytest.raises(QuestionsOpen, match="names=labels or names=machines"):
        read_machines(paths)
    apart = read_machines(paths, answers={"names": "machines"})
    assert {m.name for m in apart.machines} == {"ok-x", "nok-x"}


@pytest.mark.parametrize("given", [["north", "south"], ["north/x.csv", "south/x.csv"], ["."]])
def test_files_of_one_name_in_two_places_are_two_machines(tmp_path: Path, given: list[str]) -> None:
    for seed, folder in enumerate(("north", "south")):
        text(tmp_path, table(World(np.random.default_rng(seed), 80)), name=f"{folder}/x.csv")
    reading = read_machines([tmp_path / one for one in given])
    assert [(m.name, len(m.rows)) for m in reading.machines] == [("north-x", 80), ("south-x", 80)]


def test_days_that_are_given_one_by_one_are_asked_about_as_their_folder_is(tmp_path: Path) -> None:
    days = [f"2026-01-0{day}/x.csv" for day in (1, 2)]
    for seed, day in enumerate(days):
        text(tmp_path, table(World(np.random.default_rng(seed), 80)), name=day)
    with pytest.raises(QuestionsOpen, match="differ by a date alone"):
        read_machines([tmp_path / day for day in days])


def test_a_file_that_is_given_twice_is_no_second_recording(tmp_path: Path) -> None:
    path = text(tmp_path, table(World(np.random.default_rng(1), 80)), name="x.csv")
    with pytest.raises(RecordingError, match="is given twice"):
        read_machines([path, path.parent / "." / path.name])


def test_a_file_s_name_of_two_lines_makes_no_line_of_its_own(tmp_path: Path) -> None:
    w = World(np.random.default_rng(9), 60)
    text(tmp_path, table(w), name="a.csv")
    text(tmp_path, ["time,a", *["2026-02-10 08:00:00,0,1,2"] * 9], name="b\nall.csv: is well\x1b[2K.csv")
    text(tmp_path, ["x"], name="b\nall is well.h5")
    text(tmp_path, table(w), name="c\nd.csv")
    reading = read_machines([tmp_path])
    said = [*reading.notes, *(reason for _, reason in reading.refused), *(m.name for m in reading.machines)]
    assert len(reading.refused) == 2
    assert all(line.isprintable() for line in said)
    path = text(tmp_path, table(w, form="%d/%m/%Y %H:%M:%S"), name="e\nf.csv")
    with pytest.raises(QuestionsOpen) as error:
        read_machines([path])
    assert str(error.value).isprintable()


def test_an_odometer_beyond_what_float32_counts_is_asked_about(tmp_path: Path) -> None:
    lines = table(World(np.random.default_rng(10), 80))
    path = text(
        tmp_path,
        [lines[0] + ",odometer", *(f"{line},{167_772_800 + k % 3}" for k, line in enumerate(lines[1:]))],
    )
    with pytest.raises(
        QuestionsOpen, match="'odometer' lies between 167772800 and 167772802, all within one step"
    ):
        read_machines([path])


def _labelled(folder: Path, **arrays: np.ndarray) -> dict[str, list[int] | None]:
    """Machine → its rows that are labelled as faults, None: it has no labels."""
    np.savez(folder / "x.npz", **arrays)
    found = read_machines([folder / "x.npz"], answers={"sample_rate": "10"})
    return {
        machine.name: None if machine.labels is None else np.flatnonzero(machine.labels == 1).tolist()
        for machine in found.machines
    }


def test_labels_in_an_npz_are_of_the_machine_that_they_are_named_after(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    one, ten, early, late = rng.normal(size=(60, 2)), rng.normal(size=(60, 2)), np.zeros(60), np.zeros(60)
    early[10:12], late[40:42] = 1, 1
    told = {"pump1": [10, 11], "pump10": [40, 41]}
    assert _labelled(tmp_path, pump1=one, pump10=ten, pump1_label=early, pump10_label=late) == told
    assert _labelled(tmp_path, pump1=one, pump10=ten, pump10_label=late) == told | {"pump1": None}
    assert _labelled(tmp_path, B=ten, A=one, A_label=early) == {"A": [10, 11], "B": None}
    with pytest.raises(RecordingError, match=r"array 'y' may label each of .*, such as X1_label"):
        _labelled(tmp_path, X1=one, X2=ten, y=early)


def test_a_time_beside_several_machines_in_an_npz_is_that_of_each(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    time_s = 0.5 * np.arange(60)
    np.savez(tmp_path / "x.npz", X1=rng.normal(size=(60, 2)), X2=rng.normal(size=(60, 2)), time_s=time_s)
    for machine in read_machines([tmp_path / "x.npz"]).machines:
        np.testing.assert_array_equal(machine.times_s, time_s)


def test_a_link_to_a_file_of_the_same_folder_is_passed_over(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for name in ("p1.csv", "p2.csv"):
        text(tmp_path, table(World(rng, 60)), name=name)
    (tmp_path / "latest.csv").symlink_to("p2.csv")
    found = read_machines([tmp_path])
    assert [machine.name for machine in found.machines] == ["p1", "p2"]
    assert any("1 links to files that are read were passed over" in note for note in found.notes)


def test_two_files_whose_names_are_one_machines_are_not_put_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    for folder, name in (("a", "p-1.csv"), ("a-p", "1.csv")):
        (tmp_path / folder).mkdir()
        text(tmp_path / folder, table(World(rng, 60)), name=name)
    with pytest.raises(RecordingError, match="would both be the machine a-p-1: call one otherwise"):
        read_machines([tmp_path])


@pytest.mark.parametrize(("year", "month"), [("2026", ""), ("", "2")])
def test_a_row_whose_date_lacks_a_part_has_no_time_and_is_left_out(
    tmp_path: Path, year: str, month: str
) -> None:
    lines = [f"2026,2,{1 + k // 24},{k % 24},{k * k % 7}.5" for k in range(60)]
    lines[7] = f"{year},{month},1,7,3.5"
    found = read_machines([text(tmp_path, ["year,month,day,hour,a", *lines])])
    times = found.machines[0].times_s
    assert times is not None
    assert len(times) == 59
    assert set(np.diff(times).tolist()) == {3600.0, 7200.0}


def test_the_30th_of_february_is_no_time(tmp_path: Path) -> None:
    lines = [f"2026,2,{28 + k // 24},{k % 24},{k * k % 7}.5" for k in range(60)]
    with pytest.raises(QuestionsOpen, match=r"sample_rate|column:"):
        read_machines([text(tmp_path, ["year,month,day,hour,a", *lines])])


@pytest.mark.parametrize(("name", "value"), [("dt", 1e-320), ("rate", np.inf)])
def test_a_rate_without_end_is_none(tmp_path: Path, name: str, value: float) -> None:
    np.savez(
        tmp_path / "x.npz", **{"X": np.random.default_rng(7).normal(size=(60, 2)), name: np.array(value)}
    )
    with pytest.raises(QuestionsOpen, match="sample_rate"):
        read_machines([tmp_path / "x.npz"])


@pytest.mark.parametrize(
    "line",
    ['{"t": 3, "a": 1, "a": 2}', '{"t": 3, "a.b": 1, "a": {"b": 2}}', '{"t": 3, "a": {"b": 1, "b": 2}}'],
)
def test_an_object_that_says_a_name_twice_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    once = '{"t": 3, "a": 1, "a.b": 2, "c": 3}'
    path = text(tmp_path, [*[once] * 40, line], name="x.jsonl")
    with pytest.raises(RecordingError, match=r"x\.jsonl:41: a name stands twice"):
        read_machines([path])
