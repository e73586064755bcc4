"""What a device adds to its fleet's prior, through the very words that it masks: sums of them are the sums of the numbers."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from edge_agent.learner import prior_answers
from edge_agent.learner.prior_answers import PriorQuestion, answer_prior
from models.detection.answers import (
    curve_parts,
    read_curve,
    read_scale,
    read_spread,
    scale_arrays,
    spread_parts,
)
from models.detection.openings import AGES, AlarmRules, Curve, OpeningsSums, age_counts
from models.detection.prior import rescaled
from models.detection.promise import AlarmBudget, make_promise
from models.detection.scale import ScaleEvidence, ScalePrior, ScaleSums
from models.detection.spread import Spread, SpreadPrior, SpreadSums
from models.detection.sums import total
from models.standardiser import fit_standardiser
from protocol.errors import QuestionError
from protocol.questions import (
    COVARIANCE,
    CURVE,
    REFIT_KINDS,
    SCALE,
    AnswerLayout,
    CovarianceQuestion,
    CurveQuestion,
    Kind,
    ScaleQuestion,
    answer_layout,
    kind_of,
)
from protocol.secure_answers import ExactEncoding, make_encoding, part_bound
from protocol.sum_terms import SumTerms

pytestmark = pytest.mark.edge

F = 7
LAYOUTS: dict[Kind, AnswerLayout] = {
    kind: answer_layout(kind, parameter_count=1, tensor_count=1, feature_count=F) for kind in REFIT_KINDS
}
ABOUT = {"run_id": "r", "layout_sha256": "0" * 64, "profile_sha256": "1" * 64}
LARGEST_COHORT = 16_384


def machine(seed: int, windows: int = 330) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Standardised rows and units of a machine: sensors follow two causes, wander a little, and have units of all sizes."""
    rng = np.random.default_rng(seed)
    common = np.random.default_rng(99).normal(size=(2, F)) + 0.3 * rng.normal(size=(2, F))
    raw = rng.normal(size=(windows, 2)) @ common + 0.5 * rng.standard_t(5, size=(windows, F))
    raw += 0.3 * np.sin(np.arange(windows) / 60)[:, None]
    raw = raw * np.logspace(-9, 9, F) * np.exp(0.3 * rng.normal(size=F))
    scale = fit_standardiser(raw)
    return scale.apply(raw), scale.scale


FLEET = [machine(seed) for seed in range(5)]


def fixed_bytes(size: int) -> bytes:
    return hashlib.shake_256(b"rounding").digest(size)


def ask(
    kind: Kind, scale: ScaleSums | None, spread: SpreadSums | None
) -> tuple[PriorQuestion, dict[str, np.ndarray]]:
    if scale is None:
        return ScaleQuestion(**ABOUT), {}
    arrays: dict[str, np.ndarray] = dict(scale_arrays(ScalePrior.of(scale)))
    if spread is None:
        return CovarianceQuestion(**ABOUT), arrays
    arrays |= {
        n: v.astype(np.float32) for n, v in spread_parts(spread).items() if n in {"correlation", "wander"}
    }
    figures = {"devices": round(spread.devices), "squares": spread.squares, "error": spread.error}
    return CurveQuestion(**ABOUT, **figures), arrays  # type: ignore[arg-type] # a dict of mixed figures


def summed(
    question: PriorQuestion, arrays: dict[str, np.ndarray], cohort: int, fleet: list = FLEET
) -> dict[str, NDArray[np.float64]]:
    """The sum of the fleet's answers as words of a round that `cohort` devices may take part in."""
    layout = LAYOUTS[kind_of(question)]
    terms = SumTerms(
        run_id="r",
        question=kind_of(question),
        round_number=1,
        devices=cohort,
        norm_limit=10.0,
        maximum_examples=100_000,
    )
    encoding = make_encoding(layout, terms)
    words = [
        encoding.encode(layout.pack(answer_prior(question, arrays, *device)), fixed_bytes) for device in fleet
    ]
    return layout.unpack(encoding.decode(np.sum(words, axis=0, dtype=np.uint32), len(fleet)))


