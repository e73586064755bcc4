"""What the learning time of all machines makes: the releases that their agents would run, each a signed bundle as the aggregator builds it.

::

    rows of each machine, in its own scale ─┬─► federated averaging: a round is `local_training.fit` on each, and the mean ─► shared network
                                            ├─► `prior_of` all of them ─► the mixture's release
                                            └─► `prior_of` one of them ─► that machine alone

The averaging needs no server: what a secure sum gives is the mean that is computed here. Threshold, int8 ranges and figures come of the
same sums as in the field (`aggregator.rounds.assessment`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from aggregator.initial_release import assess_machines, standardise_machines
from aggregator.reference_prior import prior_of
from aggregator.rounds.assessment import Assessment, ThresholdSettings, reference_from_sums, tensor_ranges
from aggregator.rounds.candidates import Candidate
from aggregator.rounds.optimizers import FedAvg
from aggregator.rounds.proposal import propose_threshold
from edge_agent.settings import LearnerSettings
from models.architecture import Architecture, initial_parameters
from models.bundles import ModelBundle, read_bundle
from models.detection.prior import FleetPrior, can_mix
from models.export import export_int8_model
from models.export.isolated import export_training_model
from models.export.release import build_release
from models.local_training import Trainable, fit, mean_loss
from models.training_model import TrainingModel
from protocol.bundle import TrustedKeys, open_bundle
from protocol.manifest import FeatureSpec, Provenance
from protocol.names import FamilyName
from protocol.training import TrainingSettings

__all__ = [
    "ALONE",
    "MIXTURE",
    "MOST_LEARNT",
    "NETWORK",
    "Averaged",
    "Releases",
    "average_together",
    "build_releases",
]

Rows = NDArray[np.float32]
Progress = Callable[[str, float], None]

ALONE, NETWORK, MIXTURE = "alone", "network", "mixture"

HIDDEN: Final = (16, 8, 16)
TRAINING: Final = TrainingSettings(epochs=2, batch_size=32, learning_rate=2e-3, optimizer="adam")
ROUNDS: Final = 40
PATIENCE: Final = 5
"""Rounds without a better loss of windows that nobody trains on: then it ends."""
MOST_TRAINED_ON: Final = LearnerSettings().maximum_examples
"""Of a machine: what an agent's learner trains on at most."""
MOST_LEARNT: Final = 131_072
"""Newest windows of a machine that its word to the fleet comes of. As good as all: a first release learns of whole recordings, and what
agents then do depends on it."""
HOLD_OUT_EVERY: Final = 5
LEAST_PROGRESS: Final = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class Averaged:
    """Parameters (P,) that machines learnt together, in how many rounds, and the mean loss of held-out windows before and after."""

    parameters: Rows
    rounds: int
    loss_before: float
    loss_after: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Releases:
    """Bundles as agents adopt them.

    Attributes:
        network: the shared network judges.
        mixture: the fleet's prior and the machine's own rows judge; None for more than 128 features.
        alone: for each machine a release that knows nothing of the others.
        averaged: how the network was trained.
        bytes_of_release: the signed bundle with the prior.
    """

    network: ModelBundle
    mixture: ModelBundle | None
    alone: Mapping[str, ModelBundle]
    averaged: Averaged
    bytes_of_release: int


def average_together(
    model: Trainable, architecture: Architecture, machines: Sequence[Rows], *, seed: int, progress: Progress
) -> Averaged:
    """Federated averaging over machines' rows (n, F), until the windows that nobody trains on get no better."""
    parts = [_parted(rows) for rows in machines]
    parts = [(train, held) for train, held in parts if len(train) and len(held)]
    weights = np.array([len(train) for train, _ in parts], np.float64)

    def loss(flat: Rows) -> float:
        model.restore(flat)
        return float(np.average([mean_loss(model, held, None) for _, held in parts], weights=weights))

    server = FedAvg()
    best = current = initial_parameters(architecture, seed)
    state = server.init(current)
    before = least = loss(current)
    waited = rounds = 0
    while rounds < ROUNDS and waited < PATIENCE:
        answers = [
            fit(model, current, train, TRAINING, rng=np.random.default_rng([seed, rounds, place])).parameters
            for place, (train, _) in enumerate(parts)
        ]
        update = np.average([answer - current for answer in answers], axis=0, weights=weights)
        state, current = server.step(state, current, update)
        found = loss(current)
        waited = 0 if found < (1 - LEAST_PROGRESS) * least else waited + 1
        if found < least:
            best, least = current, found
        rounds += 1
        progress("learning together", rounds / ROUNDS)
    progress("learning together", 1.0)
    return Averaged(parameters=best, rounds=rounds, loss_before=before, loss_after=least)


