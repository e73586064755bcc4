"""What the sums of groups say together: what all devices said, and next to nothing of what a liar did."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import pytest
from honest_sums import FEATURES, NORM, PARAMETERS, TENSORS, HonestDevices, Scores, check, decoded, layout_of

from aggregator.errors import AnswerRefusedError, SumError
from aggregator.rounds.assessment import (
    Assessment,
    ThresholdSettings,
    alarm_rate,
    fit_threshold,
    read_assessment,
    reference_from_sums,
    tensor_ranges,
)
from aggregator.rounds.combining import combine
from aggregator.rounds.refit import prior_from
from aggregator.rounds.reports import GroupSum
from models.detection.answers import read_scale, read_spread
from models.detection.prior import encode_prior
from models.detection.scale import ScalePrior
from models.detection.spread import SpreadPrior
from models.local_training import assess
from protocol.grids import FEATURE_GRID, RANGE_GRID, SCORE_GRID
from protocol.names import DeviceId
from protocol.questions import ASSESS, COVARIANCE, CURVE, FIT, KINDS, SCALE, Kind

GROUPS, SIZE = 5, 4


def grouped(kind: Kind, answers: Sequence[np.ndarray], size: int = SIZE) -> list[GroupSum]:
    """The sums of so many devices each, as the server reads them."""
    return [
        GroupSum(
            participants=tuple(DeviceId(f"d{i}") for i in range(at, at + size)),
            total=decoded(kind, answers[at : at + size]),
        )
        for at in range(0, len(answers), size)
    ]


def together(kind: Kind, sums: Sequence[GroupSum]) -> dict[str, np.ndarray]:
    return layout_of(kind).unpack(combine(kind, layout_of(kind), sums))


@pytest.fixture(scope="module")
def fleet() -> HonestDevices:
    rng = np.random.default_rng(7)
    return HonestDevices(rng=rng, count=GROUPS * SIZE, failing=0.0, windows=(300, 600), explodes=False)


@pytest.fixture(scope="module")
def answers(fleet: HonestDevices) -> dict[Kind, list[np.ndarray]]:
    return {kind: fleet.answers(kind) for kind in KINDS}


def test_the_total_of_one_group_is_its_sum(answers: dict[Kind, list[np.ndarray]]) -> None:
    for kind in KINDS:
        (one,) = grouped(kind, answers[kind], size=GROUPS * SIZE)
        assert np.array_equal(combine(kind, layout_of(kind), [one]), one.total)


def test_a_total_of_groups_passes_the_rules_of_a_sum(answers: dict[Kind, list[np.ndarray]]) -> None:
    for kind in (FIT, SCALE, COVARIANCE):
        check(kind, combine(kind, layout_of(kind), grouped(kind, answers[kind])), GROUPS * SIZE)


def test_a_liar_within_the_clip_moves_the_median_less_than_the_mean() -> None:
    rng = np.random.default_rng(3)
    layout = layout_of(FIT)
    common = rng.normal(size=PARAMETERS)
    moves = [common + 0.3 * rng.normal(size=PARAMETERS) for _ in range(12)]
    honest = [layout.pack({"update": 0.02 * m / np.linalg.norm(m), "votes": np.ones(1)}) for m in moves]
    lie = layout.pack({"update": -NORM * common / np.linalg.norm(common), "votes": np.ones(1)})
    clean = together(FIT, grouped(FIT, honest))["update"]
    poisoned = together(FIT, grouped(FIT, [lie, *honest[1:]]))["update"]
    pooled = decoded(FIT, [lie, *honest[1:]])[:PARAMETERS]

    def left(update: np.ndarray) -> float:
        return float(update @ clean / (clean @ clean))

    assert left(pooled) < 0.6, "one device of twelve, within its clip, takes half of the mean"
    assert left(poisoned) > 0.85


def test_honest_groups_say_what_the_whole_fleet_does(answers: dict[Kind, list[np.ndarray]]) -> None:
    pooled = {kind: layout_of(kind).unpack(decoded(kind, answers[kind])) for kind in KINDS}
    medians = {kind: together(kind, grouped(kind, answers[kind])) for kind in KINDS}
    scales = [ScalePrior.of(read_scale(parts[SCALE])) for parts in (pooled, medians)]
    known = (scales[0].freedom > 0) & (scales[1].freedom > 0)
    assert known.sum() >= FEATURES - 1
    logs = [np.log(scale.variance[known]) for scale in scales]
    # Machines differ by decades here; the median of five groups of four errs about as much as their mean does.
    assert np.abs(logs[0] - logs[1]).max() < 6.0
    spreads = [SpreadPrior.of(read_spread(parts[COVARIANCE], FEATURES)) for parts in (pooled, medians)]
    assert np.abs(spreads[0].correlation - spreads[1].correlation).max() < 0.35
    assert 0.3 < spreads[1].between / spreads[0].between < 3.0
    assert medians[ASSESS]["examples"] == pooled[ASSESS]["examples"]
    assert np.array_equal(medians[ASSESS]["range_low"], pooled[ASSESS]["range_low"])


def test_a_prior_of_groups_is_a_prior_and_its_curves_fall(answers: dict[Kind, list[np.ndarray]]) -> None:
    sums = {
        kind: combine(kind, layout_of(kind), grouped(kind, answers[kind]))
        for kind in (SCALE, COVARIANCE, CURVE)
    }
    prior = prior_from(sums, FEATURES, minimum_devices=3)
    whole = prior_from({kind: decoded(kind, answers[kind]) for kind in sums}, FEATURES, minimum_devices=3)
    assert prior.devices == GROUPS * SIZE
    assert np.linalg.eigvalsh(prior.spread.correlation)[0] > -1e-9
    assert np.allclose(np.diagonal(prior.spread.correlation), 1.0)
    for age, curve in prior.curves.items():
        assert (np.diff(curve.rate) <= 1e-12).all()
        budget = 1e-3
        at = [int(np.argmax(one.rate < budget)) for one in (curve, whole.curves[age])]
        # 32 levels are a decade.
        assert abs(at[0] - at[1]) <= 16, age


def test_one_group_of_five_that_says_nothing_alarms_or_everything_does_moves_no_threshold_far(
    answers: dict[Kind, list[np.ndarray]],
) -> None:
    groups = grouped(CURVE, answers[CURVE])
    clean = together(CURVE, groups)
    for silent in (True, False):
        parts = layout_of(CURVE).unpack(groups[0].total)
        for name in parts:
            if name.startswith(("openings_", "in_alarm_")) and "squares" not in name:
                windows = parts[f"age_windows_{name.rpartition('_')[2]}"]
                parts[name] = (
                    np.zeros_like(parts[name]) if silent else np.full_like(parts[name], windows[0] / 4)
                )
        lie = GroupSum(
            participants=groups[0].participants,
            total=np.concatenate([parts[name] for name in layout_of(CURVE).sizes]),
        )
        lied = together(CURVE, [lie, *groups[1:]])
        for age in (16, 64):
            at = [
                int(np.argmax(one[f"openings_{age}"] < 1e-3 * one[f"age_windows_{age}"]))
                for one in (clean, lied)
            ]
            assert abs(at[0] - at[1]) <= 12, (silent, age)


def test_a_group_of_more_windows_than_there_are_weighs_no_more_than_twice_as_much(
    answers: dict[Kind, list[np.ndarray]],
) -> None:
    groups = grouped(ASSESS, answers[ASSESS])
    before = together(ASSESS, groups)
    layout = layout_of(ASSESS)
    parts = layout.unpack(groups[0].total)
    inflated = {
        name: values * (1.0 if name.startswith("range_") else 500.0) for name, values in parts.items()
    }
    lie = GroupSum(
        participants=groups[0].participants, total=np.concatenate([inflated[n] for n in layout.sizes])
    )
    after = together(ASSESS, [lie, *groups[1:]])
    assert after["examples"][0] < 1.5 * before["examples"][0]
    assert after["candidate_scores"].sum() == pytest.approx(after["examples"][0])


def test_what_one_group_alone_claims_to_know_is_not_known(answers: dict[Kind, list[np.ndarray]]) -> None:
    layout = layout_of(CURVE)
    groups = grouped(CURVE, answers[CURVE])
    parts = layout.unpack(groups[0].total)
    parts["age_devices_1024"], parts["age_windows_1024"] = np.array([4.0]), np.array([4000.0])
    lie = GroupSum(
        participants=groups[0].participants, total=np.concatenate([parts[n] for n in layout.sizes])
    )
    assert together(CURVE, [lie, *groups[1:]])["age_devices_1024"] == 0


def test_a_liar_who_holds_all_votes_of_its_group_moves_no_threshold_beyond_what_others_ask_for(
    answers: dict[Kind, list[np.ndarray]],
) -> None:
    layout = layout_of(ASSESS)
    groups = grouped(ASSESS, answers[ASSESS])[:3]
    clean = together(ASSESS, groups)["threshold_votes"]
    pooled = layout.unpack(np.sum([group.total for group in groups], axis=0))["threshold_votes"]
    assert clean.sum() == pytest.approx(12)
    own = [SCORE_GRID.quantile(layout.unpack(group.total)["threshold_votes"], 0.75) for group in groups]
    assert SCORE_GRID.quantile(clean, 0.75) == pytest.approx(np.median(own), rel=0.1)
    parts = layout.unpack(groups[0].total)
    parts["threshold_votes"] = np.eye(SCORE_GRID.bins)[-2] * 4
    lie = GroupSum(
        participants=groups[0].participants, total=np.concatenate([parts[n] for n in layout.sizes])
    )
    lied = together(ASSESS, [lie, *groups[1:]])["threshold_votes"]
    assert SCORE_GRID.quantile(lied, 0.75) <= max(own[1:]) * 1.01
    assert (
        SCORE_GRID.quantile(
            pooled - layout.unpack(groups[0].total)["threshold_votes"] + parts["threshold_votes"], 0.75
        )
        > 1e3
    )


@pytest.fixture(scope="module")
def alike() -> list[GroupSum]:
    """Assessments of three groups of machines of one kind."""
    rng, layout = np.random.default_rng(5), layout_of(ASSESS)
    answers = []
    for _ in range(3 * SIZE):
        rows = np.clip(rng.normal(size=(int(rng.integers(300, 600)), FEATURES)), -8, 8).astype(np.float32)
        parts = assess(Scores(), np.ones(1), np.ones(1), rows[::5], quantile=0.999, trained_on=rows)
        answers.append(layout.pack(parts))
    return grouped(ASSESS, answers)


def assessed(sums: Sequence[GroupSum]) -> Assessment:
    return read_assessment(combine(ASSESS, layout_of(ASSESS), sums), tensors=TENSORS, features=FEATURES)


def lied_by_first(sums: Sequence[GroupSum], **parts: np.ndarray) -> Assessment:
    """What is read where the first group says this instead, which no rule objects to."""
    layout = layout_of(ASSESS)
    said = {**layout.unpack(sums[0].total), **parts}
    total = np.concatenate([said[name] for name in layout.sizes])
    check(ASSESS, total, SIZE)
    return assessed([GroupSum(participants=sums[0].participants, total=total), *sums[1:]])


def test_a_liar_who_claims_extremes_makes_int8_of_no_tensor_coarse(
    alike: list[GroupSum],
) -> None:
    lowest, highest = (np.tile(SIZE * np.eye(RANGE_GRID.bins)[bin_], TENSORS) for bin_ in (1, -2))
    low, high = tensor_ranges(assessed(alike))
    lied_low, lied_high = tensor_ranges(lied_by_first(alike, range_low=lowest, range_high=highest))
    assert (lied_high <= 2.01 * high).all()
    assert (lied_low >= 2.01 * low).all()


def test_a_liar_whose_group_alarms_all_the_time_or_never_refuses_no_release(
    alike: list[GroupSum],
) -> None:
    examples = float(layout_of(ASSESS).unpack(alike[0].total)["examples"][0])
    threshold = SCORE_GRID.quantile(assessed(alike).candidate_scores, 0.999)
    for bin_ in (5, SCORE_GRID.bins - 2):
        scores = examples * np.eye(SCORE_GRID.bins)[bin_]
        loss = examples * SCORE_GRID.edges[[bin_ - 1, bin_]].mean(keepdims=True)
        lied = lied_by_first(
            alike, candidate_scores=scores, candidate_probe_scores=scores, candidate_loss=loss
        )
        assert alarm_rate(lied.candidate_scores, threshold) < 0.01
        honest = alarm_rate(assessed(alike).candidate_probe_scores, threshold)
        assert alarm_rate(lied.candidate_probe_scores, threshold) == pytest.approx(honest, abs=0.05)


def test_a_liar_does_not_choose_what_the_fleet_calls_normal(alike: list[GroupSum]) -> None:
    examples = float(layout_of(ASSESS).unpack(alike[0].total)["examples"][0])
    edges = FEATURE_GRID.edges
    counts = np.tile(examples * np.eye(FEATURE_GRID.bins)[-2], FEATURES)
    value = float(edges[-2:].mean())
    lied = lied_by_first(
        alike,
        feature_counts=counts,
        feature_sum=np.full(FEATURES, examples * value),
        feature_squares=np.full(FEATURES, examples * value**2 * 1.01),
    )
    for clean, poisoned in zip(
        reference_from_sums(assessed(alike)).edges, reference_from_sums(lied).edges, strict=True
    ):
        assert poisoned[4] < clean[8] + 0.5, "half of the windows are where they were"
        assert poisoned[8] < edges[-2], "the last decile is a real one"


def _lie(kind: Kind, total: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Something else in about half of the parts."""
    layout = layout_of(kind)
    parts = layout.unpack(total)
    for name, values in parts.items():
        lies = (
            np.zeros_like(values),
            values * rng.choice([0.25, 0.5, 2.0]),
            values[rng.permutation(len(values))],
            values + rng.choice([-1.0, 1.0]) * (rng.random(len(values)) < 0.1),
        )
        if rng.random() < 0.5:
            parts[name] = lies[rng.integers(len(lies))]
    return np.concatenate([parts[name] for name in layout.sizes])


def test_whatever_passes_the_rules_can_be_read_even_where_every_group_lies(
    answers: dict[Kind, list[np.ndarray]],
) -> None:
    rng, passed = np.random.default_rng(11), 0
    honest = {kind: grouped(kind, answers[kind])[:3] for kind in KINDS}
    for _ in range(40):
        sums = {}
        for kind in KINDS:
            groups = list(honest[kind])
            for place in range(3):
                lied = _lie(kind, groups[place].total, rng)
                with contextlib.suppress(AnswerRefusedError):
                    check(kind, lied, SIZE)
                    groups[place] = GroupSum(participants=groups[place].participants, total=lied)
                    passed += 1
            sums[kind] = combine(kind, layout_of(kind), groups)
            assert np.isfinite(sums[kind]).all()
        with contextlib.suppress(SumError):
            assert encode_prior(prior_from(sums, FEATURES, minimum_devices=3))
            assessment = read_assessment(sums[ASSESS], tensors=TENSORS, features=FEATURES)
            assert np.isfinite(fit_threshold(assessment, ThresholdSettings()).score)
            assert np.isfinite(tensor_ranges(assessment)).all()
    assert passed > 40
