"""Layer widths, the flat vector, and the NumPy oracle itself."""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest
import reference_training
from hypothesis import given, settings
from hypothesis import strategies as st
from model_samples import ARCHITECTURES, AUTOENCODER, labels, parameters, windows
from msgspec.structs import replace

from models import reference_model
from models.architecture import (
    Architecture,
    initial_parameters,
    join_parameters,
    require_finite,
    split_parameters,
)
from models.errors import LayoutError, ParameterError
from protocol.manifest import ConvolutionSpec, ModelSpec

pytestmark = pytest.mark.edge

LAYOUT_OF_THE_CONVOLUTION = "e755aa82af19b7ed66ef3f20dcb1ebb124fb36520c386e2b33f9149cf7211186"
"""Pinned like the dense ones: devices in the field compare it."""

widths = st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple)


@settings(max_examples=40, deadline=None)
@given(hidden=widths, features=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
def test_splitting_a_flat_vector_and_joining_it_gives_the_same_vector(hidden, features, seed) -> None:
    architecture = Architecture(kind="dense-autoencoder", layers=(features, *hidden, features))
    flat = initial_parameters(architecture, seed)
    assert flat.shape == (architecture.parameter_count,)
    assert np.array_equal(join_parameters(architecture, split_parameters(architecture, flat)), flat)
    assert architecture.tensor_count == 2 * (len(architecture.layers) - 1)


def test_the_layout_hash_is_the_one_devices_in_the_field_know() -> None:
    assert AUTOENCODER.layout_sha256 == "d08ee2619307bb49c20d22a5c9ad21d5d751f8da9f738b0c04f54c0666c693a0"
    assert AUTOENCODER.tensor_names == (
        "input", "sum_0", "relu_0", "sum_1", "relu_1", "sum_2", "relu_2", "output",
    )  # fmt: skip


def test_architectures_with_equally_many_parameters_have_different_layouts() -> None:
    one = Architecture(kind="dense-classifier", layers=(2, 3, 3, 2))
    other = Architecture(kind="dense-autoencoder", layers=one.layers)
    assert one.parameter_count == other.parameter_count
    assert one.layout_sha256 != other.layout_sha256


def test_an_architecture_survives_its_manifest() -> None:
    assert Architecture.from_manifest(AUTOENCODER.to_manifest()) == AUTOENCODER


def convolution(
    layers=(3, 5, 4, 5, 3), samples=12, kernel=6, stride=2, kind="conv-autoencoder"
) -> Architecture:
    spec = ConvolutionSpec(samples=samples, kernel=kernel, stride=stride)
    return Architecture(kind=kind, layers=layers, convolution=spec)


def test_a_convolution_survives_its_manifest_as_json_and_a_dense_manifest_does_not_mention_it() -> None:
    architecture = convolution()
    wire = msgspec.json.encode(architecture.to_manifest())
    assert Architecture.from_manifest(msgspec.json.decode(wire, type=ModelSpec)) == architecture
    assert msgspec.json.decode(msgspec.json.encode(architecture), type=Architecture) == architecture
    assert b"convolution" not in msgspec.json.encode(AUTOENCODER.to_manifest())


def test_a_convolution_takes_and_gives_a_whole_window() -> None:
    architecture = convolution()
    assert (architecture.feature_count, architecture.output_count) == (36, 36)
    assert architecture.to_manifest().feature_count == 36
    assert architecture.parameter_count == len(initial_parameters(architecture, 0)) == 445
    assert [(layer.positions, layer.inputs, layer.outputs) for layer in architecture.geometry] == [
        (6, 6, 5), (3, 10, 4), (3, 4, 10), (6, 5, 6),
    ]  # fmt: skip
    for wider, finer in itertools.pairwise(architecture.geometry):
        assert wider.positions * wider.outputs == finer.positions * finer.inputs


def test_convolutions_that_differ_in_anything_have_different_layouts() -> None:
    others = [
        convolution(),
        convolution(samples=16),
        convolution(kernel=10),
        convolution(stride=1, kernel=3),
        convolution(stride=1, kernel=5),
        convolution(layers=(3, 4, 4, 4, 3)),
    ]
    assert len({other.layout_sha256 for other in others}) == len(others)
    assert convolution().layout_sha256 == LAYOUT_OF_THE_CONVOLUTION


def test_a_moved_window_moves_the_reconstruction_with_it() -> None:
    architecture = convolution(layers=(2, 4, 2), samples=24)
    flat = initial_parameters(architecture, 1)
    x = np.zeros((1, 24, 2))
    x[0, 6:9] = np.random.default_rng(2).normal(size=(3, 2))
    moved = np.roll(x, 4, axis=1)
    ours, theirs = (
        reference_model.infer(architecture, flat, rows.reshape(1, -1))[0].reshape(24, 2)
        for rows in (x, moved)
    )
    np.testing.assert_allclose(np.roll(ours, 4, axis=0), theirs, atol=1e-12)
    assert np.abs(ours).max() > 0.1


def test_a_sample_is_seen_as_far_as_the_kernel_reaches_and_no_further() -> None:
    architecture = convolution(layers=(1, 3, 1), samples=40)
    flat = np.abs(initial_parameters(architecture, 1))
    x = np.zeros((1, 40))
    x[0, 20] = 1.0
    seen = np.flatnonzero(reference_model.infer(architecture, flat, x)[0][0])
    # Position 10 and one block on either side going in, one more coming out.
    assert (seen.min(), seen.max()) == (16, 25)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "dense-autoencoder"}, "has no convolution"),
        ({"layers": (3, 5, 5, 3)}, "an odd number of widths"),
        ({"layers": (3, 5, 4)}, "must be equal"),
        ({"kernel": 7}, r"must be an odd multiple of stride 2 \(e.g. 6\)"),
        ({"kernel": 8}, "must be an odd multiple"),
        ({"samples": 14}, "does not divide evenly: 2 layers of stride 2 need a multiple of 4"),
        ({"samples": 0}, "over 1 or more samples"),
        ({"stride": 0, "kernel": 0}, "must be an odd multiple"),
        ({"samples": 400_000}, "at most 262144 are allowed"),
    ],
)
def test_an_impossible_convolution_is_refused_with_the_reason(change, words) -> None:
    with pytest.raises(LayoutError, match=words):
        convolution(**change)


