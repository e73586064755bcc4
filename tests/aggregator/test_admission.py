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


@pytest.mark.parametrize("votes", [-159.0, -1.0, 2.0, 4096.0])
def test_a_device_has_one_vote(votes: float) -> None:
    with pytest.raises(AnswerRefusedError, match=f"votes: {votes:g} votes of 1 devices; each has one"):
        check(UPDATE, {"votes": votes}, MOVE)


def test_an_update_moves_at_most_the_norm_limit_and_without_a_vote_not_at_all() -> None:
    check(UPDATE, GOOD, MOVE)
    check(UPDATE, {"votes": 0.0}, MOVE)
    with pytest.raises(
        AnswerRefusedError, match=r"norm: the updates' sum has norm 2\.001; 1 votes of 2 reach 2"
    ):
        check(UPDATE, {**GOOD, "update": [1.2006, 1.6008]}, MOVE)
    with pytest.raises(AnswerRefusedError, match="0 votes of 2 reach 0"):
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


def test_the_shorter_answer_of_a_build_that_knows_no_probes_is_refused_by_its_length() -> None:
    layout = assess_layout(tensor_count=2, feature_count=3)
    older = layout.total - 2 * SCORE_GRID.bins
    with pytest.raises(
        AnswerRefusedError, match=rf"shape \({older},\); the question asks for \({layout.total},\)"
    ):
        check_answer(layout, np.ones(older, np.float32), admit_assessment())
