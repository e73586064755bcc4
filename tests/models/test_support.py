"""How many windows stand behind a gradient's entries: exact against the oracle's derivatives, blind to nobody's gate."""

from __future__ import annotations

import numpy as np
import pytest
from reference_training import loss_and_gradient

from models.architecture import Architecture, initial_parameters, join_parameters, split_parameters
from models.errors import LayoutError
from models.support import gradient_support
from protocol.manifest import ConvolutionSpec

pytestmark = pytest.mark.edge

DENSE = Architecture(kind="dense-autoencoder", layers=(6, 5, 3, 5, 6))
CONVOLUTION = Architecture(
    kind="conv-autoencoder",
    layers=(2, 3, 4, 3, 2),
    convolution=ConvolutionSpec(samples=16, kernel=6, stride=2),
)


def windows(architecture: Architecture, n: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n, architecture.feature_count))


@pytest.mark.parametrize("architecture", [DENSE, CONVOLUTION], ids=["dense", "convolution"])
def test_support_is_that_of_each_windows_own_gradient(architecture: Architecture) -> None:
    parameters = initial_parameters(architecture, 3)
    x = windows(architecture, 40)
    own = np.array([loss_and_gradient(architecture, parameters, row[None])[1] for row in x])
    with np.errstate(invalid="ignore"):
        expected = np.nan_to_num(np.abs(own).sum(axis=0) ** 2 / np.square(own).sum(axis=0))
    np.testing.assert_allclose(gradient_support(architecture, parameters, x), expected, rtol=1e-9)


def test_many_windows_that_move_an_entry_alike_all_count_and_one_that_outweighs_them_counts_once() -> None:
    narrow = Architecture(kind="dense-autoencoder", layers=(1, 1))
    parameters = join_parameters(narrow, [np.zeros((1, 1)), np.zeros(1)])
    alike, outweighed = np.ones((50, 1)), np.ones((50, 1))
    outweighed[0] = 1000.0
    np.testing.assert_allclose(gradient_support(narrow, parameters, alike), 50.0)
    assert (gradient_support(narrow, parameters, outweighed) < 1.2).all()


def test_what_feeds_only_a_unit_that_one_window_switches_on_has_one_window_behind_it() -> None:
    x = np.abs(windows(DENSE, 40))
    weights = split_parameters(DENSE, np.full(DENSE.parameter_count, 0.1, np.float32))
    weights[2][:], weights[2][:, 0] = 0.0, 1.0  # all of the first layer feeds one unit of the second
    hidden = np.maximum(x @ weights[0] + weights[1], 0) @ weights[2][:, 0]
    weights[3][:] = -np.sort(hidden)[-2:].mean()  # which only the largest window reaches
    support = split_parameters(DENSE, gradient_support(DENSE, join_parameters(DENSE, weights), x))
    assert (support[0] <= 1 + 1e-9).all()
    assert (support[1] <= 1 + 1e-9).all()
    assert (support[7] > 8).all(), "what the output is off by is everybody's"


def test_nobody_stands_behind_what_overflows_or_is_dead() -> None:
    x = windows(DENSE, 20)
    assert not gradient_support(DENSE, np.full(DENSE.parameter_count, 1e200), x).any()
    dead = split_parameters(DENSE, initial_parameters(DENSE, 3))
    dead[1][0] = -1e3
    support = split_parameters(DENSE, gradient_support(DENSE, join_parameters(DENSE, dead), x))
    assert not support[0][:, 0].any()
    assert not support[1][0]


def test_a_classifier_has_no_support_here() -> None:
    classifier = Architecture(kind="dense-classifier", layers=(6, 5, 3))
    with pytest.raises(LayoutError, match="autoencoders"):
        gradient_support(classifier, initial_parameters(classifier, 1), windows(DENSE, 3))
