"""Float against int8 for every release: what quantising a candidate costs, measured where no recording is.

The comparison needs windows, and the cloud has none. Probes are drawn from the fleet's summed feature histograms,
feature by feature. Independent draws are harder to reconstruct than real windows, so an autoencoder's probes are
pulled towards their reconstruction until their mean score is the one the devices reported:

    x0 ~ histograms ─► y = model(x0) ─► probe = y + c · (x0 - y),   c² = reported mean score / mean score of x0, ≤ 1

A classifier's are pulled towards the mean window until no activation leaves the range that the fleet reported: where int8 saturates,
real windows never are.

Windows inside the ranges cannot show that the ranges are too narrow. So an autoencoder is also asked about livelier windows, the
same times `assessment.RANGE_MARGIN`, as a machine gives that differs from those that were seen; and about slightly disturbed ones: int8
must see as many of them over the threshold as float does (`models.sight`).

What they tell against what real held-out windows tell (`python benchmarks/quantization.py error`): on bearings 1.0 of the score's
error and 2.4 times the output's, on digits 0.7 of the score's and 8 times the output's. So the gate, which takes the output's,
errs on the careful side. A device checks a release with the golden vectors, and its learner logs both errors on the device's
own windows (`models.int8_agreement`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aggregator.errors import ExportFailedError
from aggregator.rounds.assessment import RANGE_MARGIN, Assessment, tensor_ranges
from aggregator.rounds.candidates import Candidate
from models import reference_model
from models.architecture import Architecture
from models.errors import ModelError
from models.int8_model import Int8Model
from models.sight import sight
from models.standardiser import CLIP
from protocol.grids import FEATURE_GRID

__all__ = ["PROBES", "Int8Report", "compare_int8", "draw_probes", "typical_windows"]

PROBES: Final = 512
"""Enough that the mean squared error is stable to a few percent; 512 inferences take a few milliseconds."""

_SMALLEST: Final = 1e-12

_LEAST_POWER: Final = 0.01
"""Of the windows'. A detector of one column answers each with its mean, which is zero but for luck: no error is small beside that."""

_PULLS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""How far from the mean window a classifier's probe may lie, the largest that fits; 0 always does, or nearly."""

_ROUNDING: Final = 1e-4
"""Ranges were found in float32."""


@dataclass(frozen=True, kw_only=True)
class Int8Report:
    """What the int8 model of a candidate loses and saves.

    Attributes:
        output_error: mean squared difference of int8 and float outputs over the mean square of the float outputs.
        lively_error: the same on livelier windows.
        sight: share of slightly disturbed windows over the threshold, in int8.
        float_sight: in float.
        score_error: mean absolute difference of the anomaly scores over the mean float score.
        disagreement: share of probes that a classifier puts into another class; 0 for an autoencoder.
        int8_bytes: the int8 ``.tflite``.
        float_bytes: the parameters as float32.
        is_per_channel: does a weight have one scale for each output?
    """

    output_error: float
    lively_error: float
    sight: float
    float_sight: float
    score_error: float
    disagreement: float
    int8_bytes: int
    float_bytes: int
    is_per_channel: bool

    def evaluation(self) -> dict[str, float]:
        """The figures as a release's provenance holds them."""
        return {
            "int8_error": self.output_error,
            "int8_lively_error": self.lively_error,
            "int8_sight": self.sight,
            "float_sight": self.float_sight,
            "int8_score_error": self.score_error,
            "int8_disagreement": self.disagreement,
            "int8_bytes": float(self.int8_bytes),
            "float_bytes": float(self.float_bytes),
            "int8_per_channel": float(self.is_per_channel),
        }


