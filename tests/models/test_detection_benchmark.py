"""The detection benchmark as a program: its doors, what a method may see, its figures and the lines it is judged by."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from recordings import DATA, ROOT, needs

# The script's folder is on its own import path; a test has to put it there.
sys.path.append(str(ROOT / "benchmarks"))

import detection
from detection_tables.devices import Device, learnable
from detection_tables.figures import Figure, measure
from detection_tables.folders import load_folder
from detection_tables.generated import DAY_ROWS, SENSORS, make_world
from detection_tables.judged import judge
from detection_tables.methods import FunctionScorer, Judge, Method, Promised
from detection_tables.named_sets import NAMED_SETS, cut_life
from detection_tables.seen import see
from detection_tables.trivial import TRIVIAL

from models.errors import RecordingError
from models.standardiser import fit_standardiser

NAMES = np.array(["pressure", "current", "speed"])


def arrays_of(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    test, labels = rng.normal(size=(120, 3)), np.zeros(120, np.uint8)
    labels[50:60] = labels[100:104] = 1
    test[labels == 1] += 8
    return {
        "healthy": rng.normal(size=(300, 3)),
        "later": rng.normal(size=(400, 3)),
        "test": test,
        "labels": labels,
        "feature_names": NAMES,
    }


def write(folder: Path, name: str, **changes: np.ndarray | None) -> None:
    arrays = {**arrays_of(len(name)), **changes}
    np.savez(folder / f"{name}.npz", **{key: value for key, value in arrays.items() if value is not None})


def device(**changes: object) -> Device:
    found = arrays_of(0)
    parts = {key: found[key].astype(np.float32) for key in ("healthy", "later", "test")}
    return Device(
        **{
            "name": "a",
            **parts,
            "labels": found["labels"].astype(bool),
            "feature_names": tuple(NAMES),
            **changes,
        }
    )


def test_a_folder_is_read_whole_with_features_in_any_order(tmp_path: Path) -> None:
    write(tmp_path, "pump", period_rows=np.array(24))
    other = arrays_of(1)
    backwards = {key: other[key][:, ::-1] for key in ("healthy", "test")}
    write(tmp_path, "fan", **{**other, **backwards, "later": np.zeros((0, 3)), "feature_names": NAMES[::-1]})
    fan, pump = load_folder(tmp_path)
    assert (fan.name, pump.name) == ("fan", "pump")
    assert fan.feature_names == pump.feature_names == tuple(NAMES[::-1])
    np.testing.assert_array_equal(fan.test, backwards["test"].astype(np.float32))
    np.testing.assert_array_equal(pump.later, arrays_of(4)["later"][:, ::-1].astype(np.float32))
    assert (fan.later.shape, fan.period_rows, pump.period_rows) == ((0, 3), None, 24)
    assert pump.labels.sum() == 14


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"healthy": None}, r"pump\.npz: no array named 'healthy'"),
        ({"test": None}, r"pump\.npz: no array named 'test'"),
        ({"labels": None}, r"pump\.npz: no array named 'labels'"),
        ({"labels": np.zeros(7)}, r"pump\.npz: 'labels' has shape \(7,\); expected one for each of 120"),
        ({"labels": np.full(120, 2)}, r"pump\.npz: 'labels' holds .*2.*; expected 0 or 1"),
        ({"labels": np.full(120, "bad")}, r"pump\.npz: 'labels' holds .*bad"),
        ({"period_rows": np.array(1.5)}, r"pump\.npz: 'period_rows' is 1\.5; expected one whole number"),
        ({"healthy": np.zeros((1, 3))}, r"pump\.npz: 'healthy' has 1 row"),
        ({"healthy": np.zeros(300)}, r"pump\.npz.*'healthy' has shape \(300,\)"),
        ({"later": np.zeros((5, 2))}, r"pump\.npz.*feature_names.*'later' has 2 columns"),
        ({"feature_names": np.array(["a", "b", "c"])}, r"pump\.npz.*no column 'pressure'"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_its_name_and_array(
    changes: dict[str, np.ndarray | None], says: str, tmp_path: Path
) -> None:
    write(tmp_path, "fan")
    write(tmp_path, "pump", **changes)
    with pytest.raises(RecordingError, match=says):
        load_folder(tmp_path)


def test_a_folder_without_recordings_and_a_damaged_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"holds no \.npz file"):
        load_folder(tmp_path)
    (tmp_path / "pump.npz").write_bytes(b"no archive")
    with pytest.raises(RecordingError, match=r"pump\.npz is no NPZ archive"):
        load_folder(tmp_path)
    with pytest.raises(RecordingError, match="is no folder"):
        load_folder(tmp_path / "nowhere")


def test_a_device_whose_parts_do_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="a: test has shape"):
        device(test=np.zeros((120, 2), np.float32))
    with pytest.raises(ValueError, match="a: labels has shape"):
        device(labels=np.zeros(3, bool))
    with pytest.raises(ValueError, match="a: starts"):
        device(starts=(0, 500))


def test_a_life_is_cut_into_learned_quiet_and_anomalous_rows() -> None:
    life = np.arange(100, dtype=np.float32)[:, None]
    cut = cut_life("b", life, (0.15, 0.5, 0.95), ("x",))
    assert cut.healthy[:, 0].tolist() == list(range(15))
    assert cut.later[:, 0].tolist() == list(range(15, 50))
    assert cut.test[:, 0].tolist() == [*range(15, 50), *range(95, 100)]
    assert cut.labels.tolist() == [False] * 35 + [True] * 5
    assert cut.starts == (0, 35)


def test_a_method_sees_neither_labels_nor_what_it_is_judged_on() -> None:
    seen = learnable(device())
    assert (len(seen.later), len(seen.test), len(seen.labels)) == (0, 0, 0)
    np.testing.assert_array_equal(seen.healthy, device().healthy)


def method_of(promised: Promised) -> Method:
    return Method(name="known", fit=lambda _, __: promised)


def test_figures_of_a_known_detector_are_those_of_a_hand_count() -> None:
    """The score is the row's own place: 12 healthy later windows of 400 lie over the threshold in three groups; one event of two is seen."""
    later, test = np.zeros((400, 3), np.float32), np.zeros((120, 3), np.float32)
    later[[20, 21, 22, 23, 200, 201, 202, 203, 390, 391, 392, 393], 0] = 2
    test[50:55, 0], test[80, 0] = 2, 2
    devices = [
        device(later=later, test=test),
        device(
            name="quiet",
            later=np.zeros((400, 3), np.float32),
            labels=np.zeros(120, bool),
            test=test[60:80].repeat(6, 0),
        ),
    ]

    def promised(promise: float) -> list[Judge]:
        scorer = FunctionScorer(score=lambda rows, _: rows[:, 0])
        return [Judge(scorer=scorer, threshold=1.0, horizon=300, is_provisional=promise < 1e-3)] * 2

    figures = {figure.metric: figure for figure in measure("set", method_of(promised), devices, promised, 0)}
    ap = (5 / 6) * 5 / 14 + (14 / 120) * 9 / 14
    assert figures["AP"].value == pytest.approx(ap)
    assert figures["AP"].details["left_out"] == 1
    assert figures["F1"].value == pytest.approx(2 * 5 / (6 + 14))
    assert figures["false alarms"].value == pytest.approx((1 / 106 + 0) / 2)
    assert (figures["events seen"].value, figures["events seen"].details["of"]) == (1, 2)
    assert figures["delay"].value == 1
    opened = figures["openings, r = 1, within the horizon"]
    assert (opened.details["openings"], opened.details["windows"]) == (2, 600)
    assert opened.details["most_by_one_device"] == 2
    assert opened.details["ratio"] == pytest.approx(2 / 0.6)
    assert figures["openings, r = 0.2, beyond it"].details["openings"] == 1
    assert [figures[f"provisional, r = {r}"].value for r in ("1", "0.2")] == [0, 1]


