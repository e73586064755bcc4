"""Which entries of an update have enough windows behind them: none that a gate anywhere on the way leaves to a few."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from reference_training import loss_and_gradient

from models.architecture import Architecture, initial_parameters, join_parameters, split_parameters
from models.errors import LayoutError
from models.reference_model import activations
from models.support import FEWEST_WINDOWS, supported_entries
from protocol.manifest import ConvolutionSpec

pytestmark = pytest.mark.edge

DENSE = Architecture(kind="dense-autoencoder", layers=(6, 5, 3, 5, 6))
CONVOLUTION = Architecture(
    kind="conv-autoencoder",
    layers=(2, 3, 4, 3, 2),
    convolution=ConvolutionSpec(samples=16, kernel=6, stride=2),
)
BOTH = pytest.mark.parametrize("architecture", [DENSE, CONVOLUTION], ids=["dense", "convolution"])


def windows(architecture: Architecture, n: int) -> NDArray[np.float64]:
    return np.random.default_rng(1).normal(size=(n, architecture.feature_count))


def supported(
    architecture: Architecture, parts: list[NDArray[np.floating]], x: NDArray[np.float64]
) -> list[NDArray[np.floating]]:
    return split_parameters(
        architecture, supported_entries(architecture, join_parameters(architecture, parts), x)
    )  # type: ignore[arg-type]  # a view is a view, of booleans too


@BOTH
def test_what_many_windows_move_may_move(architecture: Architecture) -> None:
    parameters = initial_parameters(architecture, 3)
    x = windows(architecture, 200)
    moved = loss_and_gradient(architecture, parameters, x)[1] != 0
    allowed = supported_entries(architecture, parameters, x)
    assert allowed.sum() > 0.7 * moved.sum()


@BOTH
def test_no_entry_that_fewer_windows_than_the_floor_move_may_move(architecture: Architecture) -> None:
    parameters = initial_parameters(architecture, 3)
    parameters[-architecture.shapes[-1][0] :] = 0.3
    x = windows(architecture, 60)
    own = np.array([loss_and_gradient(architecture, parameters, row[None])[1] for row in x])
    behind = (own != 0).sum(axis=0)
    for count in (1, FEWEST_WINDOWS - 1):
        few = supported_entries(architecture, parameters, x[:count])
        assert not few.any()
    first = np.prod(architecture.shapes[0]) + architecture.shapes[1][0]
    allowed = supported_entries(architecture, parameters, x)[:first]
    assert (behind[:first][allowed] >= FEWEST_WINDOWS).all()


@BOTH
def test_a_unit_that_a_few_windows_switch_on_does_not_move_nor_what_it_feeds(
    architecture: Architecture,
) -> None:
    x = windows(architecture, 60)
    parts = split_parameters(architecture, initial_parameters(architecture, 3))
    sums = activations(architecture, join_parameters(architecture, parts), x)[1]
    highest = sums.reshape(len(x), -1, architecture.geometry[0].outputs)[..., 0].max(axis=1)
    parts[1][0] = -np.sort(highest)[-5]  # four windows go beyond it, somewhere
    moves = supported(architecture, parts, x)
    assert not moves[0][..., 0].any()
    assert not moves[1][0]
    assert not moves[2][..., 0, :].any()
    assert moves[0][..., 1:].any()
    assert moves[2][..., 1:, :].any()


def test_what_feeds_only_a_unit_that_one_window_switches_on_does_not_move() -> None:
    x = np.abs(windows(DENSE, 40))
    parts = split_parameters(DENSE, np.full(DENSE.parameter_count, 0.1, np.float32))
    parts[2][:], parts[2][:, 0] = 0.0, 1.0  # all of the first layer feeds one unit of the second
    hidden = np.maximum(x @ parts[0] + parts[1], 0) @ parts[2][:, 0]
    parts[3][:] = -np.sort(hidden)[-2:].mean()  # which only the largest window reaches
    moves = supported(DENSE, parts, x)
    assert not any(moves[i].any() for i in range(5))
    assert moves[7].all(), "what the output is off by is everybody's"


def test_one_window_that_outweighs_all_others_together_moves_nothing() -> None:
    narrow = Architecture(kind="dense-autoencoder", layers=(1, 1))
    zeros = join_parameters(narrow, [np.zeros((1, 1)), np.zeros(1)])
    alike = np.ones((50, 1))
    assert supported_entries(narrow, zeros, alike).all()
    alike[0] = 1000.0
    assert not supported_entries(narrow, zeros, alike).any()


def test_nothing_moves_where_something_overflows() -> None:
    x = windows(DENSE, 20)
    assert not supported_entries(DENSE, np.full(DENSE.parameter_count, 1e200), x)[:-6].any()


def test_a_classifier_has_no_support_here() -> None:
    classifier = Architecture(kind="dense-classifier", layers=(6, 5, 3))
    with pytest.raises(LayoutError, match="autoencoders"):
        supported_entries(classifier, initial_parameters(classifier, 1), windows(DENSE, 3))
