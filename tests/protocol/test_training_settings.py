"""Settings of training: ranges, what goes together, and that nothing is guessed where a setting is unknown."""

from __future__ import annotations

import math

import msgspec
import pytest

from protocol.errors import QuestionError
from protocol.questions import FitQuestion, decode_question, encode_question
from protocol.training import ExamplePrivacy, TrainingSettings

pytestmark = pytest.mark.edge

PRIVATE = {"noise_multiplier": 1.0, "sampling_rate": 0.1, "steps": 20}
REFUSED = [
    ({"epochs": 0}, ">= 1"),
    ({"epochs": 1001}, "<= 1000"),
    ({"batch_size": 0}, ">= 1"),
    ({"learning_rate": 0.0}, "> 0"),
    ({"optimizer": "lamb"}, "lamb"),
    ({"momentum": 1.0}, "< 1.0"),
    ({"momentum": -0.1}, ">= 0"),
    ({"proximal": -0.1}, ">= 0"),
    ({"gradient_clip": 0.0}, "> 0"),
    ({"method": "feddyn"}, "feddyn"),
    ({"maximum_examples": 0}, ">= 1"),
    ({"maximum_staleness": -1}, ">= 0"),
    ({"staleness_exponent": -0.5}, ">= 0"),
    ({"optimizer": "adam", "momentum": 0.9}, "adam has its own: leave momentum out"),
    ({"method": "scaffold", "proximal": 0.1}, "does not go with proximal"),
    ({"method": "scaffold", "momentum": 0.5}, "does not go with momentum"),
    (
        {"method": "scaffold", "optimizer": "adam", "gradient_clip": 1.0},
        r'does not go with optimizer = "adam", gradient_clip: leave that out, or set method = "plain"',
    ),
]
REFUSED_PRIVATE = [
    ({"clip_norm": 0.0}, "> 0"),
    ({"noise_multiplier": 0.0}, "> 0"),
    ({"sampling_rate": 0.0}, "> 0"),
    ({"sampling_rate": 1.5}, "<= 1.0"),
    ({"steps": 0}, ">= 1"),
    ({"steps": 100_001}, "<= 100000"),
    ({"steps": 1001, "sampling_rate": 1.0}, "is the work of 1001 epochs; at most 1000 are done"),
]


def asked(training: dict[str, object]) -> str:
    fields = {"type": "fit", "run_id": "r", "round_number": 2, "layout_sha256": "x", "training": training}
    return msgspec.json.encode(fields).decode()


@pytest.mark.parametrize(("changes", "words"), REFUSED)
def test_a_setting_out_of_range_is_refused_by_hand_and_on_the_wire(
    changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        TrainingSettings(**changes)
    with pytest.raises(QuestionError, match=words):
        decode_question(asked(changes))


@pytest.mark.parametrize(("changes", "words"), REFUSED_PRIVATE)
def test_example_privacy_out_of_range_is_refused_by_hand_and_on_the_wire(
    changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        ExamplePrivacy(**{**PRIVATE, **changes})
    with pytest.raises(QuestionError, match=words):
        decode_question(asked({"example_privacy": {**PRIVATE, **changes}}))


@pytest.mark.parametrize(
    "name", ["learning_rate", "momentum", "proximal", "gradient_clip", "staleness_exponent"]
)
@pytest.mark.parametrize("value", [math.inf, math.nan, -math.inf])
def test_no_setting_is_infinite_or_not_a_number(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} = {value} must be a finite number"):
        TrainingSettings(**{name: value})


def test_clipping_every_window_leaves_no_room_for_clipping_their_sum() -> None:
    with pytest.raises(ValueError, match="leave gradient_clip out"):
        TrainingSettings(example_privacy=ExamplePrivacy(**PRIVATE), gradient_clip=1.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "scaffold", "example_privacy": ExamplePrivacy(**PRIVATE)},
        {"example_privacy": ExamplePrivacy(**PRIVATE), "proximal": 0.1, "optimizer": "adam"},
        {"momentum": 0.9, "gradient_clip": 2.0, "proximal": 0.25},
        {"learning_rate": 1},
    ],
)
def test_the_others_go_together_and_read_back_with_their_question(changes: dict[str, object]) -> None:
    question = FitQuestion(
        run_id="r", round_number=1, layout_sha256="x", training=TrainingSettings(**changes)
    )
    assert decode_question(encode_question(question)) == question


@pytest.mark.parametrize("training", [{"momentun": 0.9}, {"example_privacy": {**PRIVATE, "delta": 1e-5}}])
def test_a_setting_that_this_build_does_not_know_is_refused_and_not_left_out(
    training: dict[str, object],
) -> None:
    with pytest.raises(QuestionError, match="unknown field"):
        decode_question(asked(training))


def test_an_example_privacy_that_lacks_its_noise_is_refused() -> None:
    with pytest.raises(QuestionError, match="noise_multiplier"):
        decode_question(asked({"example_privacy": {"sampling_rate": 0.5, "steps": 1}}))
