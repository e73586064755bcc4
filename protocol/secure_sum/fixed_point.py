"""From the real numbers of an answer to integer words that add up without overflow, and back from their sum.

Every entry of an answer belongs to a named part with a stated bound; the same layout holds on every device. With n devices
and b-bit words a device may use integers up to M = floor((2^(b-1) - 1) / n): then no sum of n of them can leave the centred
range, whatever the devices measured. A part is scaled so that its bound meets M and rounded stochastically (unbiased), or,
where its entries must add up exactly (counts), written with a given resolution in as many digits of base 2M + 1 as it takes.
Digits add up separately; the sum of the parts is read from the sums of the digits. Of entries so small that the sums of several
fit one word (one device is at most 1 in a bin), as many share it: they are places of a number of base 2nm + 1, m the largest of one.

Not here: clipping to a norm and noise (`protocol.privacy`), masks (`masks`).

Source: for stochastic rounding in secure aggregation, Kairouz, Liu, Steinke, "The Distributed Discrete Gaussian Mechanism
for Federated Learning with Secure Aggregation", arXiv:2102.06387.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from protocol.questions import AnswerLayout
from protocol.secure_sum.errors import FixedPointError
from protocol.secure_sum.keys import RandomBytes
from protocol.secure_sum.masks import (
    MAX_WORD_BITS,
    MIN_WORD_BITS,
    SEED_BYTES,
    MaskGenerator,
    expand_mask,
)

__all__ = ["FixedPointCodec", "PartBound", "center_words", "largest_integer"]


@dataclass(frozen=True, kw_only=True)
class PartBound:
    """What a part's entries may be on one device.

    `bound` (> 0): no entry's absolute value exceeds it. `resolution`: the step in which entries are written; None takes
    the finest one word allows. With 1.0, whole numbers (counts) add up exactly.
    """

    bound: float
    resolution: float | None = None


_EXACT: Final = 1 << 53
"""Below this, every whole number is a float64."""

_FLOAT32_SLACK: Final = 1.0 + 2.0**-22
"""A value clipped to its bound may step over it by one rounding to float32; that much is taken as the bound itself."""

_CHUNK: Final = 1 << 15
"""Entries rounded at a time, so that the float64 intermediates stay in a core's cache."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One part: entries [start, start + size) of the answer in the `words` from `word_start` on.

    Either `digits` words an entry, lowest first, or `shared` entries a word, places of base `base`, lowest first.
    """

    name: str
    start: int
    size: int
    word_start: int
    digits: int
    shared: int
    base: int
    bound: float
    step: float
    largest: int

    @property
    def entries(self) -> slice:
        return slice(self.start, self.start + self.size)

    @property
    def words(self) -> slice:
        count = -(-self.size // self.shared) if self.shared > 1 else self.digits * self.size
        return slice(self.word_start, self.word_start + count)


def largest_integer(word_bits: int, devices: int) -> int:
    """M: the largest absolute value each of `devices` devices may put into a word of `word_bits` bits.

    Raises:
        FixedPointError: even 1 would overflow; says how many bits it takes.
    """
    if not MIN_WORD_BITS <= word_bits <= MAX_WORD_BITS:
        raise FixedPointError(f"words have {MIN_WORD_BITS} to {MAX_WORD_BITS} bits, got {word_bits}")
    if devices < 1:
        raise FixedPointError(f"a sum is over at least one device, got {devices}")
    largest = ((1 << (word_bits - 1)) - 1) // devices
    if largest < 1:
        raise FixedPointError(
            f"{word_bits}-bit words cannot hold a sum over {devices} devices; it takes {devices.bit_length() + 1} bits"
        )
    return largest


def center_words(words: NDArray[np.uint32], word_bits: int) -> NDArray[np.int64]:
    """Read words modulo 2^word_bits as integers in [-2^(b-1), 2^(b-1)), int64, same shape."""
    half = 1 << (word_bits - 1)
    centred: NDArray[np.int64] = ((words.astype(np.int64) + half) & ((1 << word_bits) - 1)) - half
    return centred


class FixedPointCodec:
    """Encodes a device's flat answer as words and decodes the sum of all devices' words.

    Both ends build it from the same layout, bounds, word size and number of devices (the largest the round can have).

    Args:
        layout: which named part lies where in the flat answer.
        bounds: a PartBound for every part of the layout.
        word_bits: size of a word, 2 to 32.
        devices: how many devices' words may at most be summed.

    Raises:
        FixedPointError: a part without a bound or a bound without a part, a bound or resolution that is not positive and
            finite or too far apart to add up exactly, words too small for so many devices.
    """

    def __init__(
        self, layout: AnswerLayout, bounds: Mapping[str, PartBound], *, word_bits: int, devices: int
    ) -> None:
        if bounds.keys() != layout.sizes.keys():
            raise FixedPointError(
                f"every part of the answer needs a bound: parts {list(layout.sizes)}, bounds for {list(bounds)}"
            )
        self._total = layout.total
        self._word_bits = word_bits
        self._devices = devices
        self._largest = largest_integer(word_bits, devices)
        self._base = 2 * self._largest + 1
        self._parts: list[_Part] = []
        start = word_start = 0
        for name, size in layout.sizes.items():
            part = self._lay_out(name, size, bounds[name], start, word_start)
            self._parts.append(part)
            start, word_start = part.entries.stop, part.words.stop
        self._word_count = word_start

    @property
    def word_count(self) -> int:
        """How many words an answer takes."""
        return self._word_count

    @property
    def steps(self) -> Mapping[str, float]:
        """The step in which each part's entries are written, in the part's own unit; stochastic rounding errs by less."""
        return {part.name: part.step for part in self._parts}

    def clip(self, answer: NDArray[np.floating]) -> NDArray[np.float64]:
        """The answer with every entry brought within its part's bound (NaN stays NaN and is refused by `encode`)."""
        clipped = self._checked_shape(answer).astype(np.float64)
        for part in self._parts:
            np.clip(clipped[part.entries], -part.bound, part.bound, out=clipped[part.entries])
        return clipped

    def encode(self, answer: NDArray[np.floating], random_bytes: RandomBytes) -> NDArray[np.uint32]:
        """Write a flat answer (layout.total,) as words (word_count,), uint32, a negative integer v as 2^32 - |v|.

        `random_bytes` seeds the stochastic rounding, so that a sum of many is right on average.

        Raises:
            FixedPointError: another shape, an entry that is not finite or beyond its bound; names the part and the value.
        """
        values = self._checked_shape(answer)
        words = np.empty(self._word_count, np.uint32)
        coins = expand_mask(random_bytes(SEED_BYTES), self._total, generator=MaskGenerator.AES_128_CTR)
        for part in self._parts:
            entries, part_coins = values[part.entries], coins[part.entries]
            _check_range(part, entries)
            if part.shared > 1:
                places = _round_stochastically(entries, part, part_coins)
                words[part.words] = _together(places, part).astype(np.uint32)
                continue
            digits = words[part.words].reshape(part.digits, part.size)
            for first in range(0, part.size, _CHUNK):
                chunk = slice(first, first + _CHUNK)
                rest = _round_stochastically(entries[chunk], part, part_coins[chunk])
                for place in range(part.digits - 1):
                    # Balanced digits lie in [-M, M], so the sums of each place are as safe as those of a single word.
                    above = (rest + self._largest) // self._base
                    digits[place, chunk] = (rest - above * self._base).astype(np.uint32)
                    rest = above
                digits[part.digits - 1, chunk] = rest.astype(np.uint32)
        return words

    def decode(self, words: NDArray[np.uint32]) -> NDArray[np.float64]:
        """Read the sum of up to `devices` devices' words as the sum of their answers, float64 (layout.total,).

        Raises:
            FixedPointError: another number of words.
        """
        if words.shape != (self._word_count,):
            raise FixedPointError(f"a sum must have shape ({self._word_count},), got {words.shape}")
        answer = np.empty(self._total)
        for part in self._parts:
            centred = center_words(words[part.words], self._word_bits)
            if part.shared > 1:
                np.multiply(_apart(centred, part), part.step, out=answer[part.entries])
                continue
            digits = centred.reshape(part.digits, part.size)
            total = digits[-1].copy()
            for place in range(part.digits - 2, -1, -1):
                total *= self._base
                total += digits[place]
            np.multiply(total, part.step, out=answer[part.entries])
        return answer

    def _lay_out(self, name: str, size: int, limit: PartBound, start: int, word_start: int) -> _Part:
        if not (limit.bound > 0 and math.isfinite(limit.bound)):
            raise FixedPointError(f"the bound of {name!r} must be positive and finite, got {limit.bound}")
        step = limit.bound / self._largest if limit.resolution is None else limit.resolution
        if not (step > 0 and math.isfinite(step)):
            raise FixedPointError(f"the resolution of {name!r} must be positive and finite, got {step}")
        largest = self._largest if limit.resolution is None else math.ceil(limit.bound / step)
        if largest * self._devices >= _EXACT:
            raise FixedPointError(
                f"{name!r} up to {limit.bound} in steps of {step} over {self._devices} devices does not add up exactly; "
                f"the finest step is {limit.bound * self._devices / _EXACT:.3g}"
            )
        digits = 1
        while (self._base**digits - 1) // 2 < largest:
            digits += 1
        base, shared = 2 * largest * self._devices + 1, 1
        while digits == 1 and shared < size and base ** (shared + 1) < 1 << self._word_bits:
            shared += 1
        return _Part(
            name=name,
            start=start,
            size=size,
            word_start=word_start,
            digits=digits,
            shared=shared,
            base=base,
            bound=limit.bound,
            step=step,
            largest=largest,
        )

    def _checked_shape(self, answer: NDArray[np.floating]) -> NDArray[np.floating]:
        if answer.shape != (self._total,):
            raise FixedPointError(f"an answer must have shape ({self._total},), got {answer.shape}")
        return answer


