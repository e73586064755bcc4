"""What the server sees says nothing about a device: statistics of every masked byte, which fail on devices that mask badly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
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


def chi_squared_of_bytes(words: NDArray[np.uint32]) -> float:
    """How far the bytes are from uniform, in standard deviations of χ² with 255 degrees of freedom."""
    counts = np.bincount(words.view(np.uint8), minlength=256)
    expected = words.nbytes / 256
    return float((((counts - expected) ** 2 / expected).sum() - 255) / np.sqrt(2 * 255))


def linear_complexity(bits: Iterable[int]) -> int:
    """Length of the shortest linear recurrence over GF(2) that gives the bits (Berlekamp and Massey), polynomials as integers."""
    connection, previous, length, since, history = 1, 1, 0, 1, 0
    for at, bit in enumerate(bits):
        history = history << 1 | bit
        if (connection & history).bit_count() & 1:
            connection, kept = connection ^ previous << since, connection
            if 2 * length <= at:
                length, previous, since = at + 1 - length, kept, 0
        since += 1
    return length


def correlation(masked: NDArray[np.uint32], plain: NDArray[np.uint32]) -> float:
    return float(abs(np.corrcoef(masked.astype(np.int32), plain.astype(np.int32))[0, 1]))


class NothingHidden(DeviceRole):
    def _hide(self, words: NDArray[np.uint32], begun: Any, settled: Any) -> None:
        pass


class OneByteOfMask(DeviceRole):
    """A mask that is too short: the upper bytes of each word shine through."""

    def _hide(self, words: NDArray[np.uint32], begun: Any, settled: Any) -> None:
        short = np.zeros_like(words)
        super()._hide(short, begun, settled)
        words += short & np.uint32(0xFF)


class MersenneTwisterMasks(DeviceRole):
    """Masks from a generator that is random enough for statistics and not for secrets, as Flower 1.41 makes them."""

    def _hide(self, words: NDArray[np.uint32], begun: Any, settled: Any) -> None:
        for peer in settled.neighbours:
            seed = begun.secrets.pair_seed(peer, settled.cohort.binding(begun.announcement))
            twister = np.random.RandomState(np.frombuffer(seed, "<u4"))
            mask = twister.randint(0, 2**32, len(words), dtype=np.uint32)
            words += mask if self._device < peer else -mask


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


class NoSelfMask(DeviceRole):
    """Leaves out the mask that only the device itself can take off."""

    def _hide(self, words: NDArray[np.uint32], begun: Any, settled: Any) -> None:
        bare = type(begun)(
            announcement=begun.announcement, own=begun.own, secrets=_WithoutSelfMask(begun.secrets)
        )
        super()._hide(words, bare, settled)


class _WithoutSelfMask:
    def __init__(self, secrets: Any) -> None:
        self._secrets = secrets
        self.self_mask = bytes(32)

    def pair_seed(self, *arguments: Any) -> Any:
        return self._secrets.pair_seed(*arguments)


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


def invert_dense_layer(words: NDArray[np.uint32], inputs: int, outputs: int) -> NDArray[np.float64]:
    """The sample behind the gradient of a dense layer: each row of the weights' gradient is the sample times the bias' gradient."""
    gradient = words[: outputs * (inputs + 1)].astype(np.int32).astype(np.float64)
    weights, biases = gradient[: outputs * inputs].reshape(outputs, inputs), gradient[outputs * inputs :]
    strongest = int(np.argmax(np.abs(biases)))
    return weights[strongest] / biases[strongest]


def cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(abs(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b)))


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
