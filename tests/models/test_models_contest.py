"""Aged and disturbed windows, and what a device counts when contenders score them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from models.contest import score_contenders
from models.errors import InputError
from models.perturbations import AGEING, DISTURBANCES, age, disturb, wander
from protocol.questions import CONTENDERS, COPIES, contest_layout

pytestmark = pytest.mark.edge


def windows(n: int = 200, features: int = 8, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n, features)).astype(np.float32)


class Weighing:
    """A runner whose score of a window is its mean square times the model's only parameter."""

    def restore(self, flat: NDArray[np.floating], **_rest: object) -> None:
        self.weight = float(flat[0])

    def infer(self, x: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return x, (self.weight * np.mean(x**2, axis=1)).astype(np.float32)


def count(x: NDArray[np.float32], seed: int = 0, weight: float = 1.0) -> dict[str, NDArray[np.float64]]:
    contenders = {name: np.array([weight], np.float32) for name in CONTENDERS}
    return score_contenders(Weighing(), contenders, x, seed=seed)  # type: ignore[arg-type]  # scoring needs two methods of a runner


def copies_of(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.tile(x, (len(DISTURBANCES), 1))


def by_kind(x: NDArray[np.float32], seed: int) -> list[NDArray[np.float32]]:
    """What each kind moved, for one copy of x each."""
    moved = disturb(copies_of(x), np.random.default_rng(seed)) - copies_of(x)
    return np.split(moved, len(DISTURBANCES))


def test_there_is_one_copy_for_each_kind_and_the_protocol_counts_them() -> None:
    assert len(DISTURBANCES) == COPIES
    aged = age(windows(10), np.random.default_rng(0))
    assert aged.shape == disturb(aged, np.random.default_rng(0)).shape == (40, 8)
    with pytest.raises(InputError, match="41 windows are not 4 copies"):
        disturb(np.zeros((41, 8), np.float32), np.random.default_rng(0))


@pytest.mark.parametrize("kind", range(4), ids=DISTURBANCES)
def test_each_kind_disturbs_every_window_and_stays_where_standardised_values_end(kind: int) -> None:
    x = windows() * 3
    copies = disturb(copies_of(x), np.random.default_rng(1))[kind * 200 : (kind + 1) * 200]
    assert (np.abs(copies - x).max(axis=1) > 1e-3).all()
    assert np.abs(copies).max() <= 8.0


def test_shift_and_noise_touch_at_most_half_of_the_features_and_a_jump_one() -> None:
    touched = [(moved != 0).sum(axis=1) for moved in by_kind(windows() / 100, 2)]
    assert [(int(one.min()), int(one.max())) for one in touched] == [(1, 4), (8, 8), (1, 1), (1, 4)]


def test_a_shift_moves_its_features_together() -> None:
    for move in by_kind(windows() / 100, 3)[0]:
        moved = move[np.abs(move) > 0.1]
        assert np.ptp(moved) < 1e-5
        assert 2.0 - 1e-5 <= abs(moved[0]) <= 6.0 + 1e-5


def wandering(by: float, n: int = 4000) -> NDArray[np.float32]:
    """Windows whose mean is `by` deviations further in the second half."""
    x = np.random.default_rng(5).normal(size=(n, 8))
    x[n // 2 :] += by
    return x.astype(np.float32)


def test_wander_is_what_the_mean_moved_by_and_not_the_luck_of_few_windows() -> None:
    assert wander(wandering(0.6)) == pytest.approx(0.6, abs=0.05)
    few = [wander(np.random.default_rng(seed).normal(size=(20, 40)).astype(np.float32)) for seed in range(20)]
    assert np.mean(np.square(few)) < 0.02  # the halves' means differ by 0.2 in the square
    assert wander(wandering(0.6, n=3)) == 0.0


def test_a_machine_ages_three_times_as_far_as_it_wandered_and_one_that_stands_still_does_not() -> None:
    rng, x = np.random.default_rng(4), wandering(0.5)
    offsets = [(age(x, rng) - copies_of(x)).reshape(COPIES, len(x), 8) for _ in range(100)]
    assert max(np.ptp(np.median(one, axis=1) - one[:, 0]) for one in offsets) < 1e-4
    assert np.std([one[:, 0] for one in offsets]) == pytest.approx(AGEING * 0.5, rel=0.1)
    np.testing.assert_array_equal(age(x[:3], rng), copies_of(x[:3]))


def test_the_answer_fits_the_layout_and_counts_every_window_and_copy() -> None:
    parts = count(windows(50))
    contest_layout().pack(parts)
    for name in CONTENDERS:
        assert parts[f"{name}_aged"].sum() == parts[f"{name}_disturbed"].sum() == 50 * COPIES
    assert parts["champion_scores"].sum() == 50


def test_scale_of_a_score_moves_both_histograms_alike() -> None:
    one, thousand = count(windows(50)), count(windows(50), weight=1000.0)
    # 32 bins a decade: a factor of 1000 is 96 bins.
    for part in ("network_aged", "network_disturbed"):
        np.testing.assert_array_equal(one[part][32:160], thousand[part][128:256])


def test_the_same_question_gives_the_same_answer_and_another_seed_other_disturbances() -> None:
    x = wandering(0.5, n=200)
    first, again, other = count(x), count(x), count(x, seed=1)
    np.testing.assert_array_equal(first["network_disturbed"], again["network_disturbed"])
    assert (first["network_disturbed"] != other["network_disturbed"]).any()
    assert (first["network_aged"] != other["network_aged"]).any()


@pytest.mark.parametrize("x", [np.zeros((0, 8)), np.zeros(8), np.full((3, 8), np.nan)])
def test_windows_that_cannot_be_scored_are_refused(x: NDArray[np.float64]) -> None:
    with pytest.raises(InputError, match="contest needs finite windows"):
        count(x.astype(np.float32))


def test_a_contender_that_scores_nothing_finite_is_named() -> None:
    contenders = {name: np.array([np.inf if name == "network" else 1.0], np.float32) for name in CONTENDERS}
    with pytest.raises(InputError, match="'network'"):
        score_contenders(Weighing(), contenders, windows(), seed=0)  # type: ignore[arg-type]  # as above
