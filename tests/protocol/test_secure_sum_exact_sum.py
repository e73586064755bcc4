"""Both roles together: the sum is exactly the plain one, whoever vanishes at whatever stage."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from secure_sum_rehearsal import (
    STAGES,
    Rehearsal,
    announcement,
    device_ids,
    new_device,
    plain_sum,
    random_vectors,
    roster_of,
)
from secure_sum_stages import assert_exact, rehearsal

from protocol.names import DeviceId
from protocol.secure_sum.device_role import DevicePolicy, DeviceRole
from protocol.secure_sum.errors import VoidRoundError
from protocol.secure_sum.fixed_point import center_words
from protocol.secure_sum.masks import MaskGenerator
from protocol.secure_sum.server_role import ServerPolicy

pytestmark = pytest.mark.edge


@pytest.mark.parametrize("requires_confirmation", [False, True])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("d", [1, 1000, 100_000])
def test_three_devices_add_up_exactly_when_one_vanishes(
    d: int, stage: str, requires_confirmation: bool
) -> None:
    played = rehearsal(3, d, vanish={stage: [1]}, requires_confirmation=requires_confirmation)
    assert_exact(played, played.play())


@pytest.mark.parametrize("d", [1, 1000, 100_000])
def test_ten_devices_add_up_exactly_when_one_vanishes_at_every_stage(d: int) -> None:
    played = rehearsal(10, d, vanish={"share": [2], "mask": [5], "unmask": [9]})
    result = played.play()
    assert_exact(played, result)
    assert result.dropped == ("d00002", "d00005")


@pytest.mark.parametrize("stage", STAGES[:4])
def test_ten_devices_add_up_exactly_when_three_vanish_at_once(stage: str) -> None:
    played = rehearsal(10, 50, vanish={stage: [0, 4, 9]}, requires_confirmation=True)
    assert_exact(played, played.play())


@pytest.mark.slow
@pytest.mark.parametrize("d", [1, 1000, 100_000])
def test_a_hundred_devices_add_up_exactly_when_some_vanish_at_every_stage(d: int) -> None:
    vanish = {
        "advertise": range(2),
        "share": range(10, 15),
        "mask": range(30, 45),
        "unmask": range(60, 75),
    }
    played = rehearsal(100, d, vanish=vanish)
    assert_exact(played, played.play())


def test_a_ring_adds_up_exactly_when_some_vanish_at_every_stage() -> None:
    # Few neighbours, so that the sum has many pairs that are none.
    policy = ServerPolicy(secrecy_bits=8, correctness_bits=8, corrupt_fraction=0.05, dropout_fraction=0.15)
    devices = DevicePolicy(secrecy_bits=8, corrupt_fraction=0.05)
    vanish = {"share": range(5), "mask": range(20, 26), "unmask": range(50, 55)}
    played = rehearsal(131, 40, vanish=vanish, server_policy=policy, device_policy=devices)
    result = played.play()
    assert_exact(played, result)
    assert played.server._settled.plan.degree < 30


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(3, 9),
    d=st.integers(1, 40),
    word_bits=st.integers(2, 32),
    requires_confirmation=st.booleans(),
    generator=st.sampled_from(MaskGenerator),
    data=st.data(),
)
def test_the_sum_is_the_plain_sum_or_the_round_is_void(
    n: int, d: int, word_bits: int, requires_confirmation: bool, generator: MaskGenerator, data: st.DataObject
) -> None:
    vanish = {
        stage: data.draw(st.lists(st.integers(0, n - 1), max_size=2, unique=True), stage) for stage in STAGES
    }
    played = rehearsal(
        n,
        d,
        vanish=vanish,
        word_bits=word_bits,
        requires_confirmation=requires_confirmation,
        device_policy=DevicePolicy(minimum_cohort=2, generators=(generator,)),
    )
    try:
        result = played.play()
    except VoidRoundError:
        left = n - len({device for who in vanish.values() for device in who})
        assert left <= n // 2 + 1
        return
    expected = plain_sum(played.vectors, result.participants, word_bits)
    np.testing.assert_array_equal(result.words, expected)


def test_twenty_bit_words_carry_negative_numbers() -> None:
    ids = device_ids(4)
    integers = {device: np.array([-7 * (i + 1), i], np.int64) for i, device in enumerate(ids)}
    vectors = {device: values.astype(np.uint32) for device, values in integers.items()}
    result = Rehearsal(announcement(2, word_bits=20), vectors).play()
    assert center_words(result.words, 20).tolist() == [-70, 6]


def test_the_masked_input_is_as_long_as_its_words() -> None:
    played = rehearsal(3, 1000, word_bits=20)
    seen: list[bytes] = []
    accept = played.server.accept_masked_input

    def record(sender: DeviceId, message: Any) -> None:
        seen.append(message.words)
        accept(sender, message)

    played.server.accept_masked_input = record  # type: ignore[method-assign] # a tap on the wire
    played.play()
    assert [len(words) for words in seen] == [2500] * 3


def test_one_device_without_aes_instructions_moves_everybody_to_chacha() -> None:
    ids = device_ids(3)
    slow = new_device(
        ids[1],
        roster=roster_of(ids),
        policy=DevicePolicy(generators=(MaskGenerator.CHACHA20,)),
    )
    played = rehearsal(3, 10, roles={ids[1]: slow})
    played.advertise()
    assert {book.generator for book in played.to_devices.values()} == {MaskGenerator.CHACHA20}
    played.share()
    played.mask()
    played.unmask()
    assert_exact(played, played.server.finish())


def test_every_order_of_answers_gives_the_same_sum() -> None:
    results = []
    for order in itertools.permutations(device_ids(3)):
        ids = list(order)
        vectors = random_vectors(device_ids(3), 6)
        played = Rehearsal(announcement(6), {device: vectors[device] for device in ids})
        results.append(played.play().words.tolist())
    assert all(result == results[0] for result in results)


class OneMaskLeftOut(DeviceRole):
    def _hide(self, words: NDArray[np.uint32], begun: Any, settled: Any) -> None:
        settled.neighbours -= {min(settled.neighbours)}
        super()._hide(words, begun, settled)


def test_a_device_that_leaves_one_mask_out_is_seen_in_the_sum() -> None:
    ids = device_ids(4)
    mutant = new_device(ids[2], roster=roster_of(ids), kind=OneMaskLeftOut)
    played = rehearsal(4, 50, roles={ids[2]: mutant})
    with pytest.raises(AssertionError):
        assert_exact(played, played.play())
