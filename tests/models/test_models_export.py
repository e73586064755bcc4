"""Exported models: built of builtins only, the same bytes each time, int8 close to float without a sample."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from model_samples import (
    ARCHITECTURES,
    AUTOENCODER,
    SIGNING_KEY,
    TRAINED_ONLY,
    int8_bytes,
    parameters,
    ranges,
    training_bytes,
    windows,
)
from reference_training import train_step

from models import reference_model
from models.architecture import Architecture, initial_parameters, split_parameters
from models.bundles import FleetReference, read_bundle
from models.drift.reference import fit_reference
from models.errors import BundleContentError, ExportError, ParameterError, RangeError
from models.export import ReleaseContent, build_release, export_int8_model, export_training_model, isolated
from models.export.int8_graph import export_float_model
from models.int8_model import Int8Model
from protocol.bundle import TrustedKeys, open_bundle
from protocol.manifest import FeatureSpec, ThresholdSpec

pytestmark = pytest.mark.slow

both = pytest.mark.parametrize("name", ARCHITECTURES)
OPERATORS = {value: key for key, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}


def operations(content: bytes):
    """(operator name, ranks of its inputs) of every operation in a model; a rank of None is an input left out."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for graph in model.subgraphs:
        for operation in graph.operators:
            shapes = [None if i < 0 else graph.tensors[i].shape for i in operation.inputs]
            name = OPERATORS[model.operatorCodes[operation.opcodeIndex].builtinCode]
            yield (
                name,
                [
                    None if i < 0 else len(s if s is not None else ())
                    for i, s in zip(operation.inputs, shapes, strict=True)
                ],
            )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long) if name in {"autoencoder", "convolution"} else name
        for name in ARCHITECTURES | TRAINED_ONLY
    ],
)
def test_the_committed_training_models_are_what_this_checkout_exports(name) -> None:
    assert export_training_model((ARCHITECTURES | TRAINED_ONLY)[name]) == training_bytes(name)


@both
def test_the_committed_int8_models_are_what_this_checkout_exports(name) -> None:
    assert export_int8_model(ARCHITECTURES[name], parameters(name), *ranges(name)) == int8_bytes(name)


def test_an_isolated_export_gives_the_same_bytes_once_and_leaves_tensorflow_out_of_the_service() -> None:
    code = (
        "import sys; from models.architecture import Architecture; from models.export import isolated\n"
        "architecture = Architecture(kind='dense-classifier', layers=(5, 4, 3))\n"
        "content = isolated.export_training_model(architecture)\n"
        "assert isolated.export_training_model(architecture) is content\n"
        "import hashlib; print('tensorflow' in sys.modules, hashlib.sha256(content).hexdigest())"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    expected = hashlib.sha256(training_bytes("classifier")).hexdigest()
    assert (child.stdout.split(), child.stderr) == (["False", expected], "")


def test_a_failed_child_process_is_reported_with_its_last_words(monkeypatch) -> None:
    isolated.export_training_model.cache_clear()
    monkeypatch.setattr(isolated.sys, "executable", "/bin/false")
    with pytest.raises(ExportError, match="ended with status 1: no message"):
        isolated.export_training_model(AUTOENCODER)


def test_the_child_refuses_what_is_no_architecture_in_one_line() -> None:
    for request in (b"{", b'{"kind": "dense-autoencoder", "layers": [4, 3]}'):
        child = subprocess.run(
            [sys.executable, "-m", "models.export"], input=request, capture_output=True, check=False
        )
        assert (child.returncode, child.stdout, child.stderr.count(b"\n")) == (1, b"", 1)


@both
def test_the_training_graph_is_made_of_builtins_and_no_scalar_meets_a_matrix(name) -> None:
    seen = list(operations(training_bytes(name)))
    assert not {"CUSTOM", "PLACEHOLDER_FOR_GREATER_OP_CODES"} & {operator for operator, _ in seen}
    # Variable handles are scalars by nature, and a shape read from a tensor is not arithmetic.
    arithmetic = [
        (o, r)
        for o, r in seen
        if o
        in {
            "ADD",
            "SUB",
            "MUL",
            "DIV",
            "GREATER",
            "BATCH_MATMUL",
            "FULLY_CONNECTED",
            "SUM",
            "MEAN",
            "REDUCE_MAX",
        }
    ]
    assert len(arithmetic) > 20
    assert [(o, r) for o, r in arithmetic if 0 in r] == []


@both
def test_the_int8_model_is_int8_from_end_to_end_with_a_static_batch_of_one(name) -> None:
    content = int8_bytes(name)
    convolutional = ARCHITECTURES[name].convolution is not None
    expected = {"CONV_2D", "RESHAPE"} if convolutional else {"FULLY_CONNECTED"}
    assert {operator for operator, _ in operations(content)} == expected
    graph = schema.ModelT.InitFromPackedBuf(content, 0).subgraphs[0]
    kinds = {tensor.type for tensor in graph.tensors}
    assert kinds == {schema.TensorType.INT8, schema.TensorType.INT32}  # INT32: biases, shapes
    ends = [graph.tensors[i] for i in (*graph.inputs, *graph.outputs)]
    assert [(end.type, end.shape[0]) for end in ends] == [(schema.TensorType.INT8, 1)] * 2


@both
def test_the_float_graph_equals_the_oracle(name) -> None:
    interpreter = Interpreter(
        model_content=export_float_model(ARCHITECTURES[name], parameters(name)), num_threads=1
    )
    run = interpreter.get_signature_runner("infer")
    x = windows(name, 20)
    output = np.concatenate([run(input=row[None])["output"] for row in x])
    np.testing.assert_allclose(
        output, reference_model.infer(ARCHITECTURES[name], parameters(name), x)[0], atol=1e-5
    )


def trained_model() -> tuple[Architecture, np.ndarray, np.ndarray]:
    """A 32-16-8-16-32 autoencoder trained on windows of rank 6, and fresh windows of the same kind."""
    architecture = Architecture(kind="dense-autoencoder", layers=(32, 16, 8, 16, 32))
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(6, 32)) / 6**0.5
    rows = np.clip(rng.normal(size=(2400, 6)) @ mixing + 0.1 * rng.normal(size=(2400, 32)), -8, 8).astype(
        np.float32
    )
    flat: np.ndarray = initial_parameters(architecture, 1)
    for step in range(3000):
        at = step * 32 % 1600
        flat, _ = train_step(architecture, flat, rows[at : at + 32], 0.2)
    return architecture, flat.astype(np.float32), rows[1600:]


