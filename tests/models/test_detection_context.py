"""A machine's context: the course of its day, its regimes, and when either is worth knowing. Generated machines only."""

from __future__ import annotations

import numpy as np
import pytest

from models.detection.context import Context, Timed, _sharpened, fit_context
from models.detection.profile import Periods, Profile, ProfileGuard, fewest_periods
from models.detection.regimes import fit_regimes

pytestmark = pytest.mark.edge

DAY_S = 86_400.0
F = 8
BEGUN_S = 1_790_000_000.0
"""Somewhere within a day."""


def remembering(count: int, seed: int, phi: float = 0.9) -> np.ndarray:
    """Rows of a machine whose sensors vary slowly, and in no course."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, np.sqrt(1 - phi**2), (count, F))
    for i in range(1, count):
        rows[i] += phi * rows[i - 1]
    return rows


def clock(count: int) -> np.ndarray:
    return BEGUN_S + 600.0 * np.arange(count)


def course(when: np.ndarray) -> np.ndarray:
    """Three deviations between the hours in the first half of the sensors, each in a way of its own.

    Of what they did together, a detector would know without a profile: it is a correlation.
    """
    sensor = np.arange(F)
    size = np.where(sensor < F // 2, 1.5, 0.0)
    return np.sin(2 * np.pi * (1 + sensor // 2) * when[:, None] / DAY_S + np.pi / 2 * (sensor % 2)) * size


def periods_of(rows: np.ndarray, when: np.ndarray) -> Periods:
    periods = Periods(DAY_S, float(when[-1]), rows.shape[1])
    for part in np.array_split(np.arange(len(rows)), 5)[::-1]:  # as a device reads them: newest first
        periods.add(rows[part], when[part])
    return periods


def context_of(rows: np.ndarray, when: np.ndarray) -> Context | None:
    return fit_context(Timed(rows.astype(np.float32), when), [periods_of(rows, when)])


# --- the course of a day ----------------------------------------------------------------------------------------------


def test_a_course_is_learnt_at_every_hour_and_where_there_is_none_nothing_is() -> None:
    when = clock(14 * 144)
    profile = Profile.of(periods_of(remembering(len(when), 0) + course(when), when))
    assert profile is not None
    at = BEGUN_S + np.arange(0.0, DAY_S, 60.0)
    expected = profile.expected_rows(at)
    assert np.sqrt(np.square(expected - course(at))[:, : F // 2].mean(axis=0)).max() < 0.5
    assert np.count_nonzero(expected[:, F // 2 :].any(axis=0)) <= 1
    one_by_one = np.array([profile.expected(float(t)) for t in at])
    np.testing.assert_allclose(one_by_one, expected, atol=1e-5)
    assert np.abs(np.diff(expected, axis=0)).max() < 0.05, "no step between hours, nor at midnight"


def test_a_day_is_not_known_before_a_week() -> None:
    when = clock(8 * 144)
    rows = remembering(len(when), 0, phi=0.2) + course(when)
    assert Profile.of(periods_of(rows[: 6 * 144], when[: 6 * 144])) is None
    assert Profile.of(periods_of(rows, when)) is not None
    assert (fewest_periods(DAY_S), fewest_periods(8 * 3600.0), fewest_periods(7 * DAY_S)) == (7, 7, 3)


def test_what_was_learnt_from_is_looked_at_by_the_other_days_alone() -> None:
    when = clock(10 * 144)
    rows = remembering(len(when), 1) + course(when)
    before = Profile.held_out(periods_of(rows, when), when)
    day = periods_of(rows, when).folds_of(when) == 4
    rows[day] += 5 * np.cos(2 * np.pi * when[day] / DAY_S)[:, None]
    after = Profile.held_out(periods_of(rows, when), when)
    worth = np.linalg.norm(after[day], axis=0) / np.maximum(np.linalg.norm(before[day], axis=0), 1e-9)
    # Another shape, but for how much of it is worth subtracting, it would have with itself among them.
    for sensor in range(F // 2):
        alike = np.corrcoef(before[day, sensor], after[day, sensor])[0, 1] if worth[sensor] > 0 else 1.0
        assert alike > 0.999
    assert not np.allclose(before[~day], after[~day])


def test_hours_that_were_never_seen_lie_between_their_neighbours() -> None:
    when = clock(10 * 144)
    hour = when % DAY_S // 3600
    seen = ~((hour >= 2) & (hour < 6))
    rows = remembering(len(when), 2, phi=0.2) + course(when)
    profile = Profile.of(periods_of(rows[seen], when[seen]))
    assert profile is not None
    expected = profile.expected_rows(np.arange(0.0, DAY_S, 600.0))
    assert np.isfinite(expected).all()
    assert np.abs(np.diff(expected, axis=0)).max() < 0.3


def test_constant_memory_whatever_is_added() -> None:
    periods = Periods(60.0, 6e6, F)
    for start in range(0, 6_000_000, 600_000):
        when = start + np.arange(0.0, 600_000.0, 30.0)
        periods.add(np.zeros((len(when), F)), when)
    assert len(periods._sums) <= 64


def test_the_guard_keeps_a_course_that_goes_on_through_a_shifted_level_and_a_holiday() -> None:
    when = clock(20 * 144)
    expected = course(when).astype(np.float32)
    rows = remembering(len(when), 3).astype(np.float32) + expected + np.float32(2.0)
    rows[5 * 144 : 6 * 144] -= expected[5 * 144 : 6 * 144]
    guard = ProfileGuard(DAY_S)
    assert not any(guard.note(*each) for each in zip(rows, expected, when.tolist(), strict=True))


def test_the_guard_ends_a_course_that_has_gone_or_is_another_within_three_days() -> None:
    when = clock(6 * 144)
    expected = course(when).astype(np.float32)
    for now in (np.zeros_like(expected), course(when + DAY_S / 3).astype(np.float32)):
        guard = ProfileGuard(DAY_S)
        rows = remembering(len(when), 4).astype(np.float32) + now
        faded = [guard.note(*each) for each in zip(rows, expected, when.tolist(), strict=True)]
        assert 144 < faded.index(True) <= 3 * 144


def test_a_slip_of_the_clock_does_not_deafen_the_guard() -> None:
    when = clock(6 * 144)
    when[[0, 200]] += 1000 * DAY_S
    expected = course(when).astype(np.float32)
    guard = ProfileGuard(DAY_S)
    rows = remembering(len(when), 4).astype(np.float32)
    faded = [guard.note(*each) for each in zip(rows, expected, when.tolist(), strict=True)]
    assert 144 < faded.index(True) <= 4 * 144


# --- regimes ----------------------------------------------------------------------------------------------------------


def loads(count: int, seed: int, stay: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a machine with three loads, and which."""
    rng = np.random.default_rng(seed)
    load = np.repeat(rng.integers(3, size=count // stay + 1), stay)[:count]
    return remembering(count, seed, phi=0.5) + rng.normal(0, 3, (3, F))[load], load


@pytest.mark.parametrize(
    "rows",
    [
        remembering(1000, 0, phi=0.0),
        remembering(1000, 1),
        np.random.default_rng(2).standard_t(3, (1000, F)),
        np.exp(np.random.default_rng(3).normal(0, 0.8, (1000, F))),
        np.r_[remembering(900, 4), remembering(100, 5) + 5],
        remembering(150, 6) + 4 * (np.arange(150)[:, None] % 20 > 9),
        np.zeros((500, F)),
    ],
    ids=["independent", "slow", "heavy tails", "skewed", "one excursion", "few windows", "constant"],
)
def test_most_machines_have_one_regime(rows: np.ndarray) -> None:
    assert fit_regimes(rows) is None


def test_loads_that_a_machine_comes_back_to_are_regimes_and_their_windows_are_told_apart() -> None:
    rows, load = loads(1200, 0)
    regimes = fit_regimes(rows)
    assert regimes is not None
    assert len(regimes.centres) == 3
    found = regimes.nearest_of(rows.astype(np.float32))
    pairs = set(zip(found.tolist(), load.tolist(), strict=True))
    agree = max(np.mean(np.array(order)[load] == found) for order in _orders())
    assert agree > 0.99, pairs
    assert [regimes.nearest(row) for row in rows[:50].astype(np.float32)] == found[:50].tolist()


def _orders() -> list[tuple[int, int, int]]:
    return [(a, b, c) for a in range(3) for b in range(3) for c in range(3) if len({a, b, c}) == 3]


def test_what_a_person_calls_normal_needs_one_visit() -> None:
    rows = np.r_[remembering(900, 4), remembering(100, 5) + np.where(np.arange(F) % 2, 4, -4)]
    assert fit_regimes(rows) is None
    regimes = fit_regimes(rows, is_vouched=True)
    assert regimes is not None
    assert len(regimes.centres) == 2


def test_a_regimes_centre_for_a_fifth_is_that_of_the_others() -> None:
    rows, _ = loads(1000, 1)
    rows = rows.astype(np.float32)
    regimes = fit_regimes(rows)
    assert regimes is not None
    nearest, first = regimes.nearest_of(rows), np.arange(1000) < 200
    held_out = regimes.held_out(rows)
    for regime in range(len(regimes.centres)):
        meant = first & (nearest == regime)
        if meant.any():
            others = rows[~first & (nearest == regime)].mean(axis=0)
            np.testing.assert_allclose(
                held_out[meant], np.tile(others, (meant.sum(), 1)), rtol=1e-4, atol=1e-4
            )


# --- together, and the gate -------------------------------------------------------------------------------------------


def test_a_row_is_seen_alone_as_it_is_seen_among_others() -> None:
    when = clock(14 * 144)
    rows, _ = loads(len(when), 2)
    rows = (rows + 2 * course(when)).astype(np.float32)
    context = context_of(rows, when)
    assert context is not None
    assert context.profile is not None
    assert context.regimes is not None
    together = context.seen_rows(rows[:200], when[:200])
    expected = context.profile.expected
    alone = np.array(
        [context.seen(row, expected(float(t))) for row, t in zip(rows[:200], when[:200], strict=True)]
    )
    np.testing.assert_allclose(alone, together, atol=1e-4)


def test_slow_machines_without_a_course_or_regimes_have_no_context() -> None:
    when = clock(8 * 144)
    found = [context_of(remembering(len(when), seed), when) is not None for seed in range(12)]
    assert sum(found) <= 1


def test_the_gate_opens_where_extremes_shrink_and_not_where_only_calm_windows_are_calmer() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(1000, F)).astype(np.float32)
    folds = np.arange(1000) * 8 // 1000
    halves = np.full(F, 0.5, np.float32)
    assert _sharpened(rows, 0.5 * rows, halves, folds) == pytest.approx(2 * np.log(2), abs=1e-3)
    assert _sharpened(rows, rows, np.ones(F, np.float32), folds) == 0
    wild = rows.copy()
    wild[::40] *= 5
    calmer = np.where(np.arange(1000)[:, None] % 40 == 0, wild, 0.7 * wild)
    spread = calmer.std(axis=0) / wild.std(axis=0)
    assert spread.max() < 0.93, "variance is explained"
    assert _sharpened(wild, calmer, spread, folds) <= 0.05


def test_the_gate_stays_shut_where_one_fold_says_otherwise() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(1000, F)).astype(np.float32)
    after = 0.7 * rows
    after[700:720] *= 6  # one day the cycle was late
    folds = np.arange(1000) * 8 // 1000
    assert _sharpened(rows, after, after.std(axis=0) / rows.std(axis=0), folds) <= 0


def test_a_constant_sensor_has_no_part_in_it() -> None:
    when = clock(14 * 144)
    rows = remembering(len(when), 0, phi=0.2) + 2 * course(when)
    rows[:, [0, 7]] = 0.0
    context = context_of(rows, when)
    assert context is not None
    assert context.spread[[0, 7]].tolist() == [1.0, 1.0]
    assert not context.seen_rows(rows.astype(np.float32), when)[:, [0, 7]].any()
