"""Whether what was trained is a detector at all, by name and with a remedy: the checks that every release passes.

`gate` compares a candidate with the champion; here nothing is compared, but for the sight. A model that answers every window alike, a
scale that clips half of what it sees, a threshold that no window can reach: each makes a release that installs, runs and never alarms.

Pure: sums, parameters and the finished int8 model go in. Not here: whether a detector is good (nobody has labels), only that it is
none of the known kinds of dead and deaf. The limits are of orders of magnitude, chosen on generated faults, never on a label.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator.errors import ExportFailedError
from aggregator.rounds.assessment import Assessment
from aggregator.rounds.candidates import Candidate
from aggregator.rounds.runs import Check
from models.architecture import Architecture
from models.errors import ModelError
from models.int8_model import Int8Model
from models.standardiser import CLIP
from protocol.manifest import FeatureSpec, ThresholdSpec
from protocol.questions import HOLD_OUT_EVERY

__all__ = [
    "MOST_SIGHT_LOST",
    "check_first_sight",
    "check_int8_model",
    "check_sight",
    "check_sums",
    "learned_share",
]

LEAST_LEARNED: Final = 0.05
"""Share of the windows' variance that a network must reconstruct. One that answers every window alike has 0, one component of twenty
independent sensors .05; networks on real machines have .5 to .95."""

MOST_COPIED: Final = 0.99
"""Share that a network reconstructs whose every layer is as wide as its input: then it has learned to copy, a fault too. Its scores
are the rounding of int8, and so are its threshold and its sight."""

LEAST_OUTPUT: Final = 1e-3
"""Variance of a network's outputs over that of its inputs: a dead one has 0 but for int8's rounding."""

MOST_CLIPPED: Final = 0.1
CLIPPED_COLUMN: Final = 0.01
"""Shares of all values, and of one column's, that may lie at the end of the scale: of healthy Gaussian values 1e-15 do. From a hundredth
of a column a person is told, from a tenth of everything the scale is another machine's."""

HIGHEST_THRESHOLD: Final = 0.5
HIGH_THRESHOLD: Final = 0.25
"""Of the largest possible score: beyond half of it only windows whose every sensor is at its end can alarm."""

FEWEST_ROWS: Final = 50
"""In all, and at least two a feature: below that a covariance is singular and a tail is one window."""

FEWEST_OF_A_MACHINE: Final = 30
"""Of one recording, beyond its commissioning; as many as a device wants before it moves a threshold by its own scores."""

LEAST_FIRST_SIGHT: Final = 0.5
MOST_SIGHT_LOST: Final = 0.05

_CORNERS: Final = 128


def check_sums(
    assessment: Assessment,
    *,
    architecture: Architecture,
    threshold: ThresholdSpec,
    features: FeatureSpec,
    is_network: bool = True,
    is_exact: bool = True,
    machines: Mapping[str, int] | None = None,
    losses: tuple[float, float] | None = None,
) -> tuple[Check, Check, Check]:
    """Judge what was learned from, and whether anything was learned.

    Args:
        assessment: summed.
        architecture: of the candidate.
        threshold: proposed.
        features: names the columns; of raw windows each sample of a channel counts for it.
        is_network: a linear detector's loss is a distance, and is not judged.
        is_exact: noised sums are no ground for a refusal, and they count devices instead of windows.
        machines: rows of each machine beyond its commissioning; None where nobody may know (a fleet).
        losses: before and after training, for the sentence.
    """
    windows = HOLD_OUT_EVERY * assessment.examples
    checks = (
        _check_clipped(assessment, features),
        _check_rows(windows, architecture, threshold.quantile, machines or {}),
        _check_learned(assessment, architecture, losses, is_judged=is_network),
    )
    if is_exact:
        return checks
    clipped, rows, learned = (_only_warn(check) for check in checks)
    return clipped, rows, learned


def _only_warn(check: Check) -> Check:
    return msgspec.structs.replace(check, is_passed=True, is_warning=check.is_warning or not check.is_passed)


def _check_clipped(assessment: Assessment, features: FeatureSpec) -> Check:
    # Clipped values sit on the outer edges: below the first, and in the last bin that ends in one.
    counts = np.maximum(assessment.feature_counts, 0.0)
    at_end = counts[:, 0] + counts[:, -2] + counts[:, -1]
    columns = len(features.names)
    at_end, seen = (found.reshape(-1, columns).sum(axis=0) for found in (at_end, counts.sum(axis=1)))
    shares = at_end / np.maximum(seen, 1.0)
    whole = float(at_end.sum() / max(float(seen.sum()), 1.0))
    worst = [int(i) for i in np.argsort(-shares, kind="stable") if shares[i] > CLIPPED_COLUMN]
    if not worst:
        said = f"{whole:.2%} of the standardised values lie at the end of the scale (±{CLIP:g})"
    else:
        named = ", ".join(f"{features.names[i]} {shares[i]:.0%}" for i in worst[:8])
        more = f" and {len(worst) - 8} more" if len(worst) > 8 else ""
        said = (
            f"{whole:.1%} of the standardised values lie at the end of the scale (±{CLIP:g}), of single columns: {named}{more}. The rows"
            " that a machine's scale was fitted on do not show what it does: record it running, raise commissioning_rows, or leave the"
            " column out"
        )
    return Check(
        name="clipped",
        value=whole,
        limit=MOST_CLIPPED,
        is_passed=whole <= MOST_CLIPPED,
        is_warning=bool(worst),
        reason=said,
    )


