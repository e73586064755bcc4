"""Answers on their way into words and back for fixed numbers, held fast part by part; and the limits that devices clip to.

After a deliberate change write the golden file anew with ``python tests/protocol/test_answers_known_answers.py``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from protocol.errors import ProtocolError, QuestionError
from protocol.questions import (
    ASSESS,
    FIT,
    KINDS,
    REFIT_KINDS,
    AnswerLayout,
    AssessQuestion,
    CovarianceQuestion,
    CurveQuestion,
    FitQuestion,
    ScaleQuestion,
    answer_layout,
    decode_question,
    encode_question,
    kind_of,
)
from protocol.secure_answers import NoisedEncoding, make_encoding, suggested_clip
from protocol.sum_terms import NoiseTerms, SumTerms, decode_terms, encode_terms, hash_arrays, hash_question
from protocol.training import ExamplePrivacy, TrainingSettings

pytestmark = pytest.mark.edge
GOLDEN = Path(__file__).parent / "golden" / "answers.v1.txt"
LAYOUTS = {kind: answer_layout(kind, parameter_count=7, tensor_count=3, feature_count=4) for kind in KINDS}
TERMS = SumTerms(run_id="r", question=FIT, round_number=1, devices=5, norm_limit=2.0, maximum_examples=300)
NOISE = NoiseTerms(clip=1.5, noise_multiplier=0.5, maximum_dropouts=1, colluders=1, rotation_seed="5a" * 16)
NOISES = {
    "gaussian": NOISE,
    "skellam": msgspec.structs.replace(NOISE, mechanism="skellam", colluders=0),
    "rotated": NOISE,
    "with clip bits": msgspec.structs.replace(NOISE, clip_bit_noise=0.5),
}


BITS = {"exact": 32, "rotated": 16}


def fixed_bytes(name: str) -> Callable[[int], bytes]:
    """A source of randomness that gives the same bytes each time it is made."""
    count = 0

    def more(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(f"{name} {count}".encode()).digest(size)

    return more


def parts_of(layout: AnswerLayout, device: int) -> dict[str, np.ndarray]:
    """One device's answer; the last but one is beyond every limit, and another moves too far."""
    examples = float(40 * device + 17)
    far, steps = 1e6 if device == 3 else 1.0, 50.0 if device == 2 else 1.0
    parts = {}
    for number, (name, size) in enumerate(layout.sizes.items()):
        numbers = np.array([(5 * i + 3 * number + device) % 7 for i in range(size)], np.float64)
        parts[name] = far * steps * numbers / 16 if name == "update" else numbers * far
        if "loss" in name:
            parts[name] = far * numbers * examples
    count = {"votes": 1.0} if "votes" in parts else {"examples": examples * far}
    return parts | {name: np.array([value]) for name, value in count.items()}


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, "<u4").tobytes()).hexdigest()[:16]


def golden_lines() -> Iterator[str]:
    for kind, layout in LAYOUTS.items():
        yield f"{kind}: {dict(layout.sizes)} {suggested_clip(layout, 3.0):.7g}"
        noises = NOISES if kind == FIT else {"gaussian": NOISE}
        for name, noise in {"exact": None, **noises}.items():
            terms = msgspec.structs.replace(TERMS, question=kind, noise=noise, word_bits=BITS.get(name, 20))
            try:
                encoding = make_encoding(layout, terms)
            except QuestionError as error:
                yield f"  {name}: {error}"
                continue
            words = [
                encoding.encode(layout.pack(parts_of(layout, device)), fixed_bytes(f"{kind} {device}"))
                for device in range(5)
            ]
            total = np.sum(words, axis=0, dtype=np.uint64) % 2**encoding.word_bits
            yield f"  {name}: {encoding.word_count} words of {encoding.word_bits} bits {' '.join(map(digest, words))}"
            noised = msgspec.structs.asdict(encoding.noise).values()
            yield f"    {' '.join(f'{value:.7g}' if isinstance(value, float) else str(value) for value in noised)}"
            decoded = layout.unpack(encoding.decode(total.astype(np.uint32), 5))
            for part, values in decoded.items():
                std = (
                    f" ± {encoding.noise_std(part):.6g}"
                    if noise and part not in {"examples", "votes"}
                    else ""
                )
                yield f"    {part}: {' '.join(f'{value:.6g}' for value in values[:7])} Σ {values.sum():.6g}{std}"
            if (
                isinstance(encoding, NoisedEncoding)
                and (bits := encoding.clip_bits(total.astype(np.uint32), 5)) is not None
            ):
                yield f"    within the clip: {bits:.6g}"
    yield f"hashes: {hash_question('question', encode_terms(TERMS)).hex()}"
    yield f"hashes: {hash_arrays({'b': np.arange(3, dtype=np.float32), 'a': np.ones(1, np.float32)}).hex()}"


