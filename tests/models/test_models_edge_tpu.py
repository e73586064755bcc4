"""Ready for an Edge TPU or not, every obstacle in words; and the compiler's step with a program that behaves like it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from edge_tpu_program import REPORT, program
from model_samples import ARCHITECTURES, int8_bytes, parameters, ranges, training_bytes

from models.errors import EdgeTpuCompilerError, ModelFormatError
from models.export.edge_tpu import ON_CHIP_BYTES, check_edge_tpu
from models.export.edge_tpu_compiler import compile_for_edge_tpu, read_report
from models.export.flatbuffer import make, pack_model
from models.export.graph_writer import GraphWriter
from models.export.int8_graph import export_float_model, export_int8_model
from models.seal import seal_model

pytestmark = pytest.mark.slow

PARTLY = REPORT.replace("Number of Edge TPU subgraphs: 1", "Number of Edge TPU subgraphs: 0") + (
    "Number of operations that will run on Edge TPU: 0\nNumber of operations that will run on CPU: 4\n"
)


def per_tensor(name: str = "autoencoder") -> bytes:
    return export_int8_model(ARCHITECTURES[name], parameters(name), *ranges(name), weight_scales="per-tensor")


def changed(change) -> bytes:
    """The per-tensor sample after `change(model)`."""
    model = schema.ModelT.InitFromPackedBuf(per_tensor(), 0)
    change(model)
    return pack_model(model)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_our_int8_models_are_ready(name: str) -> None:
    found = check_edge_tpu(per_tensor(name))
    assert (found.is_ready, found.obstacles, found.remarks) == (True, (), ())
    assert found.leading_operations == found.operations > 0


def test_parameters_are_counted_as_int8_weights_and_int32_biases() -> None:
    shapes = ARCHITECTURES["classifier"].shapes
    expected = sum(np.prod(shape) * (1 if len(shape) == 2 else 4) for shape in shapes)
    assert check_edge_tpu(per_tensor("classifier")).parameter_bytes == expected


def test_weights_with_a_scale_for_each_output_get_a_remark() -> None:
    found = check_edge_tpu(int8_bytes("autoencoder"))
    assert found.is_ready
    assert "4 fully connected layers have one scale for each output" in found.remarks[0]


def test_a_float_model_is_not_ready_and_its_tensors_are_named() -> None:
    found = check_edge_tpu(export_float_model(ARCHITECTURES["autoencoder"], parameters("autoencoder")))
    assert not found.is_ready
    assert (
        "operation 0 (FULLY_CONNECTED): 'input' is float32; everything but biases must be int8"
        in found.obstacles
    )
    assert found.leading_operations == 0


def test_a_training_model_is_not_ready() -> None:
    assert not check_edge_tpu(training_bytes("autoencoder")).is_ready


def _unsupported(model) -> None:
    code = make("OperatorCodeT", builtinCode=schema.BuiltinOperator.GELU, version=1)
    model.operatorCodes.append(code)
    model.subgraphs[0].operators[2].opcodeIndex = len(model.operatorCodes) - 1


def _dynamic(model) -> None:
    model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]].shapeSignature = [-1, 6]


def _batch(model) -> None:
    model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]].shape = [4, 6]


def _computed_weight(model) -> None:
    graph = model.subgraphs[0]
    graph.tensors[graph.operators[1].inputs[1]].buffer = 0


def _high_rank(model) -> None:
    graph = model.subgraphs[0]
    graph.tensors[graph.operators[0].outputs[0]].shape = [2, 1, 1, 2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_unsupported, "operation 2 (GELU) is not among those an Edge TPU runs"),
        (_dynamic, "has a size that is only known when it runs"),
        (_batch, "input 'input' has shape (4, 6); the batch must be 1"),
        (_computed_weight, "operation 1 (FULLY_CONNECTED): 'weight_1' is computed"),
        (_high_rank, "has shape (2, 1, 1, 2); only the three innermost sizes may be above 1"),
        (lambda model: model.subgraphs.append(model.subgraphs[0]), "it has 2 subgraphs"),
    ],
)
def test_each_rule_that_is_broken_is_said(change, words: str) -> None:
    assert any(words in obstacle for obstacle in check_edge_tpu(changed(change)).obstacles)


def test_an_operation_in_the_middle_leaves_only_the_ones_before_it() -> None:
    found = check_edge_tpu(changed(_unsupported))
    assert found.leading_operations == 2
    assert "only the first 2 of 4 operations would run on the Edge TPU" in found.obstacles[-1]


def test_more_parameters_than_the_chip_holds_are_a_remark() -> None:
    writer = GraphWriter()
    x = writer.add_tensor("input", (1, 1500))
    weight = writer.add_tensor("weight", (1500, 1500), np.ones((1500, 1500), np.float32))
    bias = writer.add_tensor("bias", (1500,), np.ones(1500, np.float32))
    y = writer.add_tensor("output", (1, 1500))
    writer.add_dense([x, weight, bias], y, has_relu=False)
    found = check_edge_tpu(writer.pack(x, y, "large"))
    assert found.parameter_bytes > ON_CHIP_BYTES
    assert f"exceed the {ON_CHIP_BYTES} on the chip" in found.remarks[-1]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no model at all",
        per_tensor().replace(b"input", b"inPut", 1),
        b"\xff" * 4 + b"TFL3" + b"\xff" * 90,
    ],
)
def test_what_is_no_model_is_refused(content: bytes) -> None:
    with pytest.raises(ModelFormatError):
        check_edge_tpu(content)


def test_the_compilers_model_comes_back_sealed_with_its_figures(tmp_path: Path) -> None:
    (tmp_path / "report").write_text(REPORT)
    script = f'[ "$1 $2" = "-s -o" ] || exit 9; printf TPU > "$3/model_edgetpu.tflite"; cat {tmp_path}/report'
    made = compile_for_edge_tpu(per_tensor(), compiler=program(tmp_path, script))
    assert made.content == seal_model(b"TPU")
    assert (made.version, made.subgraphs, made.operations, made.processor_operations) == (
        "16.0.384591198",
        1,
        4,
        0,
    )
    assert (made.on_chip_bytes, made.off_chip_bytes, made.is_whole) == (6400, 0, True)


def test_operations_that_stay_on_the_processor_are_counted() -> None:
    report = read_report(PARTLY)
    assert (report.processor_operations, report.is_whole) == (4, False)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'Invalid model: model.tflite'; echo 'Model not quantized'; exit 1", "Model not quantized"),
        ("exit 0", "it printed nothing"),
        (
            'cp "$4" "$3/model_edgetpu.tflite"; echo "Internal compiler error"; exit 3',
            r"\(exit code 3\): Internal compiler error",
        ),
        ('cp "$4" "$3/model_edgetpu.tflite"; echo done', "has no line 'Total number of operations'"),
        ("sleep 30", "did not end within 0.5 s"),
    ],
)
def test_a_compiler_that_fails_is_one_clear_error(tmp_path: Path, script: str, words: str) -> None:
    with pytest.raises(EdgeTpuCompilerError, match=words):
        compile_for_edge_tpu(per_tensor(), compiler=program(tmp_path, script), timeout_s=0.5)


def test_a_compiler_that_is_not_installed_is_named_with_what_to_do(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EdgeTpuCompilerError, match="there is no edgetpu_compiler on this machine; install"):
        compile_for_edge_tpu(per_tensor())


def test_a_program_that_cannot_be_started_is_said(tmp_path: Path) -> None:
    path = Path(program(tmp_path, ""))
    path.write_bytes(b"\x7fELF not really")
    with pytest.raises(EdgeTpuCompilerError, match="cannot be started"):
        compile_for_edge_tpu(per_tensor(), compiler=str(path))