def _check_rows(
    windows: int, architecture: Architecture, quantile: float, machines: Mapping[str, int]
) -> Check:
    """Whether there were enough windows for the model and for the threshold."""
    features, parameters = architecture.feature_count, architecture.parameter_count
    fewest = max(FEWEST_ROWS, 2 * features)
    tail = math.ceil(1 / (1 - quantile) - 1e-6)
    said = [f"{windows} windows of {features} features for {parameters} parameters"]
    if windows < fewest:
        said.append(f"at least {fewest} are needed: record more, or learn from more machines")
    if windows * features < parameters:
        said.append(
            "fewer values than parameters, which a network can learn by heart: take narrower layers, or record more"
        )
    if windows < tail:
        said.append(
            f"the threshold's quantile {quantile:g} of fewer than {tail} scores is the largest of them: record"
            " more, or set threshold.quantile lower"
        )
    if short := {name: n for name, n in machines.items() if n < FEWEST_OF_A_MACHINE}:
        named = ", ".join(f"{name} {n}" for name, n in list(short.items())[:8])
        said.append(
            f"machines with fewer than {FEWEST_OF_A_MACHINE} rows beyond their commissioning: {named}; they say little"
        )
    return Check(
        name="rows",
        value=float(windows),
        limit=float(fewest),
        is_passed=windows >= fewest,
        is_warning=len(said) > 1,
        reason="; ".join(said),
    )


def learned_share(assessment: Assessment) -> float:
    """Share of the windows' variance that the candidate reconstructs: 1 is a copy, 0 what answering every window alike gives."""
    n = max(float(assessment.examples), 1.0)
    mean = assessment.feature_sum / n
    spread = float(np.mean(np.maximum(assessment.feature_squares / n - mean**2, 0.0)))
    return 1.0 - assessment.candidate_loss / spread if spread > 0 else -math.inf


def _check_learned(
    assessment: Assessment, architecture: Architecture, losses: tuple[float, float] | None, *, is_judged: bool
) -> Check:
    """Whether a network's loss fell below that of answering every window with the mean of all."""
    share = learned_share(assessment)
    if not is_judged or architecture.is_classifier:
        return Check(
            name="learned",
            value=share,
            limit=LEAST_LEARNED,
            is_passed=True,
            reason="not a reconstructing network",
        )
    fell = f"loss {losses[0]:.4g} → {losses[1]:.4g}, " if losses else ""
    passed = math.isfinite(share) and share >= LEAST_LEARNED
    said = f"{fell}{share:.1%} of the windows' variance is reconstructed (at least {LEAST_LEARNED:.0%})"
    if not passed:
        said += (
            ": the network has learned nothing that the mean does not say. Let training.learning_rate find itself (leave it out), give"
            " more epochs, or a wider narrowest layer"
        )
    narrowest, features = min(architecture.layers), architecture.layers[0]
    could_copy = narrowest >= features and architecture.convolution is None
    if could_copy and share > MOST_COPIED:
        passed = False
        said += f" and at most {MOST_COPIED:.0%}: it copies, a fault too"
    if could_copy:
        said += (
            f"; no layer is narrower than its {features} features, so it can copy any fault: give layers a narrower one"
            if features > 1
            else "; of one feature it can copy any fault: take layers = [1, 4, 1], in whose place a linear detector is fitted"
        )
    return Check(
        name="learned",
        value=share,
        limit=LEAST_LEARNED,
        is_passed=passed,
        is_warning=could_copy,
        reason=said,
    )