def test_a_time_scale_is_ranked_apart_from_the_window() -> None:
    class Delayed:
        is_timed = True

        def window_scores(self, rows, starts, first):
            return rows[:, 0]

        def timed_scores(self, rows, starts, first):
            return np.zeros(len(rows))

    one = device()
    judges = [Judge(scorer=Delayed(), threshold=1.0)]
    figures = measure("set", method_of(lambda _: judges), [one], lambda _: judges, 0)
    values = {figure.metric: figure.value for figure in figures}
    assert values["AP, timed"] == pytest.approx(one.labels.mean())
    assert values["AP"] > 0.9
    assert values["events seen"] == 0


def figure(method: str, metric: str, value: float, name: str = "smd", **details: object) -> Figure:
    return Figure(set=name, method=method, metric=metric, value=value, details=details)


def test_the_judged_lines_hold_and_fail_as_the_issue_says() -> None:
    kept = "r = 1, within the horizon"
    figures = [
        figure("mixed, int8", "AP", 0.52),
        figure("local, int8", "AP", 0.525),
        figure("federated, int8", "AP", 0.54),
        figure("mixed, float", "AP", 0.534),
        figure("mixed, int8", f"openings, {kept}", 3.0, lowest=1.9, promised_openings=100.0),
        figure("mixed, int8", f"time in alarm, {kept}", 0.006),
    ]
    verdicts = {(line.method, line.judged): line.holds for line in judge("smd", figures)}
    assert verdicts == {
        ("mixed, int8", "AP: mixed against the better of local and federated"): False,
        ("mixed, int8", "AP: floor"): True,
        ("mixed, float", "AP: floor"): True,
        ("mixed, int8", "promise kept, r = 1: lower end of openings"): True,
        ("mixed, int8", "promise kept, r = 1: not silent"): True,
        ("mixed, int8", "promise kept, r = 1: time in alarm"): False,
        ("mixed, int8", "int8 within .01 AP of float"): False,
    }


