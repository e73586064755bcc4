"""What a liar adds to its masked input it adds to the sum, modulo 2^b, whatever masks there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from protocol.names import DeviceId
from protocol.questions import FIT
from protocol.secure_sum import messages
from protocol.secure_sum.masks import pack_words, unpack_words

UNIT = 2**31 // 5
"""About what a device's update at the limit is in words: a sum of four, or five, is written in 32 bits."""

Lie = Callable[[np.ndarray], None]


def lying(liars: Mapping[DeviceId, Lie], kind: str = FIT) -> Callable[[str, DeviceId, bytes], bytes]:
    """What a world's `spoil` does where these devices lie in answer to a `kind` of question."""

    def spoil(stage: str, device: DeviceId, content: bytes) -> bytes:
        if stage != kind or device not in liars:
            return content
        masked = messages.decode(content, messages.MaskedInput)
        # Of other kinds words are smaller and lie across bytes; who wrecks them need not know where.
        bits = 32 if kind == FIT else 8
        words = unpack_words(masked.words, 8 * len(masked.words) // bits, bits)
        liars[device](words)
        bent = pack_words(words & np.uint32((1 << bits) - 1), bits)
        return messages.encode(
            messages.MaskedInput(session=masked.session, round_number=masked.round_number, words=bent)
        )

    return spoil


def add(votes: int = 0, update: float = 0.0) -> Lie:
    """So many votes, and so many times the longest update, in all entries together."""

    def lie(words: np.ndarray) -> None:
        words[-1:] += np.uint32(votes % 2**32)
        parameters = len(words) - 1
        words[:-1] += np.uint32(round(update / np.sqrt(parameters) * UNIT) % 2**32)

    return lie


def wreck(words: np.ndarray) -> None:
    """Any words, but for the last, whose unused bits would give it away."""
    words[:-1] += np.random.default_rng(1).integers(0, 2**32, len(words) - 1, dtype=np.uint32)
