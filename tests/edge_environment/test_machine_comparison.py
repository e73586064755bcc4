"""Two machines' results are the same within the bound of their kind, and anything else is seen."""

from __future__ import annotations

import numpy as np
import pytest
from machine_comparison import BOUNDS, compare, table
from machine_results import detection_results, sample_results
from prove_tflite_runtime import without_replaced

HERE = {
    "float/output": np.array([0.5, -2.0, 1e-9], np.float32),
    "steps/int8": np.array([3, -128, 127], np.int8),
    "exact/verdicts": np.array([True, False]),
    "kernels/delegated": np.array([True]),
}


def changed(name: str, value: object) -> dict[str, np.ndarray]:
    return HERE | {name: np.array(value)}


def failing(device: dict[str, np.ndarray]) -> list[str]:
    return [row.name for row in compare(HERE, device) if not row.holds]


def test_a_machine_equals_itself() -> None:
    assert failing(HERE) == []
    assert {row.difference for row in compare(HERE, HERE)} == {0.0}


def test_floats_may_differ_by_the_bound_relative_to_the_largest() -> None:
    off = 2.0 * BOUNDS["float"]
    assert failing(changed("float/output", [0.5 + 0.9 * off, -2.0, 0.0])) == []
    assert failing(changed("float/output", [0.5 + 1.2 * off, -2.0, 0.0])) == ["float/output"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_a_difference(value: float) -> None:
    assert failing(changed("float/output", [0.5, value, 0.0])) == ["float/output"]


def test_int8_outputs_may_differ_by_one_step_and_do_not_wrap_around() -> None:
    assert failing(changed("steps/int8", np.array([4, -127, 126], np.int8))) == []
    assert failing(changed("steps/int8", np.array([3, 127, 127], np.int8))) == ["steps/int8"]


def test_verdicts_and_kernels_must_be_equal() -> None:
    assert failing(changed("exact/verdicts", [True, True])) == ["exact/verdicts"]
    assert failing(changed("kernels/delegated", [False])) == ["kernels/delegated"]


def test_a_kind_can_be_left_out() -> None:
    rows = compare(HERE, changed("kernels/delegated", [False]), left_out="kernels")
    assert len(rows) == 3
    assert all(row.holds for row in rows)


def test_results_of_other_names_shapes_or_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="only one of the machines computed"):
        compare(HERE, HERE | {"float/more": np.zeros(1)})
    with pytest.raises(ValueError, match="has the shapes"):
        compare(HERE, changed("float/output", [0.5]))
    with pytest.raises(ValueError, match="begins with none of the kinds"):
        compare({"vague/x": np.zeros(1)}, {"vague/x": np.zeros(1)})


def test_the_table_has_a_row_for_each_result_and_marks_what_does_not_hold() -> None:
    lines = table({"a72": compare(HERE, HERE), "a76": compare(HERE, changed("exact/verdicts", [True, True]))})
    assert len(lines) == 1 + len(HERE)
    assert "a72" in lines[0]
    assert [line for line in lines if line.endswith("!")] == [lines[3]]


def test_the_older_runtime_replaces_litert_and_numpy_and_nothing_else() -> None:
    lines = ["numpy>=1.26,<3", "ai-edge-litert==2.3.0", "msgspec>=0.19", "ai-edge-quantizer==0.10.0"]
    assert without_replaced(lines) == ["msgspec>=0.19", "ai-edge-quantizer==0.10.0"]


def test_what_is_compared_can_be_computed_and_has_a_bound() -> None:
    computed = dict(sample_results()) | dict(detection_results())
    assert {name.partition("/")[0] for name in computed} == set(BOUNDS)
    assert all(computed[name].all() for name in computed if name.startswith("kernels/"))
    assert all(row.holds for row in compare(computed, computed))
