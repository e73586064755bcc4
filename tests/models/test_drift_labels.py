"""Page–Hinkley and ADWIN agree with river, ADWIN stays small, and verdicts on alarms become drift of precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.drift.adwin import Adwin
from models.drift.labels import PrecisionWatch, watch_precision, wilson_bound
from models.drift.page_hinkley import PageHinkley

river = pytest.importorskip("river.drift", reason="river is an oracle of the development environment")


def errors(seed: int, before: float, after: float, change: int = 400, length: int = 800) -> list[float]:
    """A stream of 0 and 1 whose rate changes once."""
    random = np.random.default_rng(seed)
    rate = np.where(np.arange(length) < change, before, after)
    return (random.random(length) < rate).astype(float).tolist()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 0.4), st.floats(0.05, 0.95))
def test_page_hinkley_alarms_exactly_where_river_does(seed: int, before: float, after: float) -> None:
    ours = PageHinkley(limit=10.0, tolerance=0.02, fewest=30)
    theirs = river.PageHinkley(threshold=10.0, delta=0.02, min_instances=30, mode="up")
    for i, x in enumerate(errors(seed, before, after)):
        theirs.update(x)
        assert ours.update(x) == theirs.drift_detected, f"at value {i}"


@pytest.mark.parametrize("seed", range(8))
def test_adwin_forgets_where_river_does(seed: int) -> None:
    stream = errors(seed, 0.2, 0.7)
    ours, theirs = Adwin(delta=0.002, every=32), river.ADWIN(delta=0.002, clock=32)
    ours_at, theirs_at = [], []
    for i, x in enumerate(stream):
        theirs.update(x)
        if ours.update(x):
            ours_at.append(i)
        if theirs.drift_detected:
            theirs_at.append(i)
    assert ours_at
    assert theirs_at
    assert abs(ours_at[0] - theirs_at[0]) <= 32  # one comparison
    assert ours.mean == pytest.approx(theirs.estimation, abs=0.12)


@pytest.mark.parametrize("seed", range(4))
def test_adwin_finds_nothing_in_a_stream_that_does_not_change(seed: int) -> None:
    ours = Adwin()
    assert not any(ours.update(x) for x in errors(seed, 0.3, 0.3, length=3000))
    assert ours.width == 3000


def test_adwins_window_has_the_exact_mean_and_variance_in_few_buckets() -> None:
    values = np.random.default_rng(0).normal(3, 2, 5000)
    adwin = Adwin(delta=1e-12)
    for i, x in enumerate(values, 1):
        adwin.update(float(x))
        assert len(adwin._buckets) <= 5 * math.log2(i) + 5
    assert adwin.width == 5000
    assert adwin.mean == pytest.approx(values.mean())


def test_impossible_settings_are_refused_with_what_would_be_valid() -> None:
    with pytest.raises(ValueError, match=r"delta in \(0, 1\).*got 1.0"):
        Adwin(delta=1.0)
    with pytest.raises(ValueError, match=r"limit > 0.*got 0"):
        PageHinkley(limit=0.0)


def verdicts(seed: int, before: float, after: float, change: int = 100, length: int = 250) -> list[bool]:
    return [x == 0.0 for x in errors(seed, 1 - before, 1 - after, change, length)]


def test_steady_precision_is_no_drift() -> None:
    found = sum(watch_precision(verdicts(seed, 0.8, 0.8)).drifted_at is not None for seed in range(40))
    assert found <= 3


def test_a_fall_of_precision_is_drift_and_names_who_saw_it() -> None:
    for seed in range(10):
        state = watch_precision(verdicts(seed, 0.85, 0.35))
        assert state.drifted_at is not None
        assert 100 < state.drifted_at < 160
        assert set(state.found_by) <= {"page-hinkley", "adwin", "drop"}
        assert state.baseline == pytest.approx(0.85, abs=0.2)
        assert state.recent == pytest.approx(0.35, abs=0.3)


def test_better_alarms_are_no_drift() -> None:
    assert all(watch_precision(verdicts(seed, 0.4, 0.95)).drifted_at is None for seed in range(10))


def test_drift_ends_when_the_precision_is_back() -> None:
    stream = verdicts(1, 0.85, 0.3, length=180) + verdicts(2, 0.95, 0.95, length=120)
    watch, states = PrecisionWatch(), []
    for verdict in stream:
        watch.update(is_true_alarm=verdict)
        states.append(watch.state().drifted_at is not None)
    assert any(states)
    assert not states[-1]
    assert int(np.abs(np.diff(np.asarray(states, int))).sum()) == 2


def test_few_verdicts_say_nothing_yet() -> None:
    assert watch_precision([]).precision is None
    state = watch_precision([False] * 20)
    assert (state.baseline, state.recent, state.drifted_at, state.precision) == (None, None, None, 0.0)
    assert watch_precision([True, True, True, False]).precision == 0.75


def test_wilsons_bound_is_the_textbook_one() -> None:
    assert wilson_bound(8, 10, 1.96) == pytest.approx(0.9433, abs=1e-3)
    assert wilson_bound(0, 10, 1.96) == pytest.approx(0.2775, abs=1e-3)
