"""A group's sum as the server decodes it: honest answers as devices encode them, lies as words, and what the checks say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aggregator.rounds.sum_checks import check_sum
from aggregator.rounds.sum_policy import SumPolicy
from poisoning_lab.attacks import lying_words
from protocol.questions import AnswerLayout, Kind
from protocol.secure_answers import make_encoding

__all__ = ["MOST_EXAMPLES", "RANDOM_WORDS", "Answer", "sum_answers"]

Float = NDArray[np.float64]

MOST_EXAMPLES: Final = 10_000

RANDOM_WORDS: Final[Mapping[str, Float]] = {}
"""Of a liar: it sends words at random."""

Answer = tuple[Mapping[str, Float], bool]
"""The parts, and whether they are a lie: then nobody clips them."""


def sum_answers(
    kind: Kind,
    layout: AnswerLayout,
    answers: Sequence[Answer],
    *,
    norm_limit: float,
    is_checked: bool,
    rng: np.random.Generator,
) -> Float:
    """The group's sum (layout.total,); raises AnswerRefusedError where the checks leave it out."""
    policy = SumPolicy(norm_limit=norm_limit, maximum_examples=MOST_EXAMPLES)
    devices = len(answers)
    terms = policy.terms(
        run_id="r",
        kind=kind,
        number=1,
        layout=layout,
        devices=devices,
        quorum=devices,
        rotation_seed="0" * 32,
    )
    encoding = make_encoding(layout, terms)
    words = np.zeros(encoding.word_count, np.uint32)
    for parts, is_lie in answers:
        if not is_lie:
            words += encoding.encode(layout.pack(parts), rng.bytes)
        elif parts is RANDOM_WORDS:
            words += rng.integers(0, 2**32, len(words), np.uint32)
        else:
            words += lying_words(encoding, layout, parts, rng)
    total = encoding.decode(words & np.uint32((1 << encoding.word_bits) - 1), devices)
    if is_checked:
        check_sum(kind, layout.unpack(total), devices, encoding.precision)
    return total
