"""Which single answer may enter a sum: each rule on both sides of its limit, each refusal by value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from aggregator.errors import AnswerRefusedError
from aggregator.rounds.admission import (
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
MOVE = admit_update(norm_limit=2.0)
GOOD = {"update": [1.2, 1.6], "votes": 1.0}  # of norm 2


@pytest.mark.parametrize("votes", [-159.0, -1.0, 0.5, 2.0, 4096.0])
def test_a_device_has_one_vote(votes: float) -> None:
    with pytest.raises(AnswerRefusedError, match=f"votes is {votes:g}; a device has one"):
        check(UPDATE, {"votes": votes}, MOVE)


def test_an_update_moves_at_most_the_norm_limit_and_without_a_vote_not_at_all() -> None:
    check(UPDATE, GOOD, MOVE)
    check(UPDATE, {"votes": 0.0}, MOVE)
    with pytest.raises(AnswerRefusedError, match=r"update has norm 2\.001 at 1 votes; the limit is 2"):
        check(UPDATE, {**GOOD, "update": [1.2006, 1.6008]}, MOVE)
    with pytest.raises(AnswerRefusedError, match="at 0 votes"):
        check(UPDATE, {**GOOD, "votes": 0.0}, MOVE)


@pytest.mark.parametrize("limit", [0.0, -1.0, np.inf, np.nan])
def test_a_limit_that_limits_nothing_is_a_mistake_of_ours(limit: float) -> None:
    with pytest.raises(ValueError, match="must be a positive number"):
        admit_update(norm_limit=limit)


def test_an_answer_of_another_shape_or_type_or_with_numbers_that_are_none_is_refused_by_what_it_is() -> None:
    vector = answer(UPDATE, GOOD)
    assert check_answer(UPDATE, vector, MOVE)["votes"].tolist() == [1.0]
    with pytest.raises(AnswerRefusedError, match=r"shape \(4,\); the question asks for \(5,\)"):
        check_answer(UPDATE, vector[:-1], MOVE)
    with pytest.raises(AnswerRefusedError, match="is float64; the question asks for float32"):
        check_answer(UPDATE, vector.astype(np.float64), MOVE)
    for at, part in ((0, "update"), (3, "update"), (4, "votes")):
        spoiled = vector.copy()
        spoiled[at], spoiled[4] = np.nan, np.inf
        count = len({at, 4})
        with pytest.raises(
            AnswerRefusedError, match=rf"holds {count} NaN or infinite entries of 5, the first in '{part}'"
        ):
            check_answer(UPDATE, spoiled, MOVE)


ASSESS = assess_layout(tensor_count=2, feature_count=3)
JUDGED = {
    "examples": 8,
    "candidate_scores": [3, 5],
    "champion_scores": 8,
    "candidate_probe_scores": [2, 6],
    "champion_probe_scores": 8,
    "threshold_votes": 1,
}
WINDOWS = admit_assessment(maximum_examples=20)


def test_an_assessment_counts_each_held_out_window_and_its_probe_once_for_either_model() -> None:
    check(ASSESS, JUDGED, WINDOWS)
    for name in JUDGED.keys() - {"examples", "threshold_votes"}:
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


@pytest.mark.parametrize("votes", [0, 2, 0.5, [0.5, 0.5], [2, -1]])
def test_a_device_has_one_whole_vote_for_the_threshold(votes: object) -> None:
    with pytest.raises(AnswerRefusedError, match=r"threshold_votes holds .* a device has one"):
        check(ASSESS, {**JUDGED, "threshold_votes": votes}, WINDOWS)


@pytest.mark.parametrize(
    "name",
    ["candidate_loss", "champion_loss", "range_low", "range_high", "feature_counts", "feature_squares"],
)
def test_what_is_counted_or_squared_is_not_negative_but_a_sum_of_features_may_be(name: str) -> None:
    check(ASSESS, {**JUDGED, name: 2.0, "feature_sum": -5.0}, WINDOWS)
    with pytest.raises(AnswerRefusedError, match=rf"{name} has the negative entry -2; valid is 0 or more"):
        check(ASSESS, {**JUDGED, name: -2.0}, WINDOWS)
