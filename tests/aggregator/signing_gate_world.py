"""Generated machines, models of them, good and dead, and what the gate before a signature says of each."""

from __future__ import annotations

import numpy as np
from aggregator_world import ARCHITECTURE

from aggregator.rounds.assessment import (
    Assessment,
    ThresholdSettings,
    fit_threshold,
    read_assessment,
    reference_from_sums,
    tensor_ranges,
)
from aggregator.rounds.candidates import Candidate
from aggregator.rounds.gate import GateSettings, check_int8
from aggregator.rounds.int8_report import compare_int8, typical_windows
from aggregator.rounds.release_checks import check_first_sight, check_int8_model, check_sums
from aggregator.rounds.runs import Check
from models import reference_model
from models.architecture import Architecture
from models.export.int8_graph import export_int8_model
from models.linear_baseline import mahalanobis_parameters
from models.local_training import assess
from models.moments import Moments
from protocol.manifest import FeatureSpec, Provenance
from protocol.names import FamilyName
from protocol.questions import assess_layout

NAMES = FeatureSpec(kind="passthrough", names=tuple("abcdef"))


class FloatModel:
    """The reference model as a device's trainer: what an assessment needs of one, without a graph."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture

    def restore(self, flat: np.ndarray, correction: np.ndarray | None = None) -> None:
        self.flat = flat

    def infer(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return reference_model.infer(self.architecture, self.flat, x)

    def ranges(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return reference_model.ranges(self.architecture, self.flat, x)


def machine(rows: int, seed: int = 0, *, noise: float = 0.1) -> np.ndarray:
    """Six sensors that follow two hidden causes, as the windows of a standardised machine."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(rows, 2)) @ np.random.default_rng(99).normal(size=(2, 6))
    return (hidden + noise * rng.normal(size=(rows, 6))).astype(np.float32)


def sums_of(parameters: np.ndarray, x: np.ndarray, architecture: Architecture = ARCHITECTURE) -> Assessment:
    held_out = np.arange(len(x)) % 5 == 4
    parts = assess(
        FloatModel(architecture), parameters, parameters, x[held_out], trained_on=x[~held_out], quantile=0.999
    )  # type: ignore[arg-type]
    layout = assess_layout(architecture.tensor_count, architecture.feature_count)
    return read_assessment(
        layout.pack(parts), tensors=architecture.tensor_count, features=architecture.feature_count
    )


def candidate_of(
    parameters: np.ndarray, sums: Assessment, *, architecture: Architecture = ARCHITECTURE
) -> Candidate:
    low, high = tensor_ranges(sums)
    probes = typical_windows(architecture, parameters, sums, np.random.default_rng(0)).astype(np.float32)
    names = tuple("abcdef"[: architecture.feature_count])
    return Candidate(
        family=FamilyName("pump"),
        version=1,
        architecture=architecture,
        parameters=parameters,
        low=low,
        high=high,
        threshold=fit_threshold(sums, ThresholdSettings()),
        features=FeatureSpec(kind="passthrough", names=names),
        reference=reference_from_sums(sums),
        provenance=Provenance(),
        created_at=1.0,
        probes=probes,
    )


def linear(x: np.ndarray, architecture: Architecture = ARCHITECTURE) -> np.ndarray:
    return mahalanobis_parameters(architecture, Moments.of(x), ridge=0.01)


def failed(checks: tuple[Check, ...]) -> dict[str, str]:
    return {check.name: check.reason for check in checks if not check.is_passed}


def judged(
    parameters: np.ndarray, x: np.ndarray, **changes: object
) -> tuple[Candidate, bytes, tuple[Check, ...]]:
    """All checks of a candidate that was learned from x, sight accepted."""
    sums = sums_of(parameters, x)
    proposed = candidate_of(parameters, sums)
    content = export_int8_model(ARCHITECTURE, parameters, proposed.low, proposed.high)
    checks = (
        *check_sums(
            sums,
            architecture=ARCHITECTURE,
            threshold=proposed.threshold,
            features=NAMES,
            **changes,  # type: ignore[arg-type]
        ),
        *check_int8_model(proposed, content, is_network=True, seed=0),
        *check_int8(GateSettings(), compare_int8(proposed, content, sums, seed=0)),
        check_first_sight(0.9, accepts_blind=False),
    )
    return proposed, content, checks
