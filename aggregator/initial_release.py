"""Version 1: a model trained centrally on recordings of a few reference machines, before any device exists.

::

    recordings (NPZ: machine → rows (n, F)) ─► each standardised by its own first rows ─► train on 4 of 5 rows
        ─► assess on every 5th ─► threshold, ranges, reference exactly as after a federated run ─► signed bundle

It needs no server. The assessment runs through the same code as the fleet's sums, with one participant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aggregator.errors import ExportFailedError
from aggregator.family_file import FamilySpec
from aggregator.rounds.assessment import fit_threshold, read_assessment, reference_from_sums, tensor_ranges
from aggregator.rounds.int8_report import compare_int8, typical_windows
from aggregator.rounds.ports import Candidate, Exporter
from aggregator.rounds.proposal import with_int8_report
from models.architecture import Architecture, initial_parameters
from models.errors import ModelError
from models.export.isolated import export_training_model
from models.local_training import assess, fit
from models.sensors import SensorView
from models.training_model import TrainingModel
from protocol.manifest import FeatureSpec, Provenance
from protocol.names import FamilyName
from protocol.questions import assess_layout
from protocol.training import TrainingSettings
from runtime.errors import SettingsError

__all__ = [
    "InitialRelease",
    "standardise_machines",
    "train_release",
]

HOLD_OUT_EVERY: Final = 5
"""Every 5th window judges and none of them trains: what the learners on the devices do, too."""

EPOCHS_AT_ONCE: Final = 10
"""Between two reports of progress."""


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


def standardise_machines(
    machines: Mapping[str, NDArray[np.float32]], features: FeatureSpec, commissioning_rows: int
) -> NDArray[np.float32]:
    """All rows (n, F) in units of each machine's own healthy variation, as its device would see them.

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
        standardised.append(sensors.standardise(rows, scale))
    return np.concatenate(standardised)


def train_release(
    spec: FamilySpec,
    machines: Mapping[str, NDArray[np.float32]],
    exporter: Exporter,
    *,
    created_at: float,
    version: int = 1,
    progress: Callable[[float], None] = lambda _: None,
) -> InitialRelease:
    """Train, calibrate, quantise and sign version 1.

    Args:
        spec: the family.
        machines: raw feature rows per reference machine, from `aggregator.recordings`.
        exporter: signs; its key decides who trusts the release.
        created_at: Unix seconds.
        version: above 1 where an earlier first release was wrong; a published one never changes.
        progress: told the finished share of the training, 0 to 1.

    Raises:
        SettingsError: the recordings are too short.
        ExportFailedError: training diverged, or the release cannot be built.
    """
    architecture = spec.model.architecture()
    rows = standardise_machines(machines, spec.features.spec(), spec.commissioning_rows)
    held_out = np.arange(len(rows)) % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1
    try:
        model = TrainingModel(export_training_model(architecture), architecture)
        parameters, before, after = _train(spec, architecture, model, rows[~held_out], progress)
        parts = assess(model, parameters, parameters, rows[held_out], trained_on=rows[~held_out])
    except ModelError as error:
        raise ExportFailedError(f"version {version} of {spec.family} cannot be trained: {error}") from error
    layout = assess_layout(architecture.tensor_count, architecture.feature_count)
    assessment = read_assessment(
        layout.pack(parts), tensors=architecture.tensor_count, features=architecture.feature_count
    )
    low, high = tensor_ranges(assessment)
    candidate = Candidate(
        family=FamilyName(spec.family),
        version=version,
        architecture=architecture,
        parameters=parameters,
        low=low,
        high=high,
        threshold=fit_threshold(assessment, spec.threshold),
        features=spec.features.spec(),
        reference=reference_from_sums(assessment),
        provenance=Provenance(
            trigger="initial",
            participants=len(machines),
            examples=int(np.count_nonzero(~held_out)),
            algorithm=f"central, {spec.training.epochs} epochs",
            evaluation={"candidate_loss": assessment.candidate_loss},
        ),
        created_at=created_at,
        int8=spec.int8,
        probes=typical_windows(
            architecture, parameters, assessment, np.random.default_rng([spec.seed, version])
        ).astype(np.float32),
    )
    int8_model = exporter.int8_model(candidate)
    report = compare_int8(candidate, int8_model, assessment, seed=spec.seed)
    return InitialRelease(
        content=exporter.release(with_int8_report(candidate, report), int8_model),
        release=f"{spec.family}/{version}",
        machines=len(machines),
        windows=len(rows),
        loss_before=before,
        loss_after=after,
        held_out_loss=assessment.candidate_loss,
        threshold=candidate.threshold.score,
        int8_error=report.output_error,
    )


def _train(
    spec: FamilySpec,
    architecture: Architecture,
    model: TrainingModel,
    rows: NDArray[np.float32],
    progress: Callable[[float], None],
) -> tuple[NDArray[np.float32], float, float]:
    settings, rng = spec.training, np.random.default_rng(spec.seed)
    parameters = initial_parameters(architecture, spec.seed)
    first: float | None = None
    done, last = 0, 0.0
    while done < settings.epochs:
        epochs = min(EPOCHS_AT_ONCE, settings.epochs - done)
        result = fit(
            model,
            parameters,
            rows,
            TrainingSettings(
                epochs=epochs, batch_size=settings.batch_size, learning_rate=settings.learning_rate
            ),
            rng=rng,
        )
        parameters, last = result.parameters, result.loss_after
        first = result.loss_before if first is None else first
        done += epochs
        progress(done / settings.epochs)
    return parameters, first or 0.0, last
