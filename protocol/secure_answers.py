"""From a device's answer to the words it masks, and from the words' sum to the answers' sum: one encoding, both ends.

::

    exact   answer ─► clip (norm, then each part's bound) ─► fixed point ─► words        sum of words ─► sum of answers
    noised  answer ─► one device, one vote ─► one vector of norm ≤ clip ─► clip, round, noise ─► words ─► noisy sum

Exact: counts add up exactly, everything else to better than 1e-3 of a unit; nothing about differential privacy is
claimed. Noised: every part of the answer is under the noise, so nothing of a device is released without it. Then a device counts
once however many examples it has (its share of a sum must be bounded by one constant), so ``examples`` and ``votes`` count devices,
which the server knows anyway, and histograms hold devices' shares.

Where the terms ask for clip bits, the vector gets one coordinate more (`protocol.clip_bits`).

Invariants: both ends build the same encoding from the same layout and terms; no sum of `terms.devices` answers overflows.

Not here: masks and dropouts (`protocol.secure_sum`), what ε it costs (`protocol.privacy_cost`, the aggregator's desk).

Source: Kairouz, Liu, Steinke, arXiv:2102.06387v4, for the noised encoding (`protocol.privacy.mechanism`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from protocol.clip_bits import ClipBit
from protocol.errors import QuestionError
from protocol.grids import AGES, FEATURE_GRID, RANGE_GRID
from protocol.privacy.mechanism import PrivacyParameters, add_missing_noise, decode, encode
from protocol.privacy.parameters import NoiseKind
from protocol.privacy_cost import RoundNoise, noise_of
from protocol.questions import AnswerLayout
from protocol.secure_sum.fixed_point import FixedPointCodec, PartBound
from protocol.secure_sum.keys import RandomBytes
from protocol.secure_sum.masks import MAX_WORD_BITS
from protocol.sum_terms import NoiseTerms, SumTerms

__all__ = [
    "LOG_LIMIT",
    "AnswerEncoding",
    "ExactEncoding",
    "NoisedEncoding",
    "Precision",
    "exact_word_bits",
    "make_encoding",
    "part_bound",
    "suggested_clip",
]

Float = NDArray[np.float64]

LOSS_LIMIT: Final = 1e4
"""Mean loss of one device; beyond it a model is useless by any amount."""

LOSS_STEP: Final = 1e-4
"""Summed losses are written in these steps."""

FEATURE_LIMIT: Final = 2 * float(FEATURE_GRID.edges[-1])
"""Standardised features are clipped to half of this on every device."""

LOG_LIMIT: Final = 100.0
"""Of a variance in a sensor's own units: e^±50 of them is a deviation that no instrument has."""

WANDER_LIMIT: Final = 1.5 * FEATURE_LIMIT**2
"""Means of quarters lie within the scale's ends; three steps between them, half their squares."""

NOISED_LOSS_LIMIT: Final = 10.0
"""Under noise a loss is worth only as much sensitivity as it needs; healthy models lie far below."""


@dataclass(frozen=True, kw_only=True)
class Precision:
    """What is known of a decoded sum before anybody looks at it: what devices clip to, and how far entries may be off.

    `steps` of the parts that are rounded, and `noise_stds` of each entry, both for one device: the noise of n is √n times that. Empty
    without noise; under it a device counts for one window.
    """

    norm_limit: float
    maximum_examples: int
    steps: Mapping[str, float] = field(default_factory=dict)
    noise_stds: Mapping[str, float] = field(default_factory=dict)


class AnswerEncoding(Protocol):
    """One answer's way into words and back."""

    @property
    def word_bits(self) -> int:
        """Size of a word."""

    @property
    def word_count(self) -> int:
        """How many words an answer takes."""

    @property
    def noise(self) -> RoundNoise:
        """The noise that the sum will carry, for both accounts; mechanism ``none`` where it is exact."""

    @property
    def precision(self) -> Precision:
        """How exact the decoded sum is."""

    def encode(self, answer: NDArray[np.floating], random_bytes: RandomBytes) -> NDArray[np.uint32]:
        """The device's side: clip and write a flat answer (layout.total,) as words (word_count,).

        Raises:
            ProtocolError: another shape, or not finite.
        """

    def decode(self, words: NDArray[np.uint32], participants: int) -> Float:
        """The server's side: the sum of `participants` answers, float64 (layout.total,).

        Raises:
            ProtocolError: another number of words, or fewer participants than the noise was planned for.
        """


