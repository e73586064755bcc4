"""Draw from a symmetric distribution on the integers by inverting its cumulative distribution, a million at a time.

A table holds, for each magnitude m, the 63-bit threshold 2^63·P(|X| ≤ m). A sample is one uniform 64-bit word: its
lowest bit is the sign, the others are looked up. Only a word that lies on a threshold does not tell on which side of it
the sample is: then 256 more bits are drawn and compared with the weights themselves, once in 10^13 samples or less. All is
computed in integers alone, so it is the same on every machine (long double is 80 bits on x86, a plain double on a 32-bit ARM).

The total variation distance t from the exact distribution is at most `distance_bound` a sample: below 2^-298. All samples
of a model family together, up to 2^50 of them (a thousand devices, a million parameters, a million rounds), are
then within t ≤ 2^-248, which adds (1 + e^ε)·t to a δ (a bad draw may be on either side): less than 2^-50 for each ε up to 136.
`protocol.privacy_cost` takes that off every δ. With 64 bits alone, as tables are mostly used, t would be 3e-9 for a hundred
devices and 100 000 parameters in 20-bit words, and an ε of 10 would turn it into 7e-5: more than the δ it belongs to.

Source: Devroye, "Non-Uniform Random Variate Generation", 1986, chapter III.2; the exact rejection sampler that the
tests compare with is Canonne, Kamath, Steinke, arXiv:2004.00010v5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import numpy as np
from numpy.typing import NDArray

from protocol.privacy.randomness import RandomStream

__all__ = ["TAIL_BITS", "IntegerTable", "Weights", "tabulate"]

TAIL_BITS: Final = 320
"""What lies beyond the weights must be less likely than 2^-320."""

_BITS: Final = 63
_MORE_WORDS: Final = 4
_ALL_BITS: Final = _BITS + 64 * _MORE_WORDS
_CHUNK: Final = 1 << 16
"""Samples a step: words, magnitudes and signs together stay in the second-level cache."""

Weights = Callable[[], Iterable[int]]
"""P(X = m) = P(X = -m) proportional to the m-th, m = 0..K: precise to 320 bits, with less than 2^-320 beyond K."""


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerTable:
    """Thresholds (K,) uint64 ascending, for the magnitudes 0..K; the distance from the exact distribution; the weights for a closer look."""

    thresholds: NDArray[np.uint64]
    distance_bound: float
    weights: Weights

    def draw(self, count: int, stream: RandomStream) -> NDArray[np.int64]:
        """`count` independent samples, shape (count,); consumes `count` words of the stream, and four more for each that lies on a threshold."""
        samples = np.empty(count, np.int64)
        for at in range(0, count, _CHUNK):
            words = stream.words(min(_CHUNK, count - at))
            leading = words >> np.uint64(1)
            magnitude = np.searchsorted(self.thresholds, leading, side="right")
            on_one = self.thresholds[np.maximum(magnitude, 1) - 1] == leading
            for index in np.flatnonzero(on_one):
                magnitude[index] = self._settle(int(leading[index]), stream)
            negative = (words & np.uint64(1)).astype(bool)
            np.negative(magnitude, out=magnitude, where=negative)
            samples[at : at + len(words)] = magnitude
        return samples

    def _settle(self, leading: int, stream: RandomStream) -> int:
        """The magnitude of a point whose leading 63 bits are those of a threshold."""
        point = leading
        for word in stream.words(_MORE_WORDS):
            point = point << 64 | int(word)
        doubled = _doubled(self.weights())
        total = sum(doubled)
        height = point * total
        return sum(1 for c in accumulate(_doubled(self.weights())) if c << _ALL_BITS <= height)


def tabulate(weights: Weights) -> IntegerTable:
    """Table of the distribution with these weights."""
    whole = weights()
    total, count = 0, 0
    for weight in _doubled(whole):
        total, count = total + weight, count + 1
    found: list[int] = []
    for c in accumulate(_doubled(whole if isinstance(whole, Sequence) else weights())):
        found.append((c << _BITS) // total)
        if found[-1] == (1 << _BITS) - 1:
            break
    thresholds = np.array(found, np.uint64)
    thresholds.setflags(write=False)
    # Each threshold is cut off by less than one unit of 2^-319, the weights by less still; and the tail.
    return IntegerTable(thresholds=thresholds, distance_bound=(count + 2) * 2.0**-_ALL_BITS, weights=weights)


def _doubled(weights: Iterable[int]) -> Iterator[int]:
    for number, weight in enumerate(weights):
        yield 2 * weight if number else weight
