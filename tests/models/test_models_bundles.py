"""Signed bundles whose content is right, and signed bundles whose content is wrong."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_samples import (
    AUTOENCODER,
    good_files,
    int8_bytes,
    parameters,
    small_prior,
    training_bytes,
    verified,
    windows,
)

from models.bundles import FILES, PRIOR_FILE, GoldenVectors, read_bundle
from models.detection.prior import encode_prior
from models.errors import BundleContentError, GoldenMismatchError, ModelError
from models.int8_model import Int8Model

pytestmark = pytest.mark.edge


class ShiftedModel:
    """An int8 model on a machine that rounds `steps` further up."""

    def __init__(self, steps: int) -> None:
        self._model = Int8Model(int8_bytes("autoencoder"))
        self._steps = steps

    def infer_int8(self, x: np.ndarray) -> np.ndarray:
        return np.clip(self._model.infer_int8(x).astype(int) + self._steps, -128, 127).astype(np.int8)


def test_a_bundle_gives_back_what_was_put_in() -> None:
    files = good_files()
    assert files.keys() == FILES
    bundle = read_bundle(verified(files))
    assert bundle.architecture == AUTOENCODER
    assert np.array_equal(bundle.parameters, parameters("autoencoder"))
    assert (bundle.int8_model, bundle.training_model) == (
        int8_bytes("autoencoder"),
        training_bytes("autoencoder"),
    )
    assert bundle.reference.fitted_on == 100
    assert bundle.manifest.release == "pump/4"
    assert bundle.golden.check(Int8Model(bundle.int8_model)) == 0


def test_a_machine_that_rounds_differently_passes_and_one_that_computes_differently_does_not() -> None:
    golden = read_bundle(verified(good_files())).golden
    assert golden.check(ShiftedModel(2)) == 2
    with pytest.raises(GoldenMismatchError, match=r"golden vector 0, output \d: expected int8 -?\d+ ± 2"):
        golden.check(ShiftedModel(-3))


def test_golden_vectors_of_another_model_are_refused() -> None:
    golden = read_bundle(verified(good_files())).golden
    with pytest.raises(GoldenMismatchError, match="has 5 outputs"):
        GoldenVectors(inputs=golden.inputs, outputs=tuple(row[:5] for row in golden.outputs)).check(
            Int8Model(int8_bytes("autoencoder"))
        )


def reference_of(sensors: int) -> dict[str, object]:
    edges = [[float(i) for i in range(9)]] * sensors
    nothing = {"memory": [], "tails": [], "repeats": [], "bins": []}
    return {"mean": [0.0] * sensors, "std": [1.0] * sensors, "edges": edges, **nothing}


def changed_json(content: bytes, **change) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(content) | change)


nan_parameters = parameters("autoencoder")
nan_parameters[3] = np.nan
flipped = bytearray(training_bytes("autoencoder"))
flipped[20_000] ^= 1


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("parameters.f32", lambda c: c[:-4], r"has shape \(80,\), got \(79,\)"),
        ("parameters.f32", lambda c: c[:-1], "wrong layout"),
        ("parameters.f32", lambda _: nan_parameters.tobytes(), "the first is nan at index 3"),
        ("training.tflite", lambda _: bytes(flipped), "training.tflite of pump/4 of .* is damaged"),
        ("training.tflite", lambda _: training_bytes("classifier"), "built for another layout"),
        ("reference.json", lambda c: c[:40], "reference.json of pump/4 is not of format 1"),
        (
            "reference.json",
            lambda c: changed_json(c, **reference_of(5)),
            "is about 5 features, its model takes 6",
        ),
        ("reference.json", lambda c: changed_json(c, mean=[0.0] * 5), r"edges must be \(5, 9\)"),
        ("reference.json", lambda c: changed_json(c, edges=[[0.0] * 8] * 6), r"edges must be \(6, 9\)"),
        ("reference.json", lambda c: changed_json(c, edges=[[0.0], [0.0, 1.0]]), "ragged"),
        ("reference.json", lambda c: changed_json(c, std=[0.0] * 6), "positive std"),
        ("golden.json", lambda c: changed_json(c, outputs=[]), "must pair inputs of 6 with outputs of 6"),
        (
            "golden.json",
            lambda c: changed_json(c, outputs=[[900] * 6]),
            "golden.json of pump/4 is not of format 1",
        ),
        (
            "golden.json",
            lambda c: changed_json(c, tolerance_steps=200),
            "golden.json of pump/4 is not of format 1",
        ),
        ("golden.json", lambda _: b"\xff\xfe", "golden.json of pump/4 is not of format 1"),
    ],
)
def test_content_that_contradicts_the_manifest_is_refused_and_the_file_named(name, change, words) -> None:
    files = good_files()
    files[name] = change(files[name])
    with pytest.raises(BundleContentError, match=words):
        read_bundle(verified(files))


def test_missing_and_surplus_files_are_refused() -> None:
    files = good_files()
    with pytest.raises(BundleContentError, match="pump/4 holds the files"):
        read_bundle(verified(files | {"extra.bin": b"x"}))
    del files["golden.json"]
    with pytest.raises(BundleContentError, match="format 1 with detector 'network' has exactly"):
        read_bundle(verified(files))


def test_a_release_for_the_mixture_brings_what_the_fleet_knows_and_one_for_the_network_does_not() -> None:
    prior = small_prior()
    bundle = read_bundle(verified(good_files(prior), detector="mixture"))
    assert bundle.manifest.detector == "mixture"
    assert bundle.prior is not None
    assert encode_prior(bundle.prior) == encode_prior(prior)
    assert read_bundle(verified(good_files())).prior is None


@pytest.mark.parametrize(
    ("prior", "detector", "words"),
    [
        (None, "mixture", "detector 'mixture' has exactly .*prior.bin"),
        (encode_prior(small_prior()), "network", "detector 'network' has exactly"),
        (
            encode_prior(small_prior(5)),
            "mixture",
            "prior.bin of pump/4 is about 5 features, its model takes 6",
        ),
        (encode_prior(small_prior())[:-9], "mixture", "prior.bin of pump/4: not a fleet's prior"),
    ],
)
def test_a_release_whose_prior_contradicts_it_is_refused(prior, detector, words) -> None:
    files = good_files() if prior is None else good_files() | {PRIOR_FILE: prior}
    with pytest.raises(BundleContentError, match=words):
        read_bundle(verified(files, detector=detector))


def test_a_manifest_that_names_another_number_of_features_is_refused() -> None:
    with pytest.raises(BundleContentError, match="names 5 features, its model takes 6"):
        read_bundle(verified(good_files(), features=5))


def test_golden_inputs_survive_json_exactly() -> None:
    golden = read_bundle(verified(good_files())).golden
    assert np.array_equal(np.array(golden.inputs, np.float32).astype(float), np.array(golden.inputs))
    assert len(golden.inputs) == 8
    assert windows("autoencoder", 1).shape[1] == len(golden.inputs[0])


@given(
    file=st.sampled_from(["reference.json", "golden.json", PRIOR_FILE, "parameters.f32", "training.tflite"]),
    cut=st.floats(0, 1),
    piece=st.binary(max_size=40)
    | st.sampled_from(
        [b"[" * 5000, b'{"a":' * 5000, b"1e999", b"NaN", b"null", b"[[]]", b"\xff", b"1e308", b"-1"]
    ),
    rest=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_whatever_a_signed_file_holds_nothing_but_a_refusal_comes_out(
    file: str, cut: float, piece: bytes, rest: bool
) -> None:
    files = good_files(small_prior())
    at = int(cut * len(files[file]))
    files[file] = files[file][:at] + piece + (files[file][at + len(piece) :] if rest else b"")
    with suppress(ModelError):
        read_bundle(verified(files, detector="mixture"))


@pytest.mark.parametrize("file", ["reference.json", "golden.json", PRIOR_FILE])
def test_a_file_that_nests_without_end_is_refused(file: str) -> None:
    files = good_files(small_prior())
    files[file] = b'{"x":' + b"[" * 100_000
    with pytest.raises(BundleContentError):
        read_bundle(verified(files, detector="mixture"))
