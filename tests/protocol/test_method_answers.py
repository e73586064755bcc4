"""Questions of the federated methods on the wire, the layouts of their answers, and their way through the fixed point of a secure sum."""

from __future__ import annotations

import os

import numpy as np
import pytest

from protocol.errors import QuestionError
from protocol.questions import (
    KINDS,
    AssessQuestion,
    CovarianceQuestion,
    CurveQuestion,
    FitQuestion,
    Question,
    ScaleQuestion,
    answer_layout,
    decode_question,
    encode_question,
    fit_layout,
    kind_of,
    scaffold_layout,
)
from protocol.secure_answers import make_encoding
from protocol.sum_terms import NoiseTerms, SumTerms, decode_terms, encode_terms
from protocol.training import TrainingSettings

pytestmark = pytest.mark.edge

FIELDS = {
    "run_id": "r", "round_number": 2, "layout_sha256": "x",
}  # fmt: skip
SCAFFOLD = FitQuestion(**FIELDS, training=TrainingSettings(method="scaffold"), control_limit=3.0)
QUESTIONS: list[Question] = [
    FitQuestion(**FIELDS, training=TrainingSettings(learning_rate=0.1)),
    SCAFFOLD,
    AssessQuestion(run_id="r", layout_sha256="x"),
    ScaleQuestion(run_id="r", layout_sha256="x"),
    CovarianceQuestion(run_id="r", layout_sha256="x", maximum_examples=7),
    CurveQuestion(run_id="r", layout_sha256="x", devices=3, squares=0.5, error=0.25),
]


def terms(kind: str, **changes: object) -> SumTerms:
    fields = {
        "run_id": "r", "question": kind, "round_number": 1, "devices": 4, "norm_limit": 2.0,
        "maximum_examples": 500, **changes,
    }  # fmt: skip
    return SumTerms(**fields)


@pytest.mark.parametrize(("question", "kind"), zip(QUESTIONS, KINDS, strict=True), ids=KINDS)
def test_each_question_has_its_kind_reads_back_and_fits_the_terms(question: Question, kind: str) -> None:
    assert kind_of(question) == kind
    assert decode_question(encode_question(question)) == question
    assert decode_terms(encode_terms(terms(kind))).question == kind


def test_a_question_that_does_not_say_how_to_train_is_refused_and_not_guessed() -> None:
    text = '{"type":"fit","run_id":"r","round_number":2,"layout_sha256":"x","epochs":1,"batch_size":32,"learning_rate":0.1}'
    with pytest.raises(QuestionError, match="missing required field `training`"):
        decode_question(text)


def test_layouts_hold_what_the_methods_need() -> None:
    assert list(scaffold_layout(5).sizes) == [*fit_layout(5).sizes, "weighted_control"]
    sizes = {"parameter_count": 5, "tensor_count": 3, "feature_count": 2}
    assert answer_layout("train.scaffold", **sizes).sizes == scaffold_layout(5).sizes
    with pytest.raises(QuestionError, match=r"no question is called 'train\.steal'"):
        answer_layout("train.steal", **sizes)  # type: ignore[arg-type]  # what a server might send


def test_a_control_variate_beyond_the_limit_is_clipped_on_its_way_into_the_sum() -> None:
    layout = scaffold_layout(3)
    encoding = make_encoding(layout, terms("train.scaffold"))
    answer = layout.pack(
        {
            "weighted_update": np.zeros(3),
            "examples": np.array([10.0]),
            "loss_before": np.zeros(1),
            "loss_after": np.zeros(1),
            "weighted_control": 10 * np.array([30.0, 40.0, 0.0]),
        }
    )
    total = layout.unpack(encoding.decode(encoding.encode(answer, os.urandom), 1))
    np.testing.assert_allclose(total["weighted_control"] / 10, [1.2, 1.6, 0.0], atol=1e-4)


@pytest.mark.parametrize(
    "kind", ["train.scaffold", "evaluate.scale", "evaluate.covariance", "evaluate.curve"]
)
def test_no_method_that_needs_exact_sums_is_encoded_under_noise(kind: str) -> None:
    layout = answer_layout(kind, parameter_count=5, tensor_count=3, feature_count=2)  # type: ignore[arg-type]  # one of the kinds
    noise = NoiseTerms(clip=1.0, noise_multiplier=1.0, maximum_dropouts=0, rotation_seed="0" * 32)
    with pytest.raises(QuestionError, match="no weight is known for the part"):
        make_encoding(layout, terms(kind, noise=noise, word_bits=20))
