"""Questions of the federated methods on the wire, the layouts of their answers, and their way through the fixed point of a secure sum."""

from __future__ import annotations

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
    kind_of,
)
from protocol.secure_answers import make_encoding
from protocol.sum_terms import NoiseTerms, SumTerms, decode_terms, encode_terms

pytestmark = pytest.mark.edge

ABOUT = {"run_id": "r", "layout_sha256": "x", "profile_sha256": "y"}
QUESTIONS: list[Question] = [
    FitQuestion(**ABOUT, round_number=2),
    AssessQuestion(**ABOUT),
    ScaleQuestion(**ABOUT),
    CovarianceQuestion(**ABOUT),
    CurveQuestion(**ABOUT, devices=3, squares=0.5, error=0.25),
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


def test_a_question_that_does_not_name_the_profile_is_refused_and_not_guessed() -> None:
    text = '{"type":"fit","run_id":"r","round_number":2,"layout_sha256":"x","training":{"epochs":1}}'
    with pytest.raises(QuestionError, match="missing required field `profile_sha256`"):
        decode_question(text)


def test_a_layout_of_no_known_kind_is_refused() -> None:
    with pytest.raises(QuestionError, match=r"no question is called 'train\.steal'"):
        answer_layout("train.steal", parameter_count=5, tensor_count=3, feature_count=2)  # type: ignore[arg-type]  # what a server might send


@pytest.mark.parametrize("kind", ["evaluate.scale", "evaluate.covariance", "evaluate.curve"])
def test_no_method_that_needs_exact_sums_is_encoded_under_noise(kind: str) -> None:
    layout = answer_layout(kind, parameter_count=5, tensor_count=3, feature_count=2)  # type: ignore[arg-type]  # one of the kinds
    noise = NoiseTerms(clip=1.0, noise_multiplier=1.0, maximum_dropouts=0, rotation_seed="0" * 32)
    with pytest.raises(QuestionError, match="no weight is known for the part"):
        make_encoding(layout, terms(kind, noise=noise, word_bits=20))