def build_releases(
    machines: Mapping[str, Rows],
    features: FeatureSpec,
    commissioning_rows: int,
    *,
    seed: int = 0,
    progress: Progress = lambda _what, _share: None,
    export: Callable[[Architecture], bytes] = export_training_model,
) -> Releases:
    """All releases of machines' feature rows (n, F), each finite and of more than `commissioning_rows`.

    Args:
        machines: by name, of the learning time.
        features: what devices deliver.
        commissioning_rows: of each machine fit its scale.
        seed: of the network.
        progress: told the stage and the finished share of it.
        export: builds the training graph of an architecture; by default in a child process with TensorFlow.
    """
    recordings = standardise_machines(machines, features, commissioning_rows)
    width = features.feature_count
    architecture = Architecture(kind="dense-autoencoder", layers=(width, *HIDDEN, width))
    progress("building the training graph", 0.0)
    training_model = export(architecture)
    model = TrainingModel(training_model, architecture)
    thinned = [_thinned(found) for found, _ in recordings]
    averaged = average_together(model, architecture, thinned, seed=seed, progress=progress)
    progress("what the fleet knows", 0.0)
    assessment = assess_machines(model, averaged.parameters, thinned, ThresholdSettings().quantile)
    key = Ed25519PrivateKey.generate()
    network = _content(architecture, averaged, assessment, features, training_model, machines=len(machines))
    int8_model = export_int8_model(architecture, network.parameters, network.low, network.high)

    def bundle(prior: FleetPrior | None) -> tuple[bytes, ModelBundle]:
        content = build_release(replace(network, prior=prior), signing_key=key, int8_model=int8_model)
        return content, read_bundle(open_bundle(content, TrustedKeys([key.public_key()])))

    if not can_mix(architecture):
        content, shared = bundle(None)
        return Releases(
            network=shared, mixture=None, alone={}, averaged=averaged, bytes_of_release=len(content)
        )
    recent = [(found[-MOST_LEARNT:], unit) for found, unit in recordings]
    content, mixture = bundle(prior_of(recent))
    alone = {}
    for place, (name, recording) in enumerate(zip(machines, recent, strict=True)):
        progress("what the fleet knows", (place + 1) / len(machines))
        alone[name] = bundle(prior_of([recording]))[1]
    return Releases(
        network=bundle(None)[1],
        mixture=mixture,
        alone=alone,
        averaged=averaged,
        bytes_of_release=len(content),
    )


def _content(
    architecture: Architecture,
    averaged: Averaged,
    assessment: Assessment,
    features: FeatureSpec,
    training_model: bytes,
    *,
    machines: int,
) -> Candidate:
    threshold, _ = propose_threshold(assessment, ThresholdSettings(), None)
    low, high = tensor_ranges(assessment)
    return Candidate(
        family=FamilyName("study"),
        version=1,
        architecture=architecture,
        parameters=averaged.parameters,
        low=low,
        high=high,
        threshold=threshold,
        features=features,
        reference=reference_from_sums(assessment),
        provenance=Provenance(
            trigger="initial", participants=machines, rounds=averaged.rounds, algorithm="fedavg"
        ),
        created_at=0.0,
        training_model=training_model,
    )


def _parted(rows: Rows) -> tuple[Rows, Rows]:
    is_held = np.arange(len(rows)) % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1
    return rows[~is_held], rows[is_held]


def _thinned(rows: Rows) -> Rows:
    """At most `MOST_TRAINED_ON`, evenly from all over the rows."""
    return np.asarray(
        rows[np.linspace(0, len(rows) - 1, min(len(rows), MOST_TRAINED_ON)).astype(int)], np.float32
    )
