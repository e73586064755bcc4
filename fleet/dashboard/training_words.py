"""What came of a training run, and what it cost, in words for who has to decide what to do now.

Pure, from what the aggregator says. What each check of its gate means, and what helps, is in docs/aggregator.md; this is its short form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fleet.aggregator_answers import Amount, FamilyPrivacy, TrainingRun

__all__ = ["Ended", "amount", "explain_run", "family_words", "loss_words"]

REMEDIES: Final[dict[str, str]] = {
    "improvement": "The devices judge it worse than what runs. Train more rounds or with a smaller learning rate, or leave it: what runs is good.",
    "alarm_rate": "It would alarm too often on healthy windows. More windows, a higher threshold quantile, or devices that are to be accepted as normal.",
    "int8_error": "The int8 model is too far from the float one. Devices report ranges that are too narrow, or the model is too small to quantise.",
    "int8_sight": "The int8 model sees fewer faults than the float one.",
    "sight": "It would see too few slight faults. More windows, other features, or a person who signs it as it is.",
    "prior": "The fleet's prior keeps no promise of false alarms yet: more windows have to be counted.",
    "clipped": "Too many values lie at the end of the scale: devices were commissioned at rest.",
    "rows": "Too few windows for a model of this size.",
    "learned": "It reconstructs nothing, or copies everything: another learning rate, or a narrower layer.",
    "output": "It gives every window the same output: a smaller learning rate.",
    "threshold": "Its threshold lies where no window's score reaches it.",
}

UNDER_WAY: Final[dict[str, str]] = {
    "INVITING": "It waits for devices that are ready to train.",
    "ROUND": "Devices train on their own windows, round by round.",
    "ASSESSING": "Devices judge the candidate and the champion on windows that no training saw.",
    "GATED": "The gate judges the candidate.",
    "EXPORTING": "The candidate is made into an int8 model.",
    "PUBLISHING": "The signed release goes to the fleet.",
}


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a run stands: in a sentence, why, and for each reason what helps; `tone` is a class of the style sheet."""

    tone: str
    sentence: str
    reasons: tuple[tuple[str, str], ...] = ()


def explain_run(run: TrainingRun) -> Ended:
    """Why the run is where it is; of a refused one every reason of the gate."""
    match run.state:
        case "REJECTED_BY_GATE":
            reasons = tuple((check.reason, REMEDIES.get(check.name, "")) for check in run.failed_checks)
            return Ended(
                tone="bad",
                sentence="The candidate was refused, and what runs on the devices stays."
                if reasons
                else f"The candidate was refused: {run.detail}",
                reasons=reasons,
            )
        case "COMPLETED":
            return Ended(tone="good", sentence=f"It made {run.release or 'no release'}. {run.detail}".strip())
        case "FAILED":
            return Ended(tone="bad", sentence=f"It failed, and what runs stays: {run.detail}")
        case "CANCELED":
            return Ended(
                tone="off",
                sentence=f"Somebody ended it: {run.detail}" if run.detail else "Somebody ended it.",
            )
        case state:
            return Ended(tone="go", sentence=f"{UNDER_WAY.get(state, '')} {run.detail}".strip())


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Candidate against champion: mean losses on the same held-out windows, and each as a share of the greater, for bars."""

    candidate: float
    champion: float
    gain: float
    candidate_share: float
    champion_share: float


def loss_words(run: TrainingRun) -> Losses | None:
    """The federated comparison; None before there was one, or where it is no number."""
    candidate, champion = run.evaluation.get("candidate_loss"), run.evaluation.get("champion_loss")
    if candidate is None or champion is None or not (candidate >= 0 and champion >= 0):
        return None
    greatest = max(candidate, champion) or 1.0
    return Losses(
        candidate=candidate,
        champion=champion,
        gain=(champion - candidate) / champion if champion else 0.0,
        candidate_share=candidate / greatest,
        champion_share=champion / greatest,
    )


def amount(given: Amount) -> str:
    """An amount, its limit and what is left, in a few words.

    >>> amount(Amount(spent=None)), amount(Amount(spent=3.14159, limit=8.0, left=4.85841))
    ('unlimited: sums without noise', '3.14 of 8, 4.86 left')
    """
    if given.spent is None:
        return "unlimited: sums without noise"
    if given.limit is None:
        return f"{given.spent:.3g}, no limit is set"
    return f"{given.spent:.3g} of {given.limit:.3g}, {given.left or 0:.3g} left"


def family_words(family: FamilyPrivacy) -> tuple[str, ...]:
    """What a family has spent: towards the aggregator, towards whoever sees releases, and by how many sums."""
    if family.mode == "plain":
        return ("Its rounds are plain: the aggregator sees each answer, and nothing is counted.",)
    if not family.rounds:
        return ("No device was asked anything yet.",)
    return (
        f"ε towards the aggregator: {amount(family.epsilon_server)}.",
        f"ε towards whoever sees releases: {amount(family.epsilon_release)}.",
        f"Sums of the device that is in most: {amount(family.sums)}.",
    )
