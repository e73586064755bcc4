"""What the server sees says nothing about a device: statistics of every masked byte, which fail on devices that mask badly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from leaky_roles import MersenneTwisterMasks, NoSelfMask, NothingHidden, OneByteOfMask
from numpy.typing import NDArray
from secrecy_statistics import (
    chi_squared_of_bytes,
    correlation,
    cosine,
    invert_dense_layer,
    linear_complexity,
)
from secure_sum_rehearsal import Rehearsal, announcement, device_ids, new_device, roster_of

from protocol.names import DeviceId
from protocol.secure_sum.device_role import DeviceRole
from protocol.secure_sum.masks import MaskGenerator, expand_mask, unpack_words
from protocol.secure_sum.messages import MaskedInput

pytestmark = pytest.mark.edge

IDS = device_ids(4)
WORDS = 45_000
"""Longer than twice the state of the Mersenne Twister (19 937 bits), so that its linear recurrence shows."""


def seen_by_the_server(kind: type[DeviceRole], vectors: dict[DeviceId, NDArray[np.uint32]]) -> dict[str, Any]:
    """The masked words of every device, in a round where all devices are of one kind."""
    roles = {device: new_device(device, roster=roster_of(IDS), kind=kind) for device in IDS}
    played = Rehearsal(announcement(WORDS), vectors, roles=roles)
    seen: dict[str, Any] = {}
    accept = played.server.accept_masked_input

    def tap(sender: DeviceId, message: MaskedInput) -> None:
        seen[sender] = unpack_words(message.words, WORDS, 32)
        accept(sender, message)

    played.server.accept_masked_input = tap  # type: ignore[method-assign] # a tap on the wire
    played.advertise()
    played.share()
    played.mask()
    return seen


def updates() -> dict[DeviceId, NDArray[np.uint32]]:
    """Vectors as a round has them: small integers around zero, most bits the same."""
    rng = np.random.default_rng(5)
    return {device: rng.normal(0, 300, WORDS).astype(np.int64).astype(np.uint32) for device in IDS}


def test_masked_bytes_are_uniform_and_uncorrelated_with_the_update() -> None:
    plain = updates()
    for device, masked in seen_by_the_server(DeviceRole, plain).items():
        assert abs(chi_squared_of_bytes(masked)) < 6
        assert correlation(masked, plain[device]) < 4 / np.sqrt(WORDS)


def test_the_lowest_bits_of_masked_words_follow_no_short_recurrence() -> None:
    nothing = {device: np.zeros(WORDS, np.uint32) for device in IDS}
    masked = seen_by_the_server(DeviceRole, nothing)[IDS[0]]
    assert abs(linear_complexity((masked & 1).tolist()) - WORDS / 2) < 30


@pytest.mark.parametrize("mutant", [NothingHidden, OneByteOfMask])
def test_the_statistics_catch_a_device_that_hides_too_little(mutant: type[DeviceRole]) -> None:
    plain = updates()
    masked = seen_by_the_server(mutant, plain)[IDS[1]]
    assert chi_squared_of_bytes(masked) > 6
    assert correlation(masked, plain[IDS[1]]) > 4 / np.sqrt(WORDS)


def test_the_recurrence_catches_a_mersenne_twister_that_statistics_let_pass() -> None:
    nothing = {device: np.zeros(WORDS, np.uint32) for device in IDS}
    masked = seen_by_the_server(MersenneTwisterMasks, nothing)[IDS[1]]
    assert abs(chi_squared_of_bytes(masked)) < 6
    assert linear_complexity((masked & 1).tolist()) <= 19_937


def test_what_two_devices_send_shows_no_common_part() -> None:
    """Equal inputs, and masks that cancel: their difference is as random as either."""
    nothing = {device: np.zeros(WORDS, np.uint32) for device in IDS}
    seen = seen_by_the_server(DeviceRole, nothing)
    for other in IDS[1:]:
        assert abs(chi_squared_of_bytes(seen[IDS[0]] - seen[other])) < 6
        assert abs(chi_squared_of_bytes(seen[IDS[0]] + seen[other])) < 6


def test_without_a_self_mask_the_sum_of_what_the_server_sees_would_be_the_plain_sum() -> None:
    """The self-mask is what keeps the total closed until the devices agree to open it; its absence is caught here."""
    plain = updates()
    total = sum(v.astype(np.uint64) for v in plain.values()) % 2**32
    honest = sum(seen_by_the_server(DeviceRole, plain).values())
    assert abs(chi_squared_of_bytes(honest - total.astype(np.uint32))) < 6
    # With a self-mask everybody knows, the server takes it off by itself.
    known = seen_by_the_server(NoSelfMask, plain)
    public = expand_mask(bytes(32), WORDS, generator=MaskGenerator.AES_128_CTR)
    opened = sum(masked - public for masked in known.values())
    np.testing.assert_array_equal(opened, total)


def test_a_sample_that_a_plain_gradient_gives_away_is_not_in_the_masked_one() -> None:
    inputs, outputs = 400, 16
    rng = np.random.default_rng(9)
    samples = {device: rng.normal(size=inputs) for device in IDS}
    vectors = {}
    for device, sample in samples.items():
        errors = rng.normal(size=outputs)
        gradient = np.concatenate([np.outer(errors, sample).ravel(), errors])
        vectors[device] = np.zeros(WORDS, np.uint32)
        vectors[device][: gradient.size] = np.rint(gradient * 2**20).astype(np.int64).astype(np.uint32)
    seen = seen_by_the_server(DeviceRole, vectors)
    for device, sample in samples.items():
        assert cosine(invert_dense_layer(vectors[device], inputs, outputs), sample) > 0.999
        assert cosine(invert_dense_layer(seen[device], inputs, outputs), sample) < 5 / np.sqrt(inputs)
