"""A machine's own scale: units have no influence, a glitch deafens nothing, a constant sensor does not alarm for ever."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import InputError
from models.sensors import SensorView
from models.settling import are_settled, unsettled
from models.standardiser import (
    CLIP,
    Standardiser,
    find_glitches,
    fit_standardiser,
    pooled,
    scaled_by_first_step,
)
from protocol.manifest import FeatureSpec

pytestmark = pytest.mark.edge


def readings(count: int, seed: int = 0, *, step: float = 0.0) -> np.ndarray:
    """A temperature near 20 °C that varies by 0.02 °C; rounded to `step` where the sensor is coarse."""
    values = 20 + 0.02 * np.random.default_rng(seed).normal(size=(count, 1))
    return np.round(values / step) * step if step else values


def test_standardising_centres_scales_and_clips() -> None:
    rows = np.random.default_rng(0).normal([5, -2], [3, 0.1], (500, 2))
    fitted = fit_standardiser(rows)
    z = fitted.apply(rows)
    assert z.dtype == np.float32
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(z.std(axis=0), 1, atol=1e-2)
    assert fitted.apply(np.array([1e9, -1e9])).tolist() == [CLIP, -CLIP]


def test_a_standardiser_refuses_what_it_cannot_learn_from() -> None:
    for shape in ((1, 3), (3,), (2, 2, 2)):
        with pytest.raises(InputError, match=r"at least 2 rows"):
            fit_standardiser(np.ones(shape))


@settings(max_examples=40, deadline=None)
@given(
    factor=st.floats(1e-12, 1e12),
    offset_stds=st.floats(-1e4, 1e4),
    kind=st.sampled_from(["normal", "skewed", "coarse", "flag"]),
    seed=st.integers(0, 99),
)
def test_no_unit_and_no_offset_changes_a_row(factor: float, offset_stds: float, kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = {
        "normal": rng.normal(size=(120, 1)),
        "skewed": rng.exponential(size=(120, 1)),
        "coarse": np.round(2 * rng.normal(size=(120, 1))),
        "flag": (rng.random((120, 1)) < 0.3).astype(float),
    }[kind]
    later = np.array([[0.0], [1.0], [2.5], [-4.0]])
    # As a source delivers it: in float32, whose steps grow with the value.
    moved = (factor * (x + offset_stds)).astype(np.float32)
    plain, other = fit_standardiser(x.astype(np.float32)), fit_standardiser(moved)
    np.testing.assert_allclose(
        other.apply((factor * (later + offset_stds)).astype(np.float32)),
        plain.apply(later.astype(np.float32)),
        atol=2e-6 * (1 + abs(offset_stds)) * 2,
    )


def test_ten_deviations_are_ten_in_celsius_and_in_kelvin() -> None:
    celsius = readings(120)
    for offset in (0.0, 273.15):
        fitted = fit_standardiser((celsius + offset).astype(np.float32))
        ten = float(fitted.apply(np.float32([20 + offset + 0.1]))[0])
        assert ten == pytest.approx(5, rel=0.15)
        assert float(fitted.apply(np.float32([20 + offset + 0.2]))[0]) == CLIP


def test_a_leak_of_nanoamperes_that_grows_a_thousandfold_is_at_the_end_of_the_scale() -> None:
    leak = 1e-9 * (1 + 0.1 * np.random.default_rng(3).normal(size=(120, 1)))
    assert fit_standardiser(leak.astype(np.float32)).apply(np.float32([1e-6]))[0] == CLIP


@settings(max_examples=40, deadline=None)
@given(
    at=st.integers(0, 119),
    step=st.sampled_from([0.0, 0.0625, 0.01]),
    glitch=st.sampled_from([-127.0, 85.0, 1e30, -1e30]),
    seed=st.integers(0, 99),
)
def test_a_glitch_of_the_wire_leaves_the_scale_as_it_was(
    at: int, step: float, glitch: float, seed: int
) -> None:
    clean = readings(120, seed, step=step)
    hit = clean.copy()
    hit[at] = glitch
    assert find_glitches(hit)[:, 0].nonzero()[0].tolist() == [at]
    with_it, without = fit_standardiser(hit), fit_standardiser(np.delete(clean, at, axis=0))
    assert with_it.mean == pytest.approx(without.mean)
    assert with_it.std == pytest.approx(without.std)
    assert with_it.unscaled == without.unscaled


def test_a_sensor_that_was_constant_but_for_one_glitch_is_constant() -> None:
    rows = np.full((120, 1), 20.0)
    rows[7] = -127.0
    assert fit_standardiser(rows).unscaled == (0,)


@pytest.mark.parametrize("cells", [[5, 6, 7], [5, 40]])
def test_what_comes_in_a_row_or_again_is_how_the_machine_behaves(cells: list[int]) -> None:
    rows = readings(120)
    rows[cells] = 30.0
    assert not find_glitches(rows).any()


def test_one_in_five_hundred_may_go_and_no_more() -> None:
    rows = readings(3000)
    rows[100:3000:500] = 30.0
    assert find_glitches(rows).sum() == 6
    rows[150] = 30.0
    assert not find_glitches(rows).any()


def test_a_heavy_tail_and_a_rare_flag_keep_their_spread() -> None:
    rng = np.random.default_rng(1)
    heavy = rng.standard_t(3, (120, 50))
    flag = (rng.random((2000, 1)) < 0.02).astype(float)
    assert not find_glitches(flag).any()
    assert find_glitches(heavy).mean() < 2e-3
    assert fit_standardiser(flag).std[0] == pytest.approx(1 / 12**0.5)


def test_the_floor_is_the_rounding_of_the_sensors_own_smallest_step() -> None:
    rows = np.full((120, 1), 21.5)
    rows[30:34] = 21.75
    assert fit_standardiser(rows).std[0] == pytest.approx(0.25 / 12**0.5)


def test_a_constant_sensor_says_nothing_until_it_moves_and_its_first_step_is_its_unit() -> None:
    fitted = fit_standardiser(np.column_stack([np.full(20, 7.0), np.zeros(20), np.arange(20)]))
    assert fitted.unscaled == (0, 1)
    assert fitted.apply(np.array([7.001, 1e-9, 9.5])).tolist() == [0, 0, 0]
    step, glitch = np.array([7.001, 0.0, 9.5]), np.array([-127.0, 0.0, 9.5])
    assert scaled_by_first_step(fitted, np.array([7.0, 0.0, 100.0]), step) is fitted
    assert scaled_by_first_step(fitted, np.full(3, np.nan), step) is fitted
    moved = scaled_by_first_step(fitted, step, step)
    assert scaled_by_first_step(fitted, glitch, step) == moved
    assert scaled_by_first_step(fitted, step, glitch) == moved
    assert moved.unscaled == (1,)
    assert moved.apply(np.array([7.001, 0.0, 9.5])).round(4).tolist() == [1, 0, 0]
    assert moved.apply(np.array([7.1, 0.0, 9.5])).tolist() == [CLIP, 0, 0]
    assert scaled_by_first_step(moved, step, np.array([9.0, np.nan, 0.0])) is moved


def test_rounding_noise_of_float32_is_no_step() -> None:
    rows = np.full((60, 1), 7.0, np.float32)
    rows[::2] = np.nextafter(np.float32(7), np.float32(8))
    assert fit_standardiser(rows).unscaled == (0,)


def test_what_is_missing_counts_for_nothing() -> None:
    rows = np.random.default_rng(2).normal(5, 2, (200, 3))
    full = fit_standardiser(rows[:, :1])
    rows[::4, 1], rows[:, 2] = np.nan, np.inf
    fitted = fit_standardiser(rows)
    assert fitted.mean[0] == pytest.approx(full.mean[0])
    assert fitted.std[1] == pytest.approx(2, rel=0.15)
    assert (fitted.unscaled, fitted.unseen) == ((), (2,))
    assert np.isfinite(fitted.mean).all()
    z = fitted.apply(np.array([5.0, np.nan, 7.0]))
    assert np.isnan(z).tolist() == [False, True, True]


def test_raw_windows_lose_their_glitches_sample_by_sample() -> None:
    view = SensorView(FeatureSpec(kind="raw", names=("a", "b"), channels=2, window_samples=50))
    rows = np.random.default_rng(0).normal(size=(30, 100)).astype(np.float32)
    rows[3, 21] = -500.0
    assert np.argwhere(view.find_glitches(rows)).tolist() == [[3, 21]]
    assert view.fit_scale(rows).std[1] < 1.2
    assert view.furthest_from(np.zeros(2), rows[3])[1] == -500.0


def test_a_scale_saved_by_an_older_build_is_read_as_it_was() -> None:
    old = b'{"mean":[1.0,2.0],"std":[0.5,3.0],"fitted_on":100}'
    found = msgspec.json.decode(old, type=Standardiser)
    assert found == Standardiser(mean=(1.0, 2.0), std=(0.5, 3.0), fitted_on=100)
    assert msgspec.json.encode(found) == old


def test_two_scales_pooled_are_the_scale_of_all_their_windows() -> None:
    rng = np.random.default_rng(5)
    day, night = rng.normal(5, 1, (300, 2)), rng.normal(-4, 0.3, (150, 2))
    day[:, 1], night[:, 1] = 3.0, 3.0
    both = fit_standardiser(np.vstack([day, night]))
    found = pooled(fit_standardiser(day), fit_standardiser(night))
    assert found.mean == pytest.approx(both.mean)
    assert found.std == pytest.approx(both.std, rel=0.01)
    assert (found.unscaled, found.fitted_on) == ((1,), 450)
    night[:, 1] = 4.0
    assert pooled(fit_standardiser(day), fit_standardiser(night)).unscaled == ()
    night[:, 1] = rng.normal(3, 0.5, 150)
    for pair in ((day, night), (night, day)):
        assert pooled(*map(fit_standardiser, pair)).std[1] == pytest.approx(0.5 / 3**0.5, rel=0.2)
    night[:, 1] = np.nan
    for pair in ((day, night), (night, day)):
        found = pooled(*map(fit_standardiser, pair))
        assert (found.unscaled, found.unseen, found.mean[1]) == ((1,), (), 3.0)
    assert pooled(fit_standardiser(night), fit_standardiser(night)).unseen == (1,)


def _wandering(count: int, columns: int, phi: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(count, columns))
    rows = noise.copy()
    for i in range(1, count):
        rows[i] = phi * rows[i - 1] + (1 - phi**2) ** 0.5 * noise[i]
    return rows


def test_independent_windows_settle_at_once_and_windows_with_memory_later() -> None:
    settled = {
        (phi, n): np.mean(
            [are_settled(unsettled(_wandering(n, 24, phi, seed))) for seed in range(20)],
        )
        for phi, n in [(0.0, 40), (0.0, 60), (0.5, 60), (0.5, 150), (0.8, 150), (0.8, 480)]
    }
    assert settled[0.0, 40] == 0
    assert settled[0.0, 60] > 0.9
    assert settled[0.5, 60] == 0
    assert settled[0.5, 150] > 0.9
    assert settled[0.8, 150] == 0
    assert settled[0.8, 480] > 0.9


def test_a_machine_whose_second_half_is_elsewhere_has_not_settled() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 10))
    assert are_settled(unsettled(rows))
    rows[100:, :3] += 0.7
    assert unsettled(rows).tolist() == [True] * 3 + [False] * 7
    assert not are_settled(unsettled(rows))
