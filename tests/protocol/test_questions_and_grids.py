"""Round questions and histogram grids: answers add up, and quantiles come out of sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import QuestionError
from protocol.grids import FEATURE_GRID, RANGE_GRID, SCORE_GRID, Grid
from protocol.questions import (
    AssessQuestion,
    FitQuestion,
    assess_layout,
    decode_question,
    encode_question,
    fit_layout,
)

pytestmark = pytest.mark.edge
FIT = FitQuestion(run_id="r", round_number=1, layout_sha256="x", profile_sha256="1" * 64)


@pytest.mark.parametrize(
    "question", [FIT, AssessQuestion(run_id="r", layout_sha256="x", profile_sha256="1" * 64)]
)
def test_a_question_reads_back(question: FitQuestion | AssessQuestion) -> None:
    assert decode_question(encode_question(question)) == question


@pytest.mark.parametrize(
    "text", ["", "{}", '{"type":"steal"}', encode_question(FIT).replace("profile_sha256", "profile"), "[1"]
)
def test_a_question_this_build_does_not_know_is_refused(text: str) -> None:
    with pytest.raises(QuestionError):
        decode_question(text)


def test_answers_of_several_devices_add_up_entry_by_entry() -> None:
    layout = fit_layout(3)
    one = layout.pack(
        {
            "update": np.ones(3),
            "votes": np.array([1.0]),
        }
    )
    total = layout.unpack(one.astype(np.float64) * 2)
    assert total["votes"] == [2.0]
    assert total["update"].tolist() == [2.0, 2.0, 2.0]


def test_an_answer_with_a_missing_or_misshapen_part_is_refused() -> None:
    layout = fit_layout(3)
    parts = {"update": np.ones(3), "votes": np.ones(1)}
    with pytest.raises(QuestionError, match="needs exactly"):
        layout.pack({k: v for k, v in parts.items() if k != "votes"})
    with pytest.raises(QuestionError, match="must have 3 entries, got 2"):
        layout.pack(parts | {"update": np.ones(2)})
    with pytest.raises(QuestionError, match=r"shape \(4,\), got \(5,\)"):
        layout.unpack(np.ones(5))


def test_the_assess_layout_counts_every_tensor_and_feature() -> None:
    layout = assess_layout(tensor_count=2, feature_count=3)
    assert layout.sizes["range_low"] == 2 * RANGE_GRID.bins
    assert layout.total == 3 + 5 * SCORE_GRID.bins + 4 * RANGE_GRID.bins + 3 * FEATURE_GRID.bins + 6


@pytest.mark.parametrize("grid", [SCORE_GRID, RANGE_GRID, FEATURE_GRID])
def test_every_value_is_counted_once(grid: Grid) -> None:
    values = np.concatenate([grid.edges, [-1e30, 1e30, 0.0]])
    counts = grid.count(values)
    assert counts.shape == (grid.bins,)
    assert counts.sum() == len(values)


@given(seed=st.integers(0, 100), q=st.sampled_from([0.5, 0.9, 0.99, 0.999]))
def test_a_score_quantile_from_summed_counts_is_close_to_the_exact_one(seed: int, q: float) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.lognormal(0, 0.7, 4000) for _ in range(5)]
    summed = np.sum([SCORE_GRID.count(p) for p in parts], axis=0)
    assert SCORE_GRID.quantile(summed, q) == pytest.approx(np.quantile(np.concatenate(parts), q), rel=0.08)


def test_a_quantile_of_nothing_or_beyond_all_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        SCORE_GRID.quantile(np.zeros(SCORE_GRID.bins), 0.5)
    with pytest.raises(ValueError, match="strictly between"):
        SCORE_GRID.quantile(np.ones(SCORE_GRID.bins), 1.0)


@given(low=st.floats(-100, 0), high=st.floats(0, 100))
def test_a_range_from_counts_encloses_every_reported_one_and_is_barely_wider(low: float, high: float) -> None:
    lower, upper = RANGE_GRID.outer_bounds(
        RANGE_GRID.count(np.array([low])), RANGE_GRID.count(np.array([high]))
    )
    assert lower <= low
    assert upper >= high
    assert lower >= low * 1.0906 - 2**-6
    assert upper <= high * 1.0906 + 2**-6
