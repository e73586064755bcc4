"""The LiteRT adapter against the NumPy oracle, and against bytes that are no model."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import reference_training
from model_samples import (
    ARCHITECTURES,
    AUTOENCODER,
    at_rate,
    int8_bytes,
    labels,
    parameters,
    ranges,
    training_bytes,
    windows,
)

from models import reference_model
from models.architecture import Architecture
from models.errors import (
    ExecutionError,
    InputError,
    LayoutError,
    ModelError,
    ModelFormatError,
    ParameterError,
)
from models.int8_model import Int8Model
from models.litert import VERIFIES_MODELS, Interpreter, load_model
from models.seal import SEAL_BYTES, check_seal, seal_model
from models.training_model import TrainingModel

pytestmark = pytest.mark.edge

both = pytest.mark.parametrize("name", ARCHITECTURES)


def restored(name: str) -> TrainingModel:
    model = TrainingModel(training_bytes(name), ARCHITECTURES[name])
    model.restore(parameters(name))
    return model


@both
def test_outputs_and_scores_equal_the_oracles(name) -> None:
    x = windows(name, 33)
    output, score = restored(name).infer(x)
    expected_output, expected_score = reference_model.infer(ARCHITECTURES[name], parameters(name), x)
    np.testing.assert_allclose(output, expected_output, atol=1e-5)
    np.testing.assert_allclose(score, expected_score, atol=1e-5)


@both
def test_ranges_of_every_activation_tensor_equal_the_oracles(name) -> None:
    x = windows(name, 33)
    for found, expected in zip(
        restored(name).ranges(x),
        reference_model.ranges(ARCHITECTURES[name], parameters(name), x),
        strict=True,
    ):
        assert found.shape == (ARCHITECTURES[name].tensor_count,)
        np.testing.assert_allclose(found, expected, atol=1e-5)


@both
@pytest.mark.parametrize("batch", [1, 7, 32])
def test_a_training_step_equals_the_oracles(name, batch) -> None:
    x, y, model = windows(name, batch), labels(name, batch), restored(name)
    loss = model.train(x, at_rate(0.5), labels=y)
    expected, expected_loss = reference_training.train_step(
        ARCHITECTURES[name], parameters(name), x, 0.5, labels=y
    )
    assert loss == pytest.approx(expected_loss, abs=1e-5)
    np.testing.assert_allclose(model.save(), expected, atol=1e-5)
    assert np.abs(expected - parameters(name)).max() > 1e-3


@both
def test_steps_with_a_proximal_pull_equal_the_oracles(name) -> None:
    x, y, model = windows(name, 16), labels(name, 16), restored(name)
    anchor = expected = parameters(name)
    for _ in range(5):
        model.train(x, at_rate(0.1, proximal=0.7), labels=y)
        expected, _ = reference_training.train_step(
            ARCHITECTURES[name], expected, x, 0.1, labels=y, anchor=anchor, proximal=0.7
        )
    np.testing.assert_allclose(model.save(), expected, atol=1e-5)


@both
def test_parameters_come_back_bit_by_bit(name) -> None:
    assert np.array_equal(restored(name).save(), parameters(name))


def test_the_proximal_pull_is_to_the_parameters_as_they_were_when_they_were_given() -> None:
    model, vector, x = restored("autoencoder"), parameters("autoencoder").copy(), windows("autoencoder", 4)
    model.restore(vector)
    vector += np.float32(0.5)
    anchor = expected = parameters("autoencoder")
    for _ in range(2):
        model.train(x, at_rate(0.1, proximal=2.0))
        expected, _ = reference_training.train_step(
            AUTOENCODER, expected, x, 0.1, anchor=anchor, proximal=2.0
        )
    np.testing.assert_allclose(model.save(), expected, atol=1e-5)


def test_a_model_trains_on_batches_of_changing_size() -> None:
    model = restored("autoencoder")
    losses = [model.train(windows("autoencoder", n), at_rate(0.05)) for n in (8, 3, 8, 1, 64)]
    assert np.isfinite(losses).all()


@both
def test_int8_outputs_stay_within_a_few_steps_of_the_oracle(name) -> None:
    model, architecture = Int8Model(int8_bytes(name), ARCHITECTURES[name].kind), ARCHITECTURES[name]
    x = windows(name, 200)
    output = np.array([model.infer(row) for row in x])
    expected, _ = reference_model.infer(architecture, parameters(name), x)
    assert np.abs(output - expected).max() < 6 * model.output_scale
    low, high = ranges(name)
    assert model.output_scale < 1.01 * (max(high[-1], 0) - min(low[-1], 0)) / 255


@both
def test_the_buffered_path_equals_the_interpreter_used_by_the_book(name) -> None:
    content = int8_bytes(name)
    model, interpreter = Int8Model(content, ARCHITECTURES[name].kind), Interpreter(model_content=content)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero = source["quantization"]
    output_scale, output_zero = target["quantization"]
    for x in windows(name, 300):
        steps = np.clip(np.round(x.astype(float) / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(source["index"], steps[None])
        interpreter.invoke()
        raw = interpreter.get_tensor(target["index"])[0]
        assert np.array_equal(model.infer_int8(x), raw)
        np.testing.assert_allclose(
            model.infer(x), (raw.astype(float) - output_zero) * output_scale, atol=1e-5
        )


@both
def test_int8_scores_follow_the_float_scores(name) -> None:
    model, x = Int8Model(int8_bytes(name), ARCHITECTURES[name].kind), windows(name, 200)
    got = np.array([model.infer_and_score(row)[1] for row in x])
    _, expected = reference_model.infer(ARCHITECTURES[name], parameters(name), x)
    assert np.abs(got - expected).max() < 0.04 * expected.max()


def test_an_int8_output_is_the_callers_own_array() -> None:
    model, x = Int8Model(int8_bytes("autoencoder")), windows("autoencoder", 2)
    first = model.infer(x[0])
    kept = first.copy()
    model.infer(x[1])
    assert np.array_equal(first, kept)


def test_values_beyond_the_range_saturate_instead_of_wrapping_round() -> None:
    model, x = Int8Model(int8_bytes("autoencoder")), windows("autoencoder", 1)[0]
    far, farther = x.copy(), x.copy()
    far[2], farther[2] = 1e3, 1e6
    assert np.array_equal(model.infer_int8(far), model.infer_int8(farther))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_window_that_is_not_finite_is_refused_and_the_feature_named(bad) -> None:
    model, x = Int8Model(int8_bytes("autoencoder")), windows("autoencoder", 1)[0]
    x[3] = bad
    with pytest.raises(InputError, match="at feature 3"):
        model.infer(x)


@pytest.mark.parametrize("shape", [(1,), (7,), (1, 6), ()])
def test_a_window_of_another_shape_is_refused(shape) -> None:
    with pytest.raises(InputError, match=r"one window of shape \(6,\)"):
        Int8Model(int8_bytes("autoencoder")).infer(np.zeros(shape, np.float32))


def test_batches_and_labels_of_another_shape_are_refused() -> None:
    model = restored("classifier")
    with pytest.raises(LayoutError, match="a batch has shape"):
        model.infer(np.zeros((3, 6), np.float32))
    with pytest.raises(LayoutError, match="a batch has shape"):
        model.ranges(np.zeros((0, 5), np.float32))
    with pytest.raises(LayoutError, match="one-hot labels of shape"):
        model.train(windows("classifier", 3), at_rate(0.1))
    with pytest.raises(LayoutError, match="one-hot labels of shape"):
        model.train(windows("classifier", 3), at_rate(0.1), labels=np.zeros((3, 2), np.float32))


@pytest.mark.parametrize(
    "use",
    [
        lambda model, x: model.train(x, at_rate(0.1)),
        lambda model, x: model.clipped_sum(x, 1.0),
        lambda model, x: model.step(parameters("autoencoder"), at_rate(0.1)),
        lambda model, x: model.infer(x),
        lambda model, x: model.ranges(x),
        lambda model, x: model.save(),
    ],
    ids=["train", "clipped_sum", "step", "infer", "ranges", "save"],
)
def test_nothing_runs_before_restore(use) -> None:
    model = TrainingModel(training_bytes("autoencoder"), AUTOENCODER)
    with pytest.raises(LayoutError, match="restore parameters first"):
        use(model, windows("autoencoder", 2))


def test_parameters_that_do_not_fit_leave_the_model_as_it_was() -> None:
    model = restored("autoencoder")
    with pytest.raises(LayoutError):
        model.restore(np.zeros(7, np.float32))
    with pytest.raises(ParameterError, match="not finite"):
        model.restore(np.full(AUTOENCODER.parameter_count, np.nan, np.float32))
    assert np.array_equal(model.save(), parameters("autoencoder"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a TFLite flatbuffer"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a TFLite flatbuffer"),
        (b"\x1c\x00\x00\x00TFL3", "expected 64 to"),
    ],
)
def test_bytes_that_are_no_model_are_refused(content, words) -> None:
    with pytest.raises(ModelFormatError, match=words):
        Int8Model(content)
    with pytest.raises(ModelFormatError, match=words):
        TrainingModel(content, AUTOENCODER)


def test_a_model_of_another_role_or_layout_is_refused() -> None:
    with pytest.raises(ModelFormatError, match="has the signatures"):
        TrainingModel(int8_bytes("autoencoder"), AUTOENCODER)
    with pytest.raises(ModelFormatError, match="one input and one output, this one has 2"):
        Int8Model(training_bytes("autoencoder"))
    with pytest.raises(ModelFormatError, match="gives back its 5 features, this int8 model gives 3"):
        Int8Model(int8_bytes("classifier"))
    with pytest.raises(ModelFormatError, match="has the signatures"):
        TrainingModel(training_bytes("classifier"), AUTOENCODER)
    # As many features and the same signatures: only the layout hash can tell.
    twin = Architecture(kind="dense-autoencoder", layers=(6, 2, 6, 2, 6))
    with pytest.raises(ModelFormatError, match="built for another layout"):
        TrainingModel(training_bytes("autoencoder"), twin)


def test_a_seal_covers_every_byte_of_a_model() -> None:
    content = int8_bytes("classifier")
    check_seal(content, "model")
    mark = len(content) - SEAL_BYTES
    for at in {*range(len(content))} - {*range(mark, mark + 9)}:
        damaged = bytearray(content)
        damaged[at] ^= 0x10
        with pytest.raises(ModelFormatError, match="is damaged"):
            check_seal(bytes(damaged), "model")


def test_a_model_of_another_tool_loads_where_the_runtime_verifies_it_and_needs_a_seal_elsewhere() -> None:
    bare = int8_bytes("classifier")[:-SEAL_BYTES]
    if VERIFIES_MODELS:
        assert Int8Model(bare, "dense-classifier").output_count == 3
    else:
        with pytest.raises(ModelFormatError, match="ends without a seal"):
            Int8Model(bare, "dense-classifier")
    assert seal_model(bare) == int8_bytes("classifier")
    with pytest.raises(ModelFormatError, match="ends without a seal"):
        check_seal(bare, "model", is_required=True)


DAMAGE = """
import sys, random
from pathlib import Path
from models.architecture import Architecture
from models.errors import ModelFormatError
from models.int8_model import Int8Model
from models.training_model import TrainingModel
from models.seal import SEAL_BYTES
int8, training = (Path(p).read_bytes() for p in sys.argv[1:3])
architecture = Architecture(kind="dense-autoencoder", layers=(6, 4, 2, 4, 6))
dice, refused = random.Random(1), 0
for _ in range(300):
    for content, load in ((int8, Int8Model), (training, lambda c: TrainingModel(c, architecture))):
        damaged = bytearray(content)
        damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        for broken in (bytes(damaged), content[: dice.randrange(len(content))]):
            try:
                load(broken)
            except ModelFormatError:
                refused += 1
            else:
                # Only the seal itself may be damaged unseen: it is in nothing that runs.
                assert broken.startswith(content[:-SEAL_BYTES]), "a damaged model was loaded"