def check_int8_model(
    candidate: Candidate, int8_model: bytes, *, is_network: bool, seed: int
) -> tuple[Check, Check]:
    """Whether the model that devices run answers different windows differently, and whether anything can reach its threshold.

    Args:
        candidate: with its threshold, and typical windows as its probes.
        int8_model: the ``.tflite``.
        is_network: a linear detector may answer every window with the mean, and measure the distance to it.
        seed: of the corners that the largest score is looked for in.

    Raises:
        ExportFailedError: LiteRT refuses the int8 model, or there are no probes.
    """
    probes = candidate.probes
    if probes is None or not len(probes):
        raise ExportFailedError(
            f"{candidate.family}/{candidate.version} comes without typical windows; nobody can say what it answers to them"
        )
    try:
        model = Int8Model(int8_model, candidate.architecture.kind)
        outputs = np.array([model.infer(row) for row in probes.astype(np.float32)], np.float64)
        corners = _corners(candidate.architecture.feature_count, seed)
        largest = max(model.infer_and_score(row)[1] for row in corners)
    except ModelError as error:
        raise ExportFailedError(f"the int8 model of {candidate.family} does not run: {error}") from error
    moves = float(outputs.var(axis=0).mean()) / max(float(probes.var(axis=0).mean()), 1e-12)
    return (
        _check_output(moves, is_judged=is_network),
        _check_threshold(
            candidate.threshold.score, largest, is_classifier=candidate.architecture.is_classifier
        ),
    )


def _check_output(moves: float, *, is_judged: bool) -> Check:
    passed = moves >= LEAST_OUTPUT or not is_judged
    said = f"the outputs vary {moves:.2g} as much as the windows (at least {LEAST_OUTPUT:g})"
    if not passed:
        said = (
            f"every window gets the same output: {said}. The units died while it trained: let training.learning_rate find itself (leave"
            " it out) or set it lower"
        )
    return Check(name="output", value=moves, limit=LEAST_OUTPUT, is_passed=passed, reason=said)


def _check_threshold(threshold: float, largest: float, *, is_classifier: bool) -> Check:
    # A classifier's score ends at 1 - 1/classes, and a threshold just below that is what its calibration may well give.
    limit = 1.0 if is_classifier else HIGHEST_THRESHOLD
    share = threshold / largest if largest > 0 else math.inf
    passed = math.isfinite(share) and share < limit
    said = f"the threshold {threshold:.4g} is {share:.1%} of the largest score that windows can have, {largest:.4g}"
    is_warning = share > HIGH_THRESHOLD and not is_classifier
    if not passed or is_warning:
        said += (
            f" (below {limit:.0%}): {'hardly' if passed else 'no'} fault can reach it. Healthy rows are far outside the rows that fitted"
            " their machine's scale: record machines that run, raise commissioning_rows, or set threshold.quantile lower"
        )
    return Check(
        name="threshold", value=share, limit=limit, is_passed=passed, is_warning=is_warning, reason=said
    )


def _corners(features: int, seed: int) -> NDArray[np.float32]:
    """Windows (n, F) with every value at one end of the scale or the other; all of them where there are few."""
    if features <= _CORNERS.bit_length() - 1:
        signs = (np.arange(2**features)[:, None] >> np.arange(features)) & 1
    else:
        signs = np.random.default_rng(seed).integers(0, 2, (_CORNERS, features))
    return np.asarray((2 * signs - 1) * CLIP, np.float32)


def check_first_sight(sight: float, *, accepts_blind: bool) -> Check:
    """The sight of a first release, in [0, 1], by `models.sight`; `accepts_blind`: a person knows and wants it."""
    sees = sight >= LEAST_FIRST_SIGHT
    said = (
        f"{sight:.0%} of slightly disturbed windows are over the threshold (at least {LEAST_FIRST_SIGHT:.0%})"
    )
    if not sees:
        said += (
            ", accepted as blind"
            if accepts_blind
            else ": a sensor that moves by three of its deviations is mostly not seen. Record more regular operation, leave out columns"
            " that follow no other, take layers that hold more of how the columns move together; or sign it with --accept-blind"
        )
    return Check(
        name="sight",
        value=sight,
        limit=LEAST_FIRST_SIGHT,
        is_passed=sees or accepts_blind,
        is_warning=not sees,
        reason=said,
    )


def check_sight(candidate: float, champion: float, probes: float, *, is_classifier: bool = False) -> Check:
    """A candidate's sight against the champion's, both in [0, 1] on the same `probes`, so many that a standard error is small or counts.

    Who sees nothing does not follow one who sees something, and not by luck (three standard errors); after a champion that was
    accepted as blind, `_check_threshold` is what a detector that never alarms fails. A classifier's score says how sure it is,
    and a disturbance may make it surer: it is not judged.
    """
    error = math.sqrt(sum(max(p * (1 - p), 0.0) for p in (candidate, champion)) / max(probes, 1.0))
    limit = max(champion - MOST_SIGHT_LOST - error, 0.0)
    passed = is_classifier or (candidate >= limit and (candidate > 0.0 or champion <= 3 * error))
    said = (
        f"{candidate:.1%} of slightly disturbed windows are over the proposed threshold, over the champion's {champion:.1%}"
        f" (at most {MOST_SIGHT_LOST:.0%} and a standard error of {error:.1%} fewer)"
    )
    if not passed:
        said += ": the candidate sees less. Its threshold is too high for what it learned: train on quieter windows, or on more of them"
    return Check(name="sight", value=candidate, limit=limit, is_passed=passed, reason=said)
