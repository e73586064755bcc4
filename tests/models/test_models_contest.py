"""Disturbed windows, and what a device counts when contenders score them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from models.contest import score_contenders
from models.errors import InputError
from models.perturbations import PERTURBATIONS, perturb
from protocol.questions import CONTENDERS, PERTURBED_COPIES, contest_layout

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


def test_there_is_one_copy_for_each_kind_and_the_protocol_counts_them() -> None:
    assert len(PERTURBATIONS) == PERTURBED_COPIES
    assert perturb(windows(10), np.random.default_rng(0)).shape == (40, 8)


@pytest.mark.parametrize("kind", range(4), ids=PERTURBATIONS)
def test_each_kind_disturbs_every_window_and_stays_where_standardised_values_end(kind: int) -> None:
    x = windows() * 3
    copies = perturb(x, np.random.default_rng(1))[kind * 200 : (kind + 1) * 200]
    assert (np.abs(copies - x).max(axis=1) > 1e-3).all()
    assert np.abs(copies).max() <= 8.0


def test_shift_swap_and_noise_touch_at_most_half_of_the_features() -> None:
    x = windows()
    copies = perturb(x, np.random.default_rng(2))
    for kind in (0, 2, 3):
        touched = (copies[kind * 200 : (kind + 1) * 200] != x).sum(axis=1)
        assert touched.min() >= 1
        assert touched.max() == 4


def test_a_swap_leaves_each_feature_with_the_values_it_had() -> None:
    x = windows()
    swapped = perturb(x, np.random.default_rng(3))[400:600]
    assert all(set(after) <= set(before) for after, before in zip(swapped.T, x.T, strict=True))


def test_the_answer_fits_the_layout_and_counts_every_window_and_copy() -> None:
    parts = count(windows(50))
    contest_layout().pack(parts)
    for name in CONTENDERS:
        assert parts[f"{name}_healthy"].sum() == 50
        assert parts[f"{name}_perturbed"].sum() == 50 * PERTURBED_COPIES


def test_scale_of_a_score_moves_both_histograms_alike() -> None:
    one, thousand = count(windows(50)), count(windows(50), weight=1000.0)
    # 32 bins a decade: a factor of 1000 is 96 bins.
    for part in ("network_healthy", "network_perturbed"):
        np.testing.assert_array_equal(one[part][32:160], thousand[part][128:256])


def test_the_same_question_gives_the_same_answer_and_another_seed_other_disturbances() -> None:
    first, again, other = count(windows()), count(windows()), count(windows(), seed=1)
    np.testing.assert_array_equal(first["network_perturbed"], again["network_perturbed"])
    assert (first["network_perturbed"] != other["network_perturbed"]).any()


@pytest.mark.parametrize("x", [np.zeros((0, 8)), np.zeros(8), np.full((3, 8), np.nan)])
def test_windows_that_cannot_be_scored_are_refused(x: NDArray[np.float64]) -> None:
    with pytest.raises(InputError, match="contest needs finite windows"):
        count(x.astype(np.float32))


def test_a_contender_that_scores_nothing_finite_is_named() -> None:
    contenders = {name: np.array([np.inf if name == "network" else 1.0], np.float32) for name in CONTENDERS}
    with pytest.raises(InputError, match="'network'"):
        score_contenders(Weighing(), contenders, windows(), seed=0)  # type: ignore[arg-type]  # as above