@pytest.mark.parametrize("cohort", [len(FLEET), LARGEST_COHORT])
def test_the_prior_of_masked_words_is_the_prior_of_the_numbers(cohort: int) -> None:
    """Against sums that never were words; each question is asked with what came of the encoded sum before."""
    evidence = [ScaleEvidence.of(*device) for device in FLEET]
    scale = read_scale(summed(*ask(SCALE, None, None), cohort))
    expected = ScalePrior.of(total([ScaleSums.of(e) for e in evidence]))
    prior = ScalePrior.of(scale)
    np.testing.assert_allclose(prior.variance, expected.variance, rtol=1e-3)
    np.testing.assert_allclose(prior.freedom, expected.freedom, rtol=1e-2)

    spread = read_spread(summed(*ask(COVARIANCE, scale, None), cohort), F)
    rows = [rescaled(x, e, unit, expected)[0] for (x, unit), e in zip(FLEET, evidence, strict=True)]
    parts = [SpreadSums.of(Spread.of(x)) for x in rows]
    everybody = total(parts)
    of_words, of_numbers = SpreadPrior.of(spread), SpreadPrior.of(everybody)
    np.testing.assert_allclose(of_words.correlation, of_numbers.correlation, atol=1e-4)
    np.testing.assert_allclose(of_words.wander, of_numbers.wander, atol=6e-3 if cohort > 5 else 1e-4)
    assert of_words.between == pytest.approx(of_numbers.between, rel=5e-3)
    assert of_words.between > 0.01

    counted = read_curve(summed(*ask(CURVE, scale, spread), cohort))
    for age, found in counted.items():
        alone = [
            age_counts(x, SpreadPrior.of(everybody - own), AlarmRules())[age]
            for x, own in zip(rows, parts, strict=True)
        ]
        want = Curve.of(total([OpeningsSums.of(one) for one in alone]))
        got = Curve.of(found)
        # Coarse steps of the wander move a score by a millionth, and so one opening or two over a level that it just missed.
        slack = 2.01 / want.windows if cohort > 5 else 0.0
        np.testing.assert_allclose(got.rate, want.rate, rtol=1e-6, atol=slack)
        np.testing.assert_allclose(got.share, want.share, rtol=1e-6, atol=6 * slack)
        mine, theirs = (make_promise(c, AlarmBudget(), fitted_on=300) for c in (got, want))
        assert mine.threshold == theirs.threshold
        assert found.windows == want.windows
        assert got.alikeness == pytest.approx(want.alikeness, rel=0.01)
    assert counted.keys() == {16, 64, 256}


