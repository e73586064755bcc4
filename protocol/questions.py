"""What the aggregator asks in a Flower round, and the one vector a device answers with.

Every answer is a flat float32 vector whose entries ADD UP over devices: a mean travels as a sum and what to divide it by. So the
server needs nothing but sums, and a secure sum can stand where the plain one stands without a change on either side.

A question names a run, a round and what it is about; its arrays come along. How narrowly a device looks at its windows (which count,
how many, how it trains, how it shuffles) is the signed profile's and the device's own: a server that could choose it could ask about
one window.

    question                 arrays sent                answer (all entries add up)
    ``train.fit``            parameters                 w' - w, and one vote
    ``evaluate.scale``                                  how much each sensor varies, as logarithms that add up
    ``evaluate.covariance``  scale prior                correlations and wander (upper triangles), and how uncertain they are
    ``evaluate.curve``       scale prior, those sums    openings and windows in alarm at each level, for detectors of each age
    ``evaluate.assess``      candidate                  n, losses, histograms of scores and of probes' scores, tensor ranges, feature counts

A kind is also the Flower message type, and it alone fixes the layout of the answer, so that a device can plan its masked words
before it is shown the question.

On the wire a Flower message's RecordDict holds ``ConfigRecord "question"`` = {"json": <question>} and
``ArrayRecord "arrays"``; the reply holds ``ArrayRecord "answer"`` = {"vector": float32[size]}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from protocol.errors import QuestionError
from protocol.grids import FEATURE_GRID, RANGE_GRID, SCORE_GRID
from protocol.refit_sizes import covariance_sizes, curve_sizes, scale_sizes
from runtime.unreadable import UNREADABLE

__all__ = [
    "ASSESS",
    "COVARIANCE",
    "CURVE",
    "FIT",
    "HOLD_OUT_EVERY",
    "KINDS",
    "REFIT_KINDS",
    "SCALE",
    "TRAINING_KINDS",
    "WHOLE_MESSAGES_HEADER",
    "AnswerLayout",
    "AssessQuestion",
    "CovarianceQuestion",
    "CurveQuestion",
    "FitQuestion",
    "Kind",
    "Question",
    "ScaleQuestion",
    "answer_layout",
    "assess_layout",
    "decode_question",
    "encode_question",
    "fit_layout",
    "kind_of",
]

Kind = Literal[
    "train.fit",
    "evaluate.assess",
    "evaluate.scale",
    "evaluate.covariance",
    "evaluate.curve",
]

FIT: Final = "train.fit"
ASSESS: Final = "evaluate.assess"
SCALE: Final = "evaluate.scale"
COVARIANCE: Final = "evaluate.covariance"
CURVE: Final = "evaluate.curve"

TRAINING_KINDS: Final = frozenset({FIT})
"""Kinds whose answer is an update."""

REFIT_KINDS: Final[tuple[Kind, ...]] = (SCALE, COVARIANCE, CURVE)
"""The questions whose sums become a fleet's prior, in the order in which each needs what came of the one before."""

KINDS: Final[tuple[Kind, ...]] = (FIT, ASSESS, *REFIT_KINDS)

HOLD_OUT_EVERY: Final = 5
"""One window in five is for grading, and none of them trains: 20 %, on devices and at the issuer."""

WHOLE_MESSAGES_HEADER: Final = "fedge-whole-messages"
"""HTTP header of a device that takes, and sends, a Flower message with its content inside instead of as a tree of objects."""

Positive = Annotated[int, Meta(ge=1)]


class FitQuestion(Struct, frozen=True, kw_only=True, tag="fit"):
    """Train from `parameters` on your own windows, as the profile says, and answer with the update.

    `round_number` counts from 1. Devices refuse a `layout_sha256` or `profile_sha256` that is not the one of their release. An update
    that missed its own round enters a later one as far as the profile lets it.
    """

    run_id: str
    round_number: Positive
    layout_sha256: str
    profile_sha256: str


class ScaleQuestion(Struct, frozen=True, kw_only=True, tag="scale"):
    """Say how much each sensor varies in its own units."""

    run_id: str
    layout_sha256: str
    profile_sha256: str


class CovarianceQuestion(Struct, frozen=True, kw_only=True, tag="covariance"):
    """Say how the sensors vary together, in units of the scale that follows from the prior which comes along.

    Arrays: `scale_log_variance` and `scale_freedom`, (F,) each.
    """

    run_id: str
    layout_sha256: str
    profile_sha256: str


