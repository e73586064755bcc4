"""How a fleet's prior is made anew: three questions, each once, whose sums are all that is seen.

::

    evaluate.scale ──► Σ ──► ScalePrior ──► evaluate.covariance ──► Σ ──► evaluate.curve ──► Σ ──► FleetPrior
                                                                    └─ asked of those alone who are in that sum

Each device takes itself out of the sum of the second before it counts for the third. So the third is for devices that
are in it: who is not would take out what was never put in. A fleet in groups needs neither: each group is told what the others know.

Pure, but for `ask_next`, which asks; `coordinator` commits after each. Not here: what becomes of the prior (`releasing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator.errors import SumError
from aggregator.rounds.admission import admit_prior_part
from aggregator.rounds.attendance import Attendance
from aggregator.rounds.cohort_questions import (
    CohortAnswer,
    RecordWords,
    Variant,
    ask_everybody,
    layout_for,
)
from aggregator.rounds.collector import CohortQuestion
from aggregator.rounds.combining import combine
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.reports import GroupSum
from aggregator.rounds.runs import RefitRecord, TrainingRun
from models.architecture import Architecture
from models.bundles import ModelBundle
from models.detection.answers import read_curve, read_scale, read_spread, scale_arrays, spread_parts
from models.detection.openings import Curve
from models.detection.prior import FleetPrior, can_mix
from models.detection.scale import ScalePrior
from models.detection.spread import SpreadPrior, SpreadSums
from models.errors import LayoutError
from protocol.names import DeviceId
from protocol.questions import (
    COVARIANCE,
    CURVE,
    REFIT_KINDS,
    SCALE,
    CovarianceQuestion,
    CurveQuestion,
    Kind,
    Question,
    ScaleQuestion,
    answer_layout,
)
from protocol.refit_sizes import MOST_MIXED_FEATURES

__all__ = ["ask_next", "is_mixture", "prior_from", "record_of", "refits", "why_no_work"]

Sums = Mapping[Kind, NDArray[np.float64]]


def is_mixture(policy: FamilySettings, champion: ModelBundle) -> bool:
    """Whether devices of the next release judge by a prior: as they do now, unless the family says otherwise."""
    return (policy.detector or champion.manifest.detector) == "mixture" and can_mix(champion.architecture)


def refits(policy: FamilySettings, champion: ModelBundle) -> bool:
    """Whether a run makes the prior anew: it needs exact sums of whole windows; where those are hidden, the champion's goes on."""
    return policy.sums_are_exact and is_mixture(policy, champion)


def why_no_work(run: TrainingRun, policy: FamilySettings, champion: ModelBundle) -> str | None:
    """Why a run has nothing to do, or cannot do it; None where it has."""
    release, model = champion.manifest.release, champion.architecture
    if champion.manifest.training is None:
        return (
            f"{release} carries no training profile, so its devices cannot be asked; publish a first release made by this version"
            " (`fedge-aggregator initial-release`) and roll it out"
        )
    if conflict := policy.training.clip_conflict(champion.manifest.training.trust_radius):
        return f"training.{conflict} (the next release follows {release})"
    if policy.detector == "mixture" and not can_mix(model):
        return (
            f'detector = "mixture" is for dense autoencoders of up to {MOST_MIXED_FEATURES} features, {release} is a {model.kind} of'
            f" {model.feature_count}; leave detector out"
        )
    if is_mixture(policy, champion) and champion.prior is None and not refits(policy, champion):
        return (
            f'detector = "mixture" needs a prior; {release} has none, and a run makes one of exact sums only: leave privacy.noise and'
            " training.example_privacy out, or publish a first release with one"
        )
    if not run.rounds and not refits(policy, champion):
        return f"a run of 0 rounds makes the fleet's prior anew, and {release} is not judged by one that exact sums could make: train 1 round"
    return None


def ask_next(
    run: TrainingRun,
    policy: FamilySettings,
    sums: Sums,
    champion: ModelBundle,
    attendance: Attendance,
    *,
    started_at: float,
    spreads: Sequence[GroupSum] = (),
) -> tuple[Kind, CohortAnswer]:
    """Put the first question whose sum is not there yet to everybody whom it is for; raises as `ask_cohort`, and SumError.

    `spreads` are the groups' sums of the covariances, where those were asked in groups.
    """
    kind = next(kind for kind in REFIT_KINDS if kind not in sums)
    architecture = champion.architecture
    question, arrays = _question(kind, run, policy, sums, architecture)
    asked = CohortQuestion(
        question=question,
        arrays=arrays,
        layout=layout_for(architecture, question),
        admission=admit_prior_part(kind, maximum_examples=policy.training.maximum_examples),
    )
    words = RecordWords(kind=kind.partition(".")[2])
    if kind == CURVE and len(spreads) > 1:
        answer = _ask_groups(run, policy, attendance, asked, words, spreads, started_at=started_at)
    else:
        answer = ask_everybody(
            run, policy, attendance, asked, words, started_at=started_at, among=_among(run, kind)
        )
    return kind, answer