def calibrate_on_samples(architecture: Architecture, flat: np.ndarray, samples: np.ndarray) -> bytes:
    """What TensorFlow's own post-training quantisation makes of the model when it may see the data."""
    import tensorflow as tf

    from models.native_noise import silent_stderr

    parts = [tf.constant(part) for part in split_parameters(architecture, flat)]

    def forward(x):
        for i in range(0, len(parts), 2):
            x = tf.matmul(x, parts[i]) + parts[i + 1]
            x = tf.nn.relu(x) if i < len(parts) - 2 else x
        return x

    spec = tf.TensorSpec([1, architecture.feature_count], tf.float32)
    concrete = tf.function(forward).get_concrete_function(spec)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module())
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[None]] for row in samples)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    with silent_stderr():
        return bytes(converter.convert())


def test_int8_from_ranges_is_as_close_to_float_as_tensorflows_calibration_on_the_samples() -> None:
    architecture, flat, x = trained_model()
    seen, fresh = x[:400], x[400:]
    expected, scores = reference_model.infer(architecture, flat, fresh)

    def outputs(content: bytes) -> np.ndarray:
        model = Int8Model(content)
        return np.array([model.infer(row) for row in fresh])

    low, high = reference_model.ranges(architecture, flat, x)
    ours = outputs(export_int8_model(architecture, flat, low, high))
    theirs = outputs(calibrate_on_samples(architecture, flat, x))
    error = np.mean((ours - expected) ** 2)
    # TensorFlow quantises weights per channel, which tflite-runtime 2.14 and the Edge TPU cannot run.
    assert error < 1.25 * np.mean((theirs - expected) ** 2)
    assert error < 1e-3 * np.var(expected)
    int8_scores = np.mean((ours - fresh) ** 2, axis=1)
    assert np.corrcoef(int8_scores, scores)[0, 1] > 0.95
    assert abs(int8_scores.mean() / scores.mean() - 1) < 0.05

    # Ranges that come from part of the data clip what they have not seen: a histogram's 9 % surplus helps.
    low, high = reference_model.ranges(architecture, flat, seen)
    tight = np.mean((outputs(export_int8_model(architecture, flat, low, high)) - expected) ** 2)
    wider = np.mean((outputs(export_int8_model(architecture, flat, low * 1.09, high * 1.09)) - expected) ** 2)
    assert wider < tight


