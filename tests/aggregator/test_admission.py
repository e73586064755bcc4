"""Which single answer may enter a sum: each rule on both sides of its limit, each refusal by value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from aggregator.errors import AnswerRefusedError
from aggregator.rounds.admission import (
    MAXIMUM_EXAMPLES,
    Admission,
    admit_assessment,
    admit_update,
    check_answer,
)
from protocol.grids import SCORE_GRID
from protocol.questions import (
    AnswerLayout,
    assess_layout,
    fit_layout,
    scaffold_layout,
)


def answer(layout: AnswerLayout, parts: Mapping[str, Any]) -> np.ndarray:
    """An answer whose parts are zero but for `parts`; a number fills the first entry of a part."""
    whole = {}
    for name, size in layout.sizes.items():
        part = np.zeros(size)
        values = np.atleast_1d(np.asarray(parts.get(name, 0.0), np.float64))
        part[: len(values)] = values
        whole[name] = part
    return layout.pack(whole)


def check(layout: AnswerLayout, parts: Mapping[str, Any], admission: Admission) -> None:
    check_answer(layout, answer(layout, parts), admission)


UPDATE = fit_layout(4)
MOVE = admit_update(norm_limit=2.0, maximum_examples=50)
GOOD = {
    "examples": 10,
    "weighted_update": [12.0, 16.0],
    "loss_before": 0.0,
    "loss_after": 3.0,
}  # a move of norm 2


def test_one_device_may_not_outweigh_a_fleet_with_more_than_a_hundred_thousand_examples() -> None:
    assert MAXIMUM_EXAMPLES == 100_000
    rule = admit_update(norm_limit=1.0)
    check(UPDATE, {"examples": 100_000}, rule)
    with pytest.raises(AnswerRefusedError, match=r"claims 100001 examples; valid is 1 to 100000"):
        check(UPDATE, {"examples": 100_001}, rule)


@pytest.mark.parametrize("examples", [0.0, 0.5, 51.0, -1.0])
def test_examples_are_between_one_and_what_the_question_allows(examples: float) -> None:
    for allowed in (1.0, 50.0):
        check(UPDATE, {"examples": allowed}, MOVE)
    with pytest.raises(AnswerRefusedError, match=f"claims {examples:g} examples; valid is 1 to 50"):
        check(UPDATE, {"examples": examples}, MOVE)


def test_an_update_moves_at_most_the_norm_limit_for_each_example() -> None:
    check(UPDATE, GOOD, MOVE)
    with pytest.raises(AnswerRefusedError, match=r"update has norm 2\.001; the limit is 2"):
        check(UPDATE, {**GOOD, "weighted_update": [12.006, 16.008]}, MOVE)
    with pytest.raises(AnswerRefusedError, match=r"update has norm 2\.222"):
        check(UPDATE, {**GOOD, "examples": 9}, MOVE)


@pytest.mark.parametrize("name", ["loss_before", "loss_after"])
def test_a_loss_is_not_negative(name: str) -> None:
    with pytest.raises(AnswerRefusedError, match=rf"{name} is -0\.5; a summed loss is 0 or more"):
        check(UPDATE, {**GOOD, name: -0.5}, MOVE)


def test_a_control_variate_moves_as_far_as_an_update_but_for_rounding() -> None:
    layout = scaffold_layout(4)
    for step in (20.0, 20.0001):
        check(layout, {**GOOD, "weighted_control": [step]}, MOVE)
    with pytest.raises(
        AnswerRefusedError, match=r"control variate moves by a step of norm 2\.1; the limit is 2"
    ):
        check(layout, {**GOOD, "weighted_control": [21.0]}, MOVE)
    with pytest.raises(AnswerRefusedError, match="control variate"):
        check(layout, {**GOOD, "weighted_control": [20.001]}, MOVE)


@pytest.mark.parametrize("limit", [0.0, -1.0, np.inf, np.nan])
def test_a_limit_that_limits_nothing_is_a_mistake_of_ours(limit: float) -> None:
    with pytest.raises(ValueError, match="must be a positive number"):
        admit_update(norm_limit=limit)


def test_an_answer_of_another_shape_or_type_or_with_numbers_that_are_none_is_refused_by_what_it_is() -> None:
    vector = answer(UPDATE, GOOD)
    assert check_answer(UPDATE, vector, MOVE)["examples"].tolist() == [10.0]
    with pytest.raises(AnswerRefusedError, match=r"shape \(6,\); the question asks for \(7,\)"):
        check_answer(UPDATE, vector[:-1], MOVE)
    with pytest.raises(AnswerRefusedError, match="is float64; the question asks for float32"):
        check_answer(UPDATE, vector.astype(np.float64), MOVE)
    for at, part in ((0, "weighted_update"), (3, "weighted_update"), (4, "examples"), (6, "loss_after")):
        spoiled = vector.copy()
        spoiled[at], spoiled[6] = np.nan, np.inf
        count = len({at, 6})
        with pytest.raises(
            AnswerRefusedError, match=rf"holds {count} NaN or infinite entries of 7, the first in '{part}'"
        ):
            check_answer(UPDATE, spoiled, MOVE)


ASSESS = assess_layout(tensor_count=2, feature_count=3)
JUDGED = {
    "examples": 8,
    "candidate_scores": [3, 5],
    "champion_scores": 8,
    "candidate_probe_scores": [2, 6],
    "champion_probe_scores": 8,
    "threshold_scores": [8, 4],
}
WINDOWS = admit_assessment(maximum_examples=20)


def test_an_assessment_counts_each_held_out_window_and_its_probe_once_for_either_model() -> None:
    check(ASSESS, JUDGED, WINDOWS)
    for name in JUDGED.keys() - {"examples", "threshold_scores"}:
        for off in (7.5, 8.5):
            check(ASSESS, {**JUDGED, name: off}, WINDOWS)  # counts travel as float32 and are rounded
        for off in (7.25, 8.75):
            with pytest.raises(
                AnswerRefusedError, match=f"{name} counts {off} scores; it must count each of the 8"
            ):
                check(ASSESS, {**JUDGED, name: off}, WINDOWS)
        with pytest.raises(AnswerRefusedError, match=f"{name} counts 8 scores"):
            check(ASSESS, {**JUDGED, name: [9, -1]}, WINDOWS)


def test_the_shorter_answer_of_a_build_that_knows_no_probes_is_refused_by_its_length() -> None:
    older = ASSESS.total - 2 * SCORE_GRID.bins
    with pytest.raises(
        AnswerRefusedError, match=rf"shape \({older},\); the question asks for \({ASSESS.total},\)"
    ):
        check_answer(ASSESS, np.ones(older, np.float32), WINDOWS)


def test_the_threshold_counts_at_least_the_held_out_windows_and_at_most_what_was_asked_for() -> None:
    for counted in (7.5, 8, 20):
        check(ASSESS, {**JUDGED, "threshold_scores": counted}, WINDOWS)
    for counted in (7.25, 20.5):
        with pytest.raises(
            AnswerRefusedError, match=f"threshold_scores counts {counted} scores; .* more than 20"
        ):
            check(ASSESS, {**JUDGED, "threshold_scores": counted}, WINDOWS)
    with pytest.raises(AnswerRefusedError, match="none of them negative"):
        check(ASSESS, {**JUDGED, "threshold_scores": [10, -1]}, WINDOWS)


@pytest.mark.parametrize(
    "name",
    ["candidate_loss", "champion_loss", "range_low", "range_high", "feature_counts", "feature_squares"],
)
def test_what_is_counted_or_squared_is_not_negative_but_a_sum_of_features_may_be(name: str) -> None:
    check(ASSESS, {**JUDGED, name: 2.0, "feature_sum": -5.0}, WINDOWS)
    with pytest.raises(AnswerRefusedError, match=rf"{name} has the negative entry -2; valid is 0 or more"):
        check(ASSESS, {**JUDGED, name: -2.0}, WINDOWS)