def make_encoding(layout: AnswerLayout, terms: SumTerms) -> AnswerEncoding:
    """The encoding that the terms ask for.

    Raises:
        QuestionError: a part of the layout that no bound is known for.
        ProtocolError: terms that cannot be met (words too narrow, nobody left to add noise); says what to change.
    """
    if terms.noise is None:
        return ExactEncoding(layout, terms)
    return NoisedEncoding(layout, terms, terms.noise)


class ExactEncoding:
    """Fixed point without noise."""

    def __init__(self, layout: AnswerLayout, terms: SumTerms) -> None:
        self._layout, self._terms = layout, terms
        bounds = {
            name: part_bound(name, maximum_examples=terms.maximum_examples, norm_limit=terms.norm_limit)
            for name in layout.sizes
        }
        self._codec = FixedPointCodec(layout, bounds, word_bits=terms.word_bits, devices=terms.devices)
        self.word_bits, self.word_count = terms.word_bits, self._codec.word_count

    @property
    def noise(self) -> RoundNoise:
        """See `AnswerEncoding`."""
        return RoundNoise(mechanism="none", bits=self._terms.word_bits, dimension=self._layout.total)

    @property
    def precision(self) -> Precision:
        """See `AnswerEncoding`."""
        return Precision(
            norm_limit=self._terms.norm_limit,
            maximum_examples=self._terms.maximum_examples,
            steps=self._codec.steps,
        )

    def encode(self, answer: NDArray[np.floating], random_bytes: RandomBytes) -> NDArray[np.uint32]:
        """See `AnswerEncoding`."""
        parts = self._layout.unpack(answer)
        if "update" in parts:
            parts["update"] = _within(parts["update"], self._terms.norm_limit)
        flat = np.concatenate([parts[name] for name in self._layout.sizes])
        return self._codec.encode(self._codec.clip(flat), random_bytes)

    def decode(self, words: NDArray[np.uint32], participants: int) -> Float:  # noqa: ARG002 - only noise asks how many
        """See `AnswerEncoding`."""
        return self._codec.decode(words)