def test_answers_of_fixed_numbers_are_the_ones_that_were_written_down() -> None:
    assert list(golden_lines()) == GOLDEN.read_text().splitlines()


def test_each_question_has_its_own_kind_and_reads_back() -> None:
    about = {"run_id": "r", "layout_sha256": "x", "profile_sha256": "y"}
    questions = [
        FitQuestion(**about, round_number=1),
        AssessQuestion(**about),
        ScaleQuestion(**about),
        CovarianceQuestion(**about),
        CurveQuestion(**about, devices=3, squares=0.5, error=0.25),
    ]
    assert tuple(kind_of(question) for question in questions) == KINDS
    assert [decode_question(encode_question(question)) for question in questions] == questions
    first, later = KINDS[:2], KINDS[2:]
    assert first == ("train.fit", "evaluate.assess")
    assert later == ("evaluate.scale", "evaluate.covariance", "evaluate.curve")
    with pytest.raises(
        QuestionError, match=r"no question is called 'train.lora'; known are train.fit, evaluate.assess"
    ):
        answer_layout("train.lora", parameter_count=1, tensor_count=1, feature_count=1)  # type: ignore[arg-type]


def decoded(answer: dict[str, list[float]], *, devices: int = 1) -> dict[str, np.ndarray]:
    """What the server reads of `devices` such answers without noise."""
    layout = LAYOUTS[FIT]
    encoding = make_encoding(layout, TERMS)
    vector = layout.pack({name: np.asarray(values) for name, values in answer.items()})
    words = [encoding.encode(vector, fixed_bytes(str(device))) for device in range(devices)]
    total = np.sum(words, axis=0, dtype=np.uint64).astype(np.uint32)
    return layout.unpack(encoding.decode(total, devices))


def test_a_device_has_one_vote_and_moves_at_most_the_norm_limit() -> None:
    long = {"update": [1e4] + [0.0] * 6, "votes": [1000.0]}
    found = decoded(long, devices=5)
    assert found["votes"] == [5.0]
    assert found["update"][0] == pytest.approx(5 * 2.0, rel=1e-6)
    short = {"update": [0.0, 1.5, 0, 0, 0, 0, 0], "votes": [-5.0]}
    assert decoded(short)["update"][1] == pytest.approx(1.5, abs=1e-6)
    assert decoded(short)["votes"] == [-1.0]


def test_terms_may_have_4096_characters_and_devices_16384() -> None:
    room = 4096 - len(encode_terms(msgspec.structs.replace(TERMS, run_id="")))
    assert decode_terms(encode_terms(msgspec.structs.replace(TERMS, run_id="r" * room))).devices == 5
    with pytest.raises(QuestionError, match="4097 characters; at most 4096"):
        decode_terms(encode_terms(msgspec.structs.replace(TERMS, run_id="r" * (room + 1))))
    assert decode_terms(encode_terms(msgspec.structs.replace(TERMS, devices=16_384))).devices == 16_384
    with pytest.raises(QuestionError, match="not the terms"):
        decode_terms(encode_terms(msgspec.structs.replace(TERMS, devices=16_385)))


@pytest.mark.parametrize(("bit_noise", "words"), [(0.25, "must be above 0.25"), (0.1, "must be above 0.25")])
def test_a_clip_bit_must_leave_something_of_the_clip(bit_noise: float, words: str) -> None:
    noise = msgspec.structs.replace(NOISE, clip_bit_noise=bit_noise)
    with pytest.raises(QuestionError, match=words):
        make_encoding(LAYOUTS[FIT], msgspec.structs.replace(TERMS, noise=noise, word_bits=20))
    with pytest.raises(QuestionError, match="clip bits are for answers with an update"):
        make_encoding(
            LAYOUTS[ASSESS], msgspec.structs.replace(TERMS, noise=NOISES["with clip bits"], word_bits=20)
        )