@pytest.mark.parametrize("tensor", [0, 2, 4, 7])
def test_a_tensor_that_never_moved_still_quantises(tensor) -> None:
    low, high = ranges("autoencoder")
    low[tensor] = high[tensor] = 0.0
    model = Int8Model(export_int8_model(AUTOENCODER, parameters("autoencoder"), low, high))
    assert np.isfinite(model.infer(windows("autoencoder", 1)[0])).all()


def test_a_model_of_zeros_still_quantises() -> None:
    zeros = np.zeros(AUTOENCODER.parameter_count)
    zeros[-6:] = 0.01  # the output's biases
    model = Int8Model(export_int8_model(AUTOENCODER, zeros, *ranges("autoencoder")))
    assert np.abs(model.infer(windows("autoencoder", 1)[0])).max() < 0.1


def test_a_range_on_one_side_of_zero_is_widened_to_hold_it() -> None:
    low, high = ranges("autoencoder")
    low[0], high[0] = 2.0, 4.0
    model = Int8Model(export_int8_model(AUTOENCODER, parameters("autoencoder"), low, high))
    expected = reference_model.infer(AUTOENCODER, parameters("autoencoder"), np.full((1, 6), 3.0))[0][0]
    reach = np.array([low[-1], high[-1]])
    inside = (expected > reach[0]) & (expected < reach[1])
    assert np.abs(model.infer(np.full(6, 3.0)) - expected)[inside].max() < 6 * model.output_scale


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        ([0.0] * 7, [1.0] * 7, "has 8 activation tensors, got ranges of shapes"),
        ([0.0] * 8, [1.0] * 7 + [np.nan], "the range of tensor 'output' is"),
        ([0.0] * 8, [np.inf] + [1.0] * 7, "the range of tensor 'input' is"),
        ([0.0, 0.0, 2.0] + [0.0] * 5, [1.0] * 8, r"'relu_0' is \[2.0, 1.0\]"),
    ],
)
def test_unusable_ranges_are_refused_and_the_tensor_named(low, high, words) -> None:
    with pytest.raises(RangeError, match=words):
        export_int8_model(AUTOENCODER, parameters("autoencoder"), np.array(low), np.array(high))


def test_parameters_with_nan_are_never_exported() -> None:
    flat = parameters("autoencoder")
    flat[0] = np.inf
    with pytest.raises(ParameterError, match="inf at index 0"):
        export_int8_model(AUTOENCODER, flat, *ranges("autoencoder"))


def reference() -> FleetReference:
    x = windows("autoencoder", 100)
    return fit_reference(x, reference_model.infer(AUTOENCODER, parameters("autoencoder"), x)[1])


def release(**change) -> bytes:
    low, high = ranges("autoencoder")
    arguments = {
        "architecture": AUTOENCODER,
        "parameters": parameters("autoencoder"),
        "low": low,
        "high": high,
        "features": FeatureSpec(kind="passthrough", names=tuple("abcdef")),
        "threshold": ThresholdSpec(score=2.0, quantile=0.99, margin=1.1, fitted_on=100),
        "reference": reference(),
        "family": "pump",
        "version": 2,
        "created_at": 12.5,
        "training_model": training_bytes("autoencoder"),
    }
    return build_release(ReleaseContent(**(arguments | change)), signing_key=SIGNING_KEY)


def test_the_same_arguments_give_the_same_release_and_it_reproduces_its_golden_vectors() -> None:
    assert release() == release()
    verified = open_bundle(release(), TrustedKeys([SIGNING_KEY.public_key()]))
    bundle = read_bundle(verified)
    assert (bundle.manifest.release, bundle.manifest.created_at) == ("pump/2", 12.5)
    assert bundle.golden.check(Int8Model(bundle.int8_model)) == 0
    assert bundle.reference == reference()


def test_pieces_that_contradict_each_other_make_no_release() -> None:
    with pytest.raises(BundleContentError, match="names 5 features"):
        release(features=FeatureSpec(kind="passthrough", names=tuple("abcde")))
    with pytest.raises(BundleContentError, match="another layout"):
        release(training_model=training_bytes("classifier"))
    wide = np.zeros((100, 7)) + np.random.default_rng(0).normal(size=(100, 7))
    with pytest.raises(BundleContentError, match="is about 7 features, its model takes 6"):
        release(reference=fit_reference(wide, np.abs(wide[:, 0])))