print(refused)
"""


def test_damaged_models_are_refused_and_never_crash_the_process() -> None:
    from model_samples import GOLDEN

    files = [str(GOLDEN / f"autoencoder.{kind}.tflite") for kind in ("int8", "training")]
    child = subprocess.run(
        [sys.executable, "-c", DAMAGE, *files], capture_output=True, text=True, check=False
    )
    assert (child.returncode, child.stderr) == (0, "")
    assert int(child.stdout) > 1150


LIGHT = """
import sys
import models.int8_model, models.local_training, models.bundles
from pathlib import Path
model = models.int8_model.Int8Model(Path(sys.argv[1]).read_bytes())
heavy = {"tensorflow", "ai_edge_quantizer", "scipy", "jax", "torch", "flatbuffers", "pandas"} & set(sys.modules)
print(sorted(heavy))
"""


def test_a_device_loads_a_model_quietly_and_without_heavy_libraries() -> None:
    from model_samples import GOLDEN

    child = subprocess.run(
        [sys.executable, "-c", LIGHT, str(GOLDEN / "autoencoder.int8.tflite")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (child.returncode, child.stdout.strip(), child.stderr) == (0, "[]", "")


def test_what_litert_raises_leaves_as_an_error_of_ours_in_one_line() -> None:
    model = load_model(int8_bytes("autoencoder"), "int8 model")
    source = model.interpreter.get_input_details()[0]["index"]
    with pytest.raises(ExecutionError, match=r"^LiteRT cannot run the int8 model: [^\n]+$"):
        model.run_row(source, np.zeros((1, 6), np.float32), source)
    training = load_model(training_bytes("autoencoder"), "training model")
    with pytest.raises(ExecutionError, match=r"^LiteRT cannot run 'infer' of the training model: [^\n]+$"):
        training.call("infer", y=np.zeros((1, 6), np.float32))
    with pytest.raises(ExecutionError, match="LiteRT cannot run 'predict'"):
        training.call("predict")


def test_every_refusal_of_this_package_has_one_root() -> None:
    from models import errors

    named = [getattr(errors, name) for name in errors.__all__]
    assert all(issubclass(error, ModelError) for error in named)
    assert errors.__all__ == sorted(errors.__all__)
    assert all(f"{error.__name__} " in (errors.__doc__ or "") for error in named if error is not ModelError)
