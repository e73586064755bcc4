"""Version 1: a model trained centrally on recordings of a few reference machines, before any device exists.

::

    recordings (NPZ: machine → rows (n, F)) ─► each standardised by its own first rows ─┬─► train on 4 of 5 rows
        ─► assess on every 5th ─► threshold, ranges, reference as after a federated run ─┤
                                            the fleet's prior, each recording a device ─┴─► gate ─► signed bundle

It needs no server. The assessment runs through the same code as the fleet's sums, with one participant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aggregator.central_training import CentrallyTrained, train_centrally
from aggregator.errors import ExportFailedError
from aggregator.family_file import FamilySpec
from aggregator.reference_prior import Recording, mixture_sight, prior_of
from aggregator.rounds.assessment import Assessment, read_assessment, reference_from_sums, tensor_ranges
from aggregator.rounds.candidates import Candidate
from aggregator.rounds.gate import GateSettings, check_int8
from aggregator.rounds.int8_report import compare_int8, typical_windows
from aggregator.rounds.ports import Exporter
from aggregator.rounds.prior_checks import check_mixture_sight, check_prior, only_warn
from aggregator.rounds.proposal import propose_threshold, with_evaluation
from aggregator.rounds.release_checks import check_first_sight, check_int8_model, check_sums, learned_share
from aggregator.rounds.runs import Check
from aggregator.rounds.signing_gate import clear, warnings_of
from models.errors import ModelError
from models.export.isolated import export_training_model
from models.int8_model import Int8Model
from models.local_training import assess
from models.sensors import SensorView
from models.sight import sight
from models.support import FEWEST_WINDOWS
from models.training_model import TrainingModel
from models.trust_radius import Isolation, least_isolation
from protocol.manifest import FeatureSpec, Provenance
from protocol.names import FamilyName
from protocol.questions import HOLD_OUT_EVERY, assess_layout
from protocol.training import TrainingSettings
from runtime.errors import SettingsError

__all__ = [
    "InitialRelease",
    "assess_machines",
    "standardise_machines",
    "train_release",
]

MOST_PROBED: Final = 4000
"""Held-out windows that the sight is measured on: enough for two percentage points, in a fraction of a second."""


@dataclass(frozen=True, kw_only=True)
class InitialRelease:
    """The bundle and the figures a person wants to see before trusting it."""

    content: bytes
    release: str
    machines: int
    windows: int
    loss_before: float
    loss_after: float
    held_out_loss: float
    threshold: float
    int8_error: float
    sight: float
    detector: str
    method: str
    trust_radius: float
    isolation_distance: float
    warnings: tuple[str, ...]


def standardise_machines(
    machines: Mapping[str, NDArray[np.float32]], features: FeatureSpec, commissioning_rows: int
) -> list[Recording]:
    """Of each machine its rows (n, F) in units of its own healthy variation, as its device would see them, and those units (F,).

    Raises:
        SettingsError: a recording is too short to leave anything after commissioning.
    """
    sensors, standardised = SensorView(features), []
    for name, rows in machines.items():
        if len(rows) <= commissioning_rows:
            raise SettingsError(
                f"recording {name!r} has {len(rows)} rows; more than commissioning_rows = {commissioning_rows} are needed"
            )
        scale = sensors.fit_scale(rows[:commissioning_rows])
        standardised.append((sensors.standardise(rows, scale), sensors.scale_of(scale)[1]))
    return standardised


def train_release(
    spec: FamilySpec,
    machines: Mapping[str, NDArray[np.float32]],
    exporter: Exporter,
    *,
    created_at: float,
    version: int = 1,
    accepts_blind: bool = False,
    progress: Callable[[str, float], None] = lambda _stage, _share: None,
) -> InitialRelease:
    """Train, calibrate, quantise, judge and sign version 1.

    Args:
        spec: the family.
        machines: raw feature rows per reference machine, from `aggregator.recordings`.
        exporter: signs; its key decides who trusts the release.
        created_at: Unix seconds.
        version: above 1 where an earlier first release was wrong; a published one never changes.
        accepts_blind: sign a detector that hardly sees small disturbances, and say so in it.
        progress: told the stage, and the finished share of it, 0 to 1.

    Raises:
        SettingsError: the recordings are too short.
        ExportFailedError: the windows cannot be trained on, or the release cannot be built.
        GateRefusedError: what was trained is no detector; nothing is signed.
    """
    architecture = spec.model.architecture()
    recordings = standardise_machines(machines, spec.features.spec(), spec.commissioning_rows)
    rows = np.concatenate([found for found, _ in recordings])
    held_out = _held_out(rows)
    progress("building the training model", 0.0)
    try:
        model = TrainingModel(export_training_model(architecture), architecture)
        trained = train_centrally(
            model, rows[~held_out], rows[held_out], spec.training, seed=spec.seed, progress=progress
        )
        assessment = assess_machines(
            model, trained.parameters, [found for found, _ in recordings], spec.threshold.quantile
        )
        isolation = least_isolation(
            architecture,
            trained.parameters,
            rows,
            seed=spec.seed,
            progress=lambda share: progress("measuring the trust radius", share),
        )
    except ModelError as error:
        raise ExportFailedError(f"version {version} of {spec.family} cannot be trained: {error}") from error
    progress("quantising and judging", 0.0)
    candidate = _candidate(
        spec, trained, assessment, machines=len(machines), created_at=created_at, version=version
    )
    profile = spec.profile.settled(isolation.trust_radius)
    candidate = replace(candidate, training=profile)
    if spec.is_mixture:
        candidate = replace(candidate, prior=prior_of(recordings))
    int8_model = exporter.int8_model(candidate)
    report = compare_int8(candidate, int8_model, assessment, seed=spec.seed)
    sums = check_sums(
        assessment,
        architecture=architecture,
        threshold=candidate.threshold,
        features=candidate.features,
        is_network=trained.is_network,
        machines={name: len(found) - spec.commissioning_rows for name, found in machines.items()},
        losses=(trained.loss_before, trained.loss_after),
    )
    int8 = (
        *check_int8_model(candidate, int8_model, is_network=trained.is_network, seed=spec.seed),
        *check_int8(GateSettings(), report),
    )
    seen = _sight(candidate, int8_model, rows[held_out])
    said = {"network_sight": seen}
    checks: tuple[Check, ...]
    if candidate.prior is None:
        checks = (*sums, *int8, check_first_sight(seen, accepts_blind=accepts_blind))
    else:
        found = mixture_sight(recordings, candidate.prior)
        seen, said["sight_at_most"] = found
        clipped, enough, learned = sums
        checks = (
            *(clipped, enough, *only_warn((learned, *int8))),
            check_prior(candidate.prior),
            check_mixture_sight(*found, accepts_blind=accepts_blind),
        )
    checks = (*checks, check_trust_radius(profile, isolation))
    said |= {"sight": seen, "isolation_distance": isolation.distance}
    said |= {"accepted_blind": 1.0} if accepts_blind else {}
    candidate = with_evaluation(candidate, {**report.evaluation(), **said})
    return InitialRelease(
        content=exporter.release(clear(candidate, int8_model, checks)),
        release=f"{spec.family}/{version}",
        machines=len(machines),
        windows=len(rows),
        loss_before=trained.loss_before,
        loss_after=trained.loss_after,
        held_out_loss=assessment.candidate_loss,
        threshold=candidate.threshold.score,
        int8_error=report.output_error,
        sight=seen,
        detector="network" if candidate.prior is None else "mixture",
        method=trained.method,
        trust_radius=profile.trust_radius or 0.0,
        isolation_distance=isolation.distance,
        warnings=warnings_of(checks),
    )


def _held_out(rows: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray(np.arange(len(rows)) % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1)


def assess_machines(
    model: TrainingModel,
    parameters: NDArray[np.float32],
    machines: Sequence[NDArray[np.float32]],
    quantile: float,
) -> Assessment:
    """The sum of the machines' answers, each a device with its own vote; of those that have a window to hold out.

    The split is within all rows, as the training's was.
    """
    architecture = model.architecture
    layout = assess_layout(architecture.tensor_count, architecture.feature_count)
    total, ends = np.zeros(layout.total), np.cumsum([len(rows) for rows in machines])
    for rows, is_held_out in zip(
        machines, np.split(_held_out(np.concatenate(machines)), ends[:-1]), strict=True
    ):
        if is_held_out.any():
            trained_on = rows[~is_held_out]
            parts = assess(
                model,
                parameters,
                parameters,
                rows[is_held_out],
                quantile=quantile,
                trained_on=trained_on if len(trained_on) else None,
                sensors=architecture.layers[0],
            )
            total += layout.pack(parts)
    return read_assessment(total, tensors=architecture.tensor_count, features=architecture.feature_count)


def check_trust_radius(profile: TrainingSettings, isolation: Isolation) -> Check:
    """Whether devices may be taken as far as the profile says: a warning where the reference speaks against it, never a refusal."""
    radius, measured = profile.trust_radius or 0.0, isolation.trust_radius
    said = (
        f"training stays within {radius:.3g} of this release; from {isolation.distance:.3g} on a unit can be made to see one of"
        f" {isolation.windows} reference windows alone"
    )
    if isolation.weak:
        said += f"; {isolation.weak} units that see fewer than {FEWEST_WINDOWS} of them learn on no device that finds the same"
    if radius > measured:
        said += f". profile.trust_radius is above {measured:.3g}, a quarter of that distance: leave it out, or set it lower"
    conflict = profile.clip_conflict()
    if conflict is not None:
        said += f". profile.{conflict}"
    return Check(
        name="trust_radius",
        value=radius,
        limit=measured,
        is_passed=True,
        is_warning=radius > measured or conflict is not None,
        reason=said,
    )


def _candidate(
    spec: FamilySpec,
    trained: CentrallyTrained,
    assessment: Assessment,
    *,
    machines: int,
    created_at: float,
    version: int,
) -> Candidate:
    architecture = spec.model.architecture()
    low, high = tensor_ranges(assessment)
    threshold, rate = propose_threshold(assessment, spec.threshold, None)
    return Candidate(
        family=FamilyName(spec.family),
        version=version,
        architecture=architecture,
        parameters=trained.parameters,
        low=low,
        high=high,
        threshold=threshold,
        features=spec.features.spec(),
        reference=reference_from_sums(assessment),
        provenance=Provenance(
            trigger="initial",
            participants=machines,
            examples=trained.windows,
            algorithm=trained.method,
            evaluation={
                "candidate_loss": assessment.candidate_loss,
                "alarm_rate": rate,
                "learned_share": learned_share(assessment),
            },
        ),
        created_at=created_at,
        int8=spec.int8,
        probes=typical_windows(
            architecture, trained.parameters, assessment, np.random.default_rng([spec.seed, version])
        ).astype(np.float32),
    )


def _sight(candidate: Candidate, int8_model: bytes, held_out: NDArray[np.float32]) -> float:
    """How much the int8 model sees of real held-out windows that are slightly disturbed, by the threshold in force."""
    model = Int8Model(int8_model, candidate.architecture.kind)
    spread = np.linspace(0, len(held_out) - 1, min(len(held_out), MOST_PROBED)).astype(int)
    return sight(
        lambda rows: np.array([model.infer_and_score(row)[1] for row in rows]),
        held_out[spread],
        candidate.threshold.score,
        sensors=candidate.architecture.layers[0],
    )
