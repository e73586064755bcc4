"""What a release says of how it was made: the method in one line, and what one window paid.

Pure. The figures of the assessment are `proposal`'s, those of quantising `int8_report`'s; here only what this run's training adds.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from aggregator.privacy.example_level import example_epsilon
from aggregator.rounds.candidates import Candidate
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.runs import TrainingRun

__all__ = ["describe_method", "with_method"]


def with_method(candidate: Candidate, run: TrainingRun, policy: FamilySettings) -> Candidate:
    """The same candidate whose provenance names its method and the ε of a single window."""
    found: dict[str, float] = {}
    if policy.training.example_privacy is not None:
        # For the device that answered every attempt: each is one more private training on the same windows.
        rounds = [policy.training.example_privacy] * _attempts_at_training(run)
        found["example_epsilon"] = example_epsilon(rounds, policy.privacy.budget.delta)
        found["example_delta"] = policy.privacy.budget.delta
    provenance = msgspec.structs.replace(
        candidate.provenance,
        algorithm=describe_method(run, policy),
        evaluation={**candidate.provenance.evaluation, **found},
    )
    return replace(candidate, provenance=provenance)


def _attempts_at_training(run: TrainingRun) -> int:
    """How often a device may have trained: a void round moved no model, but in plain its updates were seen, too."""
    last: dict[int, int] = {}
    for record in run.log:
        if record.kind == "fit":
            # The number of the last, not how many records there are: a session that broke leaves none.
            last[record.number] = max(record.attempt, last.get(record.number, 0))
    return max(sum(last.values()), run.finished_rounds)


def describe_method(run: TrainingRun, policy: FamilySettings) -> str:
    """The method in one line, for people: ``fedavg, proximal 0.1, sgd, 2 local epochs, secure sum``."""
    made = _training(policy) if run.rounds else ["network of the champion"]
    made.append(
        "secure sum" if policy.secure_sum.enabled else "no secure sum: the aggregator saw every update"
    )
    return ", ".join(made)


def _training(policy: FamilySettings) -> list[str]:
    made: list[str] = [policy.rounds.server_optimizer]
    training, private = policy.training, policy.training.example_privacy
    if training.proximal:
        made.append(f"proximal {training.proximal:g}")
    made.append(training.optimizer + (f" with momentum {training.momentum:g}" if training.momentum else ""))
    if private is None:
        return [*made, f"{training.epochs} local epochs"]
    return [
        *made,
        f"{private.steps} local steps of DP-SGD (noise {private.noise_multiplier:g}, sampling rate {private.sampling_rate:g})",
    ]
