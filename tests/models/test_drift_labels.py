"""Verdicts on alarms become drift of precision, where they became worse and by more than chance."""

from __future__ import annotations

import numpy as np
import pytest

from models.drift.labels import PrecisionSettings, PrecisionState, watch_precision


def verdicts(seed: int, before: float, after: float, change: int = 100, length: int = 250) -> list[bool]:
    """A stream whose precision changes once."""
    random = np.random.default_rng(seed)
    return (random.random(length) < np.where(np.arange(length) < change, before, after)).tolist()


def told(stream: str) -> PrecisionState:
    """What a stream of 1 (true alarm) and 0 says."""
    return watch_precision(each == "1" for each in stream)


def test_steady_precision_is_no_drift() -> None:
    found = sum(watch_precision(verdicts(seed, 0.8, 0.8)).drifted_at is not None for seed in range(40))
    assert found <= 6


def test_a_fall_of_precision_is_drift_since_the_verdict_with_which_it_began() -> None:
    began = []
    for seed in range(10):
        state = watch_precision(verdicts(seed, 0.85, 0.35, length=130))
        assert state.drifted_at is not None
        began.append(state.drifted_at)
        assert state.recent == pytest.approx(0.35, abs=0.3)
    assert 92 <= np.median(began) <= 105


def test_the_scan_equals_the_likelihood_ratio_of_the_best_split_computed_one_by_one() -> None:
    def log_likelihood(part: list[bool]) -> float:
        share = sum(part) / len(part)
        return float(sum(np.log(share if each else 1 - share) for each in part))

    def best_split(part: list[bool]) -> tuple[float, int]:
        return max(
            (log_likelihood(part[:k]) + log_likelihood(part[k:]) - log_likelihood(part), -k)
            for k in range(10, len(part) - 9)
            if np.mean(part[k:]) < 0.95 * np.mean(part[:k])
        )

    stream = [True, False, *verdicts(3, 0.8, 0.4, change=30, length=60)]  # no part without both
    first = next(end for end in range(24, 61) if best_split(stream[:end])[0] > 5.5)
    assert watch_precision(stream[: first - 1]).drifted_at is None
    assert watch_precision(stream[:first]).drifted_at == -best_split(stream[:first])[1]


def test_better_alarms_are_no_drift() -> None:
    assert all(watch_precision(verdicts(seed, 0.4, 0.95)).drifted_at is None for seed in range(10))
    assert told("0" * 60 + "1" * 60).drifted_at is None


def test_drift_ends_with_thirty_verdicts_as_good_as_before() -> None:
    bad = "1" * 30 + "0" * 30
    assert told(bad).drifted_at in range(20, 31)
    assert told(bad + "1" * 26).drifted_at is not None
    assert told(bad + "1" * 30).drifted_at is None
    assert told(bad + "1" * 30 + "0" * 20).drifted_at is not None, "and may begin again"


def test_a_fall_by_five_percent_is_within_tolerance_however_many_say_so() -> None:
    steady, lower = ("1" * 49 + "0") * 10, ("1" * 47 + "000") * 10
    assert told(steady + lower).drifted_at is None


def test_few_verdicts_say_nothing_yet() -> None:
    assert watch_precision([]).precision is None
    state = told("0" * 19)
    assert (state.baseline, state.recent, state.drifted_at, state.precision) == (None, None, None, 0.0)
    assert told("1" * 10 + "0" * 9).drifted_at is None
    assert told("1" * 10 + "0" * 10).drifted_at == 10
    assert told("1110").precision == 0.75
    assert told("1" * 30).baseline == 1.0


def test_the_published_settings() -> None:
    assert PrecisionSettings() == PrecisionSettings(
        baseline=30, recent=30, fewest=10, longest=500, tolerance=0.05, evidence=5.5
    )
