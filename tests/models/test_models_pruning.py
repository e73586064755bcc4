"""Units that cannot fire, or were not seen to, are left out without a change of what they were silent on."""

from __future__ import annotations

import numpy as np
import pytest
from model_samples import ARCHITECTURES, parameters, ranges, windows

from models import reference_model
from models.architecture import Architecture, initial_parameters, split_parameters
from models.errors import LayoutError, RangeError
from models.export.pruning import proven_silent_units, remove_units, seen_silent_units

pytestmark = pytest.mark.slow

ARCHITECTURE = Architecture(kind="dense-autoencoder", layers=(6, 8, 5, 8, 6))
NAMES = ARCHITECTURE.tensor_names


def with_silent_units() -> np.ndarray:
    """Units 1 and 4 of the first hidden layer and all of the last are pushed far below zero."""
    flat = initial_parameters(ARCHITECTURE, 2)
    parts = split_parameters(ARCHITECTURE, flat)
    parts[1][[1, 4]] = -1000.0
    parts[5][:] = -1000.0
    return flat


def inputs(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 6))


def test_units_that_cannot_fire_within_the_reported_ranges_are_found() -> None:
    flat = with_silent_units()
    low, high = reference_model.ranges(ARCHITECTURE, flat, inputs(300))
    first, second, third = proven_silent_units(ARCHITECTURE, flat, low, high)
    assert np.flatnonzero(first).tolist() == [1, 4]
    assert not second.any()
    assert third.all()


def test_what_is_proven_holds_for_every_window_within_the_ranges_and_needs_them() -> None:
    flat = initial_parameters(ARCHITECTURE, 2)
    bias = split_parameters(ARCHITECTURE, flat)[1]
    bias[:] = -4.0
    low = np.full(ARCHITECTURE.tensor_count, -2.0)
    high = np.full(ARCHITECTURE.tensor_count, 2.0)
    (first, _, _) = proven_silent_units(ARCHITECTURE, flat, low, high)
    corners = np.random.default_rng(1).choice([-2.0, 2.0], size=(2000, 6))
    fired = reference_model.activations(ARCHITECTURE, flat, corners)[2].max(axis=0) > 0
    assert first.any()
    assert not (first & fired).any()
    assert first.sum() > proven_silent_units(ARCHITECTURE, flat, 3 * low, 3 * high)[0].sum()


def test_zero_is_within_every_range_because_int8_can_always_represent_it() -> None:
    narrow = Architecture(kind="dense-autoencoder", layers=(1, 2, 1))
    flat = np.array([-1, 1, 1, -1, 0, 0, 0], np.float32)  # relu(1 - x), relu(x - 1); then zeros
    first, second = proven_silent_units(narrow, flat, np.full(4, 2.0), np.full(4, 5.0))[0]
    assert (first, second) == (False, False)  # at x = 0 the first fires, which was never seen
    first, second = proven_silent_units(narrow, flat, np.full(4, -5.0), np.full(4, -2.0))[0]
    assert (first, second) == (False, True)


def test_leaving_silent_units_out_changes_no_output_and_makes_the_model_smaller() -> None:
    flat, x = with_silent_units(), inputs(300)
    first, second, third = seen_silent_units(ARCHITECTURE, flat, x)
    pruned = remove_units(ARCHITECTURE, flat, (first, second, third))
    assert (first.sum(), third.sum()) == (2, 8)
    # The last hidden layer is silent as a whole: one unit stays, so that there is a layer.
    assert pruned.architecture.layers == (6, 6, 5 - second.sum(), 1, 6)
    assert pruned.removed == (2, second.sum(), 7)
    np.testing.assert_allclose(
        reference_model.infer(pruned.architecture, pruned.parameters, x)[0],
        reference_model.infer(ARCHITECTURE, flat, x)[0],
        atol=1e-6,
    )


def test_a_model_without_silent_units_stays_as_it_is() -> None:
    flat = initial_parameters(ARCHITECTURE, 2)
    masks = tuple(np.zeros(width, bool) for width in ARCHITECTURE.layers[1:-1])
    pruned = remove_units(ARCHITECTURE, flat, masks)
    assert pruned.architecture == ARCHITECTURE
    np.testing.assert_array_equal(pruned.parameters, flat)
    assert pruned.removed == (0, 0, 0)


def test_a_convolution_is_left_alone() -> None:
    architecture, flat = ARCHITECTURES["convolution"], parameters("convolution")
    assert proven_silent_units(architecture, flat, *ranges("convolution")) == ()
    silent = seen_silent_units(architecture, flat, windows("convolution", 5))
    assert remove_units(architecture, flat, silent).architecture == architecture


def test_bad_input_is_refused() -> None:
    flat = initial_parameters(ARCHITECTURE, 2)
    with pytest.raises(RangeError, match="has 8 activation tensors"):
        proven_silent_units(ARCHITECTURE, flat, np.zeros(3), np.zeros(3))
    with pytest.raises(LayoutError):
        seen_silent_units(ARCHITECTURE, flat[:-1], inputs(3))
    with pytest.raises(LayoutError, match="do not fit"):
        remove_units(ARCHITECTURE, flat, [np.zeros(3, bool)] * 3)
