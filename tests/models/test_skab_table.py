"""The SKAB table: its protocol, what a detector may see, and the figure it claims where the recordings are present."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from recordings import DATA, ROOT, needs

# The script's folder is on its own import path; a test has to put it there.
sys.path.append(str(ROOT / "benchmarks"))

from learning_tables.skab_detectors import (
    AlarmRule,
    alarm_counts,
    closed_form_models,
    score_int8,
)
from learning_tables.skab_recordings import (
    SENSORS,
    Prepared,
    Recording,
    confusion,
    exponential_average,
    figures,
    load_recordings,
    prepare,
    steady_sensors,
    windows,
)


def recording(rows: np.ndarray) -> Recording:
    return Recording(name="test", rows=rows, is_anomalous=np.zeros(len(rows), np.bool_))


def test_always_alarming_has_a_high_f1_and_no_j() -> None:
    truth = np.array([True] * 54 + [False] * 46)
    always = figures(confusion(np.ones(100, np.bool_), truth))
    assert always == {"J": 0.0, "F1": pytest.approx(0.701, abs=1e-3), "FAR": 1.0, "MAR": 0.0}


def test_figures_are_those_of_a_hand_count() -> None:
    judged = figures(np.array([6.0, 1.0, 2.0, 4.0]))
    assert judged == pytest.approx({"J": 1 - 0.2 - 0.25, "F1": 12 / 15, "FAR": 0.2, "MAR": 0.25})


def test_a_sensor_that_travels_is_left_out_and_one_that_wobbles_is_kept() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(600, len(SENSORS)))
    rows[:, 4] += np.linspace(0, 20, 600)
    assert steady_sensors([recording(rows)]) == [0, 1, 2, 3, 5, 6, 7]


def test_what_happens_after_the_training_rows_does_not_choose_sensors() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(600, len(SENSORS)))
    rows[400:, 4] += np.linspace(0, 50, 200)
    assert len(steady_sensors([recording(rows)])) == len(SENSORS)


def test_an_exponential_average_knows_nothing_of_the_future() -> None:
    x = np.random.default_rng(1).normal(size=(50, 2))
    changed = x.copy()
    changed[30:] += 5.0
    np.testing.assert_array_equal(exponential_average(x, 5)[:30], exponential_average(changed, 5)[:30])
    np.testing.assert_allclose(exponential_average(x, 1), x)


def test_an_exponential_average_weighs_the_newest_row_as_its_span_says() -> None:
    step = np.concatenate([np.zeros(3), np.ones(3)])
    np.testing.assert_allclose(exponential_average(step, 3), [0, 0, 0, 0.5, 0.75, 0.875])


def test_a_window_holds_rows_in_time_order_and_speaks_for_its_last() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    seen = windows(
        Prepared(rows=rows, is_anomalous=np.array([False] * 4 + [True] * 2), train_rows=4), samples=3
    )
    np.testing.assert_array_equal(seen.rows[0], [0, 1, 2, 3, 4, 5])
    assert len(seen.training) == 2
    np.testing.assert_array_equal(seen.is_anomalous, [False, False, True, True])


@pytest.mark.parametrize("is_shared", [False, True])
def test_thresholds_see_training_rows_only(is_shared: bool) -> None:
    prepared = Prepared(rows=np.zeros((30, 1), np.float32), is_anomalous=np.arange(30) >= 20, train_rows=10)
    quiet, loud = np.ones(30), np.where(np.arange(30) >= 20, 100.0, 1.0)
    rule = AlarmRule(span=1.0, is_shared=is_shared)
    counts = alarm_counts([prepared, prepared], [loud, quiet], rule)
    # Rows 10-19 are healthy, 20-29 anomalous; only the first recording's are loud.
    np.testing.assert_array_equal(counts, [[10, 0, 0, 10], [0, 0, 10, 10]])


@needs("skab")
def test_one_small_int8_model_for_all_recordings_beats_the_leaderboard() -> None:
    recordings = load_recordings(DATA / "skab")
    sensors = steady_sensors(recordings)
    fleet = [prepare(one, sensors, span=5.0) for one in recordings]
    models = closed_form_models("Mahalanobis", fleet, "federated")
    judged = figures(alarm_counts(fleet, score_int8(fleet, models), AlarmRule()).sum(axis=0))
    assert judged["J"] > 0.64
    assert len(models[0].int8_content()) < 300_000
    assert [SENSORS[column] for column in range(8) if column not in sensors] == [
        "Temperature",
        "Thermocouple",
    ]