@pytest.mark.parametrize("kind", REFIT_KINDS)
def test_no_sum_of_the_largest_cohort_overflows_whatever_its_devices_answer(kind: Kind) -> None:
    layout = LAYOUTS[kind]
    terms = SumTerms(
        run_id="r",
        question=kind,
        round_number=1,
        devices=LARGEST_COHORT,
        norm_limit=10.0,
        maximum_examples=100_000,
    )
    encoding = make_encoding(layout, terms)
    assert isinstance(encoding, ExactEncoding)
    for sign in (1.0, -1.0):
        words = encoding.encode(np.full(layout.total, sign * 1e12, np.float32), fixed_bytes)
        total = layout.unpack(encoding.decode(words * np.uint32(LARGEST_COHORT), LARGEST_COHORT))
        for name, values in total.items():
            bound = part_bound(name, maximum_examples=100_000).bound
            np.testing.assert_allclose(values, sign * bound * LARGEST_COHORT, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("windows", [8, 19, 20, 80, 330, 1300])
def test_what_an_honest_device_measures_lies_within_the_bounds(windows: int) -> None:
    """Also of the wildest rows there are: all sensors at one end of the scale, then at the other, alternating or not at all."""
    ends = np.where(np.arange(windows)[:, None] < windows // 2, 8.0, -8.0) * np.ones(F)
    flicker = np.where(np.arange(windows)[:, None] % 2, 8.0, -8.0) * np.ones(F)
    scale, spread = ScaleSums.of(ScaleEvidence.of(*machine(0))), SpreadSums.of(Spread.of(machine(0)[0]))
    spread = spread + SpreadSums.of(Spread.of(machine(1)[0]))
    for rows in (ends, flicker, np.zeros((windows, F)), machine(3, windows)[0] if windows > 20 else flicker):
        for unit in (np.ones(F), np.full(F, np.inf), np.array([1e-20, 1e20, 1.0, np.nan, np.inf, 1.0, 1.0])):
            for question, arrays in (
                ask(SCALE, None, None),
                ask(COVARIANCE, scale + scale, None),
                ask(CURVE, scale + scale, spread),
            ):
                parts = answer_prior(question, arrays, rows.astype(np.float32), unit)
                assert parts.keys() == LAYOUTS[kind_of(question)].sizes.keys()
                for name, values in parts.items():
                    assert np.abs(values).max() <= part_bound(name, maximum_examples=windows).bound * (
                        1 + 1e-9
                    ), name


def test_a_device_is_not_judged_by_itself() -> None:
    """Its own part is taken out: what it counts is what it would count in a fleet that never heard of it."""
    scale = read_scale(summed(*ask(SCALE, None, None), 5))
    question, arrays = ask(COVARIANCE, scale, None)
    # The odd one of two, whose sensors do not follow each other.
    rows, unit = odd = (np.random.default_rng(3).normal(size=(300, F)).astype(np.float32), FLEET[0][1])
    spread = read_spread(summed(question, arrays, 5, [odd, FLEET[1]]), F)
    others = read_spread(summed(question, arrays, 5, [FLEET[1]]), F)
    scaled = rescaled(rows, ScaleEvidence.of(rows, unit), unit, ScalePrior.of(scale))[0]
    counted = answer_prior(*ask(CURVE, scale, spread), rows, unit)
    expected = curve_parts(age_counts(scaled, SpreadPrior.of(others), AlarmRules()))
    with_itself = curve_parts(age_counts(scaled, SpreadPrior.of(spread), AlarmRules()))

    def distance(parts: dict[str, NDArray[np.float64]]) -> float:
        return float(np.abs(counted["in_alarm_64"] - parts["in_alarm_64"]).sum())

    assert distance(expected) <= 1.0
    assert distance(with_itself) > 5.0


def test_a_device_whose_part_is_not_in_the_sums_adds_nothing() -> None:
    stranger = (np.full((60, F), 8.0, np.float32) * np.where(np.arange(60) % 2, 1, -1)[:, None]).astype(
        np.float32
    )
    scale = read_scale(summed(*ask(SCALE, None, None), 5))
    few = read_spread(summed(*ask(COVARIANCE, scale, None), 5, FLEET[:2]), F)
    parts = answer_prior(*ask(CURVE, scale, few), stranger, np.ones(F))
    assert parts["examples"] == 60
    assert all(not values.any() for name, values in parts.items() if name != "examples")
    # Two of them, of which it is one: the other alone is what it counts against.
    mine = answer_prior(*ask(CURVE, scale, few), *FLEET[0])
    assert mine["age_windows_256"] == 330


def test_a_fleet_of_one_counts_without_the_others() -> None:
    scale = read_scale(summed(*ask(SCALE, None, None), 5))
    alone = read_spread(summed(*ask(COVARIANCE, scale, None), 5, FLEET[:1]), F)
    rows, unit = FLEET[0]
    scaled = rescaled(rows, ScaleEvidence.of(rows, unit), unit, ScalePrior.of(scale))[0]
    counted = answer_prior(*ask(CURVE, scale, alone), rows, unit)
    expected = curve_parts(age_counts(scaled, None, AlarmRules()))
    for name, values in expected.items():
        np.testing.assert_array_equal(counted[name], values)


def test_young_devices_and_rows_with_gaps_add_what_they_have() -> None:
    rows, unit = FLEET[0]
    scale = ScaleSums.of(ScaleEvidence.of(*FLEET[1])) + ScaleSums.of(ScaleEvidence.of(*FLEET[2]))
    young = answer_prior(*ask(COVARIANCE, scale, None), rows[:7], unit)
    assert young["spread_devices"] == 0
    assert not young["correlation"].any()
    gaps = rows.copy()
    gaps[::3, 2] = np.nan
    whole = answer_prior(*ask(SCALE, None, None), gaps, unit)
    assert whole["examples"] == 220
    assert np.isfinite(whole["scale_logs"]).all()


def test_a_device_without_a_scale_adds_nothing_and_costs_nobody_a_round() -> None:
    scale, spread = ScaleSums.of(ScaleEvidence.of(*FLEET[0])), SpreadSums.of(Spread.of(FLEET[0][0]))
    gaps = np.full((30, F), np.nan, np.float32)
    for question in (
        ask(SCALE, None, None),
        ask(COVARIANCE, scale + scale, None),
        ask(CURVE, scale + scale, spread + spread),
    ):
        for rows, unit in ((FLEET[0][0], None), (gaps, np.ones(F))):
            parts = answer_prior(*question, rows, unit)
            assert parts.keys() == LAYOUTS[kind_of(question[0])].sizes.keys()
            assert parts.pop("examples") == 1
            assert not any(values.any() for values in parts.values())


def test_how_wide_windows_vary_together_is_not_asked() -> None:
    with pytest.raises(QuestionError, match="how 129 features vary together is not asked; at most 128 are"):
        answer_layout(COVARIANCE, parameter_count=1, tensor_count=1, feature_count=129)


def test_openings_are_counted_also_where_the_sums_cannot_hold_this_device_so_that_time_does_not_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether they can depends on this device's own correlations: a server could ask for one of them by the time it takes."""
    counted = []

    def counting(*arguments: Any) -> Any:
        counted.append(arguments)
        return age_counts(*arguments)

    monkeypatch.setattr(prior_answers, "age_counts", counting)
    scale = ScaleSums.of(ScaleEvidence.of(*FLEET[0]))
    spread = SpreadSums.of(Spread.of(FLEET[0][0]))
    others = SpreadSums.of(Spread.of(np.random.default_rng(3).normal(size=(60, F))))
    for sums, is_held in ((spread + spread, True), (others, False)):
        question, arrays = ask(CURVE, scale + scale, sums)
        question = replace(question, devices=2)
        answer = answer_prior(question, arrays, *FLEET[0])
        assert any(answer[f"age_devices_{age}"].any() for age in AGES) is is_held
    assert len(counted) == 2