def test_a_part_of_a_known_answer_that_noise_has_no_weight_for_is_refused() -> None:
    for kind in REFIT_KINDS:
        with pytest.raises(ProtocolError, match="no weight is known"):
            make_encoding(LAYOUTS[kind], msgspec.structs.replace(TERMS, noise=NOISE, word_bits=20))


def test_fewer_participants_than_the_noise_was_planned_for_are_not_read() -> None:
    encoding = make_encoding(LAYOUTS[FIT], msgspec.structs.replace(TERMS, noise=NOISE, word_bits=20))
    words = np.zeros(encoding.word_count, np.uint32)
    assert encoding.decode(words, 4).shape == (LAYOUTS[FIT].total,)
    with pytest.raises(ProtocolError, match="planned for at least 4"):
        encoding.decode(words, 3)


# --- how a device trains ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edge",
    [
        {"epochs": 1000},
        {"momentum": 0.0},
        {"momentum": 0.999},
        {"proximal": 0.0},
        {"maximum_staleness": 0},
        {"staleness_exponent": 0.0},
        {"batch_size": 1, "maximum_examples": 1},
        {"update_norm": 1e-6, "trust_radius": 1e6},
        {"optimizer": "adam"},
    ],
)
def test_a_training_at_the_edge_of_its_ranges_is_done(edge: dict) -> None:
    TrainingSettings(**edge)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"epochs": 1001}, "epochs = 1001"),
        ({"epochs": 0}, "epochs = 0"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0"),
        ({"learning_rate": math.inf}, "learning_rate = inf must be a finite number"),
        ({"proximal": math.nan}, "proximal = nan must be a finite number"),
        ({"proximal": -0.1}, "proximal = -0.1"),
        ({"momentum": 1.0}, "momentum = 1.0"),
        ({"momentum": -0.1}, "momentum = -0.1"),
        ({"gradient_clip": 0.0}, "gradient_clip = 0.0"),
        ({"maximum_examples": 0}, "maximum_examples = 0"),
        ({"maximum_staleness": -1}, "maximum_staleness = -1"),
        ({"staleness_exponent": -0.5}, "staleness_exponent = -0.5"),
        ({"optimizer": "adam", "momentum": 0.5}, "momentum = 0.5 is for the optimizer sgd"),
        ({"update_norm": 0.0}, "update_norm = 0.0"),
        ({"trust_radius": math.inf}, "trust_radius = inf must be a finite number"),
    ],
)
def test_a_training_that_nobody_can_do_is_refused_by_name_and_value(wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainingSettings(**wrong)


def test_example_privacy_ends_and_does_its_own_clipping() -> None:
    private = ExamplePrivacy(noise_multiplier=1.0, sampling_rate=0.01, steps=100_000)
    assert private.clip_norm == 1.0
    for wrong, words in (
        ({"steps": 100_001}, "steps = 100001"),
        ({"steps": 0}, "steps = 0"),
        ({"sampling_rate": 0.0}, "sampling_rate = 0.0"),
        ({"sampling_rate": 1.5}, "sampling_rate = 1.5"),
        ({"clip_norm": 0.0}, "clip_norm = 0.0"),
        ({"noise_multiplier": 0.0}, "noise_multiplier = 0.0"),
        ({"sampling_rate": 1.0, "steps": 1001}, "the work of 1001 epochs; at most 1000 are done"),
    ):
        with pytest.raises(ValueError, match=words):
            ExamplePrivacy(**{"noise_multiplier": 1.0, "sampling_rate": 0.01, "steps": 10, **wrong})
    ExamplePrivacy(noise_multiplier=1.0, sampling_rate=1.0, steps=1000)
    assert TrainingSettings(example_privacy=private).example_privacy is private
    with pytest.raises(ValueError, match="leave gradient_clip out"):
        TrainingSettings(example_privacy=private, gradient_clip=1.0)


if __name__ == "__main__":
    GOLDEN.write_text("".join(f"{line}\n" for line in golden_lines()))