def test_two_methods_are_compared_device_by_device() -> None:
    """Both vary by .2 from device to device, and differ by .02 on each: the difference is sure."""
    figures = [
        figure(f"{way}, int8", "AP", 0.5 + more, per_device=[0.3 + more, 0.5 + more, 0.7 + more])
        for way, more in (("mixed", 0.02), ("local", 0.0), ("federated", -0.1))
    ]
    (line,) = [line for line in judge("skab", figures) if line.judged.startswith("AP")]
    assert line.holds
    assert line.standard_error == pytest.approx(0.0, abs=1e-12)


def test_silence_is_not_held_against_few_windows() -> None:
    metric = "openings, r = 1, within the horizon"
    for promised, lines in ((9.0, 1), (11.0, 2)):
        found = [figure("mixed, int8", metric, 0.0, lowest=0.0, promised_openings=promised)]
        assert len(judge("smd", found)) == lines


def test_the_program_prints_an_object_a_figure_for_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "fan")
    write(tmp_path, "pump")
    monkeypatch.setattr(sys, "argv", ["detection.py", str(tmp_path), "--methods", "trivial"])
    assert detection.main() == 0
    figures = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {figure["method"] for figure in figures} == {method.name for method in TRIVIAL}
    assert {"set", "method", "metric", "value", "seed", "unit"} <= set(figures[0])
    ap = {figure["method"]: figure["value"] for figure in figures if figure["metric"] == "AP"}
    assert ap["trivial: mean square of z"] == 1.0


def test_the_product_is_judged_by_its_own_promise_in_float_and_int8(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("fan", "pump", "motor"):
        write(tmp_path, name)
    monkeypatch.setattr(sys, "argv", ["detection.py", str(tmp_path), "--methods", "trivial: PCA", "mixed"])
    assert detection.main() == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    figures = {(line["method"], line["metric"]): line for line in lines if "metric" in line}
    for kind in ("float", "int8"):
        assert figures[f"mixed, {kind}", "AP"]["value"] > 0.99
        within = figures[f"mixed, {kind}", "openings, r = 1, within the horizon"]
        assert 0 < within["windows"] < 3 * 400
        assert "false alarm" in figures[f"mixed, {kind}", "provisional, r = 1"]["supported"]
    judged = {line["judged"] for line in lines if "judged" in line}
    assert {"promise kept, r = 0.2: time in alarm", "int8 within .01 AP of float"} <= judged


def test_an_unknown_set_ends_the_program_with_what_would_be_valid(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["detection.py", "pronostika", "--methods", "trivial"])
    assert detection.main() == 2
    assert "'pronostika' is neither a folder nor one of pronostia, skab" in capsys.readouterr().err


@needs("skab")
def test_a_pump_may_be_judged_quiet_until_its_first_anomaly() -> None:
    devices = NAMED_SETS["skab"](DATA / "skab")
    assert [len(devices), sum(len(d.test) for d in devices), sum(d.labels.sum() for d in devices)] == [
        34,
        23_801,
        12_771,
    ]
    assert not any(d.labels[: len(d.later)].any() for d in devices)


@needs("cmapss")
def test_an_engine_is_cut_by_its_life_and_does_not_see_its_age() -> None:
    devices = NAMED_SETS["cmapss"](DATA / "cmapss")
    assert (len(devices), devices[0].healthy.shape, len(devices[0].later)) == (40, (57, 24), 58)


def test_a_course_and_loads_make_a_generated_machine_calmer_and_a_steady_one_is_left_alone() -> None:
    for world, has_profile, has_regimes in (("steady", False, False), ("both", True, True)):
        device = make_world(world)[1]
        seen = see(device, fit_standardiser(device.healthy))
        context = seen.context
        assert (context is not None and context.profile is not None) == has_profile
        assert (context is not None and context.regimes is not None) == has_regimes
        later = seen.show(device.later, len(device.healthy))
        assert later.std(axis=0).mean() == pytest.approx(1.0, abs=0.15), "as calm as it was learnt to be"
        assert seen.rows.shape == (14 * DAY_ROWS, SENSORS)