class NoisedEncoding:
    """One vector of bounded norm per device, with its share of the noise."""

    def __init__(self, layout: AnswerLayout, terms: SumTerms, noise: NoiseTerms) -> None:
        self._layout, self._noise = layout, noise
        self._bit = None if noise.clip_bit_noise is msgspec.UNSET else ClipBit.of(layout, noise)
        self._weights = {name: _weight(name, layout) for name in layout.sizes if name not in _DEVICES}
        self._parameters = PrivacyParameters(
            dimension=sum(layout.sizes[name] for name in self._weights) + (self._bit is not None),
            clip=noise.clip,
            noise_multiplier=noise.noise_multiplier,
            cohort=terms.devices,
            bits=terms.word_bits,
            maximum_dropouts=noise.maximum_dropouts,
            colluders=noise.colluders,
            noise=NoiseKind(noise.mechanism),
        )
        self.word_bits, self.word_count = terms.word_bits, self._parameters.vector_length

    @property
    def noise(self) -> RoundNoise:
        """See `AnswerEncoding`."""
        return noise_of(self._parameters)

    @property
    def precision(self) -> Precision:
        """See `AnswerEncoding`."""
        stds = {name: self._parameters.local_std / weight for name, weight in self._weights.items()}
        return Precision(norm_limit=self._noise.clip, maximum_examples=1, noise_stds=stds)

    def encode(self, answer: NDArray[np.floating], random_bytes: RandomBytes) -> NDArray[np.uint32]:
        """See `AnswerEncoding`."""
        parts = self._layout.unpack(answer)
        # An update is a device's own already; everything else is of its windows.
        examples = max(float(parts["examples"][0]), 1.0) if "examples" in parts else 1.0
        scaled = []
        for name, weight in self._weights.items():
            share = parts[name] if name in _PER_DEVICE else parts[name] / examples
            if name in _LOSSES:
                share = np.clip(share, 0.0, NOISED_LOSS_LIMIT)
            if self._bit is not None and name == "update":
                # Alone, before the rest: an update that is too long must not shrink the bit that says so.
                is_within = float(np.linalg.norm(share)) <= self._bit.others_clip
                bit = np.array([self._bit.weight * (0.5 if is_within else -0.5)])
                share = _within(share, self._bit.others_clip)
            scaled.append(share * weight)
        if self._bit is not None:
            scaled.append(bit)
        vector = np.concatenate(scaled)
        return encode(vector, self._parameters, random_bytes, rotation_seed=self._seed)

    def decode(self, words: NDArray[np.uint32], participants: int) -> Float:
        """See `AnswerEncoding`. ``examples`` or ``votes`` is the number of participants; the noise stays in."""
        mean = decode(words, self._parameters, survivors=participants, rotation_seed=self._seed)
        parts: dict[str, Float] = dict.fromkeys(_DEVICES, np.array([participants], np.float64))
        at = 0
        for name, weight in self._weights.items():
            size = self._layout.sizes[name]
            parts[name] = mean[at : at + size] * (participants / weight)
            at += size
        return np.concatenate([parts[name] for name in self._layout.sizes])

    @property
    def devices(self) -> int:
        """The most that can be in a sum."""
        return self._parameters.cohort

    def add_missing_noise(
        self, words: NDArray[np.uint32], participants: int, random_bytes: RandomBytes
    ) -> NDArray[np.uint32]:
        """The words of a sum with the noise of all devices of the terms in them, of which `participants` added theirs."""
        return add_missing_noise(words, self._parameters, random_bytes, survivors=participants)

    def clip_bits(self, words: NDArray[np.uint32], participants: int) -> float | None:
        """Noisy number of `participants` whose update was within the clip, from the words of `decode`; None where nobody was asked.

        Noise may take it below 0 or above `participants`.

        Raises:
            ProtocolError: as `decode`.
        """
        if self._bit is None:
            return None
        mean = decode(words, self._parameters, survivors=participants, rotation_seed=self._seed)
        return participants * (float(mean[-1]) / self._bit.weight + 0.5)

    def noise_std(self, name: str) -> float:
        """Largest standard deviation, in the unit of the decoded sum, of each entry of a part: with all devices in it."""
        p = self._parameters
        return p.local_std * math.sqrt(p.cohort) / self._weights[name]

    @property
    def _seed(self) -> bytes:
        return bytes.fromhex(self._noise.rotation_seed)


_DEVICES: Final = frozenset({"examples", "votes"})
"""What counts devices under noise, where each has one vote; the server knows it anyway."""
_LOSSES: Final = frozenset({"candidate_loss", "champion_loss"})
_PER_DEVICE: Final = frozenset({"range_low", "range_high", "threshold_votes"})
_PER_WINDOW_COUNTS: Final = frozenset(
    {
        "candidate_scores",
        "champion_scores",
        "candidate_probe_scores",
        "champion_probe_scores",
    }
)
# At its own age a device counts each window once; ages are so far apart that where it plays being younger it counts fewer.
_OF_EACH_AGE: Final = frozenset(
    f"{name}_{age}" for name in ("age_windows", "openings", "in_alarm") for age in AGES
)
_COUNTS: Final = _PER_WINDOW_COUNTS | {"examples", "feature_counts"}


def suggested_clip(layout: AnswerLayout, update_clip: float) -> float:
    """The norm of a whole scaled answer: for an update its clip, for an assessment that of its twelve parts."""
    if "update" in layout.sizes:
        return update_clip
    return math.sqrt(len(layout.sizes) - 1)


