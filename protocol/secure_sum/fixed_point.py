"""From the real numbers of an answer to integer words that add up without overflow, and back from their sum.

Every entry of an answer belongs to a named part with a stated bound; the same layout holds on every device. With n devices
and b-bit words a device may use integers up to M = floor((2^(b-1) - 1) / n): then no sum of n of them can leave the centred
range, whatever the devices measured. A part is scaled so that its bound meets M and rounded stochastically (unbiased), or,
where its entries must add up exactly (counts), written with a given resolution in as many digits of base 2M + 1 as it takes.
Digits add up separately; the sum of the parts is read from the sums of the digits.

Not here: clipping to a norm and noise (`protocol.privacy`), masks (`masks`).

Source: for stochastic rounding in secure aggregation, Kairouz, Liu, Steinke, "The Distributed Discrete Gaussian Mechanism
for Federated Learning with Secure Aggregation", arXiv:2102.06387.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.questions import AnswerLayout
from protocol.secure_sum.errors import FixedPointError
from protocol.secure_sum.keys import RandomBytes

__all__ = ["FixedPointCodec", "PartBound", "center_words", "largest_integer"]


@dataclass(frozen=True, kw_only=True)
class PartBound:
    """What a part's entries may be on one device.

    `bound` (> 0): no entry's absolute value exceeds it. `resolution`: the step in which entries are written; None takes
    the finest one word allows. With 1.0, whole numbers (counts) add up exactly.
    """

    bound: float
    resolution: float | None = None


def largest_integer(word_bits: int, devices: int) -> int:
    """M: the largest absolute value each of `devices` devices may put into a word of `word_bits` bits.

    Raises:
        FixedPointError: even 1 would overflow; says how many bits it takes.
    """
    raise NotImplementedError


def center_words(words: NDArray[np.uint32], word_bits: int) -> NDArray[np.int64]:
    """Read words modulo 2^word_bits as integers in [-2^(b-1), 2^(b-1)), int64, same shape."""
    raise NotImplementedError


class FixedPointCodec:
    """Encodes a device's flat answer as words and decodes the sum of all devices' words.

    Both ends build it from the same layout, bounds, word size and number of devices (the largest the round can have).

    Args:
        layout: which named part lies where in the flat answer.
        bounds: a PartBound for every part of the layout.
        word_bits: size of a word, 2 to 32.
        devices: how many devices' words may at most be summed.

    Raises:
        FixedPointError: a part without a bound or a bound without a part, a bound that is not positive and finite,
            words too small for so many devices.
    """

    def __init__(
        self, layout: AnswerLayout, bounds: Mapping[str, PartBound], *, word_bits: int, devices: int
    ) -> None:
        raise NotImplementedError

    @property
    def word_count(self) -> int:
        """How many words an answer takes; at least `layout.total`."""
        raise NotImplementedError

    def clip(self, answer: NDArray[np.floating]) -> NDArray[np.float64]:
        """The answer with every entry brought within its part's bound (NaN stays NaN and is refused by `encode`)."""
        raise NotImplementedError

    def encode(self, answer: NDArray[np.floating], random_bytes: RandomBytes) -> NDArray[np.uint32]:
        """Write a flat answer (layout.total,) as words (word_count,), uint32, negative integers as 2^32 - |v|.

        Raises:
            FixedPointError: another shape, an entry that is not finite or beyond its bound; names the part and the value.
        """
        raise NotImplementedError

    def decode(self, words: NDArray[np.uint32]) -> NDArray[np.float64]:
        """Read the sum of up to `devices` devices' words as the sum of their answers, float64 (layout.total,).

        Raises:
            FixedPointError: another number of words.
        """
        raise NotImplementedError
