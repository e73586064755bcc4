"""Every number that follows from the parameters, against the formulas written out, and every refusal."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.privacy.discrete_gaussian import MAX_STD
from protocol.privacy.errors import ParameterError, WordTooNarrowError
from protocol.privacy.parameters import NoiseKind, PrivacyParameters, flat_scale, spiked_scale

pytestmark = pytest.mark.edge

GOOD: dict[str, Any] = {"dimension": 1000, "clip": 1.0, "noise_multiplier": 1.0, "cohort": 100}


def test_local_noise_is_shared_among_those_who_are_sure_to_add_it() -> None:
    parameters = PrivacyParameters(**GOOD | {"clip": 0.5}, maximum_dropouts=30, colluders=6)
    assert parameters.effective_cohort == 64
    assert parameters.minimum_survivors == 70
    assert parameters.local_std == pytest.approx(0.5 / 8)


def test_the_scale_of_rotated_updates_is_the_papers() -> None:
    got = flat_scale(bits=16, cohort=100, clip=2.0, dimension=4096, local_std=0.3)
    want = math.sqrt(2**32 - 100 * 16) / (8 * math.sqrt(2.0**2 * 100**2 / 4096 + 100 * 0.3**2))
    assert got == pytest.approx(want, rel=1e-14)
    parameters = PrivacyParameters(**GOOD | {"dimension": 4000}, bits=16)
    assert parameters.scale == pytest.approx(
        flat_scale(bits=16, cohort=100, clip=1.0, dimension=4096, local_std=0.1)
    )


@given(
    bits=st.integers(8, 32),
    cohort=st.integers(1, 2000),
    dimension=st.integers(1, 10**7),
    multiplier=st.floats(0.05, 20),
    clip=st.floats(1e-3, 1e3),
    noise=st.sampled_from(NoiseKind),
)
@settings(max_examples=400, deadline=None)
def test_derived_numbers_fit_each_other_everywhere(
    bits: int, cohort: int, dimension: int, multiplier: float, clip: float, noise: NoiseKind
) -> None:
    parameters = PrivacyParameters(
        bits=bits,
        cohort=cohort,
        dimension=dimension,
        noise_multiplier=multiplier,
        clip=clip,
        noise=noise,
        maximum_dropouts=cohort // 5,
    )
    assert parameters.scale > 0
    assert 0 < parameters.local_lattice_std <= MAX_STD
    assert parameters.vector_length >= dimension
    # Rounding lengthens an update, so the realised multiplier is below the planned one, never above.
    assert parameters.realised_multiplier < multiplier
    planned = parameters.realised(parameters.minimum_survivors)
    assert planned.multiplier == pytest.approx(parameters.realised_multiplier, rel=1e-12)
    assert planned.is_as_planned
    if not parameters.is_rotated:
        # The worst that can happen: every device's whole norm, same sign, in one coordinate, and 8σ of noise.
        steps = cohort * (clip * parameters.scale + 1) + 8 * parameters.local_lattice_std * math.sqrt(cohort)
        assert steps <= 2 ** (bits - 1) * (1 + 1e-12)
        is_capped = parameters.local_lattice_std > 0.999 * MAX_STD
        assert is_capped or parameters.realised_multiplier > 0.99 * multiplier


def test_narrow_words_are_rotated_and_wide_ones_are_not() -> None:
    assert PrivacyParameters(**GOOD, bits=19).is_rotated
    assert not PrivacyParameters(**GOOD, bits=20).is_rotated
    assert not PrivacyParameters(**GOOD, bits=32).is_rotated


def test_twenty_bits_are_rotated_too_where_sizing_for_a_spike_would_cost_noise() -> None:
    large = PrivacyParameters(**GOOD | {"dimension": 1_000_000, "cohort": 1000}, bits=20)
    assert large.is_rotated
    assert large.vector_length == 1 << 20
    assert large.realised_multiplier > 0.999
    spiked = spiked_scale(bits=20, cohort=1000, clip=1.0, local_std=large.local_std)
    assert spiked < math.sqrt(1_000_000)


@pytest.mark.parametrize(("bits", "floor"), [(12, 0.98), (16, 0.999), (20, 0.999), (32, 0.99999)])
def test_a_hundred_devices_lose_little_noise_to_rounding(bits: int, floor: float) -> None:
    assert PrivacyParameters(**GOOD | {"dimension": 200_000}, bits=20).realised_multiplier > 0.99
    assert PrivacyParameters(**GOOD, bits=bits).realised_multiplier > floor


def test_each_dropout_below_the_plan_leaves_more_noise_and_beyond_it_less() -> None:
    parameters = PrivacyParameters(**GOOD, maximum_dropouts=20, colluders=5)
    multipliers = [parameters.realised(survivors).multiplier for survivors in range(60, 101)]
    assert multipliers == sorted(multipliers)
    assert [parameters.realised(s).is_as_planned for s in (79, 80, 81)] == [False, True, True]
    assert parameters.realised(79).multiplier < parameters.realised_multiplier


def test_words_too_narrow_for_the_cohort_are_refused_with_what_would_do() -> None:
    with pytest.raises(WordTooNarrowError) as caught:
        PrivacyParameters(**GOOD, bits=5)
    message = str(caught.value)
    assert "bits=5 cannot carry a cohort of 100" in message
    assert "raise bits to at least 6" in message
    assert "lower cohort to at most 63" in message
    PrivacyParameters(**GOOD, bits=6)
    PrivacyParameters(**GOOD | {"cohort": 63}, bits=5)
    with pytest.raises(WordTooNarrowError):
        PrivacyParameters(**GOOD | {"cohort": 64}, bits=5)
    assert "2^(2·bits) = 1024 must exceed 16·cohort = 1600; " in message


def test_a_plan_without_honest_survivors_is_refused_with_a_cohort_that_would_do() -> None:
    with pytest.raises(ParameterError, match="raise cohort to at least 101"):
        PrivacyParameters(**GOOD, maximum_dropouts=60, colluders=40)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dimension", 0),
        ("clip", 0.0),
        ("clip", math.nan),
        ("noise_multiplier", 0.0),
        ("noise_multiplier", math.inf),
        ("cohort", 0),
        ("maximum_dropouts", -1),
        ("colluders", -1),
    ],
)
def test_a_parameter_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ParameterError, match=name) as caught:
        PrivacyParameters(**GOOD | {name: value})
    assert str(value) in str(caught.value)


@pytest.mark.parametrize("bits", [1, 33])
def test_words_have_2_to_32_bits(bits: int) -> None:
    with pytest.raises(ParameterError, match=rf"bits must be in 2\.\.32, got {bits}"):
        PrivacyParameters(**GOOD, bits=bits)
    PrivacyParameters(**GOOD | {"cohort": 1}, bits=32)


@pytest.mark.parametrize("survivors", [5, 101])
def test_survivors_that_cannot_be_are_refused(survivors: int) -> None:
    with pytest.raises(ParameterError, match=rf"survivors must be in 6..100 .*got {survivors}"):
        PrivacyParameters(**GOOD, colluders=5).realised(survivors)
