"""An answer's way into words and back, and what binds all devices to the same terms."""

from __future__ import annotations

import os

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import QuestionError
from protocol.questions import FIT, AnswerLayout, answer_layout, assess_layout, fit_layout
from protocol.secure_answers import exact_word_bits, make_encoding
from protocol.sum_terms import SumTerms, decode_terms, encode_terms, hash_arrays, hash_question

pytestmark = pytest.mark.edge

LAYOUT = fit_layout(6)
TERMS = SumTerms(run_id="r", question=FIT, round_number=1, devices=8, norm_limit=2.0, maximum_examples=500)


def answer(move: list[float], votes: float = 1.0) -> np.ndarray:
    return LAYOUT.pack({"update": np.array(move), "votes": np.array([votes])})


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.floats(-0.75, 0.75, width=32), min_size=6, max_size=6),
            st.sampled_from([0.0, 1.0]),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_sum_of_words_modulo_their_size_is_the_sum_of_answers(devices: list[tuple]) -> None:
    encoding = make_encoding(LAYOUT, TERMS)
    words = np.zeros(encoding.word_count, np.uint32)
    expected = np.zeros(LAYOUT.total)
    for device in devices:
        vector = answer(*device)
        words += encoding.encode(vector, os.urandom)
        expected += vector
    total = encoding.decode(words, len(devices))
    # A step of the update is 8 · 2 / 2^31; votes are exact.
    np.testing.assert_allclose(total, expected, atol=1e-6, rtol=1e-6)
    assert LAYOUT.unpack(total)["votes"][0] == LAYOUT.unpack(expected)["votes"][0]


def test_the_largest_answers_of_all_devices_do_not_overflow() -> None:
    encoding = make_encoding(LAYOUT, TERMS)
    extreme = answer([1e6, 0, 0, 0, 0, 0], 500)
    words = np.sum([encoding.encode(extreme, os.urandom) for _ in range(8)], axis=0, dtype=np.uint32)
    parts = LAYOUT.unpack(encoding.decode(words, 8))
    assert parts["update"][0] == pytest.approx(8 * 2.0, rel=1e-6)
    assert parts["votes"][0] == 8


def test_a_device_has_one_vote_and_moves_at_most_the_norm_limit() -> None:
    encoding = make_encoding(LAYOUT, TERMS)
    parts = LAYOUT.unpack(encoding.decode(encoding.encode(answer([9.0] * 6, 5000), os.urandom), 1))
    assert np.linalg.norm(parts["update"]) == pytest.approx(2.0, rel=1e-6)
    assert parts["votes"] == [1]


def test_not_a_number_is_refused() -> None:
    bad = answer([0.0] * 6)
    bad[2] = np.nan
    with pytest.raises(Exception, match="update"):
        make_encoding(LAYOUT, TERMS).encode(bad, os.urandom)


def test_every_part_of_an_assessment_has_a_bound_and_an_unknown_part_none() -> None:
    layout = assess_layout(3, 4)
    ranges = layout.sizes["range_low"] + layout.sizes["range_high"]
    assert make_encoding(layout, TERMS).word_count < layout.total - ranges / 2, "ranges share words"
    with pytest.raises(QuestionError, match="'surprise'"):
        make_encoding(AnswerLayout({"examples": 1, "surprise": 2}), TERMS)


def test_terms_read_back_as_written_and_nothing_else_is_read() -> None:
    assert decode_terms(encode_terms(TERMS)) == TERMS
    for text in (
        "",
        "{}",
        encode_terms(TERMS)[:-1],
        encode_terms(TERMS).replace('"r"', '"r","x":1'),
        "x" * 5000,
    ):
        with pytest.raises(QuestionError):
            decode_terms(text)


def test_hashes_tell_apart_whatever_differs() -> None:
    terms = encode_terms(TERMS)
    others = encode_terms(msgspec.structs.replace(TERMS, devices=9))
    assert len({hash_question("q", terms), hash_question("q", others), hash_question("p", terms)}) == 3
    assert hash_question("ab", "c") != hash_question("a", "bc")
    a, b = np.zeros(2, np.float32), np.ones(2, np.float32)
    assert hash_arrays({"x": a, "y": b}) == hash_arrays({"y": b, "x": a})
    assert len({hash_arrays({"x": a, "y": b}), hash_arrays({"x": b, "y": a}), hash_arrays({"x": a})}) == 3


def test_words_are_as_small_as_the_counts_of_all_devices_allow_and_never_smaller() -> None:
    layout = answer_layout("evaluate.curve", parameter_count=1, tensor_count=1, feature_count=4)
    bits = exact_word_bits(layout, devices=1000, maximum_examples=4096)
    terms = msgspec.structs.replace(TERMS, devices=1000, maximum_examples=4096, word_bits=bits)
    assert bits == 23
    encoding = make_encoding(layout, terms)
    most = np.full(layout.total, 256.0)
    words = [encoding.encode(most, os.urandom) for _ in range(3)]
    total = encoding.decode(1000 * words[0], 1000)  # as many devices, all at the same numbers
    whole = layout.unpack(total)
    assert (whole["openings_64"] == 256_000).all()
    assert encoding.word_count < 1.3 * layout.total
    with_update = answer_layout("train.fit", parameter_count=3, tensor_count=1, feature_count=4)
    assert exact_word_bits(with_update, devices=3, maximum_examples=16) == 32
