"""The learning benchmark: its rows, its metrics, and what it claims on the recordings where they are present."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from recordings import DATA, ROOT, needs

# The script's folder is on its own import path; a test has to put it there.
sys.path.append(str(ROOT / "benchmarks"))

from learning_tables.pronostia_bearings import (
    Bearing,
    Scores,
    area_under_curve,
    judge,
    load_bearings,
)
from learning_tables.pronostia_detectors import fleet_spec
from learning_tables.pronostia_fleet import Fleet
from learning_tables.pronostia_mahalanobis import judge_choice
from learning_tables.report import Bound, Row, json_lines, text_table

ROW = Row(
    name="federated, int8",
    metrics={"AUC": [0.9, 0.96], "seconds": [2.0, 2.0]},
    units={"seconds": "s"},
    bounds={"AUC": Bound(value=0.94, source="target")},
    note="a note",
)


def test_a_row_becomes_a_json_object_per_metric_with_its_bound() -> None:
    auc, seconds = (json.loads(line) for line in json_lines("table", [ROW]))
    assert auc == {
        "name": "table: federated, int8: AUC",
        "value": 0.93,
        "unit": "share",
        "standard_error": 0.03,
        "seeds": [0.9, 0.96],
        "bound": 0.94,
        "bound_source": "target",
        "ratio": 0.989,
    }
    assert (seconds["unit"], "bound" in seconds) == ("s", False)


def test_the_table_for_people_shows_means_errors_and_notes() -> None:
    text = text_table("title", [ROW, Row(name="other", metrics={"AUC": [0.5]})])
    assert "0.930 ±0.030" in text
    assert "federated, int8: a note" in text
    assert text.splitlines()[4].split() == ["other", "0.500", "-"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"metrics": {}}, "needs metrics"),
        ({"metrics": {"a": [1.0], "b": [1.0, 2.0]}}, r"'a': 1, 'b': 2"),
        ({"metrics": {"a": [1.0]}, "units": {"b": "s"}}, r"\['b'\]"),
    ],
)
def test_a_row_that_does_not_add_up_is_refused(wrong, says) -> None:
    with pytest.raises(ValueError, match=says):
        Row(name="x", **wrong)


def test_the_auc_counts_pairs_and_half_of_the_ties() -> None:
    rng = np.random.default_rng(0)
    negative, positive = rng.integers(0, 5, 40).astype(float), rng.integers(1, 7, 30).astype(float)
    pairs = [(p > n) + 0.5 * (p == n) for n, p in product(negative, positive)]
    assert area_under_curve(negative, positive) == pytest.approx(np.mean(pairs))


def test_a_life_is_judged_by_its_middle_and_its_end() -> None:
    life = Scores(healthy=np.zeros(30), middle=np.array([0, 0, 0, 2.0]), end=np.array([1.0, 3.0, 3.0, 0.5]))
    figures = {metric: values.tolist() for metric, values in judge([life], [1.5]).items()}
    assert figures == {
        "AUC": [14 / 16],
        "mid-life false alarms": [0.25],
        "end over threshold": [0.5],
        "ends with an alarm": [1.0],
    }


def test_thresholds_and_scales_see_healthy_windows_alone() -> None:
    rng = np.random.default_rng(0)
    life = rng.normal(size=(200, 46)).astype(np.float32)
    spoilt = life.copy()
    spoilt[30:] += 100
    a, b = (Bearing(name="B1_1", life=x) for x in (life, spoilt))
    assert a.standardiser() == b.standardiser()
    scores = [Scores(healthy=np.arange(30.0), middle=np.full(70, m), end=np.full(10, m)) for m in (1.0, 1e4)]
    assert fleet_spec(scores[:1]).score == fleet_spec(scores[1:]).score


@pytest.mark.slow
@needs("pronostia")
def test_bearings_that_the_choice_never_saw_meet_the_target_in_int8() -> None:
    figures = judge_choice(Fleet(load_bearings(DATA / "pronostia"), np.random.default_rng(0)))
    assert len(figures) == 2
    for values in figures.values():
        assert values["AUC"].mean() >= 0.94
        assert values["mid-life false alarms"].mean() <= 0.05
        assert values["end over threshold"].mean() >= 0.5


def run_learning(*arguments: str, data: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "benchmarks/learning.py", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "FEDGE_DATA": str(data), "PYTHONPATH": str(ROOT)},
    )


def test_absent_data_are_skipped_with_a_reason(tmp_path: Path) -> None:
    done = run_learning("heart", data=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert f"heart skipped: no data at {tmp_path}/heart; set FEDGE_DATA" in done.stderr


@pytest.mark.long
@needs("heart")
def test_the_quick_run_trains_four_hospitals_and_draws(tmp_path: Path) -> None:
    done = run_learning("heart", "--quick", "--seeds", "1", "--plots", str(tmp_path), data=DATA)
    assert done.returncode == 0, done.stderr
    figures = {figure["name"]: figure for figure in map(json.loads, done.stdout.splitlines())}
    personal = figures["heart: personalised: FedAvg + label prior, int8: accuracy, mean of hospitals"]
    trivial = figures["heart: trivial: the hospital's more frequent class: accuracy, mean of hospitals"]
    assert personal["bound"] == 0.8
    assert personal["value"] > trivial["value"]
    assert (tmp_path / "learning-heart.svg").read_text().count("personalised") >= 1