def prior_from(
    sums: Sums, features: int, *, minimum_devices: int, champion: FleetPrior | None = None
) -> FleetPrior:
    """The prior that three sums make, its curves in reach of the `champion`'s.

    What fewer than `minimum_devices` know is no fleet's word: a curve of theirs is left out.

    Raises:
        SumError: sums that no fleet can have given, or too few devices.
    """
    spread = _spread(sums, features)
    counted = read_curve(_parts(CURVE, sums, features))
    curves = {age: counts for age, counts in counted.items() if counts.devices >= minimum_devices}
    if not curves or spread.devices < minimum_devices:
        oldest = max((counts.devices for counts in counted.values()), default=0.0)
        raise SumError(
            f"{spread.devices:g} devices knew how their sensors vary together and at most {oldest:g} of an age counted openings; a prior is"
            f" of at least {minimum_devices} (cohort.minimum_devices)"
        )
    made = {age: Curve.of(counts) for age, counts in curves.items()}
    before = {} if champion is None else champion.curves
    return FleetPrior(
        devices=round(spread.devices),
        scale=_scale(sums, features),
        spread=SpreadPrior.of(spread),
        curves={age: one.in_reach_of(before[age]) if age in before else one for age, one in made.items()},
    )


def record_of(sums: Sums, policy: FamilySettings, champion: ModelBundle) -> RefitRecord:
    """What the run's record says of the new prior; raises as `prior_from`."""
    prior = prior_from(
        sums, champion.architecture.feature_count, minimum_devices=policy.cohort.minimum_devices
    )
    return RefitRecord(
        devices=prior.devices,
        windows=prior.most_windows,
        reason=f"the prior of {prior.devices} devices, openings counted on {prior.most_windows:,} windows",
    )


def _question(
    kind: Kind, run: TrainingRun, policy: FamilySettings, sums: Sums, architecture: Architecture
) -> tuple[Question, dict[str, NDArray[np.float32]]]:
    about = {
        "run_id": run.id,
        "layout_sha256": architecture.layout_sha256,
        "profile_sha256": policy.training.sha256,
    }
    features = architecture.feature_count
    if kind == SCALE:
        return ScaleQuestion(**about), {}
    arrays = scale_arrays(_scale(sums, features))
    if kind == COVARIANCE:
        return CovarianceQuestion(**about), arrays
    spread = _spread(sums, features)
    parts = spread_parts(spread)
    arrays |= {name: parts[name].astype(np.float32) for name in ("correlation", "wander")}
    question = CurveQuestion(
        run_id=run.id,
        layout_sha256=architecture.layout_sha256,
        profile_sha256=policy.training.sha256,
        devices=round(spread.devices),
        squares=spread.squares,
        error=spread.error,
    )
    return question, arrays


def _ask_groups(
    run: TrainingRun,
    policy: FamilySettings,
    attendance: Attendance,
    asked: CohortQuestion,
    words: RecordWords,
    spreads: Sequence[GroupSum],
    *,
    started_at: float,
) -> CohortAnswer:
    """The curve of a fleet in groups: each is judged by what the others know together, and nobody has to take itself out."""
    features = len(asked.arrays["scale_freedom"])

    def of_others(devices: frozenset[DeviceId]) -> Variant:
        others = [found for found in spreads if not devices & frozenset(found.participants)]
        known = combine(COVARIANCE, answer_layout(COVARIANCE, **_sizes(features)), others)
        spread = _spread({COVARIANCE: known}, features)
        parts = spread_parts(spread)
        arrays = dict(asked.arrays) | {
            name: parts[name].astype(np.float32) for name in ("correlation", "wander")
        }
        question = msgspec.structs.replace(
            asked.question,
            devices=round(spread.devices),
            squares=spread.squares,
            error=spread.error,
            holds_own=False,
        )
        return question, arrays

    fixed = msgspec.structs.replace(run, groups=tuple(found.participants for found in spreads))
    return ask_everybody(fixed, policy, attendance, asked, words, started_at=started_at, vary=of_others)


def _among(run: TrainingRun, kind: Kind) -> frozenset[DeviceId] | None:
    """Whom a question is for; None: everybody."""
    if kind != CURVE:
        return None
    answered = [entry for entry in run.log if entry.kind == "covariance" and not entry.is_void]
    return frozenset(answered[-1].participants)


def _scale(sums: Sums, features: int) -> ScalePrior:
    return ScalePrior.of(read_scale(_parts(SCALE, sums, features)))


def _spread(sums: Sums, features: int) -> SpreadSums:
    try:
        spread = read_spread(_parts(COVARIANCE, sums, features), features)
    except LayoutError as error:
        raise SumError(f"the sum of how sensors vary together cannot be read: {error}") from None
    if spread.devices < 1 or spread.squares < 0 or spread.error < 0:
        raise SumError(
            f"{spread.devices:g} devices had 8 windows to say how their sensors vary together; at least one, and squares of at least 0,"
            " are needed"
        )
    return spread


def _parts(kind: Kind, sums: Sums, features: int) -> dict[str, NDArray[np.float64]]:
    if not np.isfinite(sums[kind]).all():
        raise SumError(f"the sum of {kind} is not finite")
    return answer_layout(kind, **_sizes(features)).unpack(sums[kind])


def _sizes(features: int) -> dict[str, int]:
    """Of layouts that depend on the features alone."""
    return {"parameter_count": 1, "tensor_count": 1, "feature_count": features}
