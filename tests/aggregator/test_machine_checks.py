"""What no training cures is found before it: by machine, by column, with what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from aggregator.family_folder import load_family
from aggregator.family_text import family_text
from aggregator.machine_checks import check_machines, moving_sensors, training_rows
from models.features import passthrough_spec, vibration_spec
from models.recordings.machines import Machine, Reading

NAMES = ("flow", "pressure", "current")


def machine(name: str, rows: NDArray[np.float32], **more: object) -> Machine:
    whole = {"times_s": None, "labels": None, "pieces": (slice(0, len(rows)),)} | more
    return Machine(name=name, rows=rows, path=Path(f"{name}.csv"), **whole)  # type: ignore[arg-type]


def healthy(seed: int, rows: int = 200) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (np.array([100.0, 5.0, 2.0]) + rng.normal(size=(rows, 3)) * [3.0, 0.2, 0.1]).astype(np.float32)


def reading(*machines: Machine, names: tuple[str, ...] = NAMES) -> Reading:
    return Reading(
        sensors=names,
        columns=(),
        sample_rate_hz=1.0,
        machines=machines,
        notes=(),
        refused=(),
        answers={},
    )


def four(spoil: NDArray[np.float32]) -> Reading:
    return reading(*(machine(f"m{i}", healthy(i)) for i in range(3)), machine("odd", spoil))


def test_healthy_machines_of_one_kind_have_nothing_against_them() -> None:
    assert check_machines(four(healthy(9) * np.float32(1.3)), NAMES) == []


@pytest.mark.parametrize(
    ("column", "value", "said", "remedy"),
    [
        (0, np.nan, "100% of its values are missing", "--answer 'column:flow=leave out'"),
        (1, 4.25, "never moves (4.25 in all 200 rows)", "--answer 'column:pressure=leave out'"),
    ],
)
def test_a_dead_column_of_one_machine_is_named_with_what_to_do(
    column: int, value: float, said: str, remedy: str
) -> None:
    spoiled = healthy(9)
    spoiled[:, column] = value
    (found,) = check_machines(four(spoiled), NAMES)
    assert (found.machine, found.column) == ("odd", NAMES[column])
    assert said in found.reason
    assert remedy in str(found)


@pytest.mark.parametrize(("factor", "said"), [(1000.0, "times as much"), (0.001, "times as little")])
def test_another_unit_on_one_machine_is_found(factor: float, said: str) -> None:
    spoiled = healthy(9)
    spoiled[:, 1] *= np.float32(factor)
    (found,) = check_machines(four(spoiled), NAMES)
    assert (found.machine, found.column) == ("odd", "pressure")
    assert said in found.reason
    assert "another unit" in found.reason


def test_too_few_rows_are_refused_and_do_not_judge_the_others() -> None:
    (found,) = check_machines(four(healthy(9, rows=40)), NAMES)
    assert (found.machine, found.column) == ("odd", None)
    assert "40 rows" in found.reason


def test_what_moves_on_no_machine_is_no_sensor_of_the_family() -> None:
    rows = [healthy(i) for i in range(2)]
    for one in rows:
        one[:, 2] = 7.0
    assert moving_sensors(reading(*(machine(f"m{i}", one) for i, one in enumerate(rows)))) == NAMES[:2]


def test_faults_gaps_and_missing_values_are_left_out_and_said() -> None:
    rows = healthy(1)
    rows[3, 0] = np.nan
    labels = np.zeros(200, np.int8)
    labels[50:60] = 1
    labels[100:130] = 1
    found = training_rows(reading(machine("m", rows, labels=labels)), NAMES, passthrough_spec(NAMES))
    assert found.normal["m"].shape == (159, 3)
    assert [len(event) for event in found.faulty["m"]] == [10, 30]
    assert "1 of 160 windows miss a value" in found.notes[0]
    assert "40 of 200 rows are labelled as a fault" in found.notes[1]


def test_no_vibration_window_reaches_across_a_gap_or_a_fault() -> None:
    rows = np.random.default_rng(0).normal(size=(10_000, 1)).astype(np.float32)
    labels = np.zeros(10_000, np.int8)
    labels[5000:5001] = 1
    whole = machine("m", rows, labels=labels, pieces=(slice(0, 3000), slice(3000, 10_000)))
    found = training_rows(reading(whole, names=("g",)), ("g",), vibration_spec(12_800.0, 2048))
    # 3000, 2000 and 4999 rows hold one, none and two windows of 2048
    assert found.normal["m"].shape == (3, 24)


@pytest.mark.parametrize(
    ("count", "rate"), [(1, 1.0), (2, None), (8, 1.0), (200, 0.1), (1, 12_800.0), (3, 51_200.0)]
)
def test_the_family_that_is_written_is_one_that_is_taken(count: int, rate: float | None) -> None:
    names = tuple(f'a "{i}"   # °C' for i in range(count))
    text = family_text(
        "valve", names, machines=["a", "b"], sample_rate_hz=rate, commissioning_rows=120, now=0.0
    )
    spec = load_family(Path("valve.toml"), text=text).spec()
    assert spec.features.spec().channels == count
    assert rate in {12_800.0, 51_200.0} or spec.features.spec().names == names
    assert spec.is_mixture == (spec.features.spec().feature_count <= 128)
    assert all(len(line) <= 130 for line in text.splitlines())
