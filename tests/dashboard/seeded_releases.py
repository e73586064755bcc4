"""Where the seeded releases come from: training runs with what they cost in privacy, and a word of the gate that is hostile."""

from __future__ import annotations

from protocol.manifest import Provenance
from protocol.privacy_claim import Mode, PrivacyClaim, PrivacyFigure, RoundTally

__all__ = ["provenance", "run_name"]


def run_name(family: str, version: int) -> str:
    """The training run that made a release."""
    return f"run-{family}-{version:04}"


def provenance(family: str, version: int) -> Provenance:
    """Of a release that a training run made of the one before it; of a press, the gate's word is hostile."""
    few = "<b onclick=window.fedgeOwned=1>few</b>" if family == "press" else "few"
    server, release = (
        PrivacyFigure(
            adversary=adversary,
            adjacency="one device's everything",
            accountant="PLD",
            epsilon=epsilon,
            run_epsilon=epsilon / 3,
        )
        for adversary, epsilon in (("the aggregator", 4.8), ("whoever has the release", 2.1))
    )
    claim = PrivacyClaim(
        server=server,
        release=release,
        delta=1e-5,
        mechanism="discrete Gaussian, summed under masks",
        bits=20,
        clip=0.5,
        noise_multiplier=1.1,
        sampling="12 of 24 devices, drawn anew for each round",
        sampling_enforced_by="each device",
        maximum_participations=40,
        participations=9,
        devices=24,
        colluders=3,
        rounds=RoundTally(used=8, void=1, withheld=0, open=0, dropouts=3, worst_dropouts=2),
        noiseless_questions=(),
        not_covered=("who took part",),
        ledger_entries=31,
        ledger_sha256="0123456789abcdef" * 4,
        mode=Mode.PRIVATE,
        quorum=8,
    )
    return Provenance(
        training_run=run_name(family, version),
        trigger="drift",
        rounds=8,
        participants=24,
        examples=48_213,
        parent=f"{family}/{version - 1}",
        algorithm="FedAvg",
        evaluation={
            "candidate_loss": 0.031,
            "champion_loss": 0.038,
            "alarm_rate": 0.0009,
            "int8_error": 0.004,
        },
        git_revision="5f3c2a1",
        privacy=claim,
        warnings=(f"the alarm rate rests on {few} windows of 3 devices",),
    )
