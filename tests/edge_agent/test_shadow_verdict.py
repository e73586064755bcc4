"""A candidate beside the release that runs: what the counts of both say of it."""

from __future__ import annotations

import numpy as np
import pytest

from edge_agent.installation.comparison import ShadowLimits, Tally, share_at_least
from protocol.messages.kinds import ShadowOutcome
from protocol.messages.payloads import ShadowReport

pytestmark = pytest.mark.edge

LIMITS = ShadowLimits()


def tally(*, extra: int = 0, both: int = 0, calm: int = 30, seen: int = 20, lost: int = 0) -> Tally:
    counted = Tally("pump/1", "pump/2", LIMITS, sensors=6)
    for i in range(calm):
        over = (i < both, i < both + extra)
        counted.add(scores=(float(i), float(i * i)), over=over, latencies_us=(10.0, 20.0))
    for i in range(seen):
        counted.add_probe(champion_sees=True, candidate_sees=i >= lost)
    return counted


def test_a_lower_bound_is_the_share_at_which_so_many_are_seen_once_in_a_thousand_cases() -> None:
    rng = np.random.default_rng(1)
    for count, of in ((10, 30), (3, 5), (30, 30), (1, 200)):
        share = share_at_least(count, of, 0.999)
        drawn = rng.binomial(of, share, 400_000) >= count
        assert 0.0007 < drawn.mean() < 0.0013
    assert share_at_least(0, 30, 0.999) == share_at_least(0, 0, 0.999) == 0.0


def test_a_candidate_like_the_champion_passes_with_everything_that_was_counted() -> None:
    report = tally(both=1).verdict()
    assert report == ShadowReport(
        outcome=ShadowOutcome.PASSED,
        note="30 windows judged by both, and no absurd difference",
        champion="pump/1",
        windows=30,
        champion_over=1,
        candidate_over=1,
        both_over=1,
        extra_share_low=0.0,
        extra_share_high=report.extra_share_high,
        probes=20,
        champion_seen=20,
        candidate_seen=20,
        rank_correlation=1.0,
        champion_latency_us=10.0,
        candidate_latency_us=20.0,
    )
    assert report.extra_share_high == pytest.approx(1 - 0.025 ** (1 / 29)), (
        "so much may it be, after none of 29"
    )


@pytest.mark.parametrize(
    ("extra", "both", "outcome"),
    [(9, 0, ShadowOutcome.PASSED), (10, 0, ShadowOutcome.REFUSED), (0, 30, ShadowOutcome.PASSED)],
)
def test_ten_of_thirty_calm_windows_are_too_many_and_those_of_the_champion_are_none(
    extra: int, both: int, outcome: ShadowOutcome
) -> None:
    report = tally(extra=extra, both=both).verdict()
    assert report.outcome is outcome
    if outcome is ShadowOutcome.REFUSED:
        assert report.note == (
            "deafening: pump/2 calls 10 of 30 windows anomalies that are none to pump/1; at least 11% are, and 10% are allowed"
        )


@pytest.mark.parametrize(("lost", "outcome"), [(17, ShadowOutcome.PASSED), (18, ShadowOutcome.REFUSED)])
def test_eighteen_of_twenty_disturbances_are_too_many_to_miss(lost: int, outcome: ShadowOutcome) -> None:
    report = tally(lost=lost).verdict()
    assert report.outcome is outcome
    if outcome is ShadowOutcome.REFUSED:
        assert report.note == "blind: of 20 disturbances that pump/1 sees, pump/2 misses 18; 50% are allowed"


def test_too_few_windows_speak_neither_for_nor_against_a_candidate_but_certainty_needs_not_all() -> None:
    assert tally(calm=5, seen=5).verdict().outcome is ShadowOutcome.INCONCLUSIVE
    assert tally(calm=5, seen=5, extra=5).verdict().outcome is ShadowOutcome.REFUSED
    assert tally(calm=0, seen=0).verdict().rank_correlation is None