def _together(values: NDArray[np.int64], part: _Part) -> NDArray[np.int64]:
    """Entries (size,) as places of as many words as it takes; the last may have places left over."""
    padded = np.zeros((part.words.stop - part.words.start) * part.shared, np.int64)
    padded[: part.size] = values
    return np.asarray(padded.reshape(-1, part.shared) @ part.base ** np.arange(part.shared))


def _apart(words: NDArray[np.int64], part: _Part) -> NDArray[np.int64]:
    """The sums of the entries (size,) from centred sums of words."""
    places, rest, most = np.empty((len(words), part.shared), np.int64), words, part.base // 2
    for place in range(part.shared):
        above = (rest + most) // part.base
        places[:, place] = rest - above * part.base
        rest = above
    return places.reshape(-1)[: part.size]


def _check_range(part: _Part, entries: NDArray[np.floating]) -> None:
    if not entries.size:
        return
    low, high = float(entries.min()), float(entries.max())
    # Written so that NaN, which compares false with everything, is refused too.
    if not (-part.bound * _FLOAT32_SLACK <= low and high <= part.bound * _FLOAT32_SLACK):
        worst = low if not abs(high) > abs(low) else high
        raise FixedPointError(
            f"an entry of {part.name!r} is {worst}; it must be finite and within ±{part.bound}: clip it first"
        )


def _round_stochastically(
    values: NDArray[np.floating], part: _Part, coins: NDArray[np.uint32]
) -> NDArray[np.int64]:
    """Values in steps, rounded up with the probability of their fraction, within ±part.largest; int64."""
    scaled = values.astype(np.float64)
    scaled /= part.step
    np.clip(scaled, -part.largest, part.largest, out=scaled)
    floor = np.floor(scaled)
    scaled -= floor
    # The fraction is compared on its own: adding a coin to the whole number first would lose bits of both.
    scaled *= 2.0**32
    floor += coins < scaled
    return floor.astype(np.int64)
