"""Settings of training: ranges, what goes together, and that nothing is guessed where a setting is unknown."""

from __future__ import annotations

import math

import msgspec
import pytest

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
    ({"trust_radius": 0.0}, "> 0"),
    ({"update_norm": -1.0}, "> 0"),
    ({"maximum_examples": 0}, ">= 1"),
    ({"maximum_staleness": -1}, ">= 0"),
    ({"staleness_exponent": -0.5}, ">= 0"),
    ({"optimizer": "adam", "momentum": 0.9}, "adam has its own: leave momentum out"),
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


def read(training: dict[str, object]) -> TrainingSettings:
    """As it comes in a manifest, or in a file."""
    return msgspec.json.decode(msgspec.json.encode(training), type=TrainingSettings)


@pytest.mark.parametrize(("changes", "words"), REFUSED)
def test_a_setting_out_of_range_is_refused_by_hand_and_on_the_wire(
    changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        TrainingSettings(**changes)
    with pytest.raises(msgspec.ValidationError, match=words):
        read(changes)


@pytest.mark.parametrize(("changes", "words"), REFUSED_PRIVATE)
def test_example_privacy_out_of_range_is_refused_by_hand_and_on_the_wire(
    changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        ExamplePrivacy(**{**PRIVATE, **changes})
    with pytest.raises(msgspec.ValidationError, match=words):
        read({"example_privacy": {**PRIVATE, **changes}})


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
        {"example_privacy": ExamplePrivacy(**PRIVATE)},
        {"example_privacy": ExamplePrivacy(**PRIVATE), "proximal": 0.1, "optimizer": "adam"},
        {"momentum": 0.9, "gradient_clip": 2.0, "proximal": 0.25},
        {"learning_rate": 1},
    ],
)
def test_the_others_go_together_read_back_and_have_a_name_of_their_own(changes: dict[str, object]) -> None:
    settings = TrainingSettings(**changes)
    assert read(msgspec.to_builtins(settings)) == settings
    assert settings.sha256 != TrainingSettings().sha256


def test_a_profile_says_both_bounds_and_keeps_what_was_said() -> None:
    assert not TrainingSettings(trust_radius=0.4).is_settled
    made = TrainingSettings().settled(0.4)
    assert (made.trust_radius, made.update_norm) == (0.4, pytest.approx(0.08))
    own = TrainingSettings(trust_radius=2.0, update_norm=0.3).settled(0.4)
    assert (own.trust_radius, own.update_norm) == (2.0, 0.3)
    assert made.is_settled
    assert made.settled(9.0) == made


@pytest.mark.parametrize("training", [{"momentun": 0.9}, {"example_privacy": {**PRIVATE, "delta": 1e-5}}])
def test_a_setting_that_this_build_does_not_know_is_refused_and_not_left_out(
    training: dict[str, object],
) -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        read(training)


def test_an_example_privacy_that_lacks_its_noise_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="noise_multiplier"):
        read({"example_privacy": {"sampling_rate": 0.5, "steps": 1}})
