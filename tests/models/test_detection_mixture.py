"""The fleet is the prior and the device the evidence: scale, spread, experts, and the int8 layer that they become."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from detection_fleets import machines
from scipy import special

from models.detection.detector import Detector, fit_detector
from models.detection.experts import fit_form, held_out_statistics, rare_level
from models.detection.int8_layer import Int8Layer
from models.detection.openings import AlarmRules
from models.detection.prior import FleetPrior, decode_prior, encode_prior, fleet_prior
from models.detection.promise import AlarmBudget
from models.detection.scale import ScaleEvidence, ScalePrior, ScaleSums, shrunk_std, with_fleet_scale
from models.detection.special import digamma, inverse_trigamma, trigamma
from models.detection.spread import Spread, SpreadPrior, SpreadSums, mixed
from models.detection.sums import total
from models.errors import BundleContentError, InputError, LayoutError
from models.standardiser import fit_standardiser

RULES = AlarmRules()


@pytest.fixture(scope="module")
def prior() -> FleetPrior:
    return fleet_prior([machine.fitted for machine in machines(count=6)], RULES)


def test_digamma_and_trigamma_are_scipys() -> None:
    x = np.array([0.01, 0.5, 1.0, 3.3, 40.0, 1e4])
    np.testing.assert_allclose(digamma(x), special.digamma(x), rtol=1e-9)
    np.testing.assert_allclose(trigamma(x), special.polygamma(1, x), rtol=1e-9)
    np.testing.assert_allclose(inverse_trigamma(trigamma(x)), x, rtol=1e-6)


def _prior_of(stds: np.ndarray, freedom: float) -> ScalePrior:
    sums = [ScaleSums.of(ScaleEvidence(variance=row**2, freedom=np.full(row.shape, freedom))) for row in stds]
    return ScalePrior.of(sum(sums[1:], sums[0]))


def test_machines_that_hardly_differ_share_their_scale_and_those_that_do_keep_their_own() -> None:
    rng = np.random.default_rng(1)
    noise = np.sqrt(rng.chisquare(20, (12, 1)) / 20)
    alike = _prior_of(2.0 * noise, 20.0)
    differing = _prior_of(2.0 * noise * np.exp(rng.normal(size=(12, 1))), 20.0)
    own = ScaleEvidence(variance=np.array([9.0]), freedom=np.array([20.0]))
    assert shrunk_std(own, alike)[0] == pytest.approx(2.0, rel=0.15)
    assert shrunk_std(own, differing)[0] == pytest.approx(3.0, rel=0.15)
    many = ScaleEvidence(variance=np.array([9.0]), freedom=np.array([1e6]))
    assert shrunk_std(many, alike)[0] == pytest.approx(3.0, rel=0.01)


def test_a_sensor_that_never_moved_takes_the_fleets_scale_and_one_that_nobody_saw_move_has_none() -> None:
    known = ScaleEvidence(variance=np.array([4.0, 0.0]), freedom=np.array([50.0, 0.0]))
    fleet = ScalePrior.of(ScaleSums.of(known) + ScaleSums.of(known))
    still = ScaleEvidence(variance=np.zeros(2), freedom=np.zeros(2))
    assert shrunk_std(still, fleet)[0] == pytest.approx(2.0, rel=0.05)
    assert np.isinf(shrunk_std(still, fleet)[1])
    scale = fit_standardiser(np.full((30, 2), 7.0))
    taken = with_fleet_scale(scale, fleet)
    assert taken.unscaled == (1,)
    assert taken.apply(np.array([9.0, 9.0])).tolist() == pytest.approx([1.0, 0.0], rel=0.05)


def test_a_machine_unlike_its_fleet_keeps_its_own_scale_however_alike_the_others_are() -> None:
    rng = np.random.default_rng(7)
    fleet = [ScaleEvidence.of(rng.normal(size=(600, 2)), np.ones(2)) for _ in range(8)]
    sums = [ScaleSums.of(one) for one in fleet]
    prior = ScalePrior.of(sum(sums[1:], sums[0]))
    assert prior.freedom.min() > 300
    rows = rng.normal(size=(600, 2))
    odd = shrunk_std(ScaleEvidence.of(rows, np.array([1 / 30, 1.05])), prior)
    assert odd[0] == pytest.approx(1 / 30)
    assert 1.0 < odd[1] < 1.05, "what chance may make is shrunk as ever"
    few = shrunk_std(ScaleEvidence.of(rows[:20], np.array([0.6, 1.5])), prior)
    assert (np.abs(np.log(few)) < 0.1).all()


def test_sensors_that_cannot_open_an_alarm_are_known() -> None:
    rng = np.random.default_rng(8)
    heard = fit_detector(rng.normal(size=(600, 4)), np.ones(4), None, AlarmBudget(), RULES)
    assert not heard.unheard.any()
    for detector, end in ((heard, 8.0), (unheard_detector(rng), 8.0)):
        rows = np.tile(detector.centre, (60, 1))
        rows[:, 1] += end * detector.divisor[1]
        statistic = detector.statistics(rows)[-1]
        assert detector.unheard[1] == (statistic <= detector.promise.threshold)


def unheard_detector(rng: np.random.Generator) -> Detector:
    rows = rng.standard_t(2, size=(24, 40))
    return fit_detector((rows / rows.std(axis=0)).clip(-8, 8), np.ones(40), None, AlarmBudget(), RULES)


def test_the_devices_share_grows_with_its_windows_and_with_how_much_machines_differ() -> None:
    def weight(learnt: int, alike: float) -> float:
        fleet = [Spread.of(m.rows) for m in machines(count=8, learnt=600, later=0, alike=alike)]
        sums = [SpreadSums.of(spread) for spread in fleet]
        known = SpreadPrior.of(sum(sums[1:], sums[0]))
        own = machines(count=1, learnt=learnt, later=0, alike=alike, seed=9)[0]
        return mixed(Spread.of(own.rows), known).own_weight

    assert weight(60, 0.3) < weight(600, 0.3) < weight(6000, 0.3)
    assert weight(600, 0.05) < weight(600, 1.0)


def test_parts_of_other_sensors_do_not_add_up() -> None:
    def part(sensors: int) -> ScaleSums:
        return ScaleSums.of(ScaleEvidence(variance=np.ones(sensors), freedom=np.full(sensors, 9.0)))

    assert total([part(2), part(2), part(2)]).devices.tolist() == [3.0, 3.0]
    assert (total([part(2), part(2)]) - part(2)).devices.tolist() == [1.0, 1.0]
    with pytest.raises(LayoutError, match=r"ScaleSums.*shapes \(2,\) and \(3,\)"):
        part(2) + part(3)


def test_what_wanders_anyway_counts_less() -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(400, 4))
    wandering = rows.copy()
    wandering[:, 0] += np.repeat([0.0, 1.0, -1.0, 1.0], 100)
    away = np.array([[3.0, 0.0, 0.0, 0.0]])
    calm, used_to_it = fit_form(rows, None), fit_form(wandering, None)
    other = np.array([[0.0, 3.0, 0.0, 0.0]])
    share = used_to_it.scores(away) / used_to_it.scores(other)
    assert share[0] < 0.7 * (calm.scores(away) / calm.scores(other))[0]


def test_a_score_is_held_to_windows_that_it_was_not_fitted_on() -> None:
    """Fifty windows of forty features: fitted and scored on the same, everything looks healthy."""
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(50, 40))
    held_out = np.concatenate(held_out_statistics(rows, None))
    form = fit_form(rows, None)
    fresh = form.statistics(rng.normal(size=(2000, 40)))
    assert np.median(form.statistics(rows)[5:]) < 0.8 * np.median(fresh)
    assert np.median(held_out) > np.median(form.statistics(rows))


def test_a_level_is_as_deep_as_the_windows_allow_and_counts_each_fifth() -> None:
    rising = np.tile(np.arange(1.0, 2001.0), 5)
    assert rare_level(rising, 0.1) == pytest.approx(1999.0)
    assert rare_level(np.tile([1.0, 8.0], 10), 0.1) == pytest.approx(8.0)
    loud_for_two_fifths = np.repeat([1.0, 1.0, 1.0, 16.0, 16.0], 20)
    assert rare_level(loud_for_two_fifths, 0.1) == pytest.approx(7.0)


def test_where_a_sensor_never_moved_one_deviation_of_it_is_no_rarity() -> None:
    rows = 0.05 * np.random.default_rng(6).normal(size=(400, 3))
    one_at_rest = rows * np.array([1.0, 0.0, 1.0])
    for form in (fit_form(one_at_rest, None), fit_form(0 * rows, None)):
        assert form.scores(np.array([[0.0, 1.0, 0.0]]))[0] == pytest.approx(1.0, rel=0.2)
        assert min(form.units) > 0.5
        assert form.typical > 0
    assert fit_form(rows, None).scores(np.array([[0.0, 1.0, 0.0]]))[0] > 20, "what moves little is believed"


def test_one_sensor_of_forty_that_is_off_is_seen_where_a_sum_over_all_of_them_hardly_moves() -> None:
    """Six deviations of one sensor, which no other shares, at the threshold that keeps 1 alarm in 1,000 windows."""
    fleet = machines(count=6, learnt=240, later=400, features=40)
    prior = fleet_prior([machine.fitted for machine in fleet], RULES)
    seen, by_the_sum = [], []
    for machine in fleet:
        detector = fit_detector(*machine.fitted, prior, AlarmBudget(), RULES)
        assert not detector.unheard.any()
        rows = np.tile(machine.scale.apply(machine.later), (2, 1))[:400]
        for sensor in range(0, 40, 4):
            off = rows[10 * sensor : 10 * sensor + 2].copy()
            off[:, sensor] += 6.0
            seen.append(detector.statistics(off).max() > detector.promise.threshold)
            score = detector.scores(off)[0].min() / detector.form.units[0]
            by_the_sum.append(score > detector.promise.threshold)
            assert not seen[-1] or int(detector.blame(off[0]).argmax()) == sensor
    assert np.mean(seen) > 0.9
    assert np.mean(by_the_sum) < 0.7


def test_the_int8_layer_ranks_as_the_form_does(prior: FleetPrior) -> None:
    machine = machines(count=7)[6]
    detector = fit_detector(*machine.fitted, prior, AlarmBudget(), RULES)
    rows = machine.scale.apply(machine.later)
    ways = zip(detector.scores(rows, is_int8=False), detector.scores(rows), strict=True)
    for number, (as_float, as_int8) in enumerate(ways):
        assert np.corrcoef(np.argsort(np.argsort(as_float)), np.argsort(np.argsort(as_int8)))[0, 1] > 0.995
        one_by_one = [detector.score(row)[number] for row in rows[:50]]
        np.testing.assert_allclose(one_by_one, as_int8[:50], rtol=1e-4)
    assert (np.abs(detector.layer.weights) <= 127).all()


def test_the_layers_sums_are_exact_integers() -> None:
    rng = np.random.default_rng(5)
    layer = Int8Layer.of(np.eye(64) + 0.1, rng.normal(size=(64, 64)))
    z = rng.uniform(-8, 8, 64).astype(np.float32)
    exact = layer.weights.astype(np.int64) @ np.rint(z * np.float32(127 / 8)).astype(np.int64)
    outputs = exact * layer.output_steps.astype(np.float64)
    score, furthest = layer.score(z)
    assert score == pytest.approx(float(outputs[:64] @ outputs[:64]) / 64, rel=1e-5)
    assert furthest == pytest.approx(float(np.square(outputs[64:]).max()), rel=1e-5)


def test_blame_falls_on_the_sensor_that_is_off(prior: FleetPrior) -> None:
    machine = machines(count=7)[6]
    detector = fit_detector(*machine.fitted, prior, AlarmBudget(), RULES)
    row = machine.scale.apply(machine.later[0])
    row[3] += 6.0
    assert int(detector.blame(row).argmax()) == 3


def test_a_prior_travels_within_a_release_and_nothing_else_passes_for_one(prior: FleetPrior) -> None:
    content = encode_prior(prior)
    read = decode_prior(content)
    np.testing.assert_allclose(read.spread.correlation, prior.spread.correlation, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(read.scale.variance, prior.scale.variance, rtol=1e-5)
    assert read.curves.keys() == prior.curves.keys()
    for spoilt in (b"", content[:-3], content + b"x" * 300_000, b"\x00" + content):
        with pytest.raises(BundleContentError):
            decode_prior(spoilt)


def _bytes(values: np.ndarray, kind: str) -> bytes:
    return values.astype(kind).tobytes()


@pytest.mark.parametrize(
    "spoil",
    [
        {"devices": 0},
        {"between": float("inf")},
        {"log_variance": _bytes(np.full(8, 500.0), "<f4")},
        {"scale_freedom": _bytes(np.full(8, -1.0), "<f4")},
        {"correlation": _bytes(np.full(36, -1.0), "<f2")},
        {"correlation": _bytes(np.full(36, 30_000.0), "<f2")},
        {"between": 2.0},
        {"wander": _bytes(np.full(36, np.nan), "<f2")},
        {"wander": _bytes(np.full(36, 2000.0), "<f2")},
        {
            "curves": {
                16: {
                    "rate": _bytes(np.full(209, 200.0), "<f4"),
                    "share": b"",
                    "windows": 9.0,
                    "alikeness": 1.0,
                }
            }
        },
        {"curves": {25: {"rate": b"", "share": b"", "windows": 9.0, "alikeness": 1.0}}},
    ],
    ids=lambda spoil: next(iter(spoil)),
)
def test_a_prior_that_no_fleet_can_have_is_refused(prior: FleetPrior, spoil: dict[str, object]) -> None:
    with pytest.raises(BundleContentError):
        decode_prior(
            msgspec.msgpack.encode(msgspec.msgpack.decode(encode_prior(prior), strict=False) | spoil)
        )


def test_rounding_a_prior_makes_no_direction_in_which_windows_score_less_than_nothing(
    prior: FleetPrior,
) -> None:
    rng = np.random.default_rng(9)
    steps = rng.normal(size=(2, 8)) * 7
    wide = replace(prior, spread=replace(prior.spread, wander=steps.T @ steps, between=0.0))
    read = decode_prior(encode_prior(wide))
    rounded = (steps.T @ steps).astype(np.float16).astype(np.float64)
    assert np.linalg.eigvalsh(rounded)[0] < -0.02, "more than the ridge, for as far ahead as was learnt"
    assert np.linalg.eigvalsh(read.spread.wander)[0] > -1e-9
    form = fit_form(rng.normal(size=(60, 8)), read.spread)
    assert np.linalg.eigvalsh(form.matrix)[0] > 0


def test_a_curve_that_nobody_can_have_counted_is_refused(prior: FleetPrior) -> None:
    file = msgspec.msgpack.decode(encode_prior(prior), strict=False)
    rising = _bytes(np.linspace(-9.0, -1.0, 209), "<f4")
    for change in (
        {"rate": _bytes(np.full(209, 0.1), "<f4")},
        {"rate": rising},
        {"share": rising},
        {"windows": 0.0},
        {"windows": 1e12},
        {"alikeness": float("nan")},
        {"alikeness": 1e6},
    ):
        curves = {age: curve | change for age, curve in file["curves"].items()}
        with pytest.raises(
            BundleContentError, match="counted on windows that cannot be, opens more than once"
        ):
            decode_prior(msgspec.msgpack.encode(file | {"curves": curves}))


def test_a_prior_of_128_features_and_all_ages_fits_into_64_kilobytes() -> None:
    rng = np.random.default_rng(6)
    fleet = [(rng.normal(size=(1950, 128)), np.ones(128)) for _ in range(2)]
    content = encode_prior(fleet_prior(fleet, RULES))
    assert len(decode_prior(content).curves) == 4
    assert len(content) <= 64_000


def test_windows_with_gaps_and_a_prior_of_other_columns_are_refused(prior: FleetPrior) -> None:
    rows = np.zeros((40, 8))
    with pytest.raises(InputError, match="8 features does not fit windows of 3"):
        fit_detector(rows[:, :3], np.ones(3), prior, AlarmBudget(), RULES)
    rows[3, 3] = np.nan
    with pytest.raises(InputError, match="gaps"):
        fit_detector(rows, np.ones(8), prior, AlarmBudget(), RULES)
    with pytest.raises(InputError, match="at least 20"):
        fit_detector(np.zeros((19, 8)), np.ones(8), prior, AlarmBudget(), RULES)
