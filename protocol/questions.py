"""What the aggregator asks in a Flower round, and the one vector a device answers with.

Every answer is a flat float32 vector whose entries ADD UP over devices: a device multiplies by its own example
count, the server divides the sum. So the server needs nothing but sums, and a secure sum can stand where the plain
one stands without a change on either side.

    question                 arrays sent                answer (all entries add up)
    ``train.fit``            parameters                 n·(w' - w), n, n·loss before, n·loss after
    ``evaluate.assess``      candidate, champion        n, losses, score histograms, tensor ranges, feature counts

On the wire a Flower message's RecordDict holds ``ConfigRecord "question"`` = {"json": <question>} and
``ArrayRecord "arrays"``; the reply holds ``ArrayRecord "answer"`` = {"vector": float32[size]}.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from protocol.errors import QuestionError
from protocol.grids import FEATURE_GRID, RANGE_GRID, SCORE_GRID

__all__ = [
    "ASSESS",
    "FIT",
    "WHOLE_MESSAGES_HEADER",
    "AnswerLayout",
    "AssessQuestion",
    "FitQuestion",
    "assess_layout",
    "decode_question",
    "encode_question",
    "fit_layout",
]

FIT: Final = "train.fit"
ASSESS: Final = "evaluate.assess"

WHOLE_MESSAGES_HEADER: Final = "fedge-whole-messages"
"""HTTP header of a device that takes, and sends, a Flower message with its content inside instead of as a tree of objects."""

Positive = Annotated[int, Meta(ge=1)]


class FitQuestion(Struct, frozen=True, kw_only=True, tag="fit"):
    """Train from `parameters` on your own windows and answer with the weighted update.

    `round_number` counts from 1. `seed` shuffles batches. `proximal` is FedProx' μ (0: off). `learning_rate` is
    per step. Devices refuse a `layout_sha256` that is not the one of the model they run.
    """

    run_id: str
    round_number: Positive
    layout_sha256: str
    epochs: Positive
    batch_size: Positive
    learning_rate: Annotated[float, Meta(gt=0)]
    proximal: Annotated[float, Meta(ge=0)] = 0.0
    maximum_examples: Positive = 100_000
    seed: int = 0


class AssessQuestion(Struct, frozen=True, kw_only=True, tag="assess"):
    """Score held-out windows with `candidate` and `champion`; count scores, tensor ranges and features."""

    run_id: str
    layout_sha256: str


Question = FitQuestion | AssessQuestion
_decoder: Final = msgspec.json.Decoder(Question)


def encode_question(question: Question) -> str:
    """JSON for the ``question`` config record."""
    return msgspec.json.encode(question).decode()


def decode_question(text: str) -> Question:
    """Read a question; raises QuestionError where it is none this build knows."""
    try:
        question: Question = _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise QuestionError(f"not a round question this build knows: {error}") from None
    return question


@dataclass(frozen=True)
class AnswerLayout:
    """Which named vector lies where in the flat answer. `sizes` is ordered."""

    sizes: Mapping[str, int]

    @property
    def total(self) -> int:
        """Length of the flat vector."""
        return sum(self.sizes.values())

    def pack(self, parts: Mapping[str, NDArray[np.floating]]) -> NDArray[np.float32]:
        """Lay named parts out as one float32 vector; raises QuestionError for a missing, surplus or misshapen part."""
        if parts.keys() != self.sizes.keys():
            raise QuestionError(f"an answer needs exactly {list(self.sizes)}, got {list(parts)}")
        flat = []
        for name, size in self.sizes.items():
            part = np.asarray(parts[name], np.float32).ravel()
            if part.size != size:
                raise QuestionError(f"{name!r} of an answer must have {size} entries, got {part.size}")
            flat.append(part)
        return np.concatenate(flat)

    def unpack(self, vector: NDArray[np.floating]) -> dict[str, NDArray[np.float64]]:
        """Name the parts of a flat answer or sum, as float64; raises QuestionError for another length."""
        if vector.shape != (self.total,):
            raise QuestionError(f"an answer must have shape ({self.total},), got {vector.shape}")
        parts, at = {}, 0
        for name, size in self.sizes.items():
            parts[name] = np.asarray(vector[at : at + size], np.float64)
            at += size
        return parts


def fit_layout(parameter_count: int) -> AnswerLayout:
    """Layout of the answer to ``train.fit``; `weighted_update` is n·(w' - w)."""
    return AnswerLayout(
        {"weighted_update": parameter_count, "examples": 1, "loss_before": 1, "loss_after": 1}
    )


def assess_layout(tensor_count: int, feature_count: int) -> AnswerLayout:
    """Layout of the answer to ``evaluate.assess``.

    `tensor_count` is the number of activation tensors of the model (its input first). `range_low[t]` counts one
    in the RANGE_GRID bin of tensor t's minimum, `range_high` likewise its maximum; `feature_counts` is
    (feature, FEATURE_GRID bin); losses are n·mean score.
    """
    return AnswerLayout(
        {
            "examples": 1,
            "candidate_loss": 1,
            "champion_loss": 1,
            "candidate_scores": SCORE_GRID.bins,
            "champion_scores": SCORE_GRID.bins,
            "range_low": tensor_count * RANGE_GRID.bins,
            "range_high": tensor_count * RANGE_GRID.bins,
            "feature_counts": feature_count * FEATURE_GRID.bins,
            "feature_sum": feature_count,
            "feature_squares": feature_count,
        }
    )