def test_a_conv_autoencoder_without_a_convolution_is_refused() -> None:
    with pytest.raises(LayoutError, match="needs convolution"):
        Architecture(kind="conv-autoencoder", layers=(3, 4, 3))


@pytest.mark.parametrize(
    "change", [{"parameter_count": 7}, {"layout_sha256": "0" * 64}, {"layers": (6, 5, 6)}]
)
def test_a_manifest_that_contradicts_itself_is_refused(change) -> None:
    with pytest.raises(LayoutError, match="the manifest promises"):
        Architecture.from_manifest(replace(AUTOENCODER.to_manifest(), **change))


@pytest.mark.parametrize(
    ("kind", "layers", "words"),
    [
        ("dense-autoencoder", (6,), "at least two widths"),
        ("dense-autoencoder", (6, 0, 6), "between 1 and 4096"),
        ("dense-autoencoder", (6, 4, 5), "must be equal"),
        ("dense-classifier", (6, 1), "at least two classes"),
        ("dense-classifier", (4096, 4096, 2), "at most 4000000"),
        ("transformer", (6, 6), "unknown model kind"),
    ],
)
def test_an_impossible_architecture_is_refused_with_the_reason(kind, layers, words) -> None:
    with pytest.raises(LayoutError, match=words):
        Architecture(kind=kind, layers=layers)


def test_parameters_of_another_length_or_with_nan_are_named() -> None:
    with pytest.raises(LayoutError, match=r"has shape \(80,\), got \(81,\)"):
        require_finite(AUTOENCODER, np.zeros(81))
    bad = np.zeros(80)
    bad[[17, 40]] = np.nan, np.inf
    with pytest.raises(
        ParameterError, match="2 of 80 parameters are not finite, the first is nan at index 17"
    ):
        require_finite(AUTOENCODER, bad)


def test_joining_arrays_of_another_shape_is_refused() -> None:
    arrays = split_parameters(AUTOENCODER, np.zeros(80))
    with pytest.raises(LayoutError, match="needs arrays"):
        join_parameters(AUTOENCODER, [arrays[0].T, *arrays[1:]])


def test_the_same_seed_gives_the_same_parameters_and_another_seed_others() -> None:
    assert np.array_equal(initial_parameters(AUTOENCODER, 4), initial_parameters(AUTOENCODER, 4))
    assert not np.array_equal(initial_parameters(AUTOENCODER, 4), initial_parameters(AUTOENCODER, 5))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_oracles_gradient_is_the_slope_of_its_loss(name) -> None:
    architecture, flat, x, y = (
        ARCHITECTURES[name],
        parameters(name).astype(float),
        windows(name, 9),
        labels(name, 9),
    )
    _, gradient = reference_training.loss_and_gradient(architecture, flat, x, y)
    step = 1e-6
    slopes = []
    for i in range(len(flat)):
        nudge = np.zeros_like(flat)
        nudge[i] = step
        above = reference_training.loss_and_gradient(architecture, flat + nudge, x, y)[0]
        below = reference_training.loss_and_gradient(architecture, flat - nudge, x, y)[0]
        slopes.append((above - below) / (2 * step))
    np.testing.assert_allclose(gradient, slopes, atol=1e-7)


def test_a_classifier_does_not_train_without_labels() -> None:
    with pytest.raises(LayoutError, match="one-hot labels"):
        reference_training.loss_and_gradient(
            ARCHITECTURES["classifier"], parameters("classifier"), windows("classifier", 2)
        )


def test_class_probabilities_of_huge_logits_stay_finite() -> None:
    assert reference_model.softmax(np.array([[1e4, 0.0, -1e4]])).tolist() == [[1.0, 0.0, 0.0]]