def compare_int8(candidate: Candidate, int8_model: bytes, assessment: Assessment, *, seed: int) -> Int8Report:
    """Run float and int8 side by side on `PROBES` probes from `seed`.

    Raises:
        ExportFailedError: LiteRT refuses the int8 model that was just made.
    """
    architecture, parameters = candidate.architecture, candidate.parameters
    probes = typical_windows(architecture, parameters, assessment, np.random.default_rng(seed))
    lively = probes if architecture.is_classifier else np.clip(RANGE_MARGIN * probes, -CLIP, CLIP)
    expected, expected_score = reference_model.infer(architecture, parameters, probes)
    lively_expected, _ = reference_model.infer(architecture, parameters, lively)

    def float_scores(rows: NDArray[np.float32]) -> NDArray[np.float64]:
        return reference_model.infer(architecture, parameters, rows)[1]

    def int8_scores(rows: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.array([model.infer_and_score(row)[1] for row in rows])

    def seen(score_rows: Callable[[NDArray[np.float32]], NDArray[np.float64]]) -> float:
        return sight(score_rows, probes, candidate.threshold.score, sensors=architecture.layers[0])

    try:
        model = Int8Model(int8_model, architecture.kind)
        got, lively_got = (
            np.array([model.infer(probe) for probe in rows.astype(np.float32)], np.float64)
            for rows in (probes, lively)
        )
        int8_sight = seen(int8_scores)
    except ModelError as error:
        raise ExportFailedError(f"the int8 model of {candidate.family} does not run: {error}") from error
    score = reference_model.scores(architecture.kind, probes, got)
    changed = np.argmax(got, axis=1) != np.argmax(expected, axis=1)
    return Int8Report(
        output_error=_relative_error(got, expected, probes),
        lively_error=_relative_error(lively_got, lively_expected, lively),
        sight=int8_sight,
        float_sight=seen(float_scores),
        score_error=float(
            np.mean(np.abs(score - expected_score)) / max(float(np.mean(expected_score)), _SMALLEST)
        ),
        disagreement=float(np.mean(changed)) if architecture.is_classifier else 0.0,
        int8_bytes=len(int8_model),
        float_bytes=4 * architecture.parameter_count,
        is_per_channel=candidate.int8.weight_scales == "per-channel",
    )


def _relative_error(
    got: NDArray[np.float64], expected: NDArray[np.float64], windows: NDArray[np.float64]
) -> float:
    """Mean squared difference over the mean square of what was expected, or over a hundredth of the windows' where next to nothing was."""
    power = max(float(np.mean(expected**2)), _LEAST_POWER * float(np.mean(windows**2)), _SMALLEST)
    return float(np.mean((got - expected) ** 2) / power)


def typical_windows(
    architecture: Architecture,
    parameters: NDArray[np.floating],
    assessment: Assessment,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Probes (PROBES, F) with the fleet's feature histograms, made as harmless to the model as its real windows are.

    Raises:
        SumError: no device reported a range of some tensor.
    """
    low, high = tensor_ranges(assessment, margin=1.0)
    # A bin is wider than a feature may be: the fleet's own input range ends it.
    drawn = np.clip(draw_probes(assessment.feature_counts, rng), low[0], high[0])
    if architecture.is_classifier:
        return _within_ranges(architecture, parameters, drawn, low, high)
    output, score = reference_model.infer(architecture, parameters, drawn)
    share = assessment.candidate_loss / max(float(np.mean(score)), _SMALLEST)
    return np.asarray(output + np.sqrt(np.clip(share, 0.0, 1.0)) * (drawn - output))


def _within_ranges(
    architecture: Architecture,
    parameters: NDArray[np.floating],
    drawn: NDArray[np.float64],
    low: NDArray[np.floating],
    high: NDArray[np.floating],
) -> NDArray[np.float64]:
    """Each window pulled towards the mean one until no activation leaves what the fleet saw."""
    centre = drawn.mean(axis=0)
    windows = np.tile(centre, (len(drawn), 1))
    for share in _PULLS:
        pulled = centre + share * (drawn - centre)
        tensors = reference_model.activations(architecture, parameters, pulled)
        is_inside = np.ones(len(drawn), bool)
        for tensor, bottom, top in zip(tensors, low, high, strict=True):
            rows = tensor.reshape(len(drawn), -1)
            is_inside &= (rows >= bottom - _ROUNDING).all(axis=1) & (rows <= top + _ROUNDING).all(axis=1)
        windows[is_inside] = pulled[is_inside]
    return windows


def draw_probes(feature_counts: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Windows (PROBES, features) whose every feature is distributed as the fleet's histogram of it says."""
    edges = np.concatenate([FEATURE_GRID.edges[:1], FEATURE_GRID.edges, FEATURE_GRID.edges[-1:]])
    columns = []
    # Under a secure sum a device that lies can leave a negative count, of which no window can be drawn.
    for counts in np.maximum(feature_counts, 0.0):
        # A noised sum may leave a feature without a count above the noise: then nothing is known of it.
        share = counts / counts.sum() if counts.sum() > 0 else np.full(len(counts), 1 / len(counts))
        bins = rng.choice(len(counts), size=PROBES, p=share)
        columns.append(rng.uniform(edges[bins], edges[bins + 1]))
    return np.stack(columns, axis=1)
