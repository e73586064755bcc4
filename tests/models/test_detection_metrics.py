"""The detection benchmark's metrics: against scikit-learn, against VUS's authors, against the agent itself, and by hand."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from recordings import ROOT
from scipy.special import pdtr
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

# The script's folder is on its own import path; a test has to put it there.
sys.path.append(str(ROOT / "benchmarks"))

from detection_tables.alarms import AGENT_RULE, AlarmRule, find_alarms
from detection_tables.methods import FunctionScorer, Judge
from detection_tables.product import RULE
from detection_tables.promises import Kept, common_factor, count_kept, poisson_interval
from detection_tables.ranking import Event, average_precision, events_of, f1
from detection_tables.volume import volume_under_surface
from learning_tables.pronostia_bearings import area_under_curve

from edge_agent.settings import DetectionSettings
from models.detection.openings import LEVELS, AlarmRules, count_openings
from models.thresholds import AlarmState, Opened


@pytest.mark.parametrize("digits", [8, 0])
def test_ranking_and_f1_are_scikit_learns_with_and_without_ties(digits: int) -> None:
    rng = np.random.default_rng(digits)
    labels = rng.random(300) < 0.2
    scores = np.round(rng.normal(size=300) + labels, digits)
    assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores))
    assert area_under_curve(scores[~labels], scores[labels]) == pytest.approx(roc_auc_score(labels, scores))
    assert f1(labels, scores > 0.5) == pytest.approx(f1_score(labels, scores > 0.5))


def test_an_event_ends_where_its_recording_does() -> None:
    labels = np.array([1, 1, 0, 1, 1, 1, 0, 0, 1], bool)
    assert events_of(labels, (0, 5)) == [
        Event(first=0, end=2),
        Event(first=3, end=5),
        Event(first=5, end=6),
        Event(first=8, end=9),
    ]
    assert events_of(np.zeros(4, bool)) == []


def events_and_scores() -> tuple[np.ndarray, np.ndarray]:
    """Events at both ends, two that a buffer joins, one of a single row; scores by arithmetic, so that they are the same everywhere."""
    i = np.arange(600)
    labels = np.isin(i // 10, (0, 7, 8, 31, 33, 59)) & (i % 10 < 6) | (i == 444)
    return labels, (i * 7919 % 1000) / 1000 + 0.5 * labels * (i * 31 % 7 > 2)


@pytest.mark.parametrize(
    ("digits", "buffer", "published"),
    [
        (8, 0, 0.22158494653754976),
        (8, 10, 0.2843857322521687),
        (8, 48, 0.4190544981349871),
        (1, 1, 0.20290611446511286),
        (1, 48, 0.3851639490894587),
    ],
)
def test_the_volume_is_what_its_authors_implementation_gives(
    digits: int, buffer: int, published: float
) -> None:
    """Figures of TSB-AD 1.5, `generate_curve(labels, scores, buffer)`; `make bench-peers` compares it on real scores."""
    labels, scores = events_and_scores()
    assert volume_under_surface(labels, np.round(scores, digits), buffer) == pytest.approx(
        published, abs=1e-12
    )


def test_no_buffer_reaches_into_another_recording() -> None:
    """High scores before the seam are next to the event in the array and nowhere near it in time."""
    labels, scores = np.arange(200) >= 150, np.where(np.abs(np.arange(200) - 145) < 5, 2.0, 0.0)
    joined, apart = (volume_under_surface(labels, scores, 20, starts=starts) for starts in ((0,), (0, 150)))
    assert apart < joined


@pytest.mark.parametrize(
    "rule", [AGENT_RULE, AlarmRule(opens_after_windows=3, closes_after_windows=2, closes_below_share=1.0)]
)
def test_alarms_over_a_whole_recording_are_the_agents_window_by_window(rule: AlarmRule) -> None:
    rng = np.random.default_rng(7)
    total = 0
    for threshold in (0.3, 1.0, 2.0, 4.0):
        scores = np.repeat(rng.gamma(1.0, 1.0, 250), rng.integers(1, 5, 250))
        scores[rng.integers(0, len(scores), 5)] = np.nan
        starts = (0, 40, len(scores) // 2)
        found = find_alarms(scores, threshold, rule, starts=starts)
        openings, is_open = [], []
        for i, score in enumerate(scores):
            if i in starts:
                alarm = AlarmState(
                    opens_after_windows=rule.opens_after_windows,
                    closes_after_windows=rule.closes_after_windows,
                    closes_below_share=rule.closes_below_share,
                )
            if isinstance(alarm.update(float(score), threshold), Opened):
                openings.append(i)
            is_open.append(alarm.is_open)
        assert found.openings.tolist() == openings
        assert found.is_open.tolist() == is_open
        total += len(openings)
    assert total > 50


def test_long_alarms_close_like_the_agents() -> None:
    """Many windows over the threshold with calm stretches one window too short, then one that is long enough, or the end."""
    for length in range(60, 70):
        over = np.repeat([9.0, 0.0], [length % 3, 4])
        series = np.concatenate([np.full(length, 9.0), np.zeros(5), np.full(7, 9.0), np.tile(over, 3)])
        alarm = AlarmState()
        is_open = [(alarm.update(score, 1.0), alarm.is_open)[1] for score in series.tolist()]
        assert find_alarms(series, 1.0).is_open.tolist() == is_open


def test_an_alarm_that_stays_open_is_told_of_again() -> None:
    rule = AlarmRule(
        opens_after_windows=1, closes_after_windows=5, closes_below_share=0.9, again_after_windows=60
    )
    scores = np.zeros(400)
    scores[10:131] = scores[300:310] = 2.0
    found = find_alarms(scores, 1.0, rule)
    # Opens at 10, is still open after 70 and 130, closes with the fifth calm window at 135.
    assert (found.openings.tolist(), found.repeats.tolist()) == ([10, 300], [70, 130])
    judge = Judge(scorer=FunctionScorer(score=lambda rows, _: rows[:, 0]), threshold=1.0, rule=rule)
    assert count_kept(judge, scores)[0].openings == 4


def test_openings_are_counted_as_the_products_curve_counts_them() -> None:
    rng = np.random.default_rng(3)
    statistics = np.repeat(rng.gamma(1.0, 1.0, 400), rng.integers(1, 40, 400))
    counted = count_openings(statistics, AlarmRules())
    for place in range(0, len(LEVELS), 7):
        found = find_alarms(statistics, LEVELS[place], RULE)
        assert len(found.openings) + len(found.repeats) == counted.openings[place]
        # The curve counts the window that closes an alarm as time in alarm, too.
        closings = np.count_nonzero(np.diff(found.is_open.astype(int)) == -1)
        assert found.is_open.sum() + closings == counted.in_alarm[place]


def test_the_rule_is_the_agents_with_nothing_set_by_hand() -> None:
    settings = DetectionSettings()
    assert AGENT_RULE.opens_after_windows == settings.opens_after_windows
    assert AGENT_RULE.closes_after_windows == settings.closes_after_windows
    assert AGENT_RULE.closes_below_share == settings.closes_below_share


@pytest.mark.parametrize("count", [0, 1, 7, 186])
def test_the_interval_leaves_out_an_fortieth_at_either_end(count: int) -> None:
    low, high = poisson_interval(count)
    assert pdtr(count, high) == pytest.approx(0.025)
    assert low == 0 if count == 0 else 1 - pdtr(count - 1, low) == pytest.approx(0.025)


def judge_of(threshold: float, horizon: int | None = None) -> Judge:
    return Judge(
        scorer=FunctionScorer(score=lambda rows, _: rows[:, 0]), threshold=threshold, horizon=horizon
    )


def test_what_happens_beyond_the_horizon_is_counted_apart() -> None:
    scores = np.zeros(100)
    scores[[10, 11, 48, 49, 50, 51, 90, 91]] = 2.0
    within, beyond = count_kept(judge_of(1.0, horizon=50), scores)
    # Opens with the second window over the threshold, closes with the fifth calm one.
    assert within == Kept(windows=50, openings=2, open_windows=5 + 1)
    assert beyond == Kept(windows=50, openings=1, open_windows=6 + 5)
    assert count_kept(judge_of(1.0), scores)[0] == within + beyond


def test_one_factor_on_all_thresholds_gives_the_promised_openings() -> None:
    rng = np.random.default_rng(0)
    scores = [rng.gamma(1.0, scale, 2000) for scale in (1.0, 50.0)]
    judges = [judge_of(1.0), judge_of(50.0)]
    factor = common_factor(judges, scores, 5e-3)
    assert factor is not None

    def openings(at: float) -> int:
        return sum(
            len(find_alarms(s, at * judge.threshold).openings)
            for s, judge in zip(scores, judges, strict=True)
        )

    # Two alarms may merge at the same level, so the promise of 20 need not be met to the last one.
    assert 19 <= openings(factor) <= 20 < openings(0.999 * factor)
    assert common_factor(judges, [np.zeros(0), np.zeros(0)], 5e-3) is None


def test_alarms_that_merge_are_not_taken_for_few() -> None:
    """Twenty slow waves open at most twenty alarms, and one where the threshold is below them: 1 in 100 is never reached."""
    waves = 2 + np.sin(np.arange(4000) * 2 * np.pi / 200) + np.linspace(0, 0.2, 4000)
    factor = common_factor([judge_of(1.0)], [waves], 1e-2)
    assert factor is not None
    alarms = find_alarms(waves, factor)
    assert len(alarms.openings) == 20
    assert alarms.is_open.mean() < 0.5
    assert common_factor([judge_of(1.0)], [np.zeros(100)], 1e-2) is not None
