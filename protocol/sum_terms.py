"""The terms of a secure round: what a device's answer is turned into before it is masked, and what binds all to the same terms.

::

    SumTerms ─┐
    question ─┼─► config hash ─┐
    arrays ───┴─► model hash ──┴─► announcement (`protocol.secure_sum.messages`) ─► every pair seed

The terms travel with the announcement, before a device gives anything; the question and the model travel with the stage in
which the masked answer is due. A device hashes what it really received: whoever is shown other terms, another question or another model
than its neighbours produces masks that do not cancel.

On the wire each stage is a Flower message with ``ConfigRecord "sum"`` = {"message": <MessagePack>}, the first with "terms" (JSON)
beside it, the masked-input stage with "question" and "arrays" as in `protocol.questions`; replies carry "sum" as well.

Not the encoding itself (`protocol.secure_answers`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType
from numpy.typing import NDArray

from protocol.errors import QuestionError
from protocol.questions import Kind
from runtime.unreadable import UNREADABLE

__all__ = [
    "NoiseTerms",
    "SumStage",
    "SumTerms",
    "decode_terms",
    "encode_terms",
    "hash_arrays",
    "hash_question",
]

Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
Above = Annotated[float, Meta(gt=0)]


class SumStage(StrEnum):
    """Flower message types of the stages; the masked input travels under the question's own (`protocol.questions.Kind`)."""

    ADVERTISE = "query.advertise"
    SHARE = "query.share_keys"
    CONFIRM = "query.confirm"
    UNMASK = "query.unmask"


class NoiseTerms(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Distributed differential privacy of one round; `clip` is the L2 norm of one device's whole scaled answer.

    `maximum_dropouts` of the round's devices may vanish and `colluders` may betray their own noise, and the planned multiplier still
    holds. `rotation_seed` is public. `delta` goes with every ε.

    With `clip_bit_noise` a device also says, in one more coordinate of the same vector and within the same `clip`, whether its update was
    short enough; it is the standard deviation, in devices, of the number that comes out. Unset it is not on the wire.
    """

    mechanism: Literal["discrete-gaussian", "skellam"] = "discrete-gaussian"
    clip: Above
    noise_multiplier: Above
    maximum_dropouts: Count
    colluders: Count = 0
    rotation_seed: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")]
    delta: Annotated[float, Meta(gt=0, lt=1)] = 1e-6
    clip_bit_noise: Above | UnsetType = UNSET


class SumTerms(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every device of a round does with its answer before it masks it.

    `devices` is the largest number of answers that can be in the sum. `norm_limit` bounds the L2 norm of one device's update,
    `maximum_examples` its counts; the device clips to both itself, because nobody else can see its answer.
    Without `noise` the sum is exact and says nothing about differential privacy. `maximum_participations` and
    `maximum_epsilon` are the run's caps; a device enforces the stricter of these and its owner's.
    """

    run_id: str
    question: Kind
    round_number: Count
    devices: Annotated[int, Meta(ge=1, le=16_384)]
    word_bits: Annotated[int, Meta(ge=2, le=32)] = 32
    norm_limit: Above
    maximum_examples: Positive
    noise: NoiseTerms | None = None
    maximum_participations: Positive | None = None
    maximum_epsilon: Above | None = None


MAX_TERMS_BYTES: Final = 4096
_decoder: Final = msgspec.json.Decoder(SumTerms)


def encode_terms(terms: SumTerms) -> str:
    """JSON; the same terms always give the same text."""
    return msgspec.json.encode(terms).decode()


def decode_terms(text: str) -> SumTerms:
    """Read terms; raises QuestionError for anything that is none."""
    if len(text) > MAX_TERMS_BYTES:
        raise QuestionError(f"terms of {len(text)} characters; at most {MAX_TERMS_BYTES} are read")
    try:
        return _decoder.decode(text)
    except UNREADABLE as error:
        raise QuestionError(f"not the terms of a secure round this build knows: {error}") from None


def hash_question(question: str, terms: str) -> bytes:
    """SHA-256 of a question and its terms, both as they travelled: an announcement's `config_hash`."""
    digest = hashlib.sha256(b"fedge/secure-sum/config/v1")
    for text in (question.encode(), terms.encode()):
        digest.update(len(text).to_bytes(8, "big") + text)
    return digest.digest()


def hash_arrays(arrays: Mapping[str, NDArray[np.float32]]) -> bytes:
    """SHA-256 of the named vectors that go with a question, in the order of their names: an announcement's `model_hash`."""
    digest = hashlib.sha256(b"fedge/secure-sum/model/v1")
    for name in sorted(arrays):
        content = np.ascontiguousarray(arrays[name], "<f4").tobytes()
        for part in (name.encode(), content):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()