def exact_word_bits(layout: AnswerLayout, *, devices: int, maximum_examples: int) -> int:
    """How large the words of a sum without noise are: a count of all devices' examples fits one.

    Where a part is as fine as its word allows (an update, correlations), all are of 32 bits.

    Raises:
        QuestionError: as `part_bound`.
    """
    bounds = [part_bound(name, maximum_examples=maximum_examples) for name in layout.sizes]
    if any(bound.resolution is None for bound in bounds):
        return MAX_WORD_BITS
    return min((devices * maximum_examples).bit_length() + 1, MAX_WORD_BITS)


def part_bound(name: str, *, maximum_examples: int, norm_limit: float = 1.0) -> PartBound:
    """How large an entry of a part may be on one device, and in which steps it is written where nothing is noised.

    Steps follow from what is read from a sum of n devices, whose rounding adds up to about step·√n/2. How devices differ is a
    difference of two large sums, and matters from a thousandth on: a scale's logarithms and their squares are written to a
    ten-thousandth and finer, a spread's figures to a millionth. Openings are counts; their squares per window are of the size of a rate.

    Raises:
        QuestionError: no part is called that.
    """
    n = float(maximum_examples)
    bounds = {
        "update": PartBound(bound=norm_limit),
        "votes": PartBound(bound=1.0, resolution=1.0),
        "scale_logs": PartBound(bound=LOG_LIMIT, resolution=1e-5),
        "scale_squares": PartBound(bound=LOG_LIMIT**2, resolution=1e-4),
        # The trigamma function at half a degree of freedom is π²/2.
        "scale_uncertainty": PartBound(bound=5.0, resolution=1e-5),
        "correlation": PartBound(bound=1.0),
        "wander": PartBound(bound=WANDER_LIMIT),
        **dict.fromkeys(("spread_squares", "spread_error"), PartBound(bound=1.0, resolution=1e-6)),
        # Of C openings in N windows: an alarm takes six, or is the only one in a stretch of four.
        **{f"openings_squares_{age}": PartBound(bound=n / 16, resolution=1e-4) for age in AGES},
        **dict.fromkeys(
            ("scale_devices", "spread_devices", *(f"age_devices_{age}" for age in AGES)),
            PartBound(bound=1.0, resolution=1.0),
        ),
        "feature_sum": PartBound(bound=n * FEATURE_LIMIT, resolution=1e-3),
        **dict.fromkeys(_LOSSES, PartBound(bound=n * LOSS_LIMIT, resolution=LOSS_STEP)),
        **dict.fromkeys(_PER_DEVICE, PartBound(bound=1.0, resolution=1.0)),
        "feature_squares": PartBound(bound=n * FEATURE_LIMIT**2, resolution=1e-3),
        **dict.fromkeys(_COUNTS | _OF_EACH_AGE, PartBound(bound=n, resolution=1.0)),
    }
    if name not in bounds:
        raise QuestionError(f"no bound is known for the part {name!r} of an answer")
    return bounds[name]


def _weight(name: str, layout: AnswerLayout) -> float:
    """What a part is multiplied with, so that each part's norm is at most 1; an update has its own clip."""
    if name in _LOSSES:
        return 1.0 / NOISED_LOSS_LIMIT
    if name in {"update", "threshold_votes"} or name in _PER_WINDOW_COUNTS:
        return 1.0
    size = layout.sizes[name]
    features = layout.sizes.get("feature_sum", 1)
    match name:
        case "range_low" | "range_high":
            # One bin of each tensor's histogram is 1; the number of tensors follows from the layout.
            return 1.0 / math.sqrt(_tensors(size))
        case "feature_counts":
            return 1.0 / math.sqrt(features)
        case "feature_sum":
            return 1.0 / (math.sqrt(features) * FEATURE_LIMIT)
        case "feature_squares":
            return 1.0 / (math.sqrt(features) * FEATURE_LIMIT**2)
        case _:
            raise QuestionError(f"no weight is known for the part {name!r} of an answer")


def _tensors(size: int) -> int:
    return max(size // RANGE_GRID.bins, 1)


def _within(vector: Float, norm: float) -> Float:
    length = float(np.linalg.norm(vector))
    return vector if length <= norm else vector * (norm / length)
