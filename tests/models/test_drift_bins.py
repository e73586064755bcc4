"""Bins respect single values by their count, and a sensor that rests is not one that sticks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.drift.bins import Bins, atoms_of, fit_bins
from models.drift.normal_scores import NormalScores, bin_scores
from models.drift.repeats import NEVER, Repeats, count_repeats, stuck_runs

pytestmark = pytest.mark.edge

Values = NDArray[np.float32]


def bin_of(bins: Bins, value: float) -> int:
    return int(np.sum(np.float32(bins.edges) <= np.float32(value)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(20, 300), st.integers(1, 40))
def test_masses_are_the_shares_of_the_reference_and_no_value_lies_in_an_empty_bin(
    seed: int, windows: int, levels: int
) -> None:
    random = np.random.default_rng(seed)
    values = random.integers(0, levels, windows).astype(np.float32) * 0.1
    values[: windows // 3] = random.standard_normal(windows // 3)
    bins = fit_bins(values)
    counts = np.bincount([bin_of(bins, v) for v in values], minlength=10)
    np.testing.assert_allclose(counts / windows, bins.masses)
    assert (np.diff(bins.edges) >= 0).all()
    assert all(bins.masses[i] > 0 for i in bins.atoms)


def test_values_without_ties_are_divided_into_tenths() -> None:
    bins = fit_bins(np.random.default_rng(0).standard_normal(1000).astype(np.float32))
    assert bins.masses == (0.1,) * 10
    assert bins.atoms == ()
    assert bins.tails == pytest.approx((0.47, 0.47), abs=0.1)


def test_a_value_is_an_atom_by_its_count_however_near_the_next_one_lies() -> None:
    values = np.random.default_rng(1).standard_normal(200).astype(np.float32)
    close = np.nextafter(np.float32(0.5), np.float32(1))
    values[:9], values[9:30] = 0.5, close
    assert atoms_of(values).tolist() == [close], "nine of 200 are fewer than 5 %"
    values[:10] = 0.5
    assert atoms_of(values).tolist() == [0.5, close]
    bins = fit_bins(values)
    assert bin_of(bins, 0.5) != bin_of(bins, float(close))
    assert atoms_of(np.float32([1, 1, 1, *range(2, 22)])).size == 0, "three of 23 are too few to say"


def test_what_was_never_seen_beyond_an_atom_has_a_bin_and_the_largest_score() -> None:
    values = np.concatenate([np.zeros(60), np.random.default_rng(2).random(40)]).astype(np.float32)
    bins = fit_bins(values)
    assert bins.masses[0] == 0
    assert bin_of(bins, -0.5) == 0
    assert bin_scores(bins)[0] == -3.0
    scores = NormalScores([bins])
    below, rest, tail = scores(np.float32([[-0.5], [0.0], [0.99]]))[:, 0]
    assert below == -3.0
    assert -1 < rest < 0
    assert tail > 1


def test_a_sensor_that_was_constant_moves_with_its_first_other_value() -> None:
    bins = fit_bins(np.full(60, 2.5, np.float32))
    assert bins.atoms == (1,)
    scores = NormalScores([bins])(np.float32([[2.5], [2.6], [2.4]]))[:, 0]
    assert scores.tolist() == [0.0, 3.0, -3.0]


def resting(random: np.random.Generator, windows: int, stay: float) -> Values:
    """At 0 for long, then somewhere else for a while."""
    x, is_resting = np.zeros(windows, np.float32), True
    for i in range(windows):
        if random.random() > (stay if is_resting else 0.8):
            is_resting = not is_resting
        x[i] = 0.0 if is_resting else random.exponential()
    return x


def test_a_sensor_that_rests_is_stuck_late_at_its_atom_and_at_once_elsewhere() -> None:
    repeats = count_repeats(resting(np.random.default_rng(3), 2000, 0.97))
    away, at_rest = stuck_runs(repeats, run_length=1e7, shortest=3)
    assert away <= 5
    assert at_rest >= 5 * repeats.longest_resting
    assert at_rest > 300


def test_the_limits_of_a_sensor_at_rest_let_sixty_healthy_lives_pass() -> None:
    for seed in range(60):
        x = resting(np.random.default_rng(seed), 6000, 0.97)
        limit = stuck_runs(count_repeats(x[:1000]), run_length=1e7, shortest=3)[1]
        assert count_repeats(x[1000:]).longest_resting < limit


@pytest.mark.parametrize(
    ("repeats", "limits"),
    [
        (Repeats(windows_away=10**9, away=0, longest_away=0), (3, NEVER)),
        (Repeats(windows_away=117, away=0, longest_away=0), (4, NEVER)),  # three more than were seen
        (Repeats(windows_away=10**9, away=5 * 10**8, longest_away=1), (20, NEVER)),
        (Repeats(windows_away=10**9, away=5 * 10**8, longest_away=10), (53, NEVER)),  # five times, and three
        (Repeats(windows_away=100, away=0, longest_away=0, windows_resting=900, exits=3), (4, NEVER)),
        (Repeats(windows_away=0, away=0, longest_away=0, windows_resting=10**6, exits=5 * 10**5), (28, 28)),
    ],
)
def test_limits_follow_from_repeats_exits_and_the_longest_run(
    repeats: Repeats, limits: tuple[int, int]
) -> None:
    assert stuck_runs(repeats, run_length=1e6, shortest=3) == limits


def test_a_digital_sensor_rests_at_each_of_its_values() -> None:
    x = np.repeat(np.random.default_rng(4).integers(0, 30, 250), 4).astype(np.float32)
    repeats = count_repeats(x)
    assert repeats.windows_away == 0
    assert repeats.windows_resting == 1000
    away, at_rest = stuck_runs(repeats, run_length=1e6, shortest=3)
    assert away == at_rest
    assert repeats.longest_resting < away < NEVER


def test_a_sensor_that_never_left_its_atom_is_never_stuck_there() -> None:
    assert stuck_runs(count_repeats(np.zeros(500, np.float32)), run_length=1e6, shortest=3) == (NEVER, NEVER)
