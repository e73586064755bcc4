"""Rounds for the privacy tests: a clock that stands still, cohorts by name, noise as one would ask for it; releases that claim them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aggregator.privacy.accounts import PlannedQuestion, PrivacyAccounts
from aggregator.privacy.ledger_entries import FixedCohort, Outcome, PoissonCohort, RoundId, Sampling
from aggregator.privacy.poisson_draws import largest_draw
from aggregator.privacy.settings import FamilyBudget
from aggregator.release_keys import create_key_files, read_private_key
from protocol.bundle import entries_for, pack_bundle
from protocol.manifest import FeatureSpec, Manifest, ModelSpec, Provenance, ThresholdSpec
from protocol.names import DeviceId, FamilyName, RunId
from protocol.privacy.parameters import PrivacyParameters
from protocol.privacy_cost import RoundNoise, noise_of

FAMILY = FamilyName("motor")
SILENT = RoundNoise(mechanism="none")


def devices(count: int) -> tuple[DeviceId, ...]:
    return tuple(DeviceId(f"device-{i:03d}") for i in range(count))


def gaussian(z: float = 1.0, *, cohort: int = 100, dropouts: int = 0, **changes: object) -> RoundNoise:
    asked = {"dimension": 1000, "clip": 1.0, "noise_multiplier": z, "cohort": cohort, "bits": 32} | changes
    return noise_of(PrivacyParameters(maximum_dropouts=dropouts, **asked))  # type: ignore[arg-type]


def poisson(rate: float = 0.1, population: int = 1000, *, quorum: int = 1) -> PoissonCohort:
    largest = largest_draw(rate, population, quorum)
    return PoissonCohort(rate=rate, population=population, largest=largest)


def fixed(size: int = 100, population: int = 1000, *, is_secret: bool = True) -> FixedCohort:
    return FixedCohort(size=size, population=population, is_secret=is_secret)


COHORT = devices(20)
EVERYBODY = fixed(20, 20)
NOISE = gaussian(1.0, cohort=20, dropouts=4, colluders=2)


def question(rounds: int, noise: RoundNoise, sampling: Sampling) -> PlannedQuestion:
    return PlannedQuestion(question="train.fit", rounds=rounds, noise=noise, sampling=sampling)


def round_id(number: int, *, run: str = "run-1", attempt: int = 1, asked: str = "train.fit") -> RoundId:
    return RoundId(run=RunId(run), question=asked, number=number, attempt=attempt)


def accounts_at(
    folder: Path, budget: FamilyBudget | None = None, *, read_only: bool = False
) -> PrivacyAccounts:
    budgets = {} if budget is None else {FAMILY: budget}
    return PrivacyAccounts(folder / "privacy.sqlite", budgets, now=lambda: 1_000_000.0, read_only=read_only)


def play(
    accounts: PrivacyAccounts,
    number: int,
    cohort: Sequence[DeviceId],
    *,
    noise: RoundNoise,
    sampling: Sampling,
    outcome: Outcome = Outcome.USED,
    participants: Sequence[DeviceId] | None = None,
    run: str = "run-1",
) -> None:
    """One round from its opening to its end; everybody takes part unless `participants` says otherwise."""
    accounts.open_round(round_id(number, run=run), FAMILY, noise=noise, sampling=sampling, cohort=cohort)
    there = () if outcome is Outcome.VOID else cohort if participants is None else participants
    accounts.close_round(round_id(number, run=run), outcome, participants=there)


def release_of(
    folder: Path, provenance: Provenance, *, family: str = FAMILY, created_at: float = 1_000_001.0
) -> Path:
    """A release that says so of itself, signed with the key in `folder`; made anew where there is none."""
    key = folder / "release.key"
    if not key.exists():
        create_key_files(key, Ed25519PrivateKey.generate())
    manifest = Manifest(
        family=family,
        version=2,
        created_at=created_at,
        model=ModelSpec(
            kind="dense-autoencoder",
            layers=(2, 1, 2),
            parameter_count=7,
            layout_sha256=hashlib.sha256(b"").hexdigest(),
        ),
        features=FeatureSpec(kind="passthrough", names=("a", "b")),
        threshold=ThresholdSpec(score=1.0, quantile=0.99, margin=1.0, fitted_on=1),
        files=entries_for({"x": b"x"}),
        provenance=provenance,
    )
    release = folder / "v2.fedge"
    release.write_bytes(pack_bundle(manifest, {"x": b"x"}, read_private_key(key, "signing_key")))
    return release