class CurveQuestion(Struct, frozen=True, kw_only=True, tag="curve"):
    """Count how often detectors of each age would have alarmed at each level, on windows they were not fitted on.

    Arrays as of a `CovarianceQuestion`, and the sums of its answers: `correlation` and `wander` as upper triangles, the others here.
    It is for devices that are in those sums, `devices` of them, and for nobody else: each takes itself out before it counts. Where a fleet
    is asked in groups the sums are those of the others (`holds_own` is false), and there is nothing to take out.
    """

    run_id: str
    layout_sha256: str
    profile_sha256: str
    devices: Positive
    squares: Annotated[float, Meta(ge=0)]
    error: Annotated[float, Meta(ge=0)]
    holds_own: bool = True


class AssessQuestion(Struct, frozen=True, kw_only=True, tag="assess"):
    """Score held-out windows with `candidate` and your own release, as they are and slightly disturbed; count scores and features.

    The candidate's scores and tensor ranges of all windows, trained on or not, are counted besides, for the threshold and for int8.
    """

    run_id: str
    layout_sha256: str
    profile_sha256: str


Question = FitQuestion | ScaleQuestion | CovarianceQuestion | CurveQuestion | AssessQuestion
_decoder: Final = msgspec.json.Decoder(Question)


_KIND_OF: Final[Mapping[type, Kind]] = {
    FitQuestion: FIT,
    ScaleQuestion: SCALE,
    CovarianceQuestion: COVARIANCE,
    CurveQuestion: CURVE,
    AssessQuestion: ASSESS,
}


def kind_of(question: Question) -> Kind:
    """What a question is called on the wire, in terms and in the privacy ledger."""
    return _KIND_OF[type(question)]


def encode_question(question: Question) -> str:
    """JSON for the ``question`` config record."""
    return msgspec.json.encode(question).decode()


def decode_question(text: str) -> Question:
    """Read a question; raises QuestionError where it is none this build knows."""
    try:
        question: Question = _decoder.decode(text)
    except UNREADABLE as error:
        raise QuestionError(f"not a round question this build knows: {error}") from None
    return question


@dataclass(frozen=True)
class AnswerLayout:
    """Which named vector lies where in the flat answer. `sizes` is ordered.

    >>> layout = fit_layout(parameter_count=2)
    >>> one = {"update": np.array([1.0, 2.0]), "votes": 1}
    >>> both = layout.unpack(layout.pack(one) + layout.pack(one))
    >>> both["update"] / both["votes"]
    array([1., 2.])
    """

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
    """Layout of the answer to ``train.fit``; `update` is w' - w.

    One vote a device, however many windows it has, and no loss: a device that trained says 1, one whose training failed adds nothing.
    """
    return AnswerLayout({"update": parameter_count, "votes": 1})


def answer_layout(kind: Kind, *, parameter_count: int, tensor_count: int, feature_count: int) -> AnswerLayout:
    """Layout of the answer to a question of `kind` about a model of these sizes; raises QuestionError for an unknown kind."""
    layouts: Mapping[Kind, Callable[[], AnswerLayout]] = {
        FIT: lambda: fit_layout(parameter_count),
        SCALE: lambda: AnswerLayout(scale_sizes(feature_count)),
        COVARIANCE: lambda: AnswerLayout(covariance_sizes(feature_count)),
        CURVE: lambda: AnswerLayout(curve_sizes()),
        ASSESS: lambda: assess_layout(tensor_count, feature_count),
    }
    if kind not in layouts:
        raise QuestionError(f"no question is called {kind!r}; known are {', '.join(KINDS)}")
    return layouts[kind]()


def assess_layout(tensor_count: int, feature_count: int) -> AnswerLayout:
    """Layout of the answer to ``evaluate.assess``.

    `tensor_count` is the number of activation tensors of the model (its input first). `range_low[t]` counts one
    in the RANGE_GRID bin of tensor t's minimum, `range_high` likewise its maximum; `feature_counts` is
    (feature, FEATURE_GRID bin); losses are n·mean score. All count the n held-out windows, but `threshold_votes` and the ranges: there a
    device has one vote, by all its healthy windows, those too that the candidate was trained on. `*_probe_scores` count each held-out window once more,
    slightly disturbed (`models.sight`): what of them lies above a threshold that only the sum will tell is the sight.

    Older builds know no probes: their answers are shorter and are refused by their length.
    """
    return AnswerLayout(
        {
            "examples": 1,
            "candidate_loss": 1,
            "champion_loss": 1,
            "candidate_scores": SCORE_GRID.bins,
            "champion_scores": SCORE_GRID.bins,
            "candidate_probe_scores": SCORE_GRID.bins,
            "champion_probe_scores": SCORE_GRID.bins,
            "threshold_votes": SCORE_GRID.bins,
            "range_low": tensor_count * RANGE_GRID.bins,
            "range_high": tensor_count * RANGE_GRID.bins,
            "feature_counts": feature_count * FEATURE_GRID.bins,
            "feature_sum": feature_count,
            "feature_squares": feature_count,
        }
    )
